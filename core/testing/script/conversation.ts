/**
 * Scripted peers: a conversation written down step by step, and run with any peer on the other end.
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
 * A script is a value: each step returns a new one, so that scripts can share a beginning. It can be
 * run many times, in every place, in either role: it does not know which side dialled.
 *
 * A stream keeps no boundaries between what was sent, and a script must not depend on where the network cut. So `expect`
 * of bytes takes exactly that many, and `expect` of a pattern takes the shortest prefix that matches completely; the rest stays for
 * the next step. The first byte that differs fails at once; only missing bytes wait for the timeout.
 *
 * `send` does not wait: the rest of a large one leaves while the next steps read, as it would with
 * a client whose reading does not wait for its writing.
 */

import { type Data, toBytes } from "../../bytes/data.ts";
import { checkCount, checkOptions, checkTime, checkWord, optionNamesOf } from "../../options.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { START_TLS_NAMES, type StartTlsOptions } from "../../sockets/tls/tls.ts";
import { quote, writtenAt } from "../text.ts";
import {
  type Direction,
  ENCODINGS,
  hold,
  SCRIPT_NAMES,
  type ScriptOptions,
  type Seen,
  type Step,
} from "./run.ts";
import { type DatagramPeer, DatagramWire, StreamWire } from "./wire.ts";

/** A value, or a function that computes it from what was seen so far. */
export type Given<T> = T | ((seen: Seen) => T);

/** Options of a conversation. */
export interface ConversationOptions {
  /** The encoding of text, sent and matched. `latin1`: one byte per character, U+0000 to U+00FF, for patterns of bytes. Default `utf-8`. */
  readonly encoding?: (typeof ENCODINGS)[number];
}

const CONVERSATION_NAMES = optionNamesOf<ConversationOptions>("a conversation")({ encoding: true });

/** One argument, as it is written in a script. */
const written = (value: unknown): string => {
  if (typeof value === "function") return "(seen) => …";
  if (typeof value === "string" || value instanceof Uint8Array) return quote(value, 64);
  return String(value);
};

