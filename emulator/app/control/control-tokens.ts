/** The tokens of the control routes: those that were given, or a generated one. */

import { TokenList, tokenEntries } from "../../../core/control/http/auth.ts";
import { SocketError } from "../../../core/errors.ts";

/** The tokens of `options`, or a generated one; `secrets` are the tokens without their scopes. Throws `EINVAL` if one is malformed. */
export const controlTokens = (options: {
  readonly tokens?: string;
}): { tokens: string; secrets: string[]; made: string | null } => {
  const given = options.tokens ?? (process.env.SOCKLET_TOKENS?.trim() || undefined);
  if (given === undefined) {
    const made = Buffer.from(crypto.getRandomValues(new Uint8Array(24))).toString("base64url");
    return { tokens: made, secrets: [made], made };
  }
  const { problem } = new TokenList(given);
  if (problem !== null) throw new SocketError("EINVAL", problem);
  return { tokens: given, secrets: tokenEntries(given).map(({ token }) => token), made: null };
};
