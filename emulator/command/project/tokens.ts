/** The token of the control routes in development: in `.dev.vars`, where `wrangler dev` looks for it. */

import { fs, join, relative } from "../../builtin.ts";

/** The tokens of a project's folder, and where they are. */
interface DevTokens {
  /** `null` if the file has none. */
  readonly tokens: string | null;
  /** The file, as seen from here. */
  readonly path: string;
  /** Whether it was just generated. */
  readonly isNew: boolean;
}

/** The tokens of `folder`; a file with one is made if there is none. Wrangler reads `.env` only if there is no `.dev.vars`. */
export const devTokens = (folder: string): DevTokens => {
  const path = join(folder, ".dev.vars");
  const there = [path, join(folder, ".env")].find((one) => fs.existsSync(one));
  const said = relative(process.cwd(), there ?? path);
  if (there === undefined) {
    const token = Buffer.from(crypto.getRandomValues(new Uint8Array(24))).toString("base64url");
    const note = "# The tokens of the control routes, for `wrangler dev` and `socklet dev` alone.";
    fs.writeFileSync(path, `${note}\nSOCKLET_TOKENS=${token}\n`, { mode: 0o600 });
    return { tokens: token, path: said, isNew: true };
  }
  const [, quoted] =
    /^\s*(?:export\s+)?SOCKLET_TOKENS\s*=\s*(.*)$/m.exec(fs.readFileSync(there, "utf8")) ?? [];
  return { tokens: quoted?.trim().replace(/^(["'])(.*)\1$/, "$2") || null, path: said, isNew: false };
};
