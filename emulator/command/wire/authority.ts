/**
 * An authority for development, and the certificates that it issues, with which a proxy can act as the server that its clients
 * expect. Clients need to trust the authority only once, whatever server is behind the proxy. It is kept beside the app's data.
 */

import type { ServerTlsOptions } from "../../../core/sockets/tls/tls.ts";
import { fs, join, lazy } from "../../builtin.ts";
import { say, UsageError } from "../terminal/output.ts";
import { NEW_KEY, namesOf, openssl, pemOf } from "./self-signed.ts";

const FOLDER = ".socklet/authority";
const DAYS = 365; // making clients trust it is work
const LEFT = 24 * 60 * 60 * 1_000; // ms that it must still be valid to be reused
const ISSUED = 7; // days; a certificate is made at each start

const WHOSE = "tls://";
const REMEDY = "have the clients speak in plain text: tcp://";

/** Whether there is one that can be reused. */
const isSound = (cert: string, key: string): boolean => {
  try {
    const { X509Certificate, createPrivateKey } = lazy.crypto;
    const found = new X509Certificate(fs.readFileSync(cert));
    const lasts = Date.parse(found.validTo) - Date.now() > LEFT;
    return lasts && found.checkPrivateKey(createPrivateKey(fs.readFileSync(key)));
  } catch {
    return false;
  }
};

/** The certificate of a proxy in front of `hostname`: for that name, and this machine's, issued by the authority, which is made if there is none. Throws `UsageError`. */
export const issuedFor = (hostname: string, isAddress: boolean): ServerTlsOptions => {
  if (process.env.NODE_ENV === "production") {
    throw new UsageError("tls:// shows a certificate for development, and NODE_ENV is production");
  }
  const cert = join(FOLDER, "cert.pem");
  const key = join(FOLDER, "key.pem");
  if (!isSound(cert, key)) {
    const asAuthority = [
      ...["-addext", "basicConstraints=critical,CA:TRUE"],
      ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    ];
    const named = ["-subj", `/CN=Socklet development authority (${lazy.os.hostname()})`];
    const args = ["req", "-x509", ...NEW_KEY, ...named, ...asAuthority, "-days", String(DAYS)];
    const [certificate, secret] = pemOf(openssl([...args, "-keyout", "-", "-out", "-"], WHOSE, REMEDY));
    fs.mkdirSync(FOLDER, { recursive: true, mode: 0o700 });
    fs.writeFileSync(key, secret, { mode: 0o600 });
    fs.writeFileSync(cert, certificate);
  }
  const names = [...new Set([`${isAddress ? "IP" : "DNS"}:${hostname}`, ...namesOf()])];
  const of = ["-subj", "/CN=socklet proxy", "-addext", `subjectAltName=${names.join(",")}`];
  const by = ["-CA", cert, "-CAkey", key, "-days", String(ISSUED)];
  const usage = ["-addext", "basicConstraints=CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"];
  const args = ["req", "-x509", ...NEW_KEY, ...of, ...usage, ...by, "-keyout", "-", "-out", "-"];
  const [certificate, secret] = pemOf(openssl(args, WHOSE, REMEDY));
  const authority = fs.readFileSync(cert, "utf8");
  const { fingerprint256 } = new lazy.crypto.X509Certificate(authority);
  say(`clients have to trust ${cert} (SHA-256 ${fingerprint256})`);
  return { cert: certificate + authority, key: secret };
};
