/**
 * `checkFraming`: does a handler depend on how the network cuts its bytes? TCP keeps no boundaries between messages, so
 * what a peer sends in two pieces may arrive in one, and the other way round. On the machine where a handler was
 * written that hardly ever happens; in production it happens every day.
 *
 * A conversation is run once with nothing cut, message by message; its answer counts as right. Then it is run
 * again, many hundreds of times, over a connection in memory that cuts, ends and resets it everywhere. A handler must
 * behave as follows:
 *
 * - **Cut** anywhere, and with many messages in one piece: the same answer, byte for byte, as soon as all was sent;
 *   the same result and effect; and after the peer's end, its own.
 * - **Ended** after n bytes: it ends by itself. Complete messages get complete answers, even if the end follows at
 *   once, since a half-close is not a close. How it answers a message that was cut off is up to it (in a protocol
 *   of lines the end may end the last one), unless the check is `strict`.
 * - **Reset** after n bytes: it ends by itself, has sent only a prefix of the right answer, and returns no
 *   result of input that it did not receive, and leaves no effect of it.
 * - In both cases it may throw errors of the stream, `SocketError`, or an error with such a `cause`, and no other.
 * - **Never ending**: it must not silently accept a message that never ends.
 * - **Always**: once it has ended it does not read or write, it has written nothing after its own end, and it
 *   leaves no timer, and no unhandled rejection (which ends a Node process).
 *
 * No run waits for time to pass, unless the handler does: it is over when nothing is left to do.
 */

import { type Data, joinBytes, type MaybePromise, toBytes } from "../../bytes/data.ts";
import { errorText, printable, textOf, toJson } from "../../describe.ts";
import { checkHandler, type HandlerClass } from "../../handlers/handler.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../../options.ts";
import type { BaseServer } from "../../serve/server.ts";
import { STREAM_NAMES, type StreamOptions, settleStream } from "../../sockets/streams/stream-options.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { chanceOf } from "../clock.ts";
import { memoryPair } from "../memory-streams.ts";
import { alone } from "../scope.ts";
import { Conversation } from "../script/conversation.ts";
import { difference, quote, writtenAt } from "../text.ts";
import { type Fault, FramingError, type FramingFailure, type FramingFault, LEAKS } from "./failure.ts";
import { asMessage, type FramingMessage, listOf } from "./messages.ts";
import { EMPTY, masked, type Step } from "./peer.ts";
import {
  answeredBy,
  cutPlans,
  endPlans,
  floodPlans,
  isUncut,
  isWhole,
  type Lesson,
  messageAt,
  type Plan,
  stepsOf,
  uncut,
} from "./plan.ts";
import { type Outcome, Rig } from "./run.ts";
import {
  answerFault,
  counted,
  howOf,
  isFrame,
  isOfStream,
  isSame,
  keyOf,
  nameOf,
  said,
  sentLines,
} from "./words.ts";

const RUNS = 2_400; // a conversation of 200 bytes needs 1 700 to try every place
const WORK = 4 * 1024 * 1024; // bytes sent in the runs of one kind: so long conversations are cut at fewer places
const FEWEST = 16; // places of one kind, however long the conversation is
const TIMEOUT = 500; // ms without any progress
const FLOOD = 2 * 1024 * 1024; // bytes; a stream's own limits are 64 KiB a line, and many protocols' 1 MiB a message
const FLOOD_PIECE = 64 * 1024; // bytes that come at a time
const FILLER = 0x78; // "x"
const KINDS = 8; // of places: cut in three ways, by chance, and two moments each of the end and the reset
const FRAMES = 3; // of a stack, in a report

/** The result of a check that found no fault. */
export interface FramingReport {
  /** The number of runs of the conversation. */
  readonly runs: number;
  /** What the handler sent before the first message, then its answer to each message, then what it sent at the end. */
  readonly answers: readonly Uint8Array[];
}

