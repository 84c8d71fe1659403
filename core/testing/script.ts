/**
 * Scripted peers: a conversation written down step by step, and held with whoever is on the other end.
 *
 *     const mail = conversation()
 *       .expectLine(/^220 /)
 *       .send("EHLO client.test\r\n")
 *       .expect(/(?:250-.*\r\n)*250 .*\r\n/)
 *       .send("QUIT\r\n")
 *       .expectLine(/^221 /)
 *       .expectEnd();
 *
 *     await runScript(MailRequestHandler, mail, { context });               // a handler, in memory
 *     await mail.run(await createConnection("127.0.0.1:25"));               // any server, over any StreamSocket
 *     new ThreadingTCPServer("127.0.0.1:0", scriptHandler(server));         // the script is the server
 *
 * A script is a value: each step gives a new one, so that a common beginning can be kept and gone on from. It can be
 * run many times, in every place, as either role: it does not know who dialled.
 *
 * A stream keeps no borders between what was sent, and a script must not depend on where the network cut. So `expect`
 * of bytes takes just as many, and of a pattern the shortest beginning that matches whole; what comes after stays for
 * the next step. The first byte that differs fails at once; only what does not come waits for the timeout.
 *
 * `send` waits for nothing: what a large one still has to send leaves while the next steps read, as it would with
 * a client whose reading does not wait for its writing.
 */

import { type Data, DONE, joinBytes, type MaybePromise, toBytes } from "../bytes/data.ts";
import { describe, errorText, printable } from "../describe.ts";
import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import { SHUT_WR } from "../net/constants.ts";
import { checkCount, checkOptions, checkTime, checkWord, optionNamesOf, wholeMs } from "../options.ts";
import { BaseRequestHandler, type HandlerClass } from "../serve/handler.ts";
import { BaseConnector, ENDPOINT_NAMES, type EndpointOptions } from "../serve/server.ts";
import type { Datagram } from "../sockets/datagram.ts";
import { type StreamSocket, TLS_NAMES, type TlsOptions } from "../sockets/stream-socket.ts";
import { MEMORY_NAMES, type MemoryOptions, memoryPair } from "./memory.ts";
import {
  cleanText,
  dialogue,
  difference,
  hexdump,
  linesOf,
  normalised,
  quote,
  type Said,
  utf8,
  writtenAt,
} from "./text.ts";

const TIMEOUT = 3_000; // ms one step waits: below the 5 s of Vitest and others, whose own error would not show the conversation
const LONGEST = 65_536; // bytes of one line, and of what one pattern matches: as `maxLine` of a stream
const NEWLINE = 10;
const WINDOW = 1024; // bytes looked at together where it is not known how many are wanted: each look copies them
const MISPLACED = "; the pattern matches, but not from where the last step ended to the end of its match";
const SHOWN = 1024; // bytes of what came that a failure shows

// Taken now, so that a test's fake clock does not hold back the end of a wait.
const { setTimeout: later, clearTimeout: forget } = globalThis;
const now = performance.now.bind(performance);
const turn = (): Promise<void> => new Promise((resolve) => later(resolve, 0));

/** What time it is, and how to wait: real, unless a test gives another. */
export interface Clock {
  /** Milliseconds since some moment. */
  now(): number;
  /** Resolves `ms` milliseconds later. */
  sleep(ms: number): Promise<void>;
}

/** The clock of the machine, by the timers as they are when it is asked: a test runner's fake ones are obeyed. */
export const realClock: Clock = {
  now: () => performance.now(),
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
};

/** What a conversation has seen so far: given to the steps that are functions, and by `run()` at the end. */
export interface Seen {
  /** The named groups of all patterns so far; of two with one name the later. */
  readonly groups: Readonly<Record<string, string>>;
  /** The last pattern's match: the whole, then its groups by number. */
  readonly match: readonly string[];
  /** The bytes that the last expectation took. */
  readonly bytes: Uint8Array;
}

/** A value, or what makes it of what was seen so far. */
export type Given<T> = T | ((seen: Seen) => T);

/** Someone to talk to by datagrams, in place of a stream: `send` sends one, `recv` gives the next. */
export interface DatagramPeer {
  /** Sends one datagram; a promise is awaited. */
  send(data: Uint8Array): unknown;
  /** The next datagram, whole. */
  recv(): Promise<Uint8Array>;
}

/** How bytes are text in a conversation. */
export const ENCODINGS = ["utf-8", "latin1"] as const;

/** Options of a conversation. */
export interface ConversationOptions {
  /** How text is bytes, sent and matched. `latin1`: one byte a character, U+0000 to U+00FF, for patterns of bytes. Default `utf-8`. */
  readonly encoding?: (typeof ENCODINGS)[number];
}

const CONVERSATION_NAMES = optionNamesOf<ConversationOptions>("a conversation")({ encoding: true });

/** Options of one run. Times are milliseconds. */
export interface ScriptOptions {
  /** How long one step may wait for the peer. Default 3 000: less than test runners wait, whose own error shows no conversation. */
  readonly timeout?: number;
  /** The clock of `pause()` and of `expectNothing()` with a time. The timeout is always real. */
  readonly clock?: Clock;
  /** The connection's other end, where that is at hand (in memory): so `expectNothing()` knows that it waits. `runScript` gives it. */
  readonly otherEnd?: StreamSocket;
}

const SCRIPT_NAMES = optionNamesOf<ScriptOptions>("the run of a script")({
  timeout: true,
  clock: true,
  otherEnd: true,
});

/**
 * The peer did not do as the script says. Its message has the step, what differs, and both sides of the conversation
 * up to there.
 *
 * - `step`: the step's number, from 1; one more than there are where all were done.
 * - `expected`, `actual`: as text, for a test runner to show its own difference.
 * - `cause`: what broke the connection, or what the handler threw, where that is known.
 */
