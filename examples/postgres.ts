/**
 * The client's side of PostgreSQL's protocol, version 3 (https://www.postgresql.org/docs/current/protocol.html): one
 * simple query. TLS begins in PostgreSQL's own way: the first message asks for it, and one byte answers.
 *
 * A message is a letter, a length that counts itself and the body, and the body. A client's first messages have no letter.
 * The password is proven by SCRAM-SHA-256 (RFC 5802, RFC 7677): the server does not receive it, and must prove that it
 * knows it.
 */

import {
  ClientHandler,
  ErrorReply,
  Notice,
  SocketError,
  StreamRequestHandler,
  type StreamSocket,
} from "socklet";

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
export interface Rows {
  readonly columns: readonly string[];
  readonly rows: readonly (string | null)[][];
  /** `SELECT 1`, `INSERT 0 3`. */
  readonly tag: string;
}

/** What `PostgresClient` gives. */
export interface QueryResult extends Rows {
  readonly secured: boolean;
  readonly version: string;
}

const SSL_REQUEST = 80_877_103; // in place of a version: 1234 and 5679
const VERSION = 196_608; // 3.0
const MAX_MESSAGE = 16 * 1024 * 1024; // bytes: a Worker has 128 MB
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Who logs in. */
export type PostgresLogin = Omit<Query, "query">;

/** The server's error. */
export class PostgresError extends SocketError {
  /** PostgreSQL's own code: `23505` for a duplicate key. */
  readonly sqlState: string;

  constructor(fields: Readonly<Record<string, string>>) {
    super("ERR_REFUSED", `the server says ${fields.S} ${fields.C}: ${fields.M}`);
    this.sqlState = fields.C ?? "";
  }
}

/** Runs one query. Throws `ERR_REFUSED`, with the server's words, if the server refuses. */
export class PostgresClient extends StreamRequestHandler<unknown, Query> {
  override async handle(): Promise<QueryResult> {
    const { query, ...login } = checkQuery(this.params);
    const session = new Session(this.request);
    await session.logIn(login);
    session.ask(query);
    const got = await session.receive(query, () => {});
    if (got instanceof PostgresError) throw got;
    session.leave();
    const { secured, version } = session;
    return { secured, version, ...(got as Rows) };
  }
}

/**
 * PostgreSQL for a pool. A call is one simple query, and its reply the rows of the last statement.
 *
 *     const context = { user: "me", password: "…", plain: true };
 *     await using postgres = pool("tcp://127.0.0.1:5432", Postgres, { context, secureTransport: "starttls" });
 *     const { rows } = await postgres.call("SELECT 1");
 *
 * A transaction needs a lease. `notice()` gets what `LISTEN` brings: `{ channel, payload }`.
 */
export class Postgres extends ClientHandler<string, Rows> {
  readonly #session = new Session(this.request);

  /** Who logs in: the pool's `context`. In an app, whose context has more, override it. */
  protected get login(): PostgresLogin {
    return this.context as PostgresLogin;
  }

  override async setup(): Promise<void> {
    await super.setup();
    await this.#session.logIn(checkLogin(this.login));
  }

  override send(query: string): void {
    if (!isText(query)) throw new TypeError("a call is a query, as text");
    this.#session.ask(query);
  }

  override async receive(query: string | undefined): Promise<Rows | Notice | ErrorReply> {
    const got = await this.#session.receive(query, (message) => this.notice(message));
    return got instanceof PostgresError ? new ErrorReply(got) : got;
  }

  override get inTransaction(): boolean {
    return this.#session.status !== "I";
  }

  /** An empty query is the cheapest one that is answered. */
  override async idle(): Promise<void> {
    await this.exchange("");
  }

  override async reset(): Promise<void> {
    await this.exchange("DISCARD ALL");
  }

  override finish(): void {
    if (!this.request.closed) this.#session.leave();
    super.finish();
  }
}

/** The conversation on one connection. */
class Session {
  /** Whether TLS secures the connection. */
  secured = false;
  /** The server's version. */
  version = "";
  /** `I`: no transaction is open; `T`: one is; `E`: one is that has failed. */
  status = "I";
  readonly #request: StreamSocket;

  constructor(request: StreamSocket) {
    this.#request = request;
  }

  async logIn({ user, database = user, password, plain = false }: PostgresLogin): Promise<void> {
    const { rfile, wfile } = this.#request;
    wfile.write(message("", int32(SSL_REQUEST)));
    const [answer] = await rfile.readexactly(1);
    this.secured = answer === 0x53; // S; N is no
    if (this.secured) await this.#request.startTls();
    else if (!plain) throw refused("the server has no TLS; to go on in plain text say plain: true");

    const startup = { user, database, client_encoding: "UTF8", application_name: "socklet" };
    const words = Object.entries(startup).flatMap(([name, value]) => [text(name), text(value)]);
    wfile.write(message("", int32(VERSION), ...words, new Uint8Array(1)));
    await this.#authenticate(password);
    for (;;) {
      const { type, body } = await this.#message();
      if (type === "E") throw new PostgresError(fieldsOf(body));
      if (type === "S") this.#parameter(body);
      else if (type === "Z") return;
    }
  }

