/** Holds an app to the rules of Cloudflare's edge: its listeners, its requests, its sessions and its pools. */

import type { App, Listener, Platform } from "../../core/app/app.ts";
import { SocketError } from "../../core/errors.ts";
import type { Lease, PoolClient } from "../../core/handlers/client.ts";
import type { OnEvent } from "../../core/handlers/events.ts";
import { formatAddress } from "../../core/net/address.ts";
import {
  EDGE_KEEPS,
  EDGE_RULES,
  type EdgeOptions,
  type EdgeRuleName,
  edgeExceptions,
  edgeText,
} from "../../core/net/edge.ts";
import { FORKING_NAMES } from "../../core/options.ts";
import { packed } from "../../core/pool/values.ts";
import type { RunOptions } from "../../core/serve/connector.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import type { TCPConnector } from "../sockets/dialling/connector.ts";
import { EdgeRules, hold } from "../sockets/dialling/edge.ts";

/** Times that tests shorten. */
export const edgeTimes = { keeps: EDGE_KEEPS };

/** A listener that a Worker cannot have, or not in that form. */
interface Lacking<Context> {
  readonly listener: Listener<Context>;
  readonly rule: EdgeRuleName;
  /** `a listener of UDP`. */
  readonly what: string;
  /** Whether a Worker has no such listener; otherwise it serves in another way. */
  readonly none: boolean;
}

const lacking = ({ endpoint, options, serve }: Listener<never>): Omit<Lacking<never>, "listener"> | null => {
  if (endpoint.scheme === "unix") return { rule: "paths", what: "a listener on a path", none: true };
  if (endpoint.scheme === "udp") return { rule: "listen", what: "a listener of UDP", none: true };
  if (endpoint.scheme === "tls" || options.tls !== undefined)
    return { rule: "listen", what: "a listener with TLS", none: true };
  return serve === "forking" ? { rule: "listen", what: "a listener that forks", none: false } : null;
};

/** The listeners that a Worker cannot have, or not in that form. */
export const edgeListeners = <Context>(listeners: readonly Listener<Context>[]): Lacking<Context>[] =>
  listeners.flatMap((listener) => {
    const found = lacking(listener as unknown as Listener<never>);
    return found === null ? [] : [{ listener, ...found }];
  });

/** The rules of the edge, for one served app. */
export class AppEdge {
  readonly #except: ReadonlySet<EdgeRuleName>;
  readonly #tell: OnEvent;

  /** Throws `TypeError` for an unknown rule. */
  constructor(options: EdgeOptions, tell: OnEvent) {
    this.#except = edgeExceptions(options);
    this.#tell = tell;
  }

  holds(rule: EdgeRuleName): boolean {
    return !this.#except.has(rule);
  }

  /** The rules for a listener, or for an entry of `dial` or `pools`. */
  rules(server: string): EdgeRules {
    return new EdgeRules(this.#except, (rule, message) => this.#met(server, rule, message));
  }

  /** Applies the rules to the request that `owner` stands for, of a server or an entry of `dial`. */
  hold(owner: object, server: string): void {
    hold(owner, this.rules(server));
  }

  /** The app with only the listeners that a Worker has; forking ones serve side by side, as they do there. Throws `ERR_APP` if none is left. */
  served<Context>(app: App<Context>): App<Context> {
    const found = edgeListeners(app.listeners).filter(({ rule }) => this.holds(rule));
    for (const { listener, rule, what, none } of found) {
      const done = none ? "is not opened" : "serves side by side";
      this.#met(listener.name, rule, edgeText(`${formatAddress(listener.endpoint)}, ${what}, ${done}`, rule));
    }
    const listeners = app.listeners.flatMap((listener) => {
      const lacks = found.find((one) => one.listener === listener);
      if (lacks === undefined) return [listener];
      if (lacks.none) return [];
      const options = Object.entries(listener.options).filter(
        ([name]) => !Object.hasOwn(FORKING_NAMES, name),
      );
      return [{ ...listener, serve: "threading" as const, options: Object.fromEntries(options) }];
    });
    if (app.listeners.length > 0 && listeners.length === 0) {
      const said =
        "the app has no listener that a Worker has; to serve it all the same, except listen and paths";
      throw new SocketError("ERR_APP", said);
    }
    return { ...app, listeners };
  }

  /** The platform's `pool()`, with the limits on calls and replies that cross between a Worker and an object. */
  pool(pool: Platform["pool"]): Platform["pool"] {
    if (!this.holds("message-size")) return pool;
    return (name, Handler) => {
      const crossing = <T>(what: string, value: T): T => {
        try {
          packed(what, value);
        } catch (error) {
          this.#met(name, "message-size", edgeText(`${what} of the pool ${name}`, "message-size"));
          throw error;
        }
        return value;
      };
      const called = <Call, Reply>(inner: Pick<Lease<Call, Reply>, "call">): Lease<Call, Reply>["call"] => {
        return async (call, options) =>
          crossing("the reply", await inner.call(crossing("the call", call), options));
      };
      const client = pool(name, Handler);
      return {
        call: called(client),
        lease: async (options) => {
          const lease = await client.lease(options);
          return {
            call: called(lease),
            release: () => lease.release(),
            [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose](),
          };
        },
      } as PoolClient<never, never>;
    };
  }

  /** The connector class for pools, which does not dial what the edge would not. */
  pooled(Connector: typeof TCPConnector): typeof TCPConnector {
    const rules = (name: string): EdgeRules => this.rules(name);
    class Pooled<Context, Params> extends Connector<Context, Params> {
      protected override async createConnection(
        ...given: Parameters<TCPConnector["createConnection"]>
      ): Promise<StreamSocket> {
        await rules(this.name).check(this.endpoint);
        return super.createConnection(...given);
      }
    }
    return Pooled as typeof TCPConnector;
  }

  /** The connector class for sessions, whose connections keep their object only for so long. */
  session(Connector: typeof TCPConnector): typeof TCPConnector {
    if (!this.holds("fifteen-minutes")) return Connector;
    const met = (server: string, message: string): void => this.#met(server, "fifteen-minutes", message);
    class Kept<Context, Params> extends Connector<Context, Params> {
      override async run(options: RunOptions<StreamSocket, Params> = {}): Promise<unknown> {
        const { signal } = options;
        const evicted = new AbortController();
        let timer: ReturnType<typeof setTimeout> | undefined;
        try {
          return await super.run({
            ...options,
            signal: signal ? AbortSignal.any([signal, evicted.signal]) : evicted.signal,
            onOpen: (request) => {
              timer = setTimeout(() => {
                const message = edgeText(`${formatAddress(this.endpoint)} is cut`, "fifteen-minutes");
                met(this.name, message);
                evicted.abort(new SocketError("ECONNABORTED", message));
              }, edgeTimes.keeps);
              options.onOpen?.(request);
            },
          });
        } catch (error) {
          throw evicted.signal.aborted ? evicted.signal.reason : error; // the reason, not the error that it caused
        } finally {
          clearTimeout(timer);
        }
      }
    }
    return Kept as typeof TCPConnector;
  }

  #met(server: string, rule: EdgeRuleName, message: string): void {
    const { page, date, known } = EDGE_RULES[rule];
    this.#tell({ type: "edge", server, rule, message, page, date, known });
  }
}
