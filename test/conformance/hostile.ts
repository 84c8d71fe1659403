/**
 * Values that are hard to say anything of, and every way in which a server can be given one. A list without a test
 * framework, since it runs inside a Worker and in the children of forking servers, too.
 */

import { SocketError, type SockletEvent, StreamRequestHandler } from "socklet";

const broken = (): never => {
  throw new Error("broken");
};

/** An object that throws on every use, even on a check of its type. */
const throwing = (): object =>
  new Proxy(
    {},
    Object.fromEntries(
      ["get", "has", "ownKeys", "getPrototypeOf", "getOwnPropertyDescriptor", "isExtensible"].map((trap) => [
        trap,
        broken,
      ]),
    ),
  );

const revoked = (of: object): object => {
  const { proxy, revoke } = Proxy.revocable(of, {});
  revoke();
  return proxy;
};

const rejectingLater = (): Promise<never> =>
  new Promise((_, reject) => setTimeout(reject, 1, Object.create(null)));

const with_ = (error: Error, properties: Record<string, unknown>): Error => {
  for (const [name, value] of Object.entries(properties)) {
    const how = typeof value === "function" ? { get: value as () => unknown } : { value };
    Object.defineProperty(error, name, { ...how, configurable: true });
  }
  return error;
};

const THEN: string = "then"; // biome takes an object that has one for a slip
type Then = (done: (value: unknown) => void, failed: (error: unknown) => void) => void;
const thenable = (then: Then, of: object = {}): object => Object.defineProperty(of, THEN, { value: then });

let large = ""; // made when it is first asked for
const LARGE = 100_000_000; // characters
const largeText = (): string => {
  large ||= "x".repeat(LARGE);
  return large;
};

/** By name: makes one. */
export const VALUES: Readonly<Record<string, () => unknown>> = {
  undefined: () => undefined,
  null: () => null,
  zero: () => 0,
  symbol: () => Symbol("a symbol"),
  function: () => broken,
  bigint: () => 2n ** 70n,
  "huge-bigint": () => 2n ** 20_000_000n,
  "no-prototype": () => Object.create(null),
  "no-text": () => ({ toString: broken }),
  "text-that-is-none": () => ({ toString: () => ({}), valueOf: () => ({}) }),
  cycle: () => {
    const cycle: Record<string, unknown> = { known: 1 };
    cycle.self = cycle;
    return cycle;
  },
  toJSON: () => ({ toJSON: broken }),
  "toJSON-no-prototype": () => ({
    toJSON: () => {
      throw Object.create(null);
    },
  }),
  getter: () => ({
    known: 1,
    get broken() {
      return broken();
    },
  }),
  deep: () => {
    let deep: unknown = null;
    for (let i = 0; i < 100_000; i++) deep = [deep];
    return deep;
  },
  endless: () => {
    const endless = (): object => ({
      get a() {
        return endless();
      },
      get b() {
        return endless();
      },
    });
    return endless();
  },
  sparse: () => new Array(2 ** 32 - 1),
  proxy: throwing,
  "revoked-proxy": () => revoked({}),
  "revoked-array": () => revoked([]),
  "revoked-error": () => revoked(new Error("was one")),
  "promise-that-rejects": rejectingLater,
  "object-with-promise": () => ({ known: 1, promise: Promise.resolve(1) }),
  "promise-with-then": () => thenable(broken, Promise.resolve(1)),
  "promise-without-constructor": () =>
    Object.defineProperty(Promise.resolve(1), "constructor", { get: broken }),
  "thenable-that-throws": () => thenable(broken),
  "thenable-getter": () => Object.defineProperty({}, THEN, { get: broken }),
  "thenable-twice": () =>
    thenable((done, failed) => {
      done(1);
      failed(2);
      broken();
    }),
  "thenable-that-gives-nothing": () => thenable((done) => void setTimeout(done, 1, 1)),
  "error-symbol": () => with_(new Error(), { message: Symbol("a message") }),
  "error-getters": () =>
    with_(new Error(), { message: broken, name: broken, stack: broken, code: broken, cause: broken }),
  "error-objects": () =>
    with_(new Error(), {
      message: Object.create(null),
      name: Symbol("a name"),
      stack: 7,
      code: {},
      cause: revoked({}),
    }),
  "error-cycle": () => {
    const error = new Error("known");
    return with_(error, { cause: error });
  },
  "socket-error-getters": () => with_(new SocketError("ECONNRESET"), { message: broken, code: broken }),
  "large-text": largeText,
  "large-error": () => with_(new Error("known"), { message: largeText(), stack: largeText() }),
  "large-object": () => ({ known: largeText(), [`${largeText().slice(0, 20)}`]: [largeText()] }),
  "large-bytes": () => new Uint8Array(LARGE),
  "large-numbers": () => new Float64Array(LARGE / 8),
};