/** Options of `checkFraming`. */
export interface FramingOptions<Context = unknown, Params = unknown> {
  /** Makes `this.context` of the handler: a new one for each run, so that runs do not affect each other. */
  readonly context?: () => MaybePromise<Context>;
  /** The handler's `this.params`. */
  readonly params?: Params;
  /** Makes the server that runs the handler, a new one for each run, if it needs one of a particular kind. `context` and `params` are then up to that server. */
  // biome-ignore lint/suspicious/noExplicitAny: any server of streams
  readonly server?: () => BaseServer<StreamSocket, any>;
  /** Options of the handler's connection. Its reads wait for ever unless these, or the handler, set a limit. */
  readonly stream?: Partial<StreamOptions>;
  /** Parts of the answer that differ each time (a date, an identifier), matched in its bytes as Latin-1, one character per byte. */
  readonly mask?: RegExp;
  /** What else must be equal, read from the context when a run is over: for example, the stored mails. */
  readonly effect?: (context: Context) => unknown;
  /** False if the peer must wait for each answer before it continues; then messages are not joined. Default true. */
  readonly pipelining?: boolean;
  /** Whether a message that the end cut off may be answered only with a prefix of the right answer. Default false. */
  readonly strict?: boolean;
  /** The bytes of the message that never ends; with 0 it is not sent. Default 2 MiB. */
  readonly flood?: number;
  /** Returns true for a failure that is intended. */
  readonly expected?: (failure: FramingFailure) => boolean;
  /** The seed of the random numbers: the same seed produces the same runs. Default 1. */
  readonly seed?: number;
  /** About how many runs at most. Default 2 400, enough for each place of 300 bytes; in longer conversations some are chosen. */
  readonly maxRuns?: number;
  /** Milliseconds without any progress after which a waiting handler is given up. Default 500; only failing runs take this long. */
  readonly timeout?: number;
}

const FRAMING_NAMES = optionNamesOf<FramingOptions>()({
  context: "function",
  params: true,
  server: "function",
  stream: STREAM_NAMES,
  mask: true,
  effect: "function",
  pipelining: "boolean",
  strict: "boolean",
  flood: true,
  expected: "function",
  seed: true,
  maxRuns: true,
  timeout: true,
});

/**
 * Runs `conversation` with `Handler` under every cut, end and reset that matters, and rejects with a `FramingError`
 * if the handler does not behave as it should. In memory, with any test runner:
 *
 *     test("Upper", () => checkFraming(Upper, ["hello\r\n", "wörld\r\n"]));
 *
 * The conversation is what the peer sends, message by message. The answer when nothing is cut counts as right,
 * unless the message says what is right:
 *
 *     await checkFraming(RespServer, [{ send: "INCR n\r\n", expect: ":1\r\n" }, "*1\r\n$4\r\nPING\r\n"], {
 *       context: () => ({ keys: new KeyStore() }),
 *     });
 *
 * It can also be a script, which is run once unchanged (and rejects with its own error), and whose `send` steps are
 * the messages:
 *
 *     await checkFraming(Mail, conversation().expectLine(/^220 /).send("QUIT\r\n").expectLine(/^221 /), { context });
 *
 * A handler that dials is checked in the same way, with what its server sends: `checkFraming(RespClient, ["$1\r\nv\r\n"],
 * { params: ["GET", "k"] })`.
 *
 * While it runs, the platform's `setTimeout`, `setInterval` and `setImmediate` are watched, so checks wait for
 * each other. Timers of `node:timers` are not seen, and those of other code that runs meanwhile are not the handler's;
 * without `AsyncLocalStorage` (workerd without `nodejs_compat`) they cannot be told apart.
 */