export class ScriptError extends Error {
  readonly step: number;
  readonly expected: string;
  readonly actual: string;

  constructor(message: string, step: number, expected: string, actual: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.step = step;
    this.expected = expected;
    this.actual = actual;
  }

  static {
    ScriptError.prototype.name = "ScriptError";
  }
}

type Direction = "sending" | "receiving";

interface Step {
  /** The step as it is written: `expect("250 OK")`. */
  readonly name: string;
  /** Which direction it needs to be open. */
  readonly needs: Direction | null;
  /** Which directions it ends. */
  readonly ends: readonly Direction[];
  /** Where it is written: the lines of a stack trace. */
  readonly where: string;
  run(talk: Talk): MaybePromise<void>;
}

/** One argument as it is written. */
const written = (value: unknown): string => {
  if (typeof value === "function") return "(seen) => …";
  if (typeof value === "string" || value instanceof Uint8Array) return quote(value, 64);
  return String(value);
};

let stepsOf: (script: Conversation) => readonly Step[];

/** A conversation's script; `conversation()` makes an empty one. */
export class Conversation {
  static {
    stepsOf = (script) => script.#steps;
  }

  #steps: readonly Step[] = [];
  readonly #encoding: (typeof ENCODINGS)[number];

  constructor(options: ConversationOptions = {}) {
    checkOptions("a conversation", options, CONVERSATION_NAMES);
    this.#encoding = checkWord("encoding", options.encoding ?? "utf-8", ENCODINGS);
  }

  /** How many steps it has. */
  get length(): number {
    return this.#steps.length;
  }

  /** The steps, a line each. */
  toString(): string {
    return this.#steps.map(({ name }, i) => `${i + 1}. ${name}`).join("\n");
  }

  // ---- What the peer must do ----

