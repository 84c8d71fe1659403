/**
 * Faults by rule: which fault, in which direction, on which connection, from which byte on, and when. Rules are
 * set, changed and removed while connections are open, and take effect at once. The same seed produces the same faults.
 */

import { toBytes } from "../../bytes/data.ts";
import { quoted } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import type { FaultName, FaultRule, Speaker } from "../../handlers/fault-rule.ts";
import { checkCount, checkOptions, checkTime, checkWord, optionNamesOf } from "../../options.ts";
import type { StreamTransport } from "../../sockets/transport.ts";
import { type Clock, chanceOf, realClock, runAfter } from "../clock.ts";
import { type Link, type LinkFaults, linkOf } from "./datagrams.ts";
import { type Cut, type DirectionFaults, FaultyTransport, type Limit, type Plan } from "./streams.ts";

const STREAM_FAULTS = [
  "latency",
  "rate",
  "slice",
  "slow-close",
  "stall",
  "silence",
  "close",
  "reset",
] as const;
const DATAGRAM_FAULTS = ["latency", "rate", "silence", "loss", "duplicate", "reorder", "corrupt"] as const;

/** What connects the two sides. */
type FaultKind = "stream" | "datagrams";

const SPEAKERS: readonly Speaker[] = ["client", "server"];

const RULE_NAMES = optionNamesOf<FaultRule>("a rule of faults")({
  name: "string",
  fault: true,
  from: true,
  likelihood: true,
  latency: true,
  jitter: true,
  rate: true,
  slice: true,
  delay: true,
  after: true,
  match: "string",
  connection: true,
  in: true,
  for: true,
});

/** The required and optional fields of each fault. */
const PARTS: Readonly<
  Record<FaultName, { readonly needs?: keyof FaultRule; readonly may?: readonly (keyof FaultRule)[] }>
> = {
  latency: { needs: "latency", may: ["jitter"] },
  rate: { needs: "rate" },
  slice: { needs: "slice", may: ["delay"] },
  "slow-close": { needs: "delay" },
  stall: {},
  silence: {},
  close: { may: ["delay"] },
  reset: { may: ["delay"] },
  loss: {},
  duplicate: {},
  reorder: {},
  corrupt: {},
};
const OWN = ["latency", "jitter", "rate", "slice", "delay"] as const;
const LONGEST = 4096; // bytes of `match`: this many of the preceding bytes are kept

/** A rule that is set, and what it has done. */
interface FaultRuleInfo extends FaultRule {
  readonly name: string;
  /** Whether it is in effect now. */
  readonly holds: boolean;
  /** The number of connections or datagrams that it has affected. */
  readonly applied: number;
}

/** Something that a rule did. */
export interface FaultTold {
  readonly rule: string;
  readonly fault: FaultName;
  readonly from: Speaker;
  /** The connection's number, or the client's. */
  readonly connection: number;
}

/** A rule that is set. */
class Rule {
  readonly given: FaultRule;
  readonly name: string;
  readonly match: Uint8Array | null;
  readonly start: number;
  readonly end: number;
  readonly index: number;
  readonly #over = Promise.withResolvers<void>();
  /** Functions that cancel planned work. */
  readonly planned: (() => void)[] = [];
  applied = 0;
  removed = false;

  /** Resolves when its time is over, or it is removed. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  finish(): void {
    this.#over.resolve();
  }

  constructor(given: FaultRule, name: string, index: number, now: number) {
    this.given = given;
    this.name = name;
    this.index = index;
    this.match = given.match === undefined ? null : toBytes(given.match);
    this.start = now + (given.in ?? 0);
    this.end = given.for === undefined ? Number.POSITIVE_INFINITY : this.start + given.for;
  }

  holds(now: number): boolean {
    return !this.removed && now >= this.start && now < this.end;
  }

  /** Whether its likelihood selects what that side sends on this connection. */
  isOf(side: Speaker, connection: number, seed: number): boolean {
    const { from, connection: only, likelihood = 1 } = this.given;
    if ((from ?? side) !== side || (only ?? connection) !== connection) return false;
    if (likelihood >= 1) return true;
    const chance = chanceOf(seed * 7919 + connection * 104_729 + this.index * 1_299_709);
    return chance() < likelihood;
  }
}

