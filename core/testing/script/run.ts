/**
 * One run of a script: it does the steps on a wire one after the other, and keeps what was sent and seen. Only missing
 * bytes wait for the timeout.
 */

import { LATE, timersNow, within } from "../../bytes/alarm.ts";
import { joinBytes, type MaybePromise, toBytes } from "../../bytes/data.ts";
import { describe, printable } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import { checkTime, optionNamesOf, wholeMs } from "../../options.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import type { StartTlsOptions } from "../../sockets/tls/tls.ts";
import { type Clock, realClock, runAfter } from "../clock.ts";
import { cleanText, difference, linesOf, normalised, type Said } from "../text.ts";
import { scriptError, type Wanted } from "./error.ts";
import { EMPTY, type Wire } from "./wire.ts";

export const TIMEOUT = 3_000; // ms one step waits: below the 5 s of Vitest and others, whose own error would not show the conversation
const LONGEST = 65_536; // bytes of one line, and of what one pattern matches: as `maxLine` of a stream
const NEWLINE = 10;
const WINDOW = 1024; // bytes looked at together if the number wanted is unknown: each look copies them
const MISPLACED = "; the pattern matches, but not from where the last step ended to the end of its match";
const SHOWN = 1024; // received bytes that a failure shows

// Taken now, so that a test's fake clock does not hold back the end of a wait.
const timers = timersNow();
const now = performance.now.bind(performance);
const turn = (): Promise<void> => {
  const { set } = timers;
  return new Promise((resolve) => set(resolve, 0));
};

/** `promise`, or `LATE` after `ms` of real time. */
export const inTime = <T>(promise: Promise<T>, ms: number): Promise<T | typeof LATE> =>
  within(promise, Math.max(0, ms), timers);

/** What a conversation has seen so far: passed to steps that are functions, and returned by `run()`. */
export interface Seen {
  /** The named groups of all patterns so far; if two have the same name, the later one. */
  readonly groups: Readonly<Record<string, string>>;
  /** The last pattern's match: the whole, then its groups by number. */
  readonly match: readonly string[];
  /** The bytes that the last expectation took. */
  readonly bytes: Uint8Array;
}

/** The encoding of text in a conversation. */
export const ENCODINGS = ["utf-8", "latin1"] as const;

/** Options of one run. Times are milliseconds. */
export interface ScriptOptions {
  /** How long one step may wait for the peer. Default 3 000: less than the time-out of test runners, whose error would not show the conversation. */
  readonly timeout?: number;
  /** The clock of `pause()` and of `expectNothing()` with a time. The timeout is always real. */
  readonly clock?: Clock;
  /** The connection's other end, if it is at hand (in memory), so that `expectNothing()` can tell whether it waits. `runScript` sets it. */
  readonly otherEnd?: StreamSocket;
}

export const SCRIPT_NAMES = optionNamesOf<ScriptOptions>("the run of a script")({
  timeout: true,
  clock: true,
  otherEnd: true,
});

export type Direction = "sending" | "receiving";

export interface Step {
  /** The step as text: `expect("250 OK")`. */
  readonly name: string;
  /** The direction that must be open. */
  readonly needs: Direction | null;
  /** The directions that it ends. */
  readonly ends: readonly Direction[];
  /** Its place in the source: the lines of a stack trace. */
  readonly where: string;
  run(talk: Talk): MaybePromise<void>;
}

/** Runs the steps; does not close the connection, even if one fails. */
export const hold = async (steps: readonly Step[], wire: Wire, options: ScriptOptions): Promise<Seen> => {
  const talk = new Talk(wire, options);
  for (const step of steps) {
    talk.begin(step.name, step.where);
    await step.run(talk);
  }
  talk.begin("the end of the script", "");
  await talk.over();
  return talk.seen();
};