  /**
   * The peer says just these bytes or this text; or text that the pattern matches. Of a pattern the shortest beginning
   * is taken that it matches whole, wherever the network cut: end it with what ends the message (`/\d+\r\n/`; `/\d+/`
   * would take one digit). It sees nothing behind its match, so it cannot end in a lookahead. Of datagrams it is one,
   * whole.
   *
   * With `normalise` bytes are the same that are so when both were normalised: text line by line, each with its end,
   * and a line that becomes nothing does not count; what is no text as a whole, as latin1, and of the length that is
   * written here.
   */
  expect(what: Given<Data | RegExp>, normalise?: (text: string) => string): Conversation {
    const wanted = this.#settle(what);
    return this.#receive(`expect(${written(what)})`, (talk) => {
      const value = typeof wanted === "function" ? this.#fixed(wanted(talk.seen())) : wanted;
      if (value instanceof RegExp) return talk.pattern(value, this.#encoding);
      return normalise === undefined ? talk.exactly(value) : talk.alike(value, normalise);
    });
  }

  /**
   * The peer says one line, ended by `\n` or `\r\n`: just this text, or one in which the pattern matches (anywhere,
   * so write `^` and `$`), or any. What is not that fails as soon as its line is there.
   */
  expectLine(what?: Given<string | RegExp>): Conversation {
    if (typeof what === "string" && /[\r\n]/.test(what)) {
      throw new TypeError(`expectLine(${written(what)}): write the line without its end, or use expect()`);
    }
    return this.#receive(`expectLine(${what === undefined ? "" : written(what)})`, (talk) =>
      talk.line(typeof what === "function" ? what(talk.seen()) : what, this.#encoding),
    );
  }

  /** The peer says `size` bytes, whatever they are: the next steps see them as `seen.bytes`. */
  expectBytes(size: Given<number>): Conversation {
    const check = (given: number): number => checkCount("expectBytes", given, 0);
    if (typeof size === "number") check(size);
    return this.#receive(`expectBytes(${written(size)})`, (talk) =>
      talk.exactly(typeof size === "function" ? check(size(talk.seen())) : size),
    );
  }

  /** The peer says no more: its end comes, and nothing before it. */
  expectEnd(): Conversation {
    return this.#receive("expectEnd()", (talk) => talk.end(), ["receiving"]);
  }

  /** The peer resets the connection, and says nothing before. From a place without resets (workerd, Unix sockets) what comes is the end. */
  expectReset(): Conversation {
    return this.#receive("expectReset()", (talk) => talk.reset(), ["receiving", "sending"]);
  }

  /**
   * The peer says nothing. Without a time: until it waits for us, having taken all that was sent. That can be known
   * in memory alone (`runScript`, or the option `otherEnd`); elsewhere it throws `ERR_UNSUPPORTED`. With one: for
   * `within` ms of the clock, which proves that much and no more.
   */
  expectNothing(within?: number): Conversation {
    if (within !== undefined) checkTime("expectNothing", within, 0);
    return this.#receive(`expectNothing(${within ?? ""})`, (talk) => talk.nothing(within));
  }

  /** Looks at what was seen so far; what `look` throws is thrown as it is. */
  check(look: (seen: Seen) => unknown): Conversation {
    return this.#add("check((seen) => …)", null, async (talk) => void (await look(talk.seen())));
  }

  // ---- What the script does ----

  /** Says this: bytes, or text. Each leaves by itself, in one piece; of datagrams it is one. */
  send(data: Given<Data>): Conversation {
    const said = this.#settle(data);
    return this.#send(`send(${written(data)})`, (talk) =>
      talk.send(typeof said === "function" ? this.#fixed(said(talk.seen())) : said),
    );
  }

  /** Waits so many milliseconds of the run's clock. */
  pause(ms: number): Conversation {
    checkTime("pause", ms, 0);
    return this.#add(`pause(${ms})`, null, (talk) => talk.clock.sleep(ms));
  }

  /** Says that no more comes from here: the peer reads the end, and may go on itself. `shutdown(SHUT_WR)`. */
  halfClose(): Conversation {
    return this.#send("halfClose()", (talk) => talk.halfClose(), ["sending"]);
  }

  /** Lets go, having sent all; what the peer still says is dropped. */
  close(): Conversation {
    return this.#add("close()", null, (talk) => talk.close(), ["sending", "receiving"]);
  }

  /** Breaks the connection when all has left. `ERR_UNSUPPORTED` where the platform has no reset. */
  reset(): Conversation {
    return this.#add("reset()", null, (talk) => talk.abort(), ["sending", "receiving"]);
  }

  /** Secures the connection from here on, as `StreamSocket.startTls`: who accepted gives a `cert` and a `key`. */
  startTls(options: TlsOptions = {}): Conversation {
    checkOptions("startTls()", options, TLS_NAMES);
    return this.#send("startTls()", (talk) => talk.startTls(options));
  }

  /** The steps of `other`, after these. */
  append(other: Conversation): Conversation {
    checkScript(other);
    return other.#steps.reduce<Conversation>((all, step) => all.#with(step), this);
  }

  // ---- Running it ----

  /**
   * Holds the conversation on `peer`: a connection, dialled or accepted, or one to talk to by datagrams. Resolves when
   * all steps are done and all that was sent has left; it closes nothing then, so that another may go on.
   * Rejects with a `ScriptError` where the peer does otherwise, and then resets the connection; with what a function
   * of the script threw; with `ERR_UNSUPPORTED` where the place cannot do a step.
   */
  run(peer: StreamSocket, options?: ScriptOptions): Promise<Seen>;
  /** The same by datagrams: each `expect` takes one, each `send` sends one. */
  run(peer: DatagramPeer, options?: ScriptOptions): Promise<Seen>;
  async run(peer: StreamSocket | DatagramPeer, options: ScriptOptions = {}): Promise<Seen> {
    checkOptions("run()", options, SCRIPT_NAMES);
    if (typeof peer !== "object" || peer === null) {
      throw new TypeError(
        `run() takes a connection (createConnection() dials one), or { send, recv } of datagrams; not ${typeof peer}`,
      );
    }
    const wire = "rfile" in peer ? new StreamWire(peer) : DatagramWire.of(peer);
    try {
      return await hold(this.#steps, wire, options);
    } catch (error) {
      wire.abort();
      throw error;
    }
  }

  /** As `#fixed`, of what is known by now. */
  #settle<T extends Data | RegExp>(given: Given<T>): Exclude<T, Data> | Uint8Array | ((seen: Seen) => T) {
    return typeof given === "function" ? given : this.#fixed(given);
  }

  /** The bytes, which nobody changes any more; a pattern as it is. */
  #fixed<T extends Data | RegExp>(value: T): Exclude<T, Data> | Uint8Array {
    if (value instanceof RegExp) {
      if (value.test("")) {
        throw new TypeError(
          `${value} matches when nothing is there; end it with what ends the message, as /\\r\\n/ does`,
        );
      }
      return value as Exclude<T, Data>;
    }
    if (typeof value !== "string" || this.#encoding === "utf-8")
      return new Uint8Array(toBytes(value as Data));
    return Uint8Array.from(value, (char) => {
      const code = char.codePointAt(0) as number;
      if (code < 256) return code;
      throw new RangeError(`${quote(char)} is no byte: with the encoding latin1 text has U+0000 to U+00FF`);
    });
  }

  #send(name: string, run: Step["run"], ends: readonly Direction[] = []): Conversation {
    return this.#add(name, "sending", run, ends);
  }

  #receive(name: string, run: Step["run"], ends: readonly Direction[] = []): Conversation {
    return this.#add(name, "receiving", run, ends);
  }

  #add(
    name: string,
    needs: Direction | null,
    run: Step["run"],
    ends: readonly Direction[] = [],
  ): Conversation {
    return this.#with({ name, needs, ends, run, where: writtenAt() });
  }

  #with(step: Step): Conversation {
    const ended = this.#steps.find(({ ends }) => step.needs !== null && ends.includes(step.needs));
    if (ended !== undefined) {
      const why = step.needs === "sending" ? "nothing can be sent" : "nothing comes";
      throw new TypeError(`${step.name} cannot follow ${ended.name}: ${why} after it`);
    }
    const next = new Conversation({ encoding: this.#encoding });
    next.#steps = [...this.#steps, step];
    return next;
  }
}

/** Throws where `script` is none. */
const checkScript = (script: Conversation): void => {
  if (script instanceof Conversation) return;
  throw new TypeError(`a script is what conversation() makes, not ${typeof script}`);
};

/** An empty script, to go on from. */
export const conversation = (options: ConversationOptions = {}): Conversation => new Conversation(options);

// ---- One run ----

/** Does the steps; leaves the connection as it then is, also where one fails. */
const hold = async (steps: readonly Step[], wire: Wire, options: ScriptOptions): Promise<Seen> => {
  const talk = new Talk(wire, options);
  for (const step of steps) {
    talk.begin(step.name, step.where);
    await step.run(talk);
  }
  talk.begin("the end of the script", "");
  await talk.over();
  return talk.seen();
};

const EMPTY = new Uint8Array(0);

