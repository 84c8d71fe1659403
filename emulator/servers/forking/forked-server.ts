/** A forking server, as its users and its children see it. */

import type { PoolInfo } from "../../../core/handlers/client.ts";
import type { ServerInfo } from "../../../core/serve/server.ts";
import type { ChildTls, PoolsAt } from "./channel/messages.ts";

/** The info of a forking server; `running` also counts the requests for which a child is being started. */
export interface ForkingInfo extends ServerInfo {
  /** Children that wait for a request. */
  readonly idle: number;
  /** Children that serve a request. */
  readonly busy: number;
  /** Children that are still importing their handler. */
  readonly starting: number;
  /** Children that were started to replace a lost one. */
  readonly restarted: number;
}

/** What `ForkingMixIn` adds to a server: see `ForkingOptions`. Each can be changed while it serves. */
export interface Forking {
  maxChildren: number;
  blockTimeout: number | null;
  childIdleTimeout: number | null;
  requestsPerChild: number | null;
  restartDelay: number;
  maxRestartDelay: number;
  execArgv: readonly string[];
  /** The infos of its children's pools, added up by name; while a request runs, they are up to a second old. */
  readonly childPools: readonly PoolInfo[];
  /** The addresses that its children's pools dial, if they differ from those in the app; `null`: they cannot be used yet. */
  poolsAt: PoolsAt | null;
  info(): ForkingInfo;
}

/** What the children need to know about their server. */
export interface ForkedServer extends Forking {
  readonly name: string;
  readonly context: unknown;
  readonly requestTimeout: number | null;
  readonly idleTimeout: number | null;
  readonly daemonThreads: boolean;
  /** How its children secure connections; `null`: not at all. */
  readonly childTls: ChildTls | null;
  shutdown(): unknown;
  abortRequest(request: unknown): void;
}
