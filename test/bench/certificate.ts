/** The certificate that TLS is measured with: of `localhost`, its own authority, made by openssl in `.out` when it is first asked for. */

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

const folder = join(import.meta.dirname, ".out/tls");
const DAY = 86_400_000; // ms

const isFresh = (file: string): boolean => {
  const made = statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return Date.now() - made < DAY;
};

/** As PEM; and where the file is. Throws if there is no openssl. */
export const certificate = (): { readonly cert: string; readonly key: string; readonly certFile: string } => {
  const [certFile, keyFile] = [join(folder, "cert.pem"), join(folder, "key.pem")];
  if (!isFresh(certFile) || !isFresh(keyFile)) {
    mkdirSync(folder, { recursive: true });
    const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3"];
    const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    const files = ["-keyout", keyFile, "-out", certFile];
    const { status, stderr, error } = spawnSync("openssl", ["req", "-x509", ...kind, ...names, ...files]);
    if (status !== 0) throw new Error(`openssl makes no certificate: ${error?.message ?? stderr}`);
  }
  return { cert: readFileSync(certFile, "utf8"), key: readFileSync(keyFile, "utf8"), certFile };
};
