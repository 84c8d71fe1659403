/**
 * The client's side of PostgreSQL's protocol, version 3 (https://www.postgresql.org/docs/current/protocol.html): one
 * simple query. TLS begins in PostgreSQL's own way: the first message asks for it, and one byte answers.
 *
 * A message is a letter, a length that counts itself and the body, and the body. A client's first messages have no letter.
 * The password is proven by SCRAM-SHA-256 (RFC 5802, RFC 7677): the server does not receive it, and must prove that it
 * knows it.
 */

import { SocketError, StreamRequestHandler } from "socklet";

/** The params of `PostgresClient`. */
export interface Query {
  readonly user: string;
  /** Default: the user's name. */
  readonly database?: string;
  readonly password?: string;
  readonly query: string;
  /** Go on in plain text if the server has no TLS. Default false. */
  readonly plain?: boolean;
}

/** The rows of the last statement, each value as PostgreSQL's text. */
export interface QueryResult {
  readonly secured: boolean;
  readonly version: string;
  readonly columns: readonly string[];
  readonly rows: readonly (string | null)[][];
  /** `SELECT 1`, `INSERT 0 3`. */
  readonly tag: string;
}

const SSL_REQUEST = 80_877_103; // in place of a version: 1234 and 5679
const VERSION = 196_608; // 3.0
const MAX_MESSAGE = 16 * 1024 * 1024; // bytes: a Worker has 128 MB
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Runs one query. Throws `ERR_REFUSED`, with the server's words, if the server refuses. */
export class PostgresClient extends StreamRequestHandler<unknown, Query> {
  override async handle(): Promise<QueryResult> {
    const given = query(this.params);
    const { user, database = user, password, plain = false } = given;
    this.wfile.write(message("", int32(SSL_REQUEST)));
    const [answer] = await this.rfile.readexactly(1);
    const secured = answer === 0x53; // S; N is no
    if (secured) await this.request.startTls();
    else if (!plain) throw refused("the server has no TLS; to go on in plain text say plain: true");

    const startup = { user, database, client_encoding: "UTF8", application_name: "socklet" };
    const words = Object.entries(startup).flatMap(([name, value]) => [text(name), text(value)]);
    this.wfile.write(message("", int32(VERSION), ...words, new Uint8Array(1)));
    await this.#authenticate(password);

    let version = "";
    let result: Omit<QueryResult, "secured" | "version"> = { columns: [], rows: [], tag: "" };
    let asked = false;
    for (;;) {
      const { type, body } = await this.#message();
      if (type === "S") {
        const [name, value = ""] = [body.text(), body.text()];
        if (name === "server_version") version = value;
      } else if (type === "T") {
        result = { columns: body.times(() => columnOf(body)), rows: [], tag: "" };
      } else if (type === "D") {
        (result.rows as (string | null)[][]).push(body.times(() => body.value()));
      } else if (type === "C") {
        result = { ...result, tag: body.text() };
      } else if (type === "Z" && !asked) {
        asked = true;
        this.wfile.write(message("Q", text(given.query)));
      } else if (type === "Z") {
        this.wfile.write(message("X"));
        return { secured, version, ...result };
      }
    }
  }

  async #authenticate(password: string | undefined): Promise<void> {
    let scram: Scram | undefined;
    for (;;) {
      const { type, body } = await this.#message();
      if (type !== "R") throw refused(`the server said ${type} where it should say how to prove who we are`);
      const kind = body.int32();
      if (kind === 0) {
        if (scram && !scram.proven) throw refused("the server has not proven that it knows the password");
        return;
      }
      if (password === undefined) throw refused("the server asks for a password; give one in params");
      if (kind === 10) {
        scram = new Scram(password);
        const first = encoder.encode(scram.first);
        this.wfile.write(message("p", text("SCRAM-SHA-256"), int32(first.length), first));
      } else if (kind === 11 && scram) {
        this.wfile.write(message("p", encoder.encode(await scram.answer(body.rest()))));
      } else if (kind === 12 && scram) {
        scram.verify(body.rest());
      } else {
        throw refused(`the server asks for a proof of kind ${kind}; this client has SCRAM-SHA-256 (10)`);
      }
    }
  }

  /** The next message that is not a notice. Throws if it is an error. */
  async #message(): Promise<{ readonly type: string; readonly body: Body }> {
    for (;;) {
      const head = new DataView((await this.rfile.readexactly(5)).slice().buffer);
      const type = String.fromCharCode(head.getUint8(0));
      const size = head.getInt32(1) - 4;
      if (!(size >= 0 && size <= MAX_MESSAGE)) throw refused(`the server's message has ${size} bytes`);
      const body = new Body(await this.rfile.readexactly(size));
      if (type === "E") throw refused(errorText(body));
      if (type !== "N") return { type, body };
    }
  }
}

