/// <reference types="@cloudflare/workers-types" />
/** What a Worker is bound to, and how its Durable Objects are asked. */

import type { MaybePromise } from "../../core/bytes/data.ts";
import { tokenEntries } from "../../core/control/auth.ts";
import type {
  ErrorInfo,
  SessionInfo,
  SessionPage,
  SessionQuery,
  SessionSpec,
} from "../../core/control/plane.ts";
import { describe } from "../../core/describe.ts";
import { errorInfo, SocketError } from "../../core/errors.ts";

/** The bindings that a Worker of Socklet's uses; `wrangler.toml` and the secrets make them. */
export interface SockletBindings {
  /** The namespace of the class `SockletSession`. */
  readonly SOCKLET_SESSIONS?: unknown;
  /** The namespace of the class `SockletRegistry`. */
  readonly SOCKLET_REGISTRY?: unknown;
  /** The secret with the tokens of the control routes. */
  readonly SOCKLET_TOKENS?: unknown;
}

/**
 * What a call of an object gives. An error that crosses the border between objects keeps its message and loses
 * its code, so it crosses as a value.
 */
export type Answer<T> =
  | { readonly value: T }
  | { readonly error: ErrorInfo & { readonly address: string | undefined } };

/** Runs what an object was asked. */
export const answer = async <T>(work: () => MaybePromise<T>): Promise<Answer<T>> => {
  try {
    return { value: await work() };
  } catch (thrown) {
    const { address } = describe(thrown);
    return { error: { ...errorInfo(thrown, "ERR_INTERNAL"), address } };
  }
};

/** What an object's answer says, thrown where it is an error. */
export const settled = <T>(given: Answer<T>): T => {
  if ("value" in given) return given.value;
  const { code, message, address } = given.error;
  throw new SocketError(code, message.replace(`${code}: `, ""), { address });
};

const ATTEMPTS = 4; // in all; the runtime repeats by itself what never reached an object (Cloudflare's "Automatic retries")
const PAUSE = 50; // ms before the second attempt, half as many again at most; four times as many before each that follows

/**
 * Asks an object, and again where that fails: it was moved, its code was replaced, or it was lost while it
 * answered. Only for what may be asked twice. Rejects with `ERR_PLATFORM`, where the object cannot be reached.
 */
export const again = async <T>(ask: () => Promise<T>, whom: string): Promise<T> => {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask();
    } catch (error) {
      if (error instanceof SocketError) throw error; // ours, of this side: it was not asked at all
      // One that has too much to do gets no more of it.
      if (attempt === ATTEMPTS || (error as { overloaded?: unknown } | null)?.overloaded === true) {
        throw new SocketError("ERR_PLATFORM", `${whom} cannot be reached; ask again`, { cause: error });
      }
      await new Promise((resolve) =>
        setTimeout(resolve, (1 + Math.random() / 2) * PAUSE * 4 ** (attempt - 1)),
      );
    }
  }
};

/** What a session's object can be asked; `null` where it keeps no session. */
export interface SessionCalls {
  start(id: string, spec: SessionSpec): Promise<Answer<SessionInfo>>;
  info(): Promise<SessionInfo | null>;
  wait(ms: number): Promise<SessionInfo | null>;
  /** As server-sent events: streams of bytes cross the border, iterables do not. */
  events(after: number): Promise<ReadableStream<Uint8Array> | null>;
  send(bytes: Uint8Array): Promise<Answer<SessionInfo | null>>;
  halfClose(): Promise<Answer<SessionInfo | null>>;
  end(): Promise<SessionInfo | null>;
  /** Deletes all that it keeps; false where the session is not over. */
  forget(): Promise<boolean>;
}

/** What the registry can be asked. */
export interface RegistryCalls {
  /** There is a session. `ERR_LIMIT` where this one runs and too many others do. Asked twice, it is there once. */
  add(info: SessionInfo): Promise<Answer<null>>;
  /** A session is over; false where the registry does not know it. */
  over(info: SessionInfo): Promise<boolean>;
  list(query: SessionQuery): Promise<SessionPage>;
}

const CLASSES = { SOCKLET_SESSIONS: "SockletSession", SOCKLET_REGISTRY: "SockletRegistry" } as const;

/** What is missing of the bindings that sessions need, one text each, with what to do. */
export const missingBindings = (env: SockletBindings): string[] =>
  Object.entries(CLASSES).flatMap(([name, className]) =>
    typeof (env[name as keyof typeof CLASSES] as { getByName?: unknown } | undefined)?.getByName ===
    "function"
      ? []
      : [
          `this Worker has no binding ${name}: export ${className} from its main module, and bind it in wrangler.toml`,
        ],
  );

const stub = <Calls>(env: SockletBindings, binding: keyof typeof CLASSES, name: string): Calls => {
  const [missing] = missingBindings(env);
  if (missing !== undefined) throw new SocketError("ERR_APP", missing);
  return (env[binding] as DurableObjectNamespace).getByName(name) as unknown as Calls;
};

/**
 * The object of one session. Asked for anew each time: a stub belongs to the request that made it, and one that
 * failed once stays broken.
 */
export const sessionOf = (env: SockletBindings, id: string): SessionCalls =>
  stub(env, "SOCKLET_SESSIONS", id);

/** The one object that knows all sessions. */
export const registryOf = (env: SockletBindings): RegistryCalls => stub(env, "SOCKLET_REGISTRY", "registry");

/**
 * What no record may show: the text of every binding that has one. A Worker cannot tell its secrets from its
 * plain variables, so a variable's text is hidden, too.
 */
export const secretsOf = (env: SockletBindings): string[] =>
  Object.entries(env).flatMap(([name, value]) => {
    if (typeof value !== "string") return [];
    if (name !== "SOCKLET_TOKENS") return [value];
    return tokenEntries(value).flatMap(({ entry, token }) => [entry, token]); // by itself, with and without its scopes
  });