/** Gives the value in this way; each makes one. */
const thrown = (value: unknown): never => {
  throw value;
};
const rejected = (value: unknown): Promise<never> => Promise.reject(value);

/** The ways in which a handler can produce the value. The client asks for one. */
export const HANDLER_WAYS = [
  "setup-throws",
  "setup-rejects",
  "handle-throws",
  "handle-rejects",
  "handle-returns",
  "handle-resolves",
  "handle-emits",
  "finish-throws",
  "finish-rejects",
  "handle-and-finish-throw",
  "timeout-getter",
] as const;

/** Gives the value that its client names, in the way that it names; `ok` in none. Says "done" before it ends. */
export class Hostile extends StreamRequestHandler {
  #way = "";
  #name = "";

  get #value(): unknown {
    return VALUES[this.#name]?.();
  }

  override async setup(): Promise<void> {
    [this.#way = "", this.#name = ""] = (await this.rfile.line())?.split(" ") ?? [];
    if (this.#way === "setup-throws") throw this.#value;
    if (this.#way === "setup-rejects") await rejected(this.#value);
    if (this.#way === "timeout-getter")
      Object.defineProperty(this, "timeout", { get: () => thrown(this.#value) });
    await super.setup();
  }

  override handle(): unknown {
    this.wfile.write("done\n");
    switch (this.#way) {
      case "handle-throws":
      case "handle-and-finish-throw":
        return thrown(this.#value);
      case "handle-rejects":
        return rejected(this.#value);
      case "handle-returns":
        return this.#value;
      case "handle-resolves":
        return new Promise((resolve) => setTimeout(() => resolve(this.#value), 1));
      case "handle-emits":
        this.emit(this.#value);
        if (this.#name !== "promise-that-rejects") this.emit({ inner: this.#value });
    }
    return undefined;
  }

  // biome-ignore lint/suspicious/noExplicitAny: what it gives is what it is for
  override finish(): any {
    if (this.#way === "finish-throws" || this.#way === "handle-and-finish-throw") throw this.#value;
    if (this.#way === "finish-rejects") return rejected(this.#value);
    return super.finish();
  }
}

/** The ways in which a server's hooks can produce it, with or without a handler that has failed with it, too. */
export const HOOK_WAYS = [
  ...["verifyRequest", "processRequest", "finishRequest", "shutdownRequest", "closeRequest"],
  ...["getRequest", "serviceActions", "tell", "onEvent", "handleError"],
].flatMap((hook) => [`${hook}-throws`, `${hook}-rejects`, `${hook}-returns`]);

/** What a hook is to do, once. */
export interface Armed {
  /** One of `HOOK_WAYS`; `null` when it has done it. */
  way: string | null;
  value: () => unknown;
}

/** Runs `own` for `hook`, or the behaviour that the hook is armed with. */
const fired = (armed: Armed, hook: string, own: () => unknown): unknown => {
  const [name, how] = armed.way?.split("-") ?? [];
  if (name !== hook) return own();
  armed.way = null;
  if (how === "throws") throw armed.value();
  if (how === "rejects") return rejected(armed.value());
  const given = own();
  if (!(given instanceof Promise)) return armed.value();
  const then = (): unknown => armed.value();
  return given.then(then, then);
};

const HOOKS = HOOK_WAYS.map((way) => way.split("-")[0] as string).filter((hook) => hook !== "onEvent");

/** A server whose hooks each do what they are armed with. */
// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
export const withHostileHooks = <Base extends abstract new (...args: any[]) => object>(
  Server: Base,
  armed: Armed,
): Base => {
  abstract class HostileServer extends Server {}
  for (const hook of new Set(HOOKS)) {
    const own = Server.prototype[hook] as (...args: unknown[]) => unknown;
    Object.defineProperty(HostileServer.prototype, hook, {
      value(this: object, ...args: unknown[]) {
        return fired(armed, hook, () => own.apply(this, args));
      },
    });
  }
  return HostileServer;
};

/** An event listener that keeps the events, and does what it is armed with. */
export const hostileListener =
  (armed: Armed, told: SockletEvent[]) =>
  (event: SockletEvent): unknown => {
    told.push(event);
    return fired(armed, "onEvent", () => undefined);
  };
