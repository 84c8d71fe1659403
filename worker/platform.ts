/// <reference types="@cloudflare/workers-types" />
/**
 * The platform's types, as far as the declarations of `socklet/worker` need them. Those declarations name nothing of
 * `@cloudflare/workers-types`, whose globals clash with Node's, so a project for Node can import them, too.
 */

import { DurableObject, RpcTarget } from "cloudflare:workers";

/** The platform's `Socket`, dialled or accepted. */
export interface PlatformSocket {
  readonly readable: ReadableStream;
  readonly writable: WritableStream;
  readonly opened: Promise<{ readonly remoteAddress?: string; readonly localAddress?: string }>;
  readonly closed: Promise<void>;
  close(): Promise<void>;
}

/** An `ExecutionContext`, which keeps a Worker running after its answer. */
export interface PlatformContext {
  waitUntil(promise: Promise<unknown>): void;
}

/** A `DurableObjectState`. */
export interface PlatformState {
  readonly storage: PlatformStorage;
  waitUntil(promise: Promise<unknown>): void;
  blockConcurrencyWhile<Result>(run: () => Promise<Result>): Promise<Result>;
  /** Ends the object, and loses what it holds in memory. */
  abort(reason?: string): void;
}

/** A `DurableObjectStorage`. */
interface PlatformStorage {
  readonly sql: PlatformSql;
  transactionSync<Result>(run: () => Result): Result;
  getAlarm(): Promise<number | null>;
  setAlarm(at: number): Promise<void>;
  deleteAlarm(): Promise<void>;
  deleteAll(): Promise<void>;
  /** Resolves when all that was written is kept. */
  sync(): Promise<void>;
}

/** A `SqlStorage`. */
export interface PlatformSql {
  exec<Row extends Record<string, ArrayBuffer | string | number | null>>(
    query: string,
    // biome-ignore lint/suspicious/noExplicitAny: as the platform declares it
    ...bindings: any[]
  ): { toArray(): Row[]; one(): Row };
}

/** The declaration of `DurableObject`; the platform's types recognise one by the brand. */
declare class DeclaredObject<Env> {
  readonly __DURABLE_OBJECT_BRAND: never;
  protected ctx: PlatformState;
  protected env: Env;
  constructor(state: PlatformState, env: Env);
  fetch?(request: Request): Response | Promise<Response>;
  alarm?(): void | Promise<void>;
}

/** The platform's own class. */
export const PlatformObject: typeof DeclaredObject = DurableObject as never;

/** The declaration of `RpcTarget`. */
declare class DeclaredTarget {
  readonly __RPC_TARGET_BRAND: never;
}

/** The platform's own class: what is given to a caller as a stub, and not as a copy. */
export const PlatformTarget: typeof DeclaredTarget = RpcTarget as never;