/** Throws `TypeError` and `RangeError` if the rule is not of this kind, or could never apply. */
export const checkRule = (rule: FaultRule, kind: FaultKind): void => {
  checkOptions("a rule of faults", rule, RULE_NAMES);
  const faults: readonly FaultName[] = kind === "stream" ? STREAM_FAULTS : DATAGRAM_FAULTS;
  const { fault, likelihood = 1, match, name, from } = rule;
  const others: readonly FaultName[] = kind === "stream" ? DATAGRAM_FAULTS : STREAM_FAULTS;
  if (others.includes(fault) && !faults.includes(fault)) {
    const why =
      kind === "stream"
        ? `a stream has no "${fault}", which is a fault of datagrams: the kernel retransmits what a stream loses`
        : `datagrams have no "${fault}", which is a fault of streams`;
    throw new TypeError(`the rule can never come true: ${why}; there are ${faults.join(", ")}`);
  }
  checkWord("fault", fault, faults);
  if (name !== undefined && !/^[\w.-]{1,64}$/.test(name))
    throw new TypeError(`name is up to 64 letters, digits, "_", "-" and ".", not ${quoted(name)}`);
  if (from !== undefined) checkWord("from", from, SPEAKERS);
  if (typeof likelihood !== "number" || !(likelihood >= 0 && likelihood <= 1))
    throw new RangeError(`likelihood is a number from 0 (never) to 1 (always), not ${quoted(likelihood)}`);
  if (likelihood === 0) throw new RangeError("the rule can never come true: its likelihood is 0");
  const { needs, may = [] } = PARTS[fault];
  if (needs !== undefined && rule[needs] === undefined) {
    throw new TypeError(`a rule of "${fault}" needs ${needs}`);
  }
  for (const part of OWN) {
    if (rule[part] !== undefined && part !== needs && !may.includes(part))
      throw new TypeError(`a rule of "${fault}" has no ${part}`);
  }
  for (const part of ["latency", "jitter", "delay", "in"] as const) checkTime(part, rule[part] ?? 0, 0);
  checkTime("for", rule.for ?? 1, 1);
  for (const part of ["rate", "slice", "connection"] as const) checkCount(part, rule[part] ?? 1, 1);
  checkCount("after", rule.after ?? 0, 0);
  if (match !== undefined) {
    if (typeof match !== "string" || match === "" || toBytes(match).length > LONGEST)
      throw new TypeError(`match is text of 1 to ${LONGEST} bytes, not ${quoted(match)}`);
    if (rule.after !== undefined) throw new TypeError("a rule has after or match, not both");
  }
  if (kind === "stream" && fault === "silence" && rule.for !== undefined) {
    throw new TypeError('a stream cannot lose bytes and go on, so "silence" has no `for`; a "stall" has');
  }
};

/** Whether `rule` ends every connection, in a direction and at a byte that another rule needs. */
const endsBefore = (rule: FaultRule, other: FaultRule): boolean =>
  ["reset", "close", "silence"].includes(rule.fault) &&
  rule.match === undefined &&
  rule.likelihood === undefined &&
  rule.for === undefined &&
  (rule.connection === undefined || rule.connection === other.connection) &&
  (rule.from === undefined || rule.from === other.from) &&
  (rule.in ?? 0) <= (other.in ?? 0) &&
  (other.match === undefined ? (rule.after ?? 0) <= (other.after ?? 0) : (rule.after ?? 0) === 0);

/** Options of a set of rules. */
interface FaultRulesOptions {
  /** The seed of the random numbers: the same seed produces the same faults. Default 1. */
  readonly seed?: number | undefined;
  readonly clock?: Clock | undefined;
  /** Called with everything that a rule does. */
  readonly did?: ((told: FaultTold) => void) | undefined;
}

/** The rules of one proxy, one listener or one target, applied to its connections. */
export class FaultRules {
  readonly kind: FaultKind;
  readonly #seed: number;
  readonly #clock: Clock;
  readonly #did: ((told: FaultTold) => void) | undefined;
  #rules: Rule[] = [];
  #made = 0;
  readonly #streams = new Set<RuledStream>();

  constructor(kind: FaultKind, { seed = 1, clock = realClock, did }: FaultRulesOptions = {}) {
    this.kind = kind;
    this.#seed = checkCount("seed", seed, 0);
    this.#clock = clock;
    this.#did = did;
  }