export let stepsOf: (script: Conversation) => readonly Step[];

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

  /** The number of steps. */
  get length(): number {
    return this.#steps.length;
  }

  /** The steps, a line each. */
  toString(): string {
    return this.#steps.map(({ name }, i) => `${i + 1}. ${name}`).join("\n");
  }

  // ---- What the peer must do ----

  /**
   * The peer sends exactly these bytes or this text; or text that the pattern matches. A pattern takes the shortest prefix
   * that it matches completely, wherever the network cut: end it with what ends the message (`/\d+\r\n/`; `/\d+/`
   * would take one digit). It sees nothing after its match, so it cannot end in a lookahead. For datagrams it is one,
   * complete.
   *
   * With `normalise`, bytes are equal if they are equal after both were normalised: text line by line, each with its end,
   * where lines that become empty are ignored; bytes that are not text as a whole, as latin1, with the length that is
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
   * The peer sends one line, ended by `\n` or `\r\n`: exactly this text, or one in which the pattern matches (anywhere,
   * so write `^` and `$`), or any. Another line fails as soon as it is complete.
   */
  expectLine(what?: Given<string | RegExp>): Conversation {
    if (typeof what === "string" && /[\r\n]/.test(what)) {
      throw new TypeError(`expectLine(${written(what)}): write the line without its end, or use expect()`);
    }
    return this.#receive(`expectLine(${what === undefined ? "" : written(what)})`, (talk) =>
      talk.line(typeof what === "function" ? what(talk.seen()) : what, this.#encoding),
    );
  }

  /** The peer sends `size` bytes of any value: the next steps see them as `seen.bytes`. */
  expectBytes(size: Given<number>): Conversation {
    const check = (given: number): number => checkCount("expectBytes", given, 0);
    if (typeof size === "number") check(size);
    return this.#receive(`expectBytes(${written(size)})`, (talk) =>
      talk.exactly(typeof size === "function" ? check(size(talk.seen())) : size),
    );
  }

  /** The peer sends no more: its end comes, and nothing before it. */
  expectEnd(): Conversation {
    return this.#receive("expectEnd()", (talk) => talk.end(), ["receiving"]);
  }

  /** The peer resets the connection, and sends nothing before. On a platform without resets (workerd, Unix sockets) the end comes instead. */
  expectReset(): Conversation {
    return this.#receive("expectReset()", (talk) => talk.reset(), ["receiving", "sending"]);
  }

  /**
   * The peer sends nothing. Without a time: until it waits for us, having taken all that was sent. That can be known
   * only in memory (`runScript`, or the option `otherEnd`); elsewhere it throws `ERR_UNSUPPORTED`. With a time: for
   * `within` ms of the clock, which proves no more than that.
   */
  expectNothing(within?: number): Conversation {
    if (within !== undefined) checkTime("expectNothing", within, 0);
    return this.#receive(`expectNothing(${within ?? ""})`, (talk) => talk.nothing(within));
  }

  /** Checks what was seen so far; what `look` throws is thrown unchanged. */
  check(look: (seen: Seen) => unknown): Conversation {
    return this.#add("check((seen) => …)", null, async (talk) => void (await look(talk.seen())));
  }

  // ---- What the script does ----

  /** Sends bytes, or text. Each leaves by itself, in one piece; for datagrams it is one datagram. */
  send(data: Given<Data>): Conversation {
    const said = this.#settle(data);
    return this.#send(`send(${written(data)})`, (talk) =>
      talk.send(typeof said === "function" ? this.#fixed(said(talk.seen())) : said),
    );
  }

  /** Waits this many milliseconds of the run's clock. */
  pause(ms: number): Conversation {
    checkTime("pause", ms, 0);
    return this.#add(`pause(${ms})`, null, (talk) => talk.clock.sleep(ms));
  }

  /** Ends this side's output: the peer reads the end, and may go on sending. `shutdown(SHUT_WR)`. */
  halfClose(): Conversation {
    return this.#send("halfClose()", (talk) => talk.halfClose(), ["sending"]);
  }

  /** Closes the connection once everything is sent; what the peer sends later is dropped. */
  close(): Conversation {
    return this.#add("close()", null, (talk) => talk.close(), ["sending", "receiving"]);
  }

  /** Resets the connection when everything has left. `ERR_UNSUPPORTED` if the platform has no reset. */
  reset(): Conversation {
    return this.#add("reset()", null, (talk) => talk.abort(), ["sending", "receiving"]);
  }

  /** Secures the connection from here on, as `StreamSocket.startTls`: the accepting side passes a `cert` and a `key`. */
  startTls(options: StartTlsOptions = {}): Conversation {
    checkOptions("startTls()", options, START_TLS_NAMES);
    return this.#send("startTls()", (talk) => talk.startTls(options));
  }

  /** The steps of `other`, after these. */
  append(other: Conversation): Conversation {
    checkScript(other);
    return other.#steps.reduce<Conversation>((all, step) => all.#with(step), this);
  }

  // ---- Running it ----

  /**
   * Runs the conversation on `peer`: a connection, dialled or accepted, or a peer of datagrams. Resolves when
   * all steps are done and everything sent has left; it does not close the connection, so that it can be used further.
   * Rejects with a `ScriptError` if the peer does otherwise, and then resets the connection; with what a function
   * of the script threw; with `ERR_UNSUPPORTED` if the platform cannot do a step.
   */
  run(peer: StreamSocket, options?: ScriptOptions): Promise<Seen>;
  /** The same over datagrams: each `expect` takes one, each `send` sends one. */
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

  /** As `#fixed`, for a value that is known only now. */
  #settle<T extends Data | RegExp>(given: Given<T>): Exclude<T, Data> | Uint8Array | ((seen: Seen) => T) {
    return typeof given === "function" ? given : this.#fixed(given);
  }

  /** A copy of the bytes, which cannot change; a pattern is returned unchanged. */
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

/** Throws if `script` is not a script. */
export const checkScript = (script: Conversation): void => {
  if (script instanceof Conversation) return;
  throw new TypeError(`a script is what conversation() makes, not ${typeof script}`);
};

/** An empty script, to add steps to. */
export const conversation = (options: ConversationOptions = {}): Conversation => new Conversation(options);
