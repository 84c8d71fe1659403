/**
 * One authority of our own for all tests, made by openssl when Vitest starts: workerd trusts those in
 * `NODE_EXTRA_CA_CERTS` when Miniflare is loaded, and no other.
 */

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "./children.ts";
import { peer } from "./peer.ts";

/** The authority, and a certificate of it for `localhost` and 127.0.0.1; all PEM. */
export interface Certificates {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** The folder with the same as files: `ca.pem`, `cert.pem` and `key.pem`. */
  readonly folder: string;
}

const FOLDER = "SOCKLET_TEST_CERTIFICATES"; // from here on all processes of this run know the folder

/** Makes them, until this process ends; modules that it loads from here on trust them. Without openssl, does nothing. */
export const trustOwnAuthority = (): void => {
  const openssl = peer("openssl");
  if (openssl === null || process.env[FOLDER] !== undefined) return;
  const { path: folder } = temporaryFolder("certificates");
  const make = (key: string, out: string, subject: string, ...more: readonly string[]): void => {
    const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    const args = ["req", "-x509", ...curve, "-keyout", key, "-out", out, "-subj", `/CN=${subject}`, ...more];
    const { status, stderr } = spawnSync(openssl, args, { cwd: folder, encoding: "utf8" });
    if (status !== 0) throw new Error(`openssl: ${stderr}`);
  };
  make("ca.key", "ca.pem", "Socklet test authority");
  const names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
  const leaf = ["-addext", names, "-addext", "basicConstraints=critical,CA:FALSE"];
  make("key.pem", "cert.pem", "localhost", "-CA", "ca.pem", "-CAkey", "ca.key", ...leaf);
  process.env[FOLDER] = folder;
  process.env.NODE_EXTRA_CA_CERTS = join(folder, "ca.pem");
};

/** Those of this run; `null` if there is no openssl. */
export const ownCertificates = (): Certificates | null => {
  const folder = process.env[FOLDER];
  if (folder === undefined) return null;
  const read = (name: string): string => readFileSync(join(folder, name), "utf8");
  return { ca: read("ca.pem"), cert: read("cert.pem"), key: read("key.pem"), folder };
};
