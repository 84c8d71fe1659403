/// <reference types="@cloudflare/workers-types" />
/** A Worker's bindings, and how its Durable Objects are called. */

import type { MaybePromise } from "../../core/bytes/data.ts";
import { tokenEntries } from "../../core/control/http/auth.ts";
import type {
  ErrorInfo,
  SessionInfo,
  SessionPage,
  SessionQuery,
  SessionSpec,
  SessionState,
} from "../../core/control/plane.ts";
import { describe } from "../../core/describe.ts";
import { errorInfo, SocketError } from "../../core/errors.ts";

/** The bindings that Socklet uses in a Worker, made by `wrangler.toml` and the secrets. */
export interface SockletBindings {
  /** The namespace of the class `SockletSession`. */
  readonly SOCKLET_SESSIONS?: unknown;
  /** The namespace of the class `SockletRegistry`. */
  readonly SOCKLET_REGISTRY?: unknown;
  /** The namespace of the class `SockletPool`. */
  readonly SOCKLET_POOLS?: unknown;
  /** The secret with the tokens of the control routes. */
  readonly SOCKLET_TOKENS?: unknown;
}

/**
 * The result of a call to an object. An error that crosses to another object keeps its message but loses its code, so it
 * crosses as a value.
 */
export type Answer<T> =
  | { readonly value: T }
  | { readonly error: ErrorInfo & { readonly address: string | undefined } };

/** Runs a call, and turns what it throws into a value. */
export const answer = async <T>(work: () => MaybePromise<T>): Promise<Answer<T>> => {
  try {
    return { value: await work() };
  } catch (thrown) {
    const { address } = describe(thrown);
    return { error: { ...errorInfo(thrown, "ERR_INTERNAL"), address } };
  }
};

/** The value of an object's answer; throws if it is an error. */
export const settled = <T>(given: Answer<T>): T => {
  if ("value" in given) return given.value;
  const { code, message, address } = given.error;
  throw new SocketError(code, message.replace(`${code}: `, ""), { address });
};

const ATTEMPTS = 4; // in all; the runtime itself repeats calls that never reached an object (Cloudflare's "Automatic retries")
const PAUSE = 50; // ms before the second attempt, plus up to half as much at random; four times as long before each later one

/**
 * Calls an object, and repeats the call if it fails because the object was moved, its code was replaced, or it was lost
 * while it answered. Only for calls that may be repeated. Rejects with `ERR_PLATFORM` if the object cannot be reached.
 */
export const again = async <T>(ask: () => Promise<T>, whom: string): Promise<T> => {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask();
    } catch (error) {
      if (error instanceof SocketError) throw error; // our own, thrown before the call was made
      // An overloaded object must not get more to do.
      if (attempt === ATTEMPTS || (error as { overloaded?: unknown } | null)?.overloaded === true) {
        throw new SocketError("ERR_PLATFORM", `${whom} cannot be reached; ask again`, { cause: error });
      }
      await new Promise((resolve) =>
        setTimeout(resolve, (1 + Math.random() / 2) * PAUSE * 4 ** (attempt - 1)),
      );
    }
  }
};

/** The calls of a session's object; they return `null` if it keeps no session. */
export interface SessionCalls {
  start(id: string, spec: SessionSpec): Promise<Answer<SessionInfo>>;
  info(): Promise<SessionInfo | null>;
  wait(ms: number): Promise<SessionInfo | null>;
  /** As server-sent events, because a stream of bytes can cross to another object, and an iterable cannot. */
  events(after: number): Promise<ReadableStream<Uint8Array> | null>;
  send(bytes: Uint8Array): Promise<Answer<SessionInfo | null>>;
  halfClose(): Promise<Answer<SessionInfo | null>>;
  end(graceful?: boolean): Promise<SessionInfo | null>;
  /** Deletes everything that it keeps; returns false if the session is not over. */
  forget(): Promise<boolean>;
}

/** The number of sessions in a state. */
export type StateCount = { readonly state: SessionState; readonly count: number };

/** The calls of the registry. */
export interface RegistryCalls {
  /** Adds a session; adding it twice changes nothing. `ERR_LIMIT` if it runs and too many others run already. */
  add(info: SessionInfo): Promise<Answer<null>>;
  /** Reports that a session is over; false if the registry does not know it. */
  over(info: SessionInfo): Promise<boolean>;
  list(query: SessionQuery): Promise<SessionPage>;
  /** The number of sessions in each state, as far as the registry knows: it asks no session. */
  counts(): Promise<readonly StateCount[]>;
}

const CLASSES = {
  SOCKLET_SESSIONS: "SockletSession",
  SOCKLET_REGISTRY: "SockletRegistry",
  SOCKLET_POOLS: "SockletPool",
} as const;
type ObjectBinding = keyof typeof CLASSES;

/** The missing ones of these bindings, by default of those for sessions: a text for each, which says what to do. */
export const missingBindings = (
  env: SockletBindings,
  bindings: readonly ObjectBinding[] = ["SOCKLET_SESSIONS", "SOCKLET_REGISTRY"],
): string[] =>
  bindings
    .filter((name) => typeof (env[name] as { getByName?: unknown } | undefined)?.getByName !== "function")
    .map(
      (name) =>
        `this Worker has no binding ${name}: export ${CLASSES[name]} from its main module, and bind it in wrangler.toml`,
    );

const stub = <Calls>(
  env: SockletBindings,
  binding: "SOCKLET_SESSIONS" | "SOCKLET_REGISTRY",
  name: string,
): Calls => {
  const [missing] = missingBindings(env);
  if (missing !== undefined) throw new SocketError("ERR_APP", missing);
  return (env[binding] as DurableObjectNamespace).getByName(name) as unknown as Calls;
};

/**
 * The object of one session. Call this each time: a stub belongs to the request that made it, and stays broken once it
 * has failed.
 */
export const sessionOf = (env: SockletBindings, id: string): SessionCalls =>
  stub(env, "SOCKLET_SESSIONS", id);

/** The object that knows all sessions. */
export const registryOf = (env: SockletBindings): RegistryCalls => stub(env, "SOCKLET_REGISTRY", "registry");

/**
 * The texts that no record may show: those of all bindings that are text. A Worker cannot tell its secrets from its plain
 * variables, so the text of a variable is hidden, too.
 */
export const secretsOf = (env: SockletBindings): string[] =>
  Object.entries(env).flatMap(([name, value]) => {
    if (typeof value !== "string") return [];
    if (name !== "SOCKLET_TOKENS") return [value];
    return tokenEntries(value).flatMap(({ entry, token }) => [entry, token]); // by itself, with and without its scopes
  });
