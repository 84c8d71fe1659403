/**
 * `checkFraming`: does a handler depend on how the network cut its bytes? TCP keeps no borders between messages, so
 * that what a peer sent in two pieces may come in one, and the other way about; on the machine where a handler was
 * written that happens nearly never, and in production every day.
 *
 * A conversation is held once with nothing cut, message by message; that teaches the right answer. Then it is held
 * again, many hundred times, over a connection in memory that cuts it everywhere, ends it everywhere and resets it
 * everywhere. This is what a handler owes:
 *
 * - **Cut** anywhere, and with many messages in one piece: the same answer, byte for byte, as soon as all was sent;
 *   the same result and effect; and after the peer's end, its own.
 * - **Ended** after n bytes: it ends by itself. What was asked whole is answered whole, also where the end follows at
 *   once, since a half-close is no close. What it says to a message that was cut off is its own affair (in a protocol
 *   of lines the end may end the last one), unless the check is `strict`.
 * - **Reset** after n bytes: it ends by itself, has said nothing but a beginning of the right answer, and claims no
 *   result, nor leaves an effect, of what it did not get.
 * - In both of these it may throw errors of the stream, `SocketError`, or an error with such a `cause`, and no other.
 * - **Never ending**: a message that is to be answered and does not end must not be taken for ever in silence.
 * - **Always**: when it has ended it does not read or write any more, it has written nothing behind its own end, and it
 *   leaves no timer, and no rejected promise that nobody sees (which ends a Node process).
 *
 * No run waits for time, but where the handler does: it is over when nothing is left to be done.
 */

import { type Data, DONE, joinBytes, type MaybePromise, toBytes } from "../bytes/data.ts";
import { errorText, isA, peek, printable, textOf, toJson } from "../describe.ts";
import { SocketError } from "../errors.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../options.ts";
import { checkHandler, type HandlerClass } from "../serve/handler.ts";
import type { BaseServer } from "../serve/server.ts";
import {
  STREAM_NAMES,
  type StreamOptions,
  type StreamSocket,
  settleStream,
} from "../sockets/stream-socket.ts";
import { type Chance, chanceOf } from "./clock.ts";
import { EMPTY, masked, type Outcome, Rig, type Step } from "./framing-run.ts";
import { memoryPair } from "./memory.ts";
import { Conversation } from "./script.ts";
import { difference, quote, writtenAt } from "./text.ts";

const RUNS = 2_400; // a conversation of 200 bytes needs 1 700 for every place
const WORK = 4 * 1024 * 1024; // bytes sent in the runs of one kind: so long conversations are cut at fewer places
const FEWEST = 16; // places of one kind, however long it is
const PATIENCE = 500; // ms without any progress
const FLOOD = 2 * 1024 * 1024; // bytes; a stream's own limits are 64 KiB a line, and many protocols' 1 MiB a message
const FLOOD_PIECE = 64 * 1024; // bytes that come at a time
const FILLER = 0x78; // "x"
const ALL_PAIRS = 40; // bytes of a conversation up to which every pair of cuts is tried: 741 of them
const MOST_CUTS = 8; // of one run with random cuts
const KINDS = 8; // of places: cut in three ways, by chance, and two moments each of the end and the reset
const LIKELY = 4; // bytes of a message's beginning, where a length is likely to be

// ---- What it is given, and what it gives ----

/** One message of a conversation: what the peer says, and what the handler answers. */
export interface FramingMessage {
  /** What the peer says; absent where the handler speaks first. */
  readonly send?: Data;
  /**
   * What the handler answers; where absent, what it answers when nothing is cut. Say it for a handler that reads on
   * while the platform works for it (a digest, a file): nobody can see when that one has answered.
   */
  readonly expect?: Data;
}

const MESSAGE_NAMES = optionNamesOf<FramingMessage>()({ send: true, expect: true });

/**
 * What a handler can do wrong, as a word to match on:
 *
 * - `answer`: it answers something else, or not all, or nothing.
 * - `endless`: it does not end when its peer has.
 * - `error`: it throws what it should not.
 * - `result`, `effect`: what it returns, or leaves behind, is another; or of what it did not get.
 * - `unbounded`: it takes a message that has no end.
 * - `read`, `write`: it reads after the end, or writes after its own.
 * - `timer`, `rejection`: it leaves a timer, or a rejected promise that nobody sees.
 */
export type FramingFault =
  | "answer"
  | "endless"
  | "error"
  | "result"
  | "effect"
  | "unbounded"
  | "read"
  | "write"
  | "timer"
  | "rejection";

/** One way in which a handler fails, shrunk to the fewest cuts that show it. */
export interface FramingFailure {
  /** What is wrong, as a word. */
  readonly fault: FramingFault;
  /** What is wrong, in one sentence. */
  readonly summary: string;
  /** The same with what was sent, where it was cut, and what differs, in text and hex. */
  readonly message: string;
  /** Before which bytes the peer's were cut. */
  readonly cuts: readonly number[];
  /** How many bytes the peer sent. */
  readonly sent: number;
  /** What it did then. */
  readonly ending: "end" | "reset" | "flood";
  /** What the handler threw, or what was rejected. */
  readonly error?: unknown;
}

/** What a check that found nothing did. */
export interface FramingReport {
  /** How often the conversation was held. */
  readonly runs: number;
  /** What the handler said before it was asked anything, then its answer to each message, then what it said at the end. */
  readonly answers: readonly Uint8Array[];
}

