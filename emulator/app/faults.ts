/** The fault rules of an app: those of its entries, and those that the control routes set. */

import type { App } from "../../core/app/app.ts";
import type { FaultInfo, FaultPlane } from "../../core/control/plane.ts";
import { describe } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import type { SockletEvent } from "../../core/handlers/events.ts";
import type { FaultRule } from "../../core/handlers/fault-rule.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { FaultRules } from "../../core/testing/faults/rules.ts";
import { RulesMixIn, withRules } from "../../core/testing/faults/with-faults.ts";
import type { TCPConnector } from "../sockets/dialling/connector.ts";

/** The rules of one entry. */
interface Entry {
  readonly on: "listen" | "dial";
  readonly entry: string;
  readonly rules: FaultRules;
  /** Connections dialled so far. */
  dialled: number;
}

const saidOf = (error: unknown): string => describe(error).message.replace(/^EINVAL: /, "");

/** The fault rules of every entry of a served app. */
export class AppFaults implements FaultPlane {
  readonly #entries: readonly Entry[];
  #made = 0;

  /** Throws `ERR_APP` if a rule of the app is not valid. */
  constructor(app: Pick<App, "listeners" | "dial">, tell: (event: SockletEvent) => void) {
    const entries: Entry[] = [];
    const declared: { on: "listen" | "dial"; entry: string; faults: readonly FaultRule[] }[] = [];
    const add = (
      on: "listen" | "dial",
      entry: string,
      kind: "stream" | "datagrams",
      faults: readonly FaultRule[],
    ): void => {
      declared.push({ on, entry, faults });
      if (entries.some((one) => one.on === on && one.entry === entry)) return;
      const rules = new FaultRules(kind, { did: (did) => tell({ type: "fault", server: entry, ...did }) });
      entries.push({ on, entry, rules, dialled: 0 });
    };
    for (const { name, carries, serve, faults } of app.listeners) {
      if (serve !== "forking") add("listen", name, carries === "streams" ? "stream" : "datagrams", faults);
    }
    for (const [name, { faults }] of Object.entries(app.dial)) add("dial", name, "stream", faults);
    this.#entries = entries;
    for (const { on, entry, faults } of declared) {
      for (const [i, rule] of faults.entries()) {
        try {
          this.add({ on, entry, ...rule });
        } catch (error) {
          const where = on === "listen" ? `the listener "${entry}"` : `dial.${entry}`;
          throw new SocketError("ERR_APP", `${where}: faults[${i}]: ${saidOf(error)}`, { cause: error });
        }
      }
    }
  }

  /** The server of a listen entry, with its rules. */
  served<Server>(Class: Server, name: string): Server {
    const entry = this.#entries.find((one) => one.on === "listen" && one.entry === name);
    return entry === undefined ? Class : RulesMixIn(Class, entry.rules);
  }

  /** A connection dialled for a dial entry, with its rules. */
  #dialled(stream: StreamSocket, name: string): StreamSocket {
    const entry = this.#entries.find((one) => one.on === "dial" && one.entry === name);
    if (entry === undefined) return stream;
    entry.dialled++;
    return entry.rules.idle ? stream : withRules(stream, entry.rules, "client", entry.dialled);
  }

  /** The connector class for a dial entry, with its rules. */
  dialling(Connector: typeof TCPConnector, name: string): typeof TCPConnector {
    const dialled = (stream: StreamSocket): StreamSocket => this.#dialled(stream, name);
    class FaultyConnector<Context, Params> extends Connector<Context, Params> {
      protected override async createConnection(
        ...given: Parameters<TCPConnector["createConnection"]>
      ): Promise<StreamSocket> {
        return dialled(await super.createConnection(...given));
      }
    }
    return FaultyConnector as typeof TCPConnector;
  }

  list(): readonly FaultInfo[] {
    return this.#entries.flatMap(({ on, entry, rules }) =>
      rules.list().map((rule) => ({ on, entry, ...rule })),
    );
  }

  add(given: unknown): FaultInfo {
    const { at, rule } = this.#read(given);
    const { on, entry, rules } = at;
    try {
      const named = { ...rule, name: rule.name ?? `rule-${++this.#made}` };
      return { on, entry, ...rules.add(named) };
    } catch (error) {
      throw new SocketError("EINVAL", saidOf(error), { cause: error });
    }
  }

  set(given: readonly unknown[]): readonly FaultInfo[] {
    const read = given.map((one) => this.#read(one));
    for (const { rules } of this.#entries) {
      const own = read.filter(({ at }) => at.rules === rules).map(({ rule }) => rule);
      try {
        new FaultRules(rules.kind, { clock: NEVER }).set(own); // if one is invalid, nothing is changed
      } catch (error) {
        throw new SocketError("EINVAL", saidOf(error), { cause: error });
      }
    }
    this.remove();
    for (const one of given) this.add(one);
    return this.list();
  }

  remove(name?: string): boolean {
    let count = 0;
    for (const { rules } of this.#entries) {
      for (const rule of rules.list()) {
        if (name === undefined || rule.name === name) count += rules.remove(rule.name) ? 1 : 0;
      }
    }
    return count > 0;
  }

  #read(given: unknown): { at: Entry; rule: FaultRule } {
    const { on, entry, ...rule } = (given ?? {}) as Partial<FaultInfo>;
    const at = this.#entries.find((one) => one.on === on && one.entry === entry);
    if (at !== undefined) return { at, rule: rule as FaultRule };
    const all = this.#entries.map((one) => `{ "on": "${one.on}", "entry": "${one.entry}" }`).join(", ");
    throw new SocketError(
      "EINVAL",
      `on and entry name the entry that the rule is for; the app has ${all || "none"}`,
    );
  }
}

const NEVER = { now: () => 0, sleep: () => new Promise<void>(() => {}) };
