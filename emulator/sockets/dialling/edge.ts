/** Holds a request to the rules of Cloudflare's edge while it dials; see `core/net/edge.ts`. */

import { deadline } from "../../../core/bytes/alarm.ts";
import { SocketError, type SocketErrorCode } from "../../../core/errors.ts";
import { type Endpoint, formatAddress, packAddress } from "../../../core/net/address.ts";
import {
  EDGE_CONNECTIONS,
  type EdgeRuleName,
  edgeRuleOfHost,
  edgeRulesOf,
  edgeText,
} from "../../../core/net/edge.ts";
import { wholeMs } from "../../../core/options.ts";
import type { ConnectOptions } from "../../../core/sockets/dialling/connect.ts";
import { ConnectionSlots } from "../../../core/sockets/dialling/slots.ts";
import { lazy } from "../../builtin.ts";

/** Called when a rule is broken; `message` says by what, and names the rule. */
type TellRule = (rule: EdgeRuleName, message: string) => void;

const CODES: Readonly<Partial<Record<EdgeRuleName, SocketErrorCode>>> = {
  paths: "ERR_UNSUPPORTED",
  udp: "ERR_UNSUPPORTED",
}; // else as for a Worker's dial, which the platform does not explain

/** The rules that apply to an app, and the function that reports violations. */
export class EdgeRules {
  readonly #except: ReadonlySet<EdgeRuleName>;
  readonly #tell: TellRule;

  constructor(except: ReadonlySet<EdgeRuleName>, tell: TellRule) {
    this.#except = except;
    this.#tell = tell;
  }

  holds(rule: EdgeRuleName): boolean {
    return !this.#except.has(rule);
  }

  /** Reports that `what` broke a rule, and returns the error to throw. */
  met(rule: EdgeRuleName, what: string, code = CODES[rule] ?? "ERR_CONNECT_FAILED"): SocketError {
    const message = edgeText(what, rule);
    this.#tell(rule, message);
    return new SocketError(code, message);
  }

  /** Rejects if the edge does not dial this address, or one of the addresses that its name resolves to. */
  async check(endpoint: Endpoint): Promise<void> {
    const said = formatAddress(endpoint);
    const rule = edgeRulesOf(endpoint).find((one) => this.holds(one));
    if (rule !== undefined) throw this.met(rule, said);
    if (endpoint.scheme === "unix" || packAddress(endpoint.hostname) !== null) return;
    const found = await lazy.dns.promises.lookup(endpoint.hostname, { all: true }).catch(() => []); // the dial reports why
    for (const { address } of found) {
      const broken = edgeRuleOfHost(address);
      if (broken !== null && this.holds(broken)) throw this.met(broken, `${said}, which leads to ${address}`);
    }
  }
}

/** One request, and the connections that it has. */
export class RequestAtEdge {
  readonly rules: EdgeRules;
  readonly #slots = new ConnectionSlots(EDGE_CONNECTIONS);

  constructor(rules: EdgeRules) {
    this.rules = rules;
  }

  /** Called before a dial. Returns a function that frees its place again; rejects if the edge does not dial that address, or not in time. */
  async enter(endpoint: Endpoint, { connectTimeout = 10_000, signal }: ConnectOptions): Promise<() => void> {
    await this.rules.check(endpoint);
    if (!this.rules.holds("connections")) return () => {};
    if (this.#slots.free > 0) return this.#slots.take();
    const said = formatAddress(endpoint);
    const { message } = this.rules.met("connections", `${said} waits for its turn`);
    const late = new AbortController();
    const stopTimer =
      connectTimeout === null
        ? undefined
        : deadline(connectTimeout, () => {
            const why = `${said} did not get its turn within ${wholeMs(connectTimeout)}; ${message}`;
            late.abort(new SocketError("ETIMEDOUT", why, { address: said }));
          });
    try {
      return await this.#slots.take(signal ? AbortSignal.any([signal, late.signal]) : late.signal);
    } finally {
      stopTimer?.();
    }
  }
}

/** Throws `ERR_UNSUPPORTED` if the request that `owner` stands for may send no datagrams. */
export const checkDatagrams = (owner: object | undefined): void => {
  const rules = heldRequest(owner)?.rules;
  if (rules?.holds("udp")) throw rules.met("udp", "a socket of datagrams");
};

let requests: WeakMap<object, RequestAtEdge> | null = null; // empty until an app is held to the rules: then a dial makes no other check

/** Holds the request that `owner` stands for to the rules. */
export const hold = (owner: object, rules: EdgeRules): void => {
  requests ??= new WeakMap();
  requests.set(owner, new RequestAtEdge(rules));
};

/** The request of this owner, if it is held. */
export const heldRequest = (owner: object | undefined): RequestAtEdge | undefined =>
  owner === undefined ? undefined : requests?.get(owner);

/** Whether any request of this process is held. */
export const edgeHolds = (): boolean => requests !== null;