/** What a run needs of the connection. */
interface Wire {
  /** What comes are datagrams: each is whole, and taken whole. */
  readonly whole: boolean;
  /** Something can be looked at: bytes, the end, or an error. */
  readonly readable: boolean;
  /** Calls `told` when that may have become true, and brings bytes for that; gives what stops it. */
  onReadable(told: () => void): () => void;
  /** What is here, at most so many bytes of it, or `null` for the end; rejects with what broke the connection. Only where it is `readable`. */
  look(most: number): Promise<Uint8Array | null>;
  /** The first `size` bytes of what is here. */
  take(size: number): Promise<Uint8Array>;
  /** Sends; what it gives settles when that has left. */
  send(data: Uint8Array): Promise<void>;
  halfClose(): Promise<void>;
  startTls(options: TlsOptions): Promise<void>;
  close(): Promise<void>;
  abort(): void;
  /** Whether a reset can be sent. */
  readonly resets: boolean;
  /** Whether `otherEnd` waits for us, with nothing on its way in either direction. */
  idle(otherEnd: StreamSocket): boolean;
}

class StreamWire implements Wire {
  readonly whole = false;
  readonly #stream: StreamSocket;

  constructor(stream: StreamSocket) {
    this.#stream = stream;
  }

  get readable(): boolean {
    return this.#stream.rfile.readable;
  }

  get resets(): boolean {
    return this.#stream.capabilities.reset;
  }

  onReadable(told: () => void): () => void {
    return this.#stream.rfile.onReadable(told);
  }

  look(most: number): Promise<Uint8Array | null> {
    return this.#stream.rfile.peek(most);
  }

  take(size: number): Promise<Uint8Array> {
    return this.#stream.rfile.readexactly(size);
  }

  async send(data: Uint8Array): Promise<void> {
    await this.#stream.sendall(data);
  }

  halfClose(): Promise<void> {
    return this.#stream.shutdown(SHUT_WR);
  }

  startTls(options: TlsOptions): Promise<void> {
    return this.#stream.startTls(options);
  }

  close(): Promise<void> {
    return this.#stream.close();
  }

  abort(): void {
    this.#stream.abort();
  }

  idle(otherEnd: StreamSocket): boolean {
    const here = this.#stream;
    if (here.wfile.dirty || otherEnd.wfile.dirty) return false;
    const onTheWay = here.bytesWritten - otherEnd.bytesRead + otherEnd.bytesWritten - here.bytesRead;
    return onTheWay === 0 && otherEnd.rfile.needed > 0;
  }
}

class DatagramWire implements Wire {
  static readonly #wires = new WeakMap<DatagramPeer, DatagramWire>();

  /** The wire of that peer: what one run received and did not take is there for the next. */
  static of(peer: DatagramPeer): DatagramWire {
    const wire = DatagramWire.#wires.get(peer) ?? new DatagramWire(peer);
    DatagramWire.#wires.set(peer, wire);
    return wire;
  }

  readonly whole = true;
  readonly resets = false;
  readonly #peer: DatagramPeer;
  #held: Uint8Array | null = null;
  #failure: { readonly error: unknown } | null = null;
  #receiving: Promise<void> | null = null;

  constructor(peer: DatagramPeer) {
    this.#peer = peer;
  }

  get readable(): boolean {
    return this.#held !== null || this.#failure !== null;
  }

  onReadable(told: () => void): () => void {
    let stopped = false;
    if (!this.readable) this.#receiving ??= this.#receive();
    void (this.#receiving ?? DONE).then(() => stopped || told());
    return () => {
      stopped = true;
    };
  }

  async look(): Promise<Uint8Array | null> {
    if (this.#held === null) throw this.#failure?.error;
    return this.#held;
  }

  async take(): Promise<Uint8Array> {
    const taken = this.#held ?? EMPTY;
    this.#held = null;
    return taken;
  }

  async send(data: Uint8Array): Promise<void> {
    await this.#peer.send(data);
  }

  halfClose(): never {
    throw noConnection("halfClose()");
  }

  startTls(): never {
    throw noConnection("startTls()");
  }

  async close(): Promise<void> {}

  abort(): void {}

  idle(): boolean {
    return false;
  }

  async #receive(): Promise<void> {
    try {
      this.#held = await this.#peer.recv();
    } catch (error) {
      this.#failure = { error };
    }
    this.#receiving = null;
  }
}

const noConnection = (step: string): SocketError =>
  new SocketError(
    "ERR_UNSUPPORTED",
    `${step} needs a connection, and datagrams have none; run the script on a stream`,
  );

/** What a step waits for: bytes, or in words. */
type Wanted = Uint8Array | string;

/** One run of a script: what was said, what was seen, and the step that is done now. */
class Talk {
  readonly wire: Wire;
  readonly clock: Clock;
  readonly #timeout: number;
  readonly #otherEnd: StreamSocket | undefined;
  readonly #said: Said[] = [];
  #groups: Readonly<Record<string, string>> = {};
  #match: readonly string[] = [];
  #bytes: Uint8Array = EMPTY;
  // The step that is done now.
  #number = 0;
  #name = "";
  #where = "";
  #deadline = 0;
  #wanted: Wanted = "";
  #taken: Uint8Array[] = [];
  #size = 0; // bytes in #taken
  #hint = ""; // what may be the reason where it fails
  #leaving: Promise<void> | null = null; // what was sent last
  #broken = false; // as the script wanted it

  constructor(wire: Wire, options: ScriptOptions) {
    this.wire = wire;
    this.clock = options.clock ?? realClock;
    this.#timeout = checkTime("timeout", options.timeout ?? TIMEOUT);
    this.#otherEnd = options.otherEnd;
  }

  begin(name: string, where: string): void {
    this.#number++;
    this.#name = name;
    this.#where = where;
    this.#deadline = now() + this.#timeout;
    this.#wanted = "";
    this.#hint = "";
    this.#taken = [];
    this.#size = 0;
  }