/** One run of a script: what was sent, what was seen, and the current step. */
class Talk {
  readonly wire: Wire;
  readonly clock: Clock;
  readonly #timeout: number;
  readonly #otherEnd: StreamSocket | undefined;
  readonly #said: Said[] = [];
  #groups: Readonly<Record<string, string>> = {};
  #match: readonly string[] = [];
  #bytes: Uint8Array = EMPTY;
  // The current step.
  #number = 0;
  #name = "";
  #where = "";
  #deadline = 0;
  #wanted: Wanted = "";
  #taken: Uint8Array[] = [];
  #size = 0; // bytes in #taken
  #hint = ""; // a likely reason if it fails
  #leaving: Promise<void> | null = null; // what was sent last
  #broken = false; // by the script itself

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
      await this.fail(
        end ? "the end came; this place does not tell a reset from an end" : "something came before it",
      );
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
    const cancel = within === undefined ? null : runAfter(this.clock, within, arrived.resolve);
    try {
      if (within !== undefined) {
        if (!wire.readable) await arrived.promise;
      } else {
        const otherEnd = this.#otherEnd;
        if (otherEnd === undefined) {
          throw new SocketError(
            "ERR_UNSUPPORTED",
            "expectNothing() cannot tell here whether the other end waits; give it a time in ms, or run the script in memory by runScript()",
          );
        }
        do {
          await turn(); // one turn completes what is under way in memory
          if (now() > this.#deadline) await this.fail(this.#silence());
        } while (!wire.readable && !wire.idle(otherEnd));
      }
    } finally {
      stop();
      cancel?.();
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

  async startTls(options: StartTlsOptions): Promise<void> {
    this.#wanted = "TLS";
    await this.#within(this.wire.startTls(options)).catch((error) => {
      if (error instanceof TypeError || (error as SocketError).code === "ERR_UNSUPPORTED") throw error;
      return this.fail(`TLS did not begin: ${messageOf(error)}`, { cause: error });
    });
    this.#said.push({ who: ">", what: "TLS from here" });
  }

  async close(): Promise<void> {
    await this.over(); // a close that gives up on unsent bytes would not report that
    this.#said.push({ who: ">", what: "close" });
    await this.wire.close();
  }

  async abort(): Promise<void> {
    if (!this.wire.resets) {
      throw new SocketError("ERR_UNSUPPORTED", "this place cannot send a reset; use close()");
    }
    await this.over();
    this.#said.push({ who: ">", what: "reset" });
    this.wire.abort();
    this.#broken = true;
  }

  /** Waits until everything sent has left. */
  async over(): Promise<void> {
    const leaving = this.#leaving;
    this.#leaving = null;
    if (leaving === null || this.#broken) return;
    this.#wanted = "all sent bytes to leave";
    await this.#within(leaving).catch((error) =>
      this.fail(`not all that was sent has left: ${messageOf(error)}`, { cause: error }),
    );
  }

  // ---- Failing ----

  /** Fails this step with the reason `why`, and everything else received so far. */
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

  /** Records that the bytes taken meet the expectation. */
  #accept(match: readonly string[] | null = null): void {
    this.#bytes = this.#came();
    if (match === null) return;
    this.#match = [...match];
    const { groups } = match as RegExpExecArray;
    if (groups !== undefined) this.#groups = { ...this.#groups, ...groups };
  }

  /** What has arrived; fails the step if nothing has. */
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
        const left = this.#deadline - now();
        if ((await inTime(arrived.promise, left)) === LATE) await this.fail(this.#silence());
      } finally {
        stop();
      }
    }
  }

  /** Why nothing comes, if that is known. */
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
    leaving.catch(() => {}); // over() reports it, or the next step sees why
    this.#leaving = leaving;
  }

  async #within(promise: Promise<void>): Promise<void> {
    if ((await inTime(promise, this.#deadline - now())) === LATE)
      throw new SocketError("ETIMEDOUT", `the peer took nothing for ${wholeMs(this.#timeout)}`);
  }
}

const messageOf = (error: unknown): string => printable(describe(error).message, true);

/** A pattern without state between two texts. */
const fresh = (pattern: RegExp): RegExp => new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, ""));

/** A decoder for the next bytes: it returns nothing if they end in the middle of a character. */
const decoderOf = (encoding: (typeof ENCODINGS)[number]): ((bytes: Uint8Array) => string) => {
  if (encoding === "latin1")
    return (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return (bytes) => decoder.decode(bytes, { stream: true });
};