const refused = (why: string): SocketError => new SocketError("ERR_REFUSED", why);

const query = (params: unknown): Query => {
  const { user, query, database = "", password = "" } = (params ?? {}) as Partial<Query>;
  const right = (value: unknown): boolean => typeof value === "string" && !value.includes("\0"); // a NUL ends a string
  if (![user, query, database, password].every(right)) {
    throw new TypeError('params must be { user: "me", password: "…", database: "db", query: "SELECT 1" }');
  }
  return params as Query;
};

// ---- Messages ----

const join = (...parts: readonly Uint8Array[]): Uint8Array => {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
};

const int32 = (value: number): Uint8Array => {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value);
  return bytes;
};

const text = (value: string): Uint8Array => encoder.encode(`${value}\0`);

const message = (type: string, ...parts: readonly Uint8Array[]): Uint8Array => {
  const body = join(...parts);
  return join(encoder.encode(type), int32(body.length + 4), body);
};

/** A message's body, read from its start. Reading past its end throws `RangeError`. */
class Body {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  int32(): number {
    this.#at += 4;
    return this.#view.getInt32(this.#at - 4);
  }

  /** Reads as many items as the next 16 bits say. */
  times<T>(read: () => T): T[] {
    this.#at += 2;
    return Array.from({ length: this.#view.getInt16(this.#at - 2) }, read);
  }

  skip(size: number): void {
    this.#at += size;
  }

  text(): string {
    const end = this.#bytes.indexOf(0, this.#at);
    if (end < 0) throw new RangeError("the server's message has a string without an end");
    const said = decoder.decode(this.#bytes.subarray(this.#at, end));
    this.#at = end + 1;
    return said;
  }

  value(): string | null {
    const size = this.int32();
    if (size < 0) return null;
    this.#at += size;
    return decoder.decode(this.#bytes.subarray(this.#at - size, this.#at));
  }

  rest(): string {
    return decoder.decode(this.#bytes.subarray(this.#at));
  }
}

const columnOf = (body: Body): string => {
  const name = body.text();
  body.skip(18); // which table it is from, and its type
  return name;
};

/** `FATAL 28P01: password authentication failed for user "x"` */
const errorText = (body: Body): string => {
  const fields: Record<string, string> = {};
  while (body.left > 1) {
    const field = body.text();
    fields[field.slice(0, 1)] = field.slice(1);
  }
  return `the server says ${fields.S} ${fields.C}: ${fields.M}`;
};

// ---- SCRAM-SHA-256 ----

const base64 = (bytes: Uint8Array): string => btoa(String.fromCharCode(...bytes));
const bytesOf = (encoded: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));

const hmac = async (key: Uint8Array<ArrayBuffer>, said: string): Promise<Uint8Array<ArrayBuffer>> => {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const made = await crypto.subtle.importKey("raw", key, algorithm, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", made, encoder.encode(said)));
};

const MAX_ITERATIONS = 100_000; // workerd's limit for PBKDF2; PostgreSQL's default is 4 096

/** One proof of a password, without channel binding. */
class Scram {
  readonly #password: string;
  readonly #bare = `n=,r=${base64(crypto.getRandomValues(new Uint8Array(18)))}`;
  #signature: string | undefined;
  /** Whether the server has proven that it knows the password. */
  proven = false;

  constructor(password: string) {
    this.#password = password;
  }

  get first(): string {
    return `n,,${this.#bare}`;
  }

  async answer(challenge: string): Promise<string> {
    const [, nonce = "", salt = "", count = ""] = /^r=([^,]+),s=([^,]+),i=(\d+)$/.exec(challenge) ?? [];
    const iterations = Number(count);
    if (
      !nonce.startsWith(this.#bare.slice("n=,r=".length)) ||
      !(iterations > 0 && iterations <= MAX_ITERATIONS)
    ) {
      throw refused("the server's SCRAM challenge is not one that this client answers");
    }
    const password = encoder.encode(this.#password.normalize("NFKC"));
    const key = await crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
    const derivation = { name: "PBKDF2", hash: "SHA-256", salt: bytesOf(salt), iterations };
    const salted = new Uint8Array(await crypto.subtle.deriveBits(derivation, key, 256));
    const clientKey = await hmac(salted, "Client Key");
    const stored = new Uint8Array(await crypto.subtle.digest("SHA-256", clientKey));
    const last = `c=biws,r=${nonce}`; // biws: "n,,", no channel binding
    const all = `${this.#bare},${challenge},${last}`;
    const mask = await hmac(stored, all);
    this.#signature = base64(await hmac(await hmac(salted, "Server Key"), all));
    return `${last},p=${base64(clientKey.map((byte, i) => byte ^ (mask[i] as number)))}`;
  }

  verify(final: string): void {
    this.proven = final === `v=${this.#signature}`;
  }
}