  ask(query: string): void {
    this.#request.wfile.write(message("Q", text(query)));
  }

  /** Says goodbye. */
  leave(): void {
    this.#request.wfile.write(message("X"));
  }

  /** Reads the result of `query`, or its error. If nothing was asked, reads one message, which is a notice. An error that ends the connection is thrown. */
  async receive(
    query: string | undefined,
    notice: (message: unknown) => unknown,
  ): Promise<Rows | Notice | PostgresError> {
    let result: Rows = { columns: [], rows: [], tag: "" };
    let error: PostgresError | undefined;
    for (;;) {
      const { type, body } = await this.#message();
      if (type === "S") this.#parameter(body);
      const unasked = unaskedOf(type, body);
      if (query === undefined) {
        if (unasked !== undefined) return new Notice(unasked);
        throw type === "E" ? new PostgresError(fieldsOf(body)) : refused(`the server said ${type} unasked`);
      }
      if (unasked !== undefined) await notice(unasked);
      else if (type === "E") {
        const fields = fieldsOf(body);
        error = new PostgresError(fields);
        if (fields.S !== "ERROR") throw error; // FATAL and PANIC end the connection
      } else if (type === "T") {
        result = { columns: body.times(() => columnOf(body)), rows: [], tag: "" };
      } else if (type === "D") {
        (result.rows as (string | null)[][]).push(body.times(() => body.value()));
      } else if (type === "C") {
        result = { ...result, tag: body.text() };
      } else if (type === "G") {
        this.#request.wfile.write(message("f", text("this client sends no data"))); // for COPY … FROM STDIN
      } else if (type === "Z") {
        this.status = body.letter();
        return error ?? result;
      }
    }
  }

  #parameter(body: Body): void {
    const [name, value = ""] = [body.text(), body.text()];
    if (name === "server_version") this.version = value;
  }

  async #authenticate(password: string | undefined): Promise<void> {
    let scram: Scram | undefined;
    for (;;) {
      const { type, body } = await this.#message();
      if (type === "N") continue;
      if (type === "E") throw new PostgresError(fieldsOf(body));
      if (type !== "R") throw refused(`the server said ${type} where it should say how to prove who we are`);
      const kind = body.int32();
      if (kind === 0) {
        if (scram && !scram.proven) throw refused("the server has not proven that it knows the password");
        return;
      }
      if (password === undefined) throw refused("the server asks for a password; give one");
      if (kind === 10) {
        scram = new Scram(password);
        const first = encoder.encode(scram.first);
        this.#request.wfile.write(message("p", text("SCRAM-SHA-256"), int32(first.length), first));
      } else if (kind === 11 && scram) {
        this.#request.wfile.write(message("p", encoder.encode(await scram.answer(body.rest()))));
      } else if (kind === 12 && scram) {
        scram.verify(body.rest());
      } else {
        throw refused(`the server asks for a proof of kind ${kind}; this client has SCRAM-SHA-256 (10)`);
      }
    }
  }

  async #message(): Promise<{ readonly type: string; readonly body: Body }> {
    const { rfile } = this.#request;
    const head = new DataView((await rfile.readexactly(5)).slice().buffer);
    const type = String.fromCharCode(head.getUint8(0));
    const size = head.getInt32(1) - 4;
    if (!(size >= 0 && size <= MAX_MESSAGE)) throw refused(`the server's message has ${size} bytes`);
    return { type, body: new Body(size === 0 ? new Uint8Array() : await rfile.readexactly(size)) };
  }
}

/** What the server says at any time: a notification, a parameter that changed, a remark. */
const unaskedOf = (type: string, body: Body): unknown => {
  if (type === "S") return { parameter: true };
  if (type === "N") return { notice: fieldsOf(body).M };
  if (type !== "A") return undefined;
  body.skip(4); // the process that notifies
  return { channel: body.text(), payload: body.text() };
};

const refused = (why: string): SocketError => new SocketError("ERR_REFUSED", why);

const isText = (value: unknown): boolean => typeof value === "string" && !value.includes("\0"); // it ends a string

const checkLogin = (given: unknown): PostgresLogin => {
  const { user, database = "", password = "" } = (given ?? {}) as Partial<PostgresLogin>;
  if ([user, database, password].every(isText)) return given as PostgresLogin;
  throw new TypeError('a login is { user: "me", password: "…", database: "db" }');
};

const checkQuery = (params: unknown): Query => {
  const { user, query, database = "", password = "" } = (params ?? {}) as Partial<Query>;
  if ([user, query, database, password].every(isText)) return params as Query;
  throw new TypeError('params must be { user: "me", password: "…", database: "db", query: "SELECT 1" }');
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

  letter(): string {
    return String.fromCharCode(this.#bytes[this.#at++] ?? 0);
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

/** The parts of an error or a notice by their letters: S severity, C code, M message. */
const fieldsOf = (body: Body): Record<string, string> => {
  const fields: Record<string, string> = {};
  while (body.left > 1) {
    const field = body.text();
    fields[field.slice(0, 1)] = field.slice(1);
  }
  return fields;
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