export const checkFraming = <Context = unknown, Params = unknown>(
  Handler: HandlerClass<StreamSocket, Context, Params>,
  conversation: Conversation | readonly (Data | FramingMessage)[],
  options: FramingOptions<Context, NoInfer<Params>> = {},
): Promise<FramingReport> => {
  const where = writtenAt();
  const check = async (): Promise<FramingReport> => {
    const one = new Check<Context>(Handler, options);
    try {
      return await one.run(conversation);
    } catch (error) {
      // The stack of the call: the one of the run would not show it.
      if (error instanceof FramingError && where !== "") error.stack = `${error}\n${where}`;
      throw error;
    } finally {
      one.stop();
    }
  };
  return alone(check);
};

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
    const { mask, stream, flood = FLOOD, seed = 1, maxRuns = RUNS, timeout = TIMEOUT } = options;
    this.#name = Handler.name || "the handler";
    this.#options = options;
    this.#stream = settleStream({ timeout: null, ...stream }, "stream.");
    this.#mask = mask === undefined ? null : new RegExp(mask.source, `${mask.flags.replace(/[gy]/g, "")}g`);
    this.#flood = checkCount("flood", flood, 0);
    this.#seed = checkCount("seed", seed, 0);
    this.#most = Math.ceil(checkCount("maxRuns", maxRuns, 1) / KINDS);
    this.#rig = new Rig(Handler, {
      ...options,
      stream: this.#stream,
      mask: this.#mask,
      timeout: checkTime("timeout", timeout),
    });
  }

  /** Ends the check. Rejections that were not the handler's are reported as the platform reports them. */
  stop(): void {
    this.#rig.stop();
    for (const error of this.#failures.length === 0 ? this.#strange : []) void Promise.reject(error);
  }

  async run(conversation: Conversation | readonly (Data | FramingMessage)[]): Promise<FramingReport> {
    const messages =
      conversation instanceof Conversation ? await this.#messagesOf(conversation) : listOf(conversation);
    const lesson = await this.#learn(messages);
    const { bytes, turns, right } = lesson;
    // A failure without cuts leaves no right answer to compare with; something left behind does not change the answers.
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
        // Only the first failure of each kind is reported: later ones mostly repeat it.
        const held: Plan[] = [];
        for (const plan of plans) {
          held.push(plan);
          if (await this.#try(plan, lesson)) break;
        }
        const rejected = await this.#rig.rejections();
        if (rejected.length === 0 || this.#told.has("rejection")) continue;
        this.#rig.asks = true; // finds out which run it was
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

  /** Runs the conversation uncut, each message when all before it are answered. */
  async #learn(messages: readonly (Data | FramingMessage)[]): Promise<Lesson> {
    const parts: Uint8Array[] = [];
    const expected: (Uint8Array | null)[] = [null]; // for the beginning, then for each message
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

  /** Runs the conversation as `plan` says; returns true if that shows a new fault. */
  async #try(plan: Plan, lesson: Lesson): Promise<boolean> {
    return this.#judge(plan, lesson, await this.#play(plan, lesson));
  }

  async #judge(plan: Plan, lesson: Lesson, outcome: Outcome): Promise<boolean> {
    for (const fault of this.#faults(plan, lesson, outcome)) {
      if (!this.#told.has(keyOf(plan, lesson, fault)) && (await this.#tell(plan, lesson, fault))) return true;
    }
    return false;
  }

  /** Everything that is wrong with `outcome`, the worst first. */
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
        what: "It reads without end",
        more: ", although it was given the end of the stream, or its error",
      };
      return;
    }
    if (how !== "over") {
      const doing = how === "reads" ? "waits for more input" : "waits for something that does not happen";
      const wanted = typeof next === "number" ? right.answer.subarray(0, next) : answer;
      if (!isSame(wanted, answer)) yield answerFault(wanted, answer, lesson, `, and then it ${doing}`);
      else if (next === undefined) yield { fault: "endless", what: "It does not end", more: `: it ${doing}` };
      else yield { fault: "endless", what: "It stops reading", more: `: it ${doing}` };
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

  /** Faults after everything was sent: the outcome must equal the uncut one. */
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

  /** Faults after the peer ended or reset the connection before everything was sent, or just then. */
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

  // ---- Reporting ----

  /** Shrinks a failure and reports it; returns false if it is allowed, or was not the handler's. */
  async #tell(plan: Plan, lesson: Lesson, fault: Fault): Promise<boolean> {
    if (this.#options.expected?.(this.#failure(plan, lesson, fault))) return false;
    const small = await this.#shrink(plan, lesson, fault.fault);
    const { asks } = this.#rig;
    this.#rig.asks = true;
    const again = await this.#shows(small, lesson, fault.fault);
    this.#rig.asks = asks;
    if (again === null && (fault.fault === "timer" || fault.fault === "rejection")) {
      if (fault.fault === "rejection") this.#strange.push(fault.error);
      return false; // not the handler's, but from the same moment
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

  /** The plan with the fewest cuts that still shows this fault. */
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