/** Options of `checkFraming`. */
export interface FramingOptions<Context = unknown> {
  /** Makes what the handler gets as `this.context`: anew for each run, so that none sees what another did. */
  readonly context?: () => MaybePromise<Context>;
  /** What the handler gets as `this.params`. */
  readonly params?: unknown;
  /** Makes the server that runs the handler, anew for each run, where it needs one of a kind. Then `context` and `params` are that server's affair. */
  // biome-ignore lint/suspicious/noExplicitAny: any server of streams
  readonly server?: () => BaseServer<StreamSocket, any>;
  /** Options of the handler's connection. Its reads wait for ever unless these, or the handler, say otherwise. */
  readonly stream?: Partial<StreamOptions>;
  /** Parts of the answer that differ each time (a date, an identifier), matched in its bytes as Latin-1, one character a byte. */
  readonly mask?: RegExp;
  /** What else must come out the same, read from the context when a run is over: the mails that were kept, say. */
  readonly effect?: (context: Context) => unknown;
  /** False where the peer must wait for each answer before it goes on; then messages do not come together. Default true. */
  readonly pipelining?: boolean;
  /** Whether to a message that the end cut off nothing may be said but a beginning of the right answer. Default false. */
  readonly strict?: boolean;
  /** Bytes of a message without an end; 0: none is sent. Default 2 MiB. */
  readonly flood?: number;
  /** Gives true for what is meant to be so. */
  readonly allow?: (failure: FramingFailure) => boolean;
  /** What chance begins with: the same seed, the same runs. Default 1. */
  readonly seed?: number;
  /** About how many runs at most. Default 2 400, enough for each place of 300 bytes; in longer conversations some are chosen. */
  readonly runs?: number;
  /** Milliseconds without any progress after which a handler that waits for something is given up. Default 500; only what fails takes so long. */
  readonly patience?: number;
}

const FRAMING_NAMES = optionNamesOf<FramingOptions>()({
  context: true,
  params: true,
  server: true,
  stream: STREAM_NAMES,
  mask: true,
  effect: true,
  pipelining: true,
  strict: true,
  flood: true,
  allow: true,
  seed: true,
  runs: true,
  patience: true,
});

/** A handler does not do as it should. The message has each way in which it fails, to be read; `failures` to be asked. */
export class FramingError extends Error {
  readonly #failures: readonly FramingFailure[];

  constructor(message: string, failures: readonly FramingFailure[]) {
    super(message);
    this.#failures = failures;
  }

  /** Each way in which it fails; no property of its own, which would be printed behind the message. */
  get failures(): readonly FramingFailure[] {
    return this.#failures;
  }

  static {
    FramingError.prototype.name = "FramingError";
  }
}

/**
 * Holds `conversation` with `Handler` under every cut, end and reset that matters, and rejects with a `FramingError`
 * where the handler then does not do as it should. In memory, by any test runner:
 *
 *     test("Upper", () => checkFraming(Upper, ["hello\r\n", "wörld\r\n"]));
 *
 * The conversation is what the peer says, message by message. What is answered when nothing is cut counts as right,
 * unless the message says what is:
 *
 *     await checkFraming(RespServer, [{ send: "INCR n\r\n", expect: ":1\r\n" }, "*1\r\n$4\r\nPING\r\n"], {
 *       context: () => ({ keys: new KeyStore() }),
 *     });
 *
 * It can also be a script, which is held once as it is (and rejects with its own error), and whose `send` steps are
 * the messages:
 *
 *     await checkFraming(Mail, conversation().expectLine(/^220 /).send("QUIT\r\n").expectLine(/^221 /), { context });
 *
 * A handler that dials is checked in the same way, by what its server says: `checkFraming(RespClient, ["$1\r\nv\r\n"],
 * { params: ["GET", "k"] })`.
 *
 * While it runs, the platform's `setTimeout`, `setInterval` and `setImmediate` are watched, and several checks wait for
 * one another. Timers of `node:timers` are not seen.
 */
export const checkFraming = <Context = unknown>(
  Handler: HandlerClass<StreamSocket, Context>,
  conversation: Conversation | readonly (Data | FramingMessage)[],
  options: FramingOptions<Context> = {},
): Promise<FramingReport> => {
  const where = writtenAt();
  const check = async (): Promise<FramingReport> => {
    const one = new Check<Context>(Handler, options);
    try {
      return await one.run(conversation);
    } catch (error) {
      // The call, not what ran it: that is long over.
      if (error instanceof FramingError && where !== "") error.stack = `${error}\n${where}`;
      throw error;
    } finally {
      one.stop();
    }
  };
  const checking = previous.then(check, check); // one at a time: what is watched is the platform's
  previous = checking;
  return checking;
};

let previous: Promise<unknown> = DONE;

// ---- All runs ----

/** How a conversation is held once. */
interface Plan {
  /** Before which of its bytes it is cut. */
  readonly cuts: readonly number[];
  /** Whether each message waits for the answer to the one before. */
  readonly turns: boolean;
  /** Whether bytes come before they are asked for, as Node brings them. */
  readonly ahead: boolean;
  /** How many bytes the peer sends. */
  readonly sent: number;
  readonly ending: "end" | "reset" | "flood";
  /** Whether that follows at once, not when the handler waits for more. */
  readonly atOnce: boolean;
}

/** The beginning, or a message: where it ends among the peer's bytes, and how much of the answer is said by then. */
interface Turn {
  readonly end: number;
  readonly answered: number;
}

