/** A certificate authority of a test's own, by openssl: certificates of all kinds, and a list of the revoked ones. */

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { peer } from "./peer.ts";

/** Options of a certificate. */
export interface Wanted {
  /** Its names, `DNS:` and `IP:`. Default: localhost and 127.0.0.1. */
  readonly names?: string;
  /** Days from now on; one that has expired has fewer than 0. Default 2. */
  readonly days?: number;
  /** Encrypts the key. */
  readonly passphrase?: string;
  /** Its purpose. Default `serverAuth`. */
  readonly use?: "serverAuth" | "clientAuth";
}

/** A certificate and its key, in PEM, and the paths of their files. */
export interface Issued {
  readonly cert: string;
  readonly key: string;
  readonly certFile: string;
  readonly keyFile: string;
}

const CONFIG = `
[ca]
default_ca = own
[own]
dir = .
database = index.txt
serial = serial
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = any
crlnumber = crlnumber
default_crl_days = 2
unique_subject = no
[any]
commonName = supplied
`;

/** \`YYMMDDHHMMSSZ\`, this many days from now. */
const dateOf = (days: number): string =>
  new Date(Date.now() + days * 86_400_000).toISOString().replace(/\.\d+/, "").replace(/[-:T]/g, "").slice(2);

export class Authority {
  readonly folder = mkdtempSync(join(tmpdir(), "socklet-authority-"));
  readonly #openssl = peer("openssl");

  constructor(name = "Socklet test authority") {
    if (this.#openssl === null) return;
    writeFileSync(join(this.folder, "ca.cnf"), CONFIG);
    writeFileSync(join(this.folder, "index.txt"), "");
    writeFileSync(join(this.folder, "serial"), "1000");
    writeFileSync(join(this.folder, "crlnumber"), "01");
    const made = ["-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", `/CN=${name}`];
    this.#run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", ...made);
  }

  /** False if there is no openssl. */
  get isHere(): boolean {
    return this.#openssl !== null;
  }

  get ca(): string {
    return this.#openssl === null ? "" : this.read("ca.pem");
  }

  get caFile(): string {
    return join(this.folder, "ca.pem");
  }

  read(name: string): string {
    return readFileSync(join(this.folder, name), "utf8");
  }

  #run(...args: string[]): void {
    const { status, stderr } = spawnSync(this.#openssl as string, args, {
      cwd: this.folder,
      encoding: "utf8",
    });
    if (status !== 0) throw new Error(`openssl ${args.join(" ")}: ${stderr}`);
  }

  /** A certificate for `name`, which is also its common name. */
  issue(name: string, wanted: Wanted = {}): Issued {
    const { names = "DNS:localhost,IP:127.0.0.1", days = 2, passphrase, use = "serverAuth" } = wanted;
    const file = name.replace(/[^a-z0-9]/gi, "_");
    const request = ["-keyout", `${file}.key`, "-out", `${file}.csr`, "-subj", `/CN=${name}`];
    this.#run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", ...request);
    if (passphrase !== undefined) {
      // By AES: Deno cannot read what is encrypted by 3DES, which is `req`'s default.
      const locked = ["-v2", "aes-256-cbc", "-passout", `pass:${passphrase}`];
      this.#run("pkcs8", "-topk8", "-in", `${file}.key`, "-out", `${file}.locked`, ...locked);
      renameSync(join(this.folder, `${file}.locked`), join(this.folder, `${file}.key`));
    }
    writeFileSync(
      join(this.folder, `${file}.ext`),
      `subjectAltName=${names}\nbasicConstraints=critical,CA:FALSE\nextendedKeyUsage=${use}\n`,
    );
    const dates = ["-startdate", dateOf(Math.min(days, 0) - 1), "-enddate", dateOf(days)];
    const files = ["-in", `${file}.csr`, "-out", `${file}.pem`, "-extfile", `${file}.ext`];
    this.#run("ca", "-batch", "-notext", "-config", "ca.cnf", ...dates, ...files);
    return {
      cert: this.read(`${file}.pem`),
      key: this.read(`${file}.key`),
      certFile: join(this.folder, `${file}.pem`),
      keyFile: join(this.folder, `${file}.key`),
    };
  }

  /** Revokes it; returns the list of those that were. */
  revoke({ certFile }: Issued): string {
    this.#run("ca", "-batch", "-config", "ca.cnf", "-revoke", certFile);
    return this.crl();
  }

  /** The list of those that were revoked. */
  crl(): string {
    this.#run("ca", "-config", "ca.cnf", "-gencrl", "-out", "crl.pem");
    return this.read("crl.pem");
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