  seen(): Seen {
    return { groups: { ...this.#groups }, match: this.#match, bytes: this.#bytes };
  }

  // ---- Expecting ----

  async exactly(wanted: Uint8Array | number): Promise<void> {
    const bytes = typeof wanted === "number" ? null : wanted;
    const size = typeof wanted === "number" ? wanted : wanted.length;
    this.#wanted = bytes ?? `${size} bytes`;
    while (this.wire.whole ? this.#taken.length === 0 : this.#size < size) {
      const part = await this.#here(size - this.#size);
      const same = bytes === null || part.every((byte, i) => byte === bytes[this.#size + i]);
      await this.#take(part.length);
      if (!same) await this.fail("something else came");
    }
    if (this.#size !== size) await this.fail("a datagram of another length came");
    this.#accept();
  }

  async alike(wanted: Uint8Array, normalise: (text: string) => string): Promise<void> {
    const text = cleanText(wanted) !== null;
    const alike = (bytes: Uint8Array): Uint8Array => normalised(bytes, normalise, text);
    this.#wanted = alike(wanted);
    for (const part of text && !this.wire.whole ? linesOf(wanted) : [wanted]) {
      const line = text && !this.wire.whole && part.at(-1) === NEWLINE;
      const expected = alike(part);
      if (line && expected.length === 0) continue; // it does not count
      let came: Uint8Array;
      do {
        const before = this.#size;
        const end = before + part.length;
        if (line) await this.#takeLine();
        else if (this.wire.whole) await this.#take((await this.#here()).length);
        else while (this.#size < end) await this.#take((await this.#here(end - this.#size)).length);
        came = alike(this.#came().subarray(before));
      } while (line && came.length === 0);
      if (difference(expected, came) !== null) {
        await this.fail("something else came", { actual: alike(this.#came()) });
      }
    }
    this.#accept();
  }

  async pattern(pattern: RegExp, encoding: (typeof ENCODINGS)[number]): Promise<void> {
    this.#wanted = String(pattern);
    const whole = new RegExp(pattern.source, `${pattern.flags.replace(/[gy]/g, "")}y`);
    const decode = decoderOf(encoding);
    const matches = (text: string): RegExpExecArray | null => {
      whole.lastIndex = 0;
      const match = whole.exec(text);
      return match !== null && match[0].length === text.length ? match : null;
    };
    let text = "";
    if (this.wire.whole) {
      const here = await this.#here();
      await this.#take(here.length);
      const match = matches(decode(here)) ?? (await this.fail("it does not match"));
      return this.#accept(match);
    }
    for (;;) {
      this.#hint = text !== "" && fresh(pattern).test(text) ? MISPLACED : "";
      const here = await this.#here();
      for (let i = 0; i < here.length; ) {
        const more = decode(here.subarray(i, ++i));
        if (more === "") continue; // in the middle of a character
        text += more;
        const match = matches(text);
        if (match === null) continue;
        await this.#take(i);
        return this.#accept(match);
      }
      await this.#take(here.length);
      if (this.#size > LONGEST) await this.fail(`nothing matches within ${LONGEST} bytes`);
    }
  }

  async line(wanted: string | RegExp | undefined, encoding: (typeof ENCODINGS)[number]): Promise<void> {
    this.#wanted = wanted === undefined ? "a line" : String(wanted);
    await this.#takeLine();
    const text = decoderOf(encoding)(this.#came()).replace(/\r?\n$/, "");
    if (wanted === undefined) return this.#accept([text]);
    const exact = typeof wanted === "string";
    const match = exact ? (wanted === text ? [text] : null) : fresh(wanted).exec(text);
    if (match !== null) return this.#accept(match);
    await this.fail("another line came", {
      actual: toBytes(text),
      expected: exact ? toBytes(wanted) : undefined,
    });
  }

  async end(): Promise<void> {
    this.#wanted = "the end";
    if ((await this.#look()) !== null) await this.fail("something came before the end");
    this.#said.push({ who: "<", what: "end" });
  }

  async reset(): Promise<void> {
    this.#wanted = "a reset";
    await this.#arrival();
    const error = await this.wire.look(WINDOW).then(
      () => null,
      (reason: unknown) => reason,
    );
    if (error === null) {
      const end = (await this.wire.look(WINDOW)) === null;
      await this.fail(end ? "the end came; a place without resets says no more" : "something came before it");
    }
    if ((error as SocketError).code !== "ECONNRESET") await this.#broke(error);
    this.#said.push({ who: "<", what: "reset" });
    this.#broken = true;
  }

  async nothing(within: number | undefined): Promise<void> {
    this.#wanted = "nothing";
    const { wire } = this;
    const arrived = Promise.withResolvers<void>();
    const stop = wire.onReadable(arrived.resolve);
    try {
      if (within !== undefined) {
        if (!wire.readable) await Promise.race([arrived.promise, this.clock.sleep(within)]);
      } else {
        const otherEnd = this.#otherEnd;
        if (otherEnd === undefined) {
          throw new SocketError(
            "ERR_UNSUPPORTED",
            "expectNothing() cannot know here that the other end waits; give it a time in ms, or run the script in memory by runScript()",
          );
        }
        do {
          await turn(); // what is under way in memory is done after one
          if (now() > this.#deadline) await this.fail(this.#silence());
        } while (!wire.readable && !wire.idle(otherEnd));
      }
    } finally {
      stop();
    }
    if (!wire.readable) return;
    const end = (await this.#look()) === null;
    await this.fail(end ? "the end came" : "something came");
  }

  // ---- Doing ----

  send(data: Uint8Array): void {
    this.#said.push({ who: ">", what: data });
    this.#leave(this.wire.send(data));
  }

  halfClose(): void {
    this.#leave(this.wire.halfClose());
    this.#said.push({ who: ">", what: "half-close" });
  }

  async startTls(options: TlsOptions): Promise<void> {
    this.#wanted = "TLS";
    await this.#within(this.wire.startTls(options)).catch((error) => {
      if (error instanceof TypeError || (error as SocketError).code === "ERR_UNSUPPORTED") throw error;
      return this.fail(`TLS did not begin: ${messageOf(error)}`, { cause: error });
    });
    this.#said.push({ who: ">", what: "TLS from here" });
  }

  async close(): Promise<void> {
    await this.over(); // a close that gives up on what was sent would not say so
    this.#said.push({ who: ">", what: "close" });
    await this.wire.close();
  }

  async abort(): Promise<void> {
    if (!this.wire.resets) {
      throw new SocketError("ERR_UNSUPPORTED", "this place cannot send a reset; close() is what it has");
    }
    await this.over();
    this.#said.push({ who: ">", what: "reset" });
    this.wire.abort();
    this.#broken = true;
  }

  /** Waits until all that was sent has left. */
  async over(): Promise<void> {
    const leaving = this.#leaving;
    this.#leaving = null;
    if (leaving === null || this.#broken) return;
    this.#wanted = "that all which was sent could leave";
    await this.#within(leaving).catch((error) =>
      this.fail(`not all that was sent has left: ${messageOf(error)}`, { cause: error }),
    );
  }

  // ---- Failing ----

  /** Fails this step: `why`, with all else that has come by now. */
  async fail(
    why: string,
    {
      expected,
      actual,
      cause,
    }: {
      readonly expected?: Uint8Array | undefined;
      readonly actual?: Uint8Array;
      readonly cause?: unknown;
    } = {},
  ): Promise<never> {
    while (this.wire.readable && this.#size < SHOWN) {
      const here = await this.wire.look(WINDOW).catch(() => null);
      if (here === null) break;
      await this.#take(here.length);
    }
    throw scriptError({
      step: this.#number,
      name: this.#name,
      where: this.#where,
      why: why + this.#hint,
      wanted: expected ?? this.#wanted,
      came: actual ?? this.#came(),
      said: this.#said,
      cause,
    });
  }

  #came(): Uint8Array {
    return joinBytes(this.#taken, this.#size);
  }

  /** The expectation is met by what was taken. */
  #accept(match: readonly string[] | null = null): void {
    this.#bytes = this.#came();
    if (match === null) return;
    this.#match = [...match];
    const { groups } = match as RegExpExecArray;
    if (groups !== undefined) this.#groups = { ...this.#groups, ...groups };
  }

  /** What is here, of which there is something: else the step fails. */
  async #here(most = WINDOW): Promise<Uint8Array> {
    const here = await this.#look(most);
    return here ?? this.fail(this.#size === 0 ? "the end came" : "the end came too early");
  }

  async #look(most = WINDOW): Promise<Uint8Array | null> {
    await this.#arrival();
    return this.wire.look(most).catch((error) => this.#broke(error));
  }

  async #take(size: number): Promise<void> {
    const taken = await this.wire.take(size);
    this.#taken.push(taken);
    this.#size += taken.length;
    this.#said.push({ who: "<", what: taken });
  }

  /** Takes up to and with the next newline. */
  async #takeLine(): Promise<void> {
    for (const before = this.#size; ; ) {
      const here = await this.#here();
      const newline = here.indexOf(NEWLINE);
      await this.#take(newline < 0 ? here.length : newline + 1);
      if (newline >= 0) return;
      if (this.wire.whole) await this.fail("the datagram has no line end");
      if (this.#size - before > LONGEST) await this.fail(`no line ends within ${LONGEST} bytes`);
    }
  }

  #broke(error: unknown): Promise<never> {
    const reset = (error as Partial<SocketError> | null)?.code === "ECONNRESET";
    if (reset) this.#said.push({ who: "<", what: "reset" });
    return this.fail(reset ? "the peer reset the connection" : `the connection broke: ${messageOf(error)}`, {
      cause: error,
    });
  }

  /** Waits until there is something to look at. */
  async #arrival(): Promise<void> {
    const { wire } = this;
    while (!wire.readable) {
      const arrived = Promise.withResolvers<void>();
      const stop = wire.onReadable(arrived.resolve);
      try {
        if ((await this.#inTime(arrived.promise)) === LATE) await this.fail(this.#silence());
      } finally {
        stop();
      }
    }
  }

  /** Why nothing comes, as far as that is known. */
  #silence(): string {
    const end = this.#otherEnd;
    const more = this.#size === 0 ? "" : " more";
    const why =
      end === undefined || end.closed
        ? ""
        : end.rfile.needed > 0
          ? ": the other end waits for input"
          : ": the other end does not read";
    return `nothing${more} came within ${wholeMs(this.#timeout)}${why}`;
  }

  #leave(leaving: Promise<void>): void {
    leaving.catch(() => {}); // over() tells, or the next step sees why
    this.#leaving = leaving;
  }

  async #within(promise: Promise<void>): Promise<void> {
    if ((await this.#inTime(promise)) === LATE)
      throw new SocketError("ETIMEDOUT", `the peer took nothing for ${wholeMs(this.#timeout)}`);
  }

  /** `promise`, or `LATE` at the step's deadline. */
  async #inTime(promise: Promise<void>): Promise<typeof LATE | undefined> {
    const late = Promise.withResolvers<typeof LATE>();
    const timer = later(() => late.resolve(LATE), Math.max(0, this.#deadline - now()));
    try {
      return (await Promise.race([promise, late.promise])) ?? undefined;
    } finally {
      forget(timer);
    }
  }
}

const LATE = Symbol("late");

const messageOf = (error: unknown): string => printable(describe(error).message, true);

/** A pattern that keeps no place of its own between two texts. */
const fresh = (pattern: RegExp): RegExp => new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, ""));

/** What gives the text of the next bytes: nothing where they end in the middle of a character. */
const decoderOf = (encoding: (typeof ENCODINGS)[number]): ((bytes: Uint8Array) => string) => {
  if (encoding === "latin1")
    return (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return (bytes) => decoder.decode(bytes, { stream: true });
};

interface Failure {
  readonly step: number;
  readonly name: string;
  readonly where: string;
  readonly why: string;
  readonly wanted: Wanted;
  readonly came: Uint8Array;
  readonly said: readonly Said[];
  readonly cause?: unknown;
}

const scriptError = ({ step, name, where, why, wanted, came, said: all, cause }: Failure): ScriptError => {
  const lines = [`step ${step}, ${name}: ${why}`];
  if (typeof wanted === "string") {
    lines.push(`- ${wanted}`, `+ ${came.length === 0 ? "nothing" : quote(came)}`);
    if (came.length > 0) lines.push(hexdump(came, 128).replace(/^/gm, "+ "));
  } else {
    lines.push(difference(wanted, came) ?? "");
  }
  lines.push(
    "",
    "The conversation (> the script, < its peer):",
    all.length === 0 ? "nothing was said" : dialogue(all),
  );
  const message = lines.join("\n");
  const expected = typeof wanted === "string" ? wanted : (utf8(wanted) ?? hexdump(wanted));
  const error = new ScriptError(message, step, expected, utf8(came) ?? hexdump(came), cause);
  if (where !== "") error.stack = `${error.name}: ${message}\n${where}`; // the step, not what ran it: there it is to be mended
  return error;
};

// ---- In memory, and as a server ----

/** Options of `runScript`: those of a run, and what the handler is given. */
export interface RunScriptOptions<Context>
  extends Omit<ScriptOptions, "otherEnd">,
    Omit<EndpointOptions<Context>, "context"> {
  /** Makes what the handler gets as `this.context`; may be async. As `checkFraming` has it. */
  readonly context?: () => MaybePromise<Context>;
  /** What the handler gets as `this.params`. */
  readonly params?: unknown;
  /** The connection between the two. */
  readonly stream?: MemoryOptions;
}

const RUN_SCRIPT_NAMES = optionNamesOf<RunScriptOptions<unknown>>()({
  ...ENDPOINT_NAMES,
  timeout: true,
  clock: true,
  params: true,
  stream: MEMORY_NAMES,
});

/** What `runScript` gives: what the script saw, and what the handler returned. */
export interface ScriptResult extends Seen {
  /** What the handler returned. */
  readonly result: unknown;
}

/** What `make` gives, for one run. Throws `TypeError` where it is what was to be made. */
export const makeContext = (
  taker: string,
  make: (() => MaybePromise<unknown>) | undefined,
): MaybePromise<unknown> => {
  if (make === undefined || typeof make === "function") return make?.();
  throw new TypeError(
    `context of ${taker} is a function that makes it: context: () => …, not ${typeof make}`,
  );
};

class OneHandler<Context> extends BaseConnector<StreamSocket, Context> {
  readonly #end: StreamSocket;
  /** What the handler threw. */
  thrown: { readonly error: unknown } | null = null;

  constructor(
    Handler: HandlerClass<StreamSocket, Context>,
    options: EndpointOptions<Context>,
    end: StreamSocket,
  ) {
    super(Handler, options);
    this.#end = end;
  }

  override connect(): Promise<StreamSocket> {
    return Promise.resolve(this.#end);
  }

  override peerOf(request: StreamSocket): Address | null {
    return request.getpeername();
  }

  override async finishRequest(request: StreamSocket, clientAddress: Address | null): Promise<unknown> {
    try {
      return await super.finishRequest(request, clientAddress);
    } catch (error) {
      this.thrown = { error };
      throw error;
    }
  }
}

/**
 * Runs `script` against one `Handler` in memory, whichever of the two would have dialled: the handler begins, then the
 * script, which closes the connection when it is over. Gives what the script saw and what the handler returned.
 *
 *     const { result } = await runScript(RespClient, server, { params: ["PING"] });
 *
 * Rejects with the `ScriptError`, whose `cause` is what the handler threw; where the script was content, with what the
 * handler threw (but not with that the script reset the connection on it); and with a `ScriptError` where the handler
 * goes on for `timeout` ms after the connection is closed.
 */
export const runScript = async <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  script: Conversation,
  options: RunScriptOptions<Context> = {},
): Promise<ScriptResult> => {
  checkScript(script);
  checkOptions("runScript()", options, RUN_SCRIPT_NAMES);
  const { timeout = TIMEOUT, clock, params, stream, context, ...endpoint } = options;
  checkTime("timeout", timeout);
  const made = (await makeContext("runScript()", context)) as Context;
  const [here, there] = memoryPair(stream);
  const connector = new OneHandler<Context>(Handler, { ...endpoint, context: made }, there);
  const running = connector.run({ params });
  running.catch(() => {}); // told below
  let seen: Seen;
  try {
    seen = await hold(stepsOf(script), new StreamWire(here), { timeout, clock, otherEnd: there });
  } catch (error) {
    const thrown = connector.thrown?.error; // now: the abort makes errors of its own
    connector.abort(error);
    here.abort();
    throw error instanceof ScriptError && thrown !== undefined ? withCause(error, thrown) : error;
  }
  await here.close();
  const late = Promise.withResolvers<typeof LATE>();
  const timer = later(() => late.resolve(LATE), timeout);
  try {
    const result = await Promise.race([running, late.promise]);
    if (result !== LATE) return { ...seen, result };
  } catch (error) {
    // What a handler says whose connection was reset on it is no failure of its own.
    const code = (error as Partial<SocketError> | null)?.code;
    const reset = stepsOf(script).some(({ name }) => name === "reset()");
    if (!reset || (code !== "ECONNRESET" && code !== "EPIPE")) throw error;
    return { ...seen, result: undefined };
  } finally {
    forget(timer);
  }
  connector.abort();
  throw new ScriptError(
    `the script is over and the connection closed, and the handler still runs after ${wholeMs(timeout)}`,
    script.length + 1,
    "that the handler ends",
    "it goes on",
  );
};

/** `error`, and what the handler had thrown before it. */
const withCause = (error: ScriptError, thrown: unknown): ScriptError => {
  const message = `${error.message}\n\nThe handler had failed: ${printable(errorText(thrown), true)}`;
  const whole = new ScriptError(message, error.step, error.expected, error.actual, thrown);
  whole.stack = (error.stack ?? "").replace(error.message, () => message);
  return whole;
};

/** A handler class that runs a script on each request it gets, and what became of that. */
export interface ScriptHandlerClass<Request> extends HandlerClass<Request> {
  /**
   * What the first `count` runs saw (default 1), when they are over. Rejects with what the first of them rejected
   * with that failed, and with a `ScriptError` where fewer have begun within `timeout` ms.
   */
  outcomes(count?: number): Promise<Seen[]>;
}

/** The runs of one handler class. */
class Runs {
  readonly #runs: Promise<Seen>[] = [];
  readonly #timeout: number;
  #more = Promise.withResolvers<void>();

  constructor(options: ScriptOptions) {
    checkOptions("the handler of a script", options, SCRIPT_NAMES);
    this.#timeout = checkTime("timeout", options.timeout ?? TIMEOUT);
  }

  add(run: Promise<Seen>): Promise<Seen> {
    run.catch(() => {}); // outcomes() tells, and the server's event
    this.#runs.push(run);
    this.#more.resolve();
    this.#more = Promise.withResolvers();
    return run;
  }

  async outcomes(count: number): Promise<Seen[]> {
    checkCount("count", count, 1);
    const late = Promise.withResolvers<typeof LATE>();
    const timer = later(() => late.resolve(LATE), this.#timeout);
    try {
      while (this.#runs.length < count) {
        if ((await Promise.race([this.#more.promise, late.promise])) !== LATE) continue;
        const begun = `${this.#runs.length} of ${count} runs`;
        const message = `${begun} of the script have begun within ${wholeMs(this.#timeout)}`;
        throw new ScriptError(message, 1, `${count} runs`, begun);
      }
    } finally {
      forget(timer);
    }
    return Promise.all(this.#runs.slice(0, count));
  }
}

/**
 * The class of handlers that run `script` on each connection: a scripted server, in every place that has servers.
 *
 *     const Peer = scriptHandler(conversation().expectLine("PING").send("+PONG\r\n"));
 *     const server = new ThreadingTCPServer("127.0.0.1:0", Peer);
 *     …
 *     await Peer.outcomes(); // throws what the script found wrong
 */
export const scriptHandler = (
  script: Conversation,
  options: ScriptOptions = {},
): ScriptHandlerClass<StreamSocket> => {
  checkScript(script);
  const runs = new Runs(options);
  return class ScriptHandler extends BaseRequestHandler {
    static outcomes(count = 1): Promise<Seen[]> {
      return runs.outcomes(count);
    }

    override handle(): Promise<Seen> {
      return runs.add(script.run(this.request, options));
    }
  };
};

/**
 * The class of handlers that run `script` once, over the datagrams that come to all of them: each `expect` takes the
 * next, each `send` answers the one that came last. A datagram after the script's end is an error of its handler.
 */
export const scriptDatagramHandler = (
  script: Conversation,
  options: ScriptOptions = {},
): ScriptHandlerClass<Datagram> => {
  checkScript(script);
  const runs = new Runs(options);
  const waiting: Arrived[] = [];
  let more = Promise.withResolvers<void>();
  let last: Arrived | null = null;
  let run: Promise<Seen> | null = null;
  const peer: DatagramPeer = {
    send(data) {
      if (last === null) throw new SocketError("ENOTCONN", "no datagram has come yet that could be answered");
      last.datagram.reply(data);
    },
    async recv() {
      last?.done();
      while (waiting.length === 0) await more.promise;
      last = waiting.shift() as Arrived;
      return last.datagram.data;
    },
  };
  return class ScriptHandler extends BaseRequestHandler<Datagram> {
    static outcomes(count = 1): Promise<Seen[]> {
      return runs.outcomes(count);
    }

    /** Goes on until the script asks for the next one or is over: its place may end a flow with its handler. */
    override async handle(): Promise<void> {
      const answered = Promise.withResolvers<void>();
      const arrived: Arrived = { datagram: this.request, done: answered.resolve };
      waiting.push(arrived);
      more.resolve();
      more = Promise.withResolvers();
      run ??= runs.add(script.run(peer, options));
      await Promise.race([answered.promise, run]);
      if (!waiting.includes(arrived)) return;
      const came = quote(this.request.data);
      throw new ScriptError(
        `a datagram came after the end of the script: ${came}`,
        script.length + 1,
        "nothing",
        came,
      );
    }
  };
};

/** A datagram that waits for the script, and what lets its handler go. */
interface Arrived {
  readonly datagram: Datagram;
  readonly done: () => void;
}