  /** Whether no rule is set. */
  get idle(): boolean {
    return this.#rules.length === 0;
  }

  /** The rules that are set, in their order. */
  list(): FaultRuleInfo[] {
    const now = this.#clock.now();
    return this.#rules.map((rule) => ({
      ...rule.given,
      name: rule.name,
      holds: rule.holds(now),
      applied: rule.applied,
    }));
  }

  /** Adds a rule, and returns it with its state. Throws as `checkRule()`, and `EINVAL` if another rule has its name, or would end each connection before this one could apply. */
  add(given: FaultRule): FaultRuleInfo {
    checkRule(given, this.kind);
    const name = given.name ?? `rule-${this.#made + 1}`;
    if (this.#rules.some((rule) => rule.name === name)) {
      throw new SocketError(
        "EINVAL",
        `there is a rule ${quoted(name)} already; remove it, or choose another name`,
      );
    }
    const before = this.kind === "stream" && this.#rules.find((rule) => endsBefore(rule.given, given));
    if (before) {
      const why = `the rule ${quoted(before.name)} ends every connection before`;
      throw new SocketError("EINVAL", `the rule ${quoted(name)} can never come true: ${why}`);
    }
    const rule = new Rule(Object.freeze({ ...given }), name, ++this.#made, this.#clock.now());
    this.#rules.push(rule);
    this.#begin(rule);
    return this.list().at(-1) as FaultRuleInfo;
  }

  /** Removes a rule; what it held up continues. Returns false if there is none with that name. */
  remove(name: string): boolean {
    const rule = this.#rules.find((one) => one.name === name);
    if (rule === undefined) return false;
    rule.removed = true;
    for (const cancel of rule.planned) cancel();
    rule.finish();
    this.#rules = this.#rules.filter((one) => one !== rule);
    return true;
  }

  /** Replaces all rules. If one is not valid, nothing changes. Throws as `add()`. */
  set(given: readonly FaultRule[]): FaultRuleInfo[] {
    const trial = new FaultRules(this.kind, { clock: { now: () => 0, sleep: () => new Promise(() => {}) } });
    for (const rule of given) trial.add(rule);
    this.clear();
    for (const rule of given) this.add(rule);
    return this.list();
  }

  /** Removes all rules. */
  clear(): void {
    for (const { name } of this.list()) this.remove(name);
  }

  /**
   * A stream over this transport, on which `side` sends, with the faults of the rules; `both`: also on what it receives, which
   * the other side sends. `connection` is its number, from 1.
   */
  stream(
    transport: StreamTransport,
    side: Speaker,
    connection: number,
    both: boolean,
    reached?: (limit: Limit, from: Speaker) => void,
  ): FaultyTransport {
    const other = side === "client" ? "server" : "client";
    const planOf = (from: Speaker): RuledPlan => new RuledPlan(this, from, connection, reached);
    const outgoing = planOf(side);
    const incoming = both ? planOf(other) : NO_PLAN;
    const faulty = new FaultyTransport(transport, {
      seed: this.#seed + connection - 1,
      clock: this.#clock,
      incoming,
      outgoing,
      over: () => this.#streams.delete(one),
    });
    const one = new RuledStream(faulty, both ? { outgoing, incoming: incoming as RuledPlan } : { outgoing });
    this.#streams.add(one);
    return faulty;
  }

  /** The datagrams of that side, with the faults of the rules. `connection` is the client's number. */
  link(side: Speaker, connection: number): Pick<Link, "pass" | "close"> {
    const seed = 2 * (this.#seed + connection - 1) + (side === "client" ? 0 : 1);
    let count = 0;
    const held = new Map<keyof LinkFaults, Rule>();
    const faults = (bytes: Uint8Array): LinkFaults => {
      held.clear();
      count++;
      const now = this.#clock.now();
      const all: Record<string, number> = {};
      for (const rule of this.#rules) {
        const { given } = rule;
        const { from = side, connection: only = connection, after = 0, likelihood = 1, fault } = given;
        if (!rule.holds(now) || from !== side || only !== connection || count <= after) continue;
        if (rule.match !== null && indexIn(bytes, rule.match) < 0) continue;
        if (fault === "latency") {
          all.latency = (all.latency ?? 0) + (given.latency ?? 0);
          all.jitter = (all.jitter ?? 0) + (given.jitter ?? 0);
          this.did(rule, side, connection);
        } else if (fault === "rate") {
          all.rate = Math.min(all.rate ?? Number.POSITIVE_INFINITY, given.rate ?? 1);
          this.did(rule, side, connection);
        } else {
          const name = LINKED[fault as keyof typeof LINKED];
          all[name] = Math.max(all[name] ?? 0, likelihood);
          held.set(name, rule);
        }
      }
      return all;
    };
    const link: Link = linkOf(faults, this.#clock, seed);
    return {
      pass: (bytes, deliver, did) =>
        link.pass(bytes, deliver, (fault) => {
          const rule = fault === "full" ? undefined : held.get(fault);
          if (rule !== undefined) this.did(rule, side, connection);
          did?.(fault);
        }),
      close: () => link.close(),
    };
  }

  // ---- Called by its plans ----

  get rules(): readonly Rule[] {
    return this.#rules;
  }

  get now(): number {
    return this.#clock.now();
  }

  get seed(): number {
    return this.#seed;
  }

  /** A rule did something. */
  did(rule: Rule, from: Speaker, connection: number): void {
    rule.applied++;
    this.#did?.({ rule: rule.name, fault: rule.given.fault, from, connection });
  }

  /** Starts and ends a rule at its times, even on connections that are silent then. */
  #begin(rule: Rule): void {
    const { given } = rule;
    const untilStart = rule.start - this.#clock.now();
    const strike = (): void => {
      if (rule.removed) return;
      const early = rule.start - this.#clock.now(); // a timer may fire a fraction of a millisecond early
      if (early > 0) this.#plan(rule, Math.ceil(early), strike);
      else for (const stream of this.#streams) stream.touch();
    };
    if (untilStart > 0) this.#plan(rule, untilStart, strike);
    else queueMicrotask(strike);
    if (given.for !== undefined) this.#plan(rule, untilStart + given.for, () => rule.finish());
  }

  #plan(rule: Rule, ms: number, task: () => void): void {
    rule.planned.push(runAfter(this.#clock, ms, task));
  }
}

const LINKED = {
  silence: "loss",
  loss: "loss",
  duplicate: "duplicates",
  reorder: "reorder",
  corrupt: "corruption",
} as const;

const LIMITS: Partial<Record<FaultName, Limit>> = {
  reset: "resetAfter",
  close: "endAfter",
  silence: "silentAfter",
};

const EMPTY = new Uint8Array(0);
const NO_PLAN: Plan = { held: {}, cut: () => undefined };

/** Where `wanted` is in `bytes`, from `from` on; -1 if it is not. */
const indexIn = (bytes: Uint8Array, wanted: Uint8Array, from = 0): number => {
  const first = wanted[0] as number;
  for (let at = bytes.indexOf(first, from); at >= 0; at = bytes.indexOf(first, at + 1)) {
    let same = 1;
    while (same < wanted.length && bytes[at + same] === wanted[same]) same++;
    if (same === wanted.length) return at;
  }
  return -1;
};

/** A stream with rules. */
class RuledStream {
  readonly faulty: FaultyTransport;
  readonly #plans: { readonly outgoing: RuledPlan; readonly incoming?: RuledPlan };

  constructor(faulty: FaultyTransport, plans: { outgoing: RuledPlan; incoming?: RuledPlan }) {
    this.faulty = faulty;
    this.#plans = plans;
  }

  /** Checks whether a rule must act although no bytes pass. */
  touch(): void {
    for (const way of ["outgoing", "incoming"] as const) {
      for (let cut = this.#plans[way]?.cut(EMPTY); cut !== undefined; cut = this.#plans[way]?.cut(EMPTY)) {
        if (typeof cut.what === "string") this.faulty.strike(way, cut.what, cut.delay);
        else this.faulty.hold(way, cut.what);
      }
    }
  }
}

/** The plan of the rules for one direction of one connection. */
class RuledPlan implements Plan {
  readonly #all: FaultRules;
  readonly #side: Speaker;
  readonly #connection: number;
  readonly #reached: ((limit: Limit, from: Speaker) => void) | undefined;
  readonly #come = new Set<Rule>(); // rules whose byte has been reached
  readonly #isOf = new Map<Rule, boolean>();
  #taken = 0; // bytes so far
  #tail: Uint8Array = EMPTY; // the last bytes, as many as the longest match

  constructor(
    all: FaultRules,
    side: Speaker,
    connection: number,
    reached?: (limit: Limit, from: Speaker) => void,
  ) {
    this.#all = all;
    this.#side = side;
    this.#connection = connection;
    this.#reached = reached;
  }

  get held(): DirectionFaults {
    let held: { -readonly [Name in keyof DirectionFaults]: DirectionFaults[Name] } | null = null;
    const now = this.#all.now;
    for (const rule of this.#come) {
      if (!rule.holds(now)) continue;
      const { fault, latency = 0, jitter = 0, rate = 1, slice = 1, delay = 0 } = rule.given;
      held ??= {};
      if (fault === "latency") {
        held.latency = (held.latency ?? 0) + latency;
        held.jitter = (held.jitter ?? 0) + jitter;
      } else if (fault === "rate") held.rate = Math.min(held.rate ?? Number.POSITIVE_INFINITY, rate);
      else if (fault === "slice") {
        held.slice = Math.min(held.slice ?? Number.POSITIVE_INFINITY, slice);
        held.sliceDelay = Math.max(held.sliceDelay ?? 0, delay);
      } else if (fault === "slow-close") held.endDelay = (held.endDelay ?? 0) + delay;
    }
    return held ?? NOTHING;
  }

  cut(bytes: Uint8Array): Cut | undefined {
    const now = this.#all.now;
    let at = Number.POSITIVE_INFINITY;
    let first: Rule | undefined;
    let longest = 0;
    for (const rule of this.#all.rules) {
      if (this.#come.has(rule) || !this.#concerns(rule)) continue;
      if (rule.match !== null) longest = Math.max(longest, rule.match.length);
      if (!rule.holds(now)) continue;
      const place = this.#placeOf(rule, bytes);
      if (place >= at) continue;
      at = place;
      first = rule;
    }
    this.#pass(first === undefined ? bytes : bytes.subarray(0, at), longest);
    if (first === undefined) return undefined;
    const rule = first;
    this.#come.add(rule);
    this.#all.did(rule, this.#side, this.#connection);
    const limit = LIMITS[rule.given.fault];
    if (limit !== undefined) return { at, what: limit, delay: rule.given.delay ?? 0 };
    if (rule.given.fault !== "stall") return { at, what: null };
    return { at, what: () => (rule.holds(this.#all.now) ? rule.over : null) };
  }

  reached(limit: Limit): void {
    this.#reached?.(limit, this.#side);
  }

  #concerns(rule: Rule): boolean {
    let is = this.#isOf.get(rule);
    if (is === undefined) {
      is = rule.isOf(this.#side, this.#connection, this.#all.seed);
      this.#isOf.set(rule, is);
    }
    return is;
  }

  /** The number of these bytes before the rule's byte; infinite if it is not among them. */
  #placeOf({ given, match }: Rule, bytes: Uint8Array): number {
    if (match === null) {
      const at = Math.max(0, (given.after ?? 0) - this.#taken);
      return at <= bytes.length ? at : Number.POSITIVE_INFINITY;
    }
    // A match may begin in earlier bytes. It ends among these, or it would have been seen earlier.
    const tail = this.#tail.subarray(Math.max(0, this.#tail.length - (match.length - 1)));
    if (tail.length > 0 && bytes.length > 0) {
      const seam = new Uint8Array(tail.length + Math.min(bytes.length, match.length - 1));
      seam.set(tail);
      seam.set(bytes.subarray(0, match.length - 1), tail.length);
      const at = indexIn(seam, match);
      if (at >= 0) return at + match.length - tail.length;
    }
    const at = indexIn(bytes, match);
    return at < 0 ? Number.POSITIVE_INFINITY : at + match.length;
  }

  #pass(bytes: Uint8Array, longest: number): void {
    this.#taken += bytes.length;
    if (longest < 2) {
      this.#tail = EMPTY;
      return;
    }
    const keep = longest - 1;
    if (bytes.length >= keep) this.#tail = bytes.slice(bytes.length - keep);
    else {
      const before = this.#tail.subarray(Math.max(0, this.#tail.length + bytes.length - keep));
      const tail = new Uint8Array(before.length + bytes.length);
      tail.set(before);
      tail.set(bytes, before.length);
      this.#tail = tail;
    }
  }
}

const NOTHING: DirectionFaults = {};
