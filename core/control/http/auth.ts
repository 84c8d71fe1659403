/**
 * Who may use the control plane: bearer tokens (RFC 6750), all in one text, `SOCKLET_TOKENS`.
 *
 *     SOCKLET_TOKENS="Zm9vYmFyYmF6cXV4MDE read:cmVhZHMtb25seS0wMDE run:c3RhcnRzLW9ubHktMDE"
 *
 * Entries are separated by white space or commas. An entry is a token, or `scopes:token` with scopes joined by
 * `+`; a token without scopes has all of them. `read` looks at sessions and listeners; `run` starts, sends to and ends
 * sessions, and so sees the results of those that it runs. Neither includes the other. All tokens are valid at
 * once: to rotate one, add the new, move its users over, remove the old.
 */

import { encoder } from "../../bytes/data.ts";
/** What a token lets its holder do. */
export type Scope = "read" | "run";

const SCOPES: readonly string[] = ["read", "run"] satisfies Scope[];
const SHORTEST_TOKEN = 16; // characters: with base64's 6 bits each 96 bits, beyond guessing over a network
const TOKEN = /^[A-Za-z0-9._~+/-]+=*$/; // RFC 6750 section 2.1; no colon, so that one ends the scopes
const REMEDY =
  'set the secret SOCKLET_TOKENS to one or more tokens of at least 16 characters, such as "openssl rand -base64 32" makes';

const digest = async (text: string): Promise<Uint8Array> =>
  new Uint8Array(await crypto.subtle.digest("SHA-256", encoder.encode(text)));

/** The entries of a text in the form of `SOCKLET_TOKENS`, valid or not; `scopes` is undefined if it names none. */
export const tokenEntries = (
  text: string,
): { readonly entry: string; readonly scopes: string | undefined; readonly token: string }[] =>
  text
    .split(/[\s,]+/)
    .filter((entry) => entry !== "")
    .map((entry) => {
      const [, scopes, token = entry] = /^([^:]*):(.*)$/.exec(entry) ?? [];
      return { entry, scopes, token };
    });

/** The tokens that are valid. */
export class TokenList {
  /** Why no token is accepted, and how to fix that; `null` if there are tokens and all are valid. Contains no token. */
  readonly problem: string | null;
  readonly #entries: readonly { readonly token: string; readonly scopes: readonly string[] }[];
  // Values, not promises: in a Worker a request must not await a promise of another request.
  #digests: readonly Uint8Array[] | undefined;

  /** Reads `text`. Never throws: a misconfigured deployment answers what is wrong. */
  constructor(text: string | undefined) {
    const entries = tokenEntries(typeof text === "string" ? text : "");
    this.#entries = entries.map(({ token, scopes }) => ({ token, scopes: scopes?.split("+") ?? SCOPES }));
    const wrong = this.#entries.flatMap(({ token, scopes }, i) => {
      const where = `entry ${i + 1} of SOCKLET_TOKENS`;
      const unknown = scopes.some((scope) => !SCOPES.includes(scope));
      if (unknown) return `${where} has scopes that do not exist: write "read:", "run:" or nothing before it`;
      if (token.length < SHORTEST_TOKEN) return `${where} is shorter than ${SHORTEST_TOKEN} characters`;
      return TOKEN.test(token) ? [] : `${where} has characters that a token cannot have (RFC 6750)`;
    });
    if (entries.length === 0) this.problem = `the control plane is shut, since it has no token: ${REMEDY}`;
    else if (wrong.length > 0) this.problem = `the control plane is shut: ${wrong.join("; ")}: ${REMEDY}`;
    else this.problem = null;
  }

  /**
   * What `token` lets its holder do; `null` if it is not one of these. Digests are compared, each with all of
   * its bytes, and always all of them: the time this takes does not reveal how close a guess was, or which token matched.
   */
  async scopesOf(token: string): Promise<ReadonlySet<string> | null> {
    this.#digests ??= await Promise.all(this.#entries.map((entry) => digest(entry.token)));
    const given = await digest(token);
    const scopes = new Set<string>();
    for (const [i, known] of this.#digests.entries()) {
      let difference = 0;
      for (let b = 0; b < given.length; b++) difference |= (given[b] as number) ^ (known[b] as number);
      if (difference === 0) for (const scope of this.#entries[i]?.scopes ?? []) scopes.add(scope);
    }
    return scopes.size === 0 ? null : scopes;
  }
}

/** The token of an `Authorization` header (RFC 6750 2.1); `undefined` if it has no well-formed one, or several. */
export const bearerToken = (header: string | undefined): string | undefined =>
  /^Bearer +([A-Za-z0-9._~+/-]+=*) *$/i.exec(header ?? "")?.[1];
