/**
 * A self-signed certificate for development. It is made by the program openssl, since Node makes none, and kept
 * beside the app's data, so that clients that trust it continue to.
 */

import type { CertificateOptions } from "../../../core/sockets/tls/tls.ts";
import { fs, join, lazy } from "../../builtin.ts";
import { say, UsageError } from "../terminal/output.ts";

const FOLDER = ".socklet/self-signed";
const DAYS = 30; // it is for development, and replaced when it expires
const LEFT = 24 * 60 * 60 * 1_000; // ms that one must still be valid to be reused

/** The names that it is valid for: those of this machine, which a developer dials. */
export const namesOf = (): readonly string[] => [
  "DNS:localhost",
  `DNS:${lazy.os.hostname()}`,
  "IP:127.0.0.1",
  "IP:::1",
];

/** Whether there is one that can be reused. */
const isSound = (cert: string, key: string): boolean => {
  try {
    const { X509Certificate, createPrivateKey } = lazy.crypto;
    const found = new X509Certificate(fs.readFileSync(cert));
    const named = found.checkHost(lazy.os.hostname()) !== undefined && found.checkIP("::1") !== undefined;
    const lasts = Date.parse(found.validTo) - Date.now() > LEFT;
    return named && lasts && found.checkPrivateKey(createPrivateKey(fs.readFileSync(key)));
  } catch {
    return false;
  }
};

/** What the program openssl prints; `whose` flag needs it, and `remedy` is another way. Throws `UsageError`. */
export const openssl = (args: readonly string[], whose: string, remedy: string, input = ""): string => {
  const { stdout, stderr, status, error } = lazy.childProcess.spawnSync("openssl", args, {
    encoding: "utf8",
    input,
  });
  if (status === 0) return stdout;
  const why = error === undefined ? stderr.trim().split("\n").at(-1) : "it is not on PATH";
  throw new UsageError(
    `${whose}: the program openssl makes the certificate, and could not (${why}); install it, or ${remedy}`,
    { cause: error },
  );
};

/** The arguments that make `openssl req` generate a new key, on an elliptic curve. */
export const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/** The certificate and the key in what openssl printed. */
export const pemOf = (text: string): readonly [cert: string, key: string] => {
  const part = (kind: string): string =>
    new RegExp(`-----BEGIN ${kind}-----[\\s\\S]*-----END ${kind}-----\\n`).exec(text)?.[0] ?? "";
  return [part("CERTIFICATE"), part("PRIVATE KEY")];
};

/** Makes a certificate and a key, PEM. */
const make = (): readonly [cert: string, key: string] => {
  const named = ["-subj", "/CN=localhost", "-addext", `subjectAltName=${namesOf().join(",")}`];
  const args = ["req", "-x509", ...NEW_KEY, ...named, "-days", String(DAYS), "-keyout", "-", "-out", "-"];
  return pemOf(openssl(args, "--tls self-signed", "give the listeners' options tls: { cert, key }"));
};

/** The certificate for development, made if there is no usable one. Throws `UsageError`, also in production. */
export const selfSigned = (): CertificateOptions => {
  if (process.env.NODE_ENV === "production") {
    throw new UsageError(
      "--tls self-signed is for development, and NODE_ENV is production: give the listeners' options tls",
    );
  }
  const cert = join(FOLDER, "cert.pem");
  const key = join(FOLDER, "key.pem");
  if (!isSound(cert, key)) {
    const [certificate, secret] = make();
    fs.mkdirSync(FOLDER, { recursive: true, mode: 0o700 });
    fs.writeFileSync(key, secret, { mode: 0o600 });
    fs.writeFileSync(cert, certificate);
  }
  const { fingerprint256 } = new lazy.crypto.X509Certificate(fs.readFileSync(cert));
  say(`--tls self-signed: for development; clients have to trust ${cert} (SHA-256 ${fingerprint256})`);
  return { cert: { file: cert }, key: { file: key } };
};