/** What the uncut conversation taught. */
interface Lesson {
  readonly bytes: Uint8Array;
  /** The beginning, then each message. */
  readonly turns: readonly Turn[];
  readonly right: Outcome;
  /** What is left behind after the beginning, and after each message. */
  readonly effects: readonly unknown[];
}

/** What a run shows to be wrong: `what`, then in which run, then `more`. */
interface Fault {
  readonly fault: FramingFault;
  readonly what: string;
  readonly more?: string;
  readonly expected?: Uint8Array;
  readonly actual?: Uint8Array;
  readonly error?: unknown;
}

/** What is left behind is told once, in whichever run it is seen. */
const LEAKS: readonly FramingFault[] = ["read", "write", "timer", "rejection"];

class Check<Context> {
  readonly #name: string;
  readonly #options: FramingOptions<Context>;
  readonly #stream: StreamOptions;
  readonly #mask: RegExp | null;
  readonly #flood: number;
  readonly #seed: number;
  readonly #most: number; // places of one kind
  readonly #rig: Rig<Context>;
  readonly #failures: FramingFailure[] = [];
  readonly #told = new Set<string>();
  #rejects = false; // a run was seen to leave a rejected promise
  readonly #strange: unknown[] = []; // rejections that no run repeated

  constructor(Handler: HandlerClass<StreamSocket, Context>, options: FramingOptions<Context>) {
    checkHandler(Handler);
    checkOptions("checkFraming()", options, FRAMING_NAMES);
    const { mask, stream, flood = FLOOD, seed = 1, runs = RUNS, patience = PATIENCE } = options;
    this.#name = Handler.name || "the handler";
    this.#options = options;
    this.#stream = settleStream({ timeout: null, ...stream });
    this.#mask = mask === undefined ? null : new RegExp(mask.source, `${mask.flags.replace(/[gy]/g, "")}g`);
    this.#flood = checkCount("flood", flood, 0);
    this.#seed = checkCount("seed", seed, 0);
    this.#most = Math.ceil(checkCount("runs", runs, 1) / KINDS);
    this.#rig = new Rig(Handler, {
      ...options,
      stream: this.#stream,
      mask: this.#mask,
      patience: checkTime("patience", patience),
    });
  }

  /** Ends the check. Rejections that were somebody else's are told to whom the platform tells them. */
  stop(): void {
    this.#rig.stop();
    for (const error of this.#failures.length === 0 ? this.#strange : []) void Promise.reject(error);
  }

  async run(conversation: Conversation | readonly (Data | FramingMessage)[]): Promise<FramingReport> {
    const messages =
      conversation instanceof Conversation ? await this.#messagesOf(conversation) : listOf(conversation);
    const lesson = await this.#learn(messages);
    const { bytes, turns, right } = lesson;
    // What fails uncut teaches nothing; what it leaves behind changes nothing in its answers.
    if (this.#failures.every(({ fault }) => LEAKS.includes(fault))) {
      const { pipelining = true } = this.#options;
      const chance = chanceOf(this.#seed);
      const most = Math.min(this.#most, Math.max(FEWEST, Math.floor(WORK / bytes.length)));
      for (const plans of [
        cutPlans(lesson, most, chance, pipelining),
        endPlans(lesson, most, chance, "end"),
        endPlans(lesson, most, chance, "reset"),
        this.#flood > 0 ? floodPlans(lesson) : [],
      ]) {
        // The first failure of each is told: what comes after would mostly be the same once more.
        const held: Plan[] = [];
        for (const plan of plans) {
          held.push(plan);
          if (await this.#try(plan, lesson)) break;
        }
        const rejected = await this.#rig.rejections();
        if (rejected.length === 0 || this.#told.has("rejection")) continue;
        this.#rig.asks = true; // which of them was it?
        this.#rejects = false;
        for (const plan of held) if (await this.#try(plan, lesson)) break;
        this.#rig.asks = false;
        if (!this.#rejects) this.#strange.push(...rejected);
      }
    }
    if (this.#failures.length === 0) {
      const said = [...turns.map(({ answered }) => answered), right.answer.length];
      return { runs: this.#rig.runs, answers: said.map((to, i) => right.answer.subarray(said[i - 1], to)) };
    }
    const held = `${counted(turns.length - 1, "message")}, ${counted(bytes.length, "byte")}, seed ${this.#seed}`;
    const count = `${counted(this.#failures.length, "failure")} in ${counted(this.#rig.runs, "run")} (${held})`;
    const each = this.#failures.map(({ message }, i) => `${i + 1}) ${message}`);
    throw new FramingError([`${this.#name}: ${count}`, ...each].join("\n\n"), this.#failures);
  }

  // ---- Learning ----

  /** What `script` sends; rejects as it does. */
  async #messagesOf(script: Conversation): Promise<Uint8Array[]> {
    const messages: Uint8Array[] = [];
    const [client, request] = memoryPair(this.#stream);
    const { sendall } = client;
    client.sendall = (data, flags) => {
      messages.push(new Uint8Array(toBytes(data)));
      return sendall.call(client, data, flags);
    };
    await this.#rig.beside(request, () =>
      script.run(client, { otherEnd: request }).finally(() => client.abort()),
    );
    return messages;
  }

  /** Holds the conversation uncut, each message when all before it is answered. */
  async #learn(messages: readonly (Data | FramingMessage)[]): Promise<Lesson> {
    const parts: Uint8Array[] = [];
    const expected: (Uint8Array | null)[] = [null]; // of the beginning, and each message
    for (const message of messages) {
      const { send = "", expect } = asMessage(message);
      const part = new Uint8Array(toBytes(send));
      if (part.length > 0) {
        parts.push(part);
        expected.push(null);
      }
      if (expect === undefined) continue;
      const more = toBytes(expect);
      const before = expected.pop() ?? EMPTY;
      expected.push(joinBytes([before, more], before.length + more.length));
    }
    const wanted = expected.map((bytes) => bytes && masked(bytes, this.#mask));
    const ends = [0];
    for (const part of parts) ends.push((ends.at(-1) as number) + part.length);
    const bytes = joinBytes(parts, ends.at(-1) as number);
    this.#rig.asks = true;
    const right = await this.#rig.hold(
      ["settled", ...parts.flatMap((part): Step[] => [part, "settled"]), "end"],
      false,
      wanted.map((bytes) => bytes?.length ?? 0),
    );
    this.#rig.asks = false;
    const turns = ends.map((end, i) => ({ end, answered: right.marks[i] ?? right.answer.length }));
    const lesson = { bytes, turns, right, effects: [] };
    const plan = uncut(bytes.length);
    for (const [i, expected] of wanted.entries()) {
      const actual = right.answer.subarray(turns[i - 1]?.answered ?? 0, turns[i]?.answered);
      if (expected === null || isSame(expected, actual)) continue;
      const what =
        i === 0 ? "What is said first is not as expected" : `Message ${i} is not answered as expected`;
      await this.#tell(plan, lesson, { fault: "answer", what, expected, actual });
      return lesson;
    }
    await this.#judge(plan, lesson, right);
    if (this.#options.effect === undefined) return lesson;
    const effects: unknown[] = [];
    for (const { end } of turns.slice(0, -1)) effects.push((await this.#play(uncut(end), lesson)).effect);
    return { ...lesson, effects: [...effects, right.effect] };
  }

  // ---- Judging ----

  #play(plan: Plan, lesson: Lesson): Promise<Outcome> {
    const steps = stepsOf(plan, lesson);
    if (plan.ending !== "flood") return this.#rig.hold(steps, plan.ahead);
    const piece = new Uint8Array(Math.min(this.#flood, FLOOD_PIECE)).fill(FILLER);
    const pieces = Array.from({ length: Math.ceil(this.#flood / FLOOD_PIECE) }, () => piece);
    return this.#rig.hold([...steps, ...pieces], false, [], answeredBy(plan.sent, lesson));
  }

  /** Holds the conversation by `plan`; gives true where that shows something new to be wrong. */
  async #try(plan: Plan, lesson: Lesson): Promise<boolean> {
    return this.#judge(plan, lesson, await this.#play(plan, lesson));
  }

  async #judge(plan: Plan, lesson: Lesson, outcome: Outcome): Promise<boolean> {
    for (const fault of this.#faults(plan, lesson, outcome)) {
      if (!this.#told.has(keyOf(plan, lesson, fault)) && (await this.#tell(plan, lesson, fault))) return true;
    }
    return false;
  }

  /** All that is wrong with `outcome`, the worst first. */
  *#faults(plan: Plan, lesson: Lesson, outcome: Outcome): Iterable<Fault> {
    const { right } = lesson;
    const { answer, how, next } = outcome;
    const whole = isWhole(plan, lesson);
    if (plan.ending === "flood") {
      if (how !== "reads" || next !== undefined) return;
      const what = `It takes ${this.#flood} bytes`;
      const more = ", and neither refuses nor answers them: a peer can fill the memory";
      yield { fault: "unbounded", what, more };
      return;
    }
    if (how === "spins") {
      yield {
        fault: "read",
        what: "It reads on and on",
        more: ", and gets nothing: the end was told, or the error",
      };
      return;
    }
    if (how !== "over") {
      const doing = how === "reads" ? "waits for more input" : "waits for something that does not happen";
      const wanted = typeof next === "number" ? right.answer.subarray(0, next) : answer;
      if (!isSame(wanted, answer)) yield answerFault(wanted, answer, lesson, `, and then it ${doing}`);
      else if (next === undefined) yield { fault: "endless", what: "It does not end", more: `: it ${doing}` };
      else yield { fault: "endless", what: "It stops taking what comes", more: `: it ${doing}` };
      return;
    }
    yield* whole ? this.#wholeFaults(lesson, outcome) : this.#partFaults(plan, lesson, outcome);

    const { reads, writes, timers, rejected, thrown } = outcome.leaks;
    for (const error of thrown)
      yield {
        fault: "error",
        what: "What a timer calls throws",
        more: `: ${printable(errorText(error))}`,
        error,
      };
    for (const write of writes) {
      yield { fault: "write", what: "It writes after its own end", more: `: ${quote(write, 64)}` };
    }
    if (reads > 0) yield { fault: "read", what: "It begins a read after its own end" };
    for (const { name, ms, where } of timers) {
      const set = `${name}${name === "setImmediate" ? "" : ` of ${ms} ms`}${where === "" ? "" : `, set ${where}`}`;
      yield { fault: "timer", what: "It leaves a timer behind", more: `: ${set}` };
    }
    this.#rejects ||= rejected.length > 0;
    for (const error of rejected) {
      const more = `, which ends a Node process: ${said(error)}`;
      yield { fault: "rejection", what: "A promise rejects and nobody sees it", more, error };
    }
  }

  /** All was sent: then all is as it was uncut. */
  *#wholeFaults(lesson: Lesson, outcome: Outcome): Iterable<Fault> {
    const { right } = lesson;
    const { answer, thrown, reset } = outcome;
    const error = thrown?.error;
    const named = (one: Outcome): string | null => one.thrown && nameOf(one.thrown.error);
    if (named(outcome) !== named(right) || (outcome === right && !isOfStream(error))) {
      if (thrown === null)
        yield { fault: "error", what: "It throws no error", more: `, and uncut it does: ${named(right)}` };
      else yield { fault: "error", what: "It throws an error", more: `: ${said(error)}`, error };
    }
    if (!isSame(right.answer, answer)) yield answerFault(right.answer, answer, lesson);
    if (reset && !right.reset) yield { fault: "answer", what: "It resets the connection" };
    for (const fault of ["result", "effect"] as const) {
      const [expected, actual] = [this.#jsonOf(right[fault]), this.#jsonOf(outcome[fault])];
      if (expected === actual) continue;
      const what = fault === "result" ? "It returns something else" : "It leaves something else behind";
      yield { fault, what, expected: toBytes(expected), actual: toBytes(actual) };
    }
  }

  /** The peer ended, or reset the connection, before all was sent, or just then. */
  *#partFaults(plan: Plan, lesson: Lesson, outcome: Outcome): Iterable<Fault> {
    const { right, effects, turns } = lesson;
    const { answer, thrown, reset, result, effect } = outcome;
    const [, done, isBorder] = messageAt(plan.sent, turns);
    if (thrown !== null && !isOfStream(thrown.error)) {
      const { error } = thrown;
      yield {
        fault: "error",
        what: "It throws an error that is none of the stream's",
        more: `: ${said(error)}`,
        error,
      };
    }
    const least = right.answer.subarray(0, answeredBy(plan.sent, lesson));
    const isBeginning = isSame(answer, right.answer.subarray(0, answer.length));
    if (plan.ending === "end") {
      if (!isSame(least, answer.subarray(0, least.length))) yield answerFault(least, answer, lesson);
      else if (this.#options.strict && !isBorder && !isBeginning) {
        yield {
          fault: "answer",
          what: "It answers a message that was cut off",
          expected: least,
          actual: answer,
        };
      }
      if (reset && !right.reset && isBorder) {
        const more = "; that takes its last answer from a peer who has not read it yet";
        yield { fault: "answer", what: "It resets the connection", more };
      }
    } else {
      if (!isBeginning) yield answerFault(right.answer, answer, lesson);
      const json = this.#jsonOf(result);
      if (thrown === null && result !== undefined && json !== this.#jsonOf(right.result)) {
        yield { fault: "result", what: "It returns a result", more: `, as if all had come: ${json}` };
      }
    }
    if (effects.length === 0 || (plan.ending === "end" && !this.#options.strict && !isBorder)) return;
    const may = effects
      .slice(plan.ending === "end" ? done : 0, done + 1)
      .map((effect) => this.#jsonOf(effect));
    const json = this.#jsonOf(effect);
    if (may.includes(json)) return;
    const expected = toBytes(may.at(-1) ?? "");
    yield { fault: "effect", what: "It leaves something else behind", expected, actual: toBytes(json) };
  }

  #jsonOf(value: unknown): string {
    let json: string;
    try {
      json = toJson(value);
    } catch {
      json = textOf(value); // a cycle
    }
    return this.#mask === null ? json : json.replace(this.#mask, "*");
  }

  // ---- Telling ----

  /** Shrinks what fails and tells it; gives false where it is allowed, or was another's. */
  async #tell(plan: Plan, lesson: Lesson, fault: Fault): Promise<boolean> {
    if (this.#options.allow?.(this.#failure(plan, lesson, fault))) return false;
    const small = await this.#shrink(plan, lesson, fault.fault);
    const { asks } = this.#rig;
    this.#rig.asks = true;
    const again = await this.#shows(small, lesson, fault.fault);
    this.#rig.asks = asks;
    if (again === null && (fault.fault === "timer" || fault.fault === "rejection")) {
      if (fault.fault === "rejection") this.#strange.push(fault.error);
      return false; // somebody else's, just then
    }
    const once = again === null && !isUncut(plan, lesson);
    const note = "(It failed once, and not when held again: is something shared between connections?)";
    this.#failures.push(this.#failure(small, lesson, again ?? fault, once ? [note] : []));
    this.#told.add(keyOf(plan, lesson, fault));
    return true;
  }

  #failure(plan: Plan, lesson: Lesson, fault: Fault, notes: readonly string[] = []): FramingFailure {
    const { what, more = "", expected, actual, error } = fault;
    const { cuts, sent, ending } = plan;
    const summary = `${what} ${howOf(plan, lesson)}${more}`;
    const lines = [summary, ...sentLines(plan, lesson, this.#flood)];
    if (expected !== undefined && actual !== undefined) {
      lines.push("- what is right, + what came:", difference(expected, actual) ?? "");
    }
    if (error instanceof Error)
      lines.push(...(error.stack ?? "").split("\n").filter(isFrame).slice(0, FRAMES));
    const message = [...lines, ...notes].join("\n").replaceAll("\n", "\n   ");
    return {
      fault: fault.fault,
      summary,
      message,
      cuts,
      sent,
      ending,
      ...(error !== undefined && { error }),
    };
  }

  /** The way with the fewest cuts that still shows this fault. */
  async #shrink(plan: Plan, lesson: Lesson, fault: FramingFault): Promise<Plan> {
    let small = plan;
    const tryIt = async (smaller: Plan): Promise<boolean> => {
      if ((await this.#shows(smaller, lesson, fault)) === null) return false;
      small = smaller;
      return true;
    };
    for (let size = plan.cuts.length; size >= 1; size = Math.floor(size / 2)) {
      for (let at = 0; at < small.cuts.length; ) {
        const cuts = small.cuts.toSpliced(at, size);
        if (!(await tryIt({ ...small, cuts }))) at += size;
      }
    }
    if (small.ahead) await tryIt({ ...small, ahead: false });
    return small;
  }

  async #shows(plan: Plan, lesson: Lesson, fault: FramingFault): Promise<Fault | null> {
    const outcome = await this.#play(plan, lesson);
    for (const other of this.#faults(plan, lesson, outcome)) if (other.fault === fault) return other;
    return null;
  }
}

// ---- The ways to hold a conversation ----

/** Whether all is sent, and then nothing more is done than to end when it is answered. */
const isWhole = (plan: Plan, { bytes }: Lesson): boolean =>
  plan.ending === "end" && plan.sent === bytes.length && !plan.atOnce;

const isUncut = (plan: Plan, lesson: Lesson): boolean =>
  isWhole(plan, lesson) && plan.turns && !plan.ahead && plan.cuts.length === 0;

/** Nothing cut: each message when those before it are answered. */
const uncut = (sent: number): Plan => ({
  cuts: [],
  turns: true,
  ahead: false,
  sent,
  ending: "end",
  atOnce: false,
});

/** Of the message that `sent` bytes end in: its number, from 1; how many were complete before; whether none is begun. */
const messageAt = (
  sent: number,
  turns: readonly Turn[],
): [number: number, done: number, isBorder: boolean] => {
  const done = turns.findLastIndex(({ end }) => end <= sent);
  const isBorder = turns[done]?.end === sent;
  return [isBorder ? done : done + 1, done, isBorder];
};

/** How much is answered of `sent` bytes: what was asked whole. */
const answeredBy = (sent: number, { turns }: Lesson): number =>
  turns.findLast(({ end }) => end <= sent)?.answered ?? 0;

/** The pieces in which the peer's bytes come. */
const piecesOf = (plan: Plan, { bytes, turns }: Lesson): Uint8Array[] => {
  const borders = plan.turns ? turns.map(({ end }) => end) : [];
  const all = new Set([...plan.cuts, ...borders].filter((at) => at > 0 && at < plan.sent));
  const places = [0, ...[...all].sort((a, b) => a - b), plan.sent];
  return places.slice(1).map((to, i) => bytes.subarray(places[i], to));
};

const stepsOf = (plan: Plan, lesson: Lesson): Step[] => {
  const { turns } = lesson;
  const steps: Step[] = [];
  /** The answer to all before byte `at`, where a message ends there. */
  const answered = (at: number): number[] =>
    turns.flatMap((turn) => (turn.end === at ? turn.answered : [])).slice(-1);
  if (plan.turns) steps.push(...answered(0));
  let at = 0;
  for (const piece of piecesOf(plan, lesson)) {
    if (piece.length === 0) continue;
    at += piece.length;
    steps.push(piece);
    if (at < plan.sent ? plan.turns : !plan.atOnce) steps.push(...answered(at));
  }
  if (plan.ending === "flood") return steps;
  if (!plan.atOnce && !isWhole(plan, lesson)) steps.push("reading");
  return [...steps, plan.ending];
};

/** Places to cut: all of them, or `most`, half of them where a cut is likeliest to hurt. */
const placesOf = ({ bytes, turns }: Lesson, most: number, chance: Chance): number[] => {
  const all = Array.from({ length: Math.max(0, bytes.length - 1) }, (_, i) => i + 1);
  if (all.length <= most) return all;
  const starts = new Set(turns.flatMap(({ end }) => Array.from({ length: LIKELY }, (_, i) => end + i)));
  const isLikely = (at: number): boolean =>
    starts.has(at) || starts.has(at + 1) || bytes[at] === NEWLINE || isContinuation(bytes[at]);
  const likely = all.filter(isLikely);
  const places = new Set<number>();
  while (places.size < most) {
    const from = places.size < most / 2 && places.size < likely.length ? likely : all;
    places.add(from[Math.floor(chance() * from.length)] as number);
  }
  return [...places].sort((a, b) => a - b);
};

const NEWLINE = 10;
const RETURN = 13;

/** Whether a byte of UTF-8 goes on with a character. */
const isContinuation = (byte: number | undefined): boolean => byte !== undefined && (byte & 0xc0) === 0x80;

/** All is sent, cut in every way. */
function* cutPlans(lesson: Lesson, most: number, chance: Chance, pipelining: boolean): Iterable<Plan> {
  const { bytes, turns } = lesson;
  const size = bytes.length;
  if (size === 0) return;
  const plan = (cuts: readonly number[], way: { turns?: boolean; ahead?: boolean } = {}): Plan => ({
    ...uncut(size),
    cuts,
    turns: way.turns ?? !pipelining,
    ahead: way.ahead ?? false,
  });
  const places = placesOf(lesson, most, chance);
  const every = Array.from({ length: size - 1 }, (_, i) => i + 1);
  const both = pipelining && turns.length > 2; // more than one message
  yield plan([]);
  yield plan([], { ahead: true });
  for (const at of places) yield plan([at]);
  if (both) for (const at of places) yield plan([at], { turns: true });
  for (const at of places) yield plan([at], { ahead: true });
  if (size <= ALL_PAIRS) {
    for (const first of every) for (const second of every.slice(first)) yield plan([first, second]);
  }
  yield plan(every);
  if (both) yield plan(every, { turns: true });
  yield plan(every, { ahead: true });
  for (let i = 0; i < Math.min(most, size * 2) && size > 2; i++) {
    const cuts = new Set<number>();
    const wanted = 2 + Math.floor(chance() * Math.min(MOST_CUTS - 1, size - 2));
    while (cuts.size < wanted) cuts.add(every[Math.floor(chance() * every.length)] as number);
    const way = { turns: !pipelining || chance() < 0.5, ahead: chance() < 0.5 };
    yield plan(
      [...cuts].sort((a, b) => a - b),
      way,
    );
  }
}

/** Not all is sent, or all, and then the end or a reset: at once, or when the handler waits for more. */
function* endPlans(lesson: Lesson, most: number, chance: Chance, ending: "end" | "reset"): Iterable<Plan> {
  const places = [...placesOf(lesson, most, chance), ...lesson.turns.map(({ end }) => end)];
  for (const sent of new Set(places.sort((a, b) => a - b))) {
    yield { ...uncut(sent), ending, atOnce: true };
    if (ending === "reset" || sent < lesson.bytes.length) yield { ...uncut(sent), ending }; // else it is whole
  }
}

/** Half of a message that is to be answered, and then no end of it. */
function* floodPlans({ turns }: Lesson): Iterable<Plan> {
  for (const [i, { end, answered }] of turns.entries()) {
    const before = turns[i - 1];
    if (before === undefined || answered === before.answered) continue;
    yield { ...uncut(before.end + Math.floor((end - before.end) / 2)), ending: "flood" };
  }
}

// ---- Words ----

const FRAMES = 3; // of a stack, that are shown
const PIECES = 8; // that are shown each
const AROUND = 8; // bytes of hex on each side of a cut
const SHOWN = 160; // bytes of what was sent that are shown

const isSame = (one: Uint8Array, other: Uint8Array): boolean =>
  one.length === other.length && one.every((byte, i) => byte === other[i]);

const counted = (count: number, word: string): string => `${count} ${word}${count === 1 ? "" : "s"}`;

/** A line of a stack trace, and none of our own. */
const isFrame = (line: string): boolean => /^\s+at /.test(line) && !/[/\\]testing[/\\]framing/.test(line);

const said = (error: unknown): string => printable(errorText(error), true);

/** What tells one error from another: not its message, where it has a code, as that says how many bytes came. */
const nameOf = (error: unknown): string => (isA(error, SocketError) ? error.code : said(error));

/** Whether an error is one that a stream gives its handler: itself, as the cause of another, or several of them. */
const isOfStream = (error: unknown): boolean => {
  if (error === undefined || isA(error, SocketError)) return true;
  if (isA(error, AggregateError)) return error.errors.every(isOfStream);
  const cause = isA(error, Error) ? peek(error, "cause") : undefined;
  return cause !== undefined && isOfStream(cause);
};

/** `message` as an object, or what is wrong with it. */
const listOf = (given: readonly (Data | FramingMessage)[]): readonly (Data | FramingMessage)[] => {
  if (Array.isArray(given)) return given;
  throw new TypeError(
    `a conversation is a list of what the peer says, or a script; not ${typeof given === "string" ? `${quote(given, 40)}, which would be [${quote(given, 40)}]` : String(given)}`,
  );
};

const asMessage = (message: Data | FramingMessage): FramingMessage => {
  if (typeof message === "string" || message instanceof Uint8Array) return { send: message };
  if (typeof message === "object" && message !== null) {
    checkOptions("a message", message, MESSAGE_NAMES);
    return message;
  }
  throw new TypeError(
    `a conversation is a list of what the peer says, each bytes, text or { send, expect }; not ${typeof message}`,
  );
};

/** Faults of one key are told once. */
const keyOf = (plan: Plan, lesson: Lesson, { fault }: Fault): string =>
  LEAKS.includes(fault) ? fault : `${fault} ${isWhole(plan, lesson) ? "cut" : plan.ending}`;

/** Another answer than the right one, and in which way. */
const answerFault = (expected: Uint8Array, actual: Uint8Array, lesson: Lesson, more = ""): Fault => {
  const fault = { fault: "answer", expected, actual, more } as const;
  const order = orderOf(expected, actual, lesson);
  if (order !== null && order.missing.length > 0) {
    const [number, ...others] = order.missing;
    const to = others.length === 0 ? `message ${number} is` : `messages ${order.missing.join(", ")} are`;
    return { ...fault, what: `The answer${others.length === 0 ? "" : "s"} to ${to} missing` };
  }
  if (order !== null)
    return { ...fault, what: `The answers come in another order (${order.found.join(", ")})` };
  if (isSame(actual, expected.subarray(0, actual.length))) {
    const short = `, after ${actual.length} of ${counted(expected.length, "byte")}${more}`;
    return { ...fault, what: "The answer is cut short", more: short };
  }
  if (isSame(expected, actual.subarray(0, expected.length))) return { ...fault, what: "More is answered" };
  return { ...fault, what: "The answer is another" };
};

const MOST_ORDERED = 8; // messages whose order is looked for

/** Which messages' right answers make up `actual`, and which of those `expected` it has not; null where there is something else in it. */
const orderOf = (
  expected: Uint8Array,
  actual: Uint8Array,
  { turns }: Lesson,
): { readonly found: number[]; readonly missing: number[] } | null => {
  const borders = turns.map(({ answered }) => answered).filter((at) => at <= expected.length);
  const start = borders[0] ?? 0;
  if (borders.length > MOST_ORDERED + 1 || !isSame(actual.subarray(0, start), expected.subarray(0, start))) {
    return null;
  }
  const answers = borders.slice(1).map((to, i) => expected.subarray(borders[i], to));
  const rest = expected.subarray(borders.at(-1)); // what is said at the end
  const find = (at: number, left: readonly number[]): number[] | null => {
    if (isSame(actual.subarray(at), rest)) return [];
    for (const i of left) {
      const answer = answers[i] as Uint8Array;
      if (!isSame(answer, actual.subarray(at, at + answer.length))) continue;
      const others = left.filter((other) => other !== i);
      const more = find(at + answer.length, others);
      if (more !== null) return [i, ...more];
    }
    return null;
  };
  const said = [...answers.keys()].filter((i) => answers[i]?.length);
  const found = find(start, said);
  if (found === null || (found.length < said.length && found.some((i, at) => i < (found[at - 1] ?? 0))))
    return null;
  return {
    found: found.map((i) => i + 1),
    missing: said.filter((i) => !found.includes(i)).map((i) => i + 1),
  };
};

/** In what a run differs from the uncut one: "when the bytes are cut …". */
const howOf = (plan: Plan, lesson: Lesson): string => {
  const { bytes, turns } = lesson;
  const { cuts, sent, ending, atOnce } = plan;
  const [number, , isBorder] = messageAt(sent, turns);
  const last = turns.length - 1;
  if (ending === "flood") return `when message ${number} does not end`;
  if (!isWhole(plan, lesson)) {
    const doing = ending === "end" ? "the peer ends" : "the connection is reset";
    if (sent === 0) return `when ${doing} before anything is asked`;
    if (!isBorder)
      return `when ${doing} in the middle of message ${number}, after byte ${sent} of ${bytes.length}`;
    const whole =
      number === last ? (last === 1 ? "the message" : `message ${number}, the last,`) : `message ${number}`;
    if (!atOnce) return `when ${doing} after ${whole} is answered`;
    return ending === "end"
      ? `when the peer's end follows ${whole} at once (a half-close is no close: it still reads)`
      : `when a reset follows ${whole} at once`;
  }
  if (isUncut(plan, lesson)) return "when nothing is cut";
  const ahead = plan.ahead ? ", and come before they are read" : "";
  if (cuts.length === 0) {
    return last > 1 && !plan.turns
      ? `when the ${last} messages come in one piece${ahead}`
      : "when its bytes come before they are read";
  }
  if (cuts.length === 1) return `when the bytes are cut ${placeOf(cuts[0] as number, lesson)}${ahead}`;
  if (cuts.length === bytes.length - 1) return `when every byte comes by itself${ahead}`;
  return `when the bytes are cut after bytes ${cuts.join(", ")} of ${bytes.length}${ahead}`;
};

/** Where a cut is, in words. */
const placeOf = (at: number, { bytes, turns }: Lesson): string => {
  const [number, , isBorder] = messageAt(at, turns);
  const after = `(after byte ${at} of ${bytes.length})`;
  if (isBorder) return `between messages ${number} and ${number + 1} ${after}`;
  if (bytes[at] === NEWLINE && bytes[at - 1] === RETURN)
    return `between the CR and the LF of message ${number} ${after}`;
  const char = characterAt(bytes, at);
  if (char !== null) return `inside the character ${quote(char)} of message ${number} ${after}`;
  return `in the middle of message ${number} ${after}`;
};

/** The character of UTF-8 that a cut at `at` divides. */
const characterAt = (bytes: Uint8Array, at: number): string | null => {
  let from = at;
  while (from > 0 && at - from < 3 && isContinuation(bytes[from])) from--;
  const lead = bytes[from] ?? 0;
  const size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
  if (from === at || from + size <= at) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(from, from + size));
  } catch {
    return null;
  }
};

/** What the peer sent, piece by piece, and the bytes around its cuts. */
const sentLines = (plan: Plan, lesson: Lesson, flood: number): string[] => {
  const pieces = piecesOf(plan, lesson).filter((piece) => piece.length > 0);
  const shown: string[] = [];
  let left = SHOWN;
  for (const piece of pieces.slice(0, PIECES)) {
    if (left <= 0) break;
    shown.push(quote(piece, left));
    left -= piece.length;
  }
  if (shown.length < pieces.length) shown.push(`… (${counted(pieces.length, "piece")})`);
  if (shown.length === 0) shown.push("nothing");
  const ending = { end: "the end", reset: "a reset", flood: `${flood} times "x"` }[plan.ending];
  const lines = [`The peer sent: ${shown.join(" | ")}, then ${ending}`];
  for (const at of plan.cuts.length > 2 ? [] : plan.cuts) {
    const hex = (from: number, to: number): string =>
      Array.from(lesson.bytes.subarray(Math.max(0, from), to), (byte) =>
        byte.toString(16).padStart(2, "0"),
      ).join(" ");
    lines.push(`At the cut, in hex: ${hex(at - AROUND, at)} | ${hex(at, at + AROUND)}`);
  }
  return lines;
};
