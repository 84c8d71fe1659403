/** An app that is served, as its users see it: how it is served, and what can be done with it. */

import type { AsyncLocalStorage } from "node:async_hooks";
import type { App } from "../../core/app/app.ts";
import type { Serving as Serves } from "../../core/app/listener-options.ts";
import type { RecordingSink } from "../../core/control/recording/recorder.ts";
import type { LocalPlane } from "../../core/control/sessions/local.ts";
import type { OnEvent } from "../../core/handlers/events.ts";
import { EDGE_NAMES, type EdgeOptions } from "../../core/net/edge.ts";
import { checkCount, optionNamesOf } from "../../core/options.ts";
import type { ServerInfo } from "../../core/serve/server.ts";
import type { CertificateOptions } from "../../core/sockets/tls/tls.ts";
import type { ControlOptions, ControlServer } from "./control/control.ts";
import type { ListenDescriptor } from "./listeners/descriptors.ts";

export const DATA = ".socklet/data";

/** How to serve an app. */
export interface ServeOptions {
  /** Listen on this host instead of each listener's own. Entries of the app's `dial` that lead to its own listeners lead there, too. */
  readonly host?: string;
  /** Listen on ports that the system chooses instead of each listener's own. Listeners that share a port still do, and `dial` follows, as with `host`. */
  readonly anyPort?: boolean;
  /** The folder of the app's storage, and of lasting sessions (`keep`), which continue when an app is served with it again. Default `.socklet/data`. */
  readonly data?: string;
  /** The URL of the module that exports the app as `app`, for the children of forking listeners to import. Required if the app has one. */
  readonly module?: string;
  /** Use this certificate at every listener with TLS, instead of its own. */
  readonly certificate?: CertificateOptions | undefined;
  readonly onEvent?: OnEvent;
  /** How long `close()` lets running requests continue, in milliseconds. Default 10 000. */
  readonly drainTimeout?: number;
  /**
   * How long `close()` goes on accepting, in milliseconds, while `GET /v1/ready` already answers 503, so that a load balancer sends
   * its clients elsewhere before the listeners close. Make it at least as long as its checks take to notice. Default 0.
   */
  readonly drainDelay?: number;
  /**
   * Aborted while the listeners are opened, it opens no more. Where none is open yet, `serveApp()` rejects with its reason;
   * else those that are open serve the clients that have connected, until `close()`. Later it does nothing.
   */
  readonly signal?: AbortSignal;
  /**
   * Holds the listener's name as its store while a handler runs, and in everything that it starts, so that a callback for
   * `unhandledRejection` of `process` can say which listener it came from. Does not cover handlers in child processes. Default:
   * none, since it costs each request a little.
   */
  readonly handlerName?: AsyncLocalStorage<string> | undefined;
  /**
   * Whether a connection dialled in one request fails with `ERR_UNSUPPORTED` in another, as it does in a Worker; pools are exempt. It
   * costs each request a little, and applies to connections dialled outside all requests in the same process, too. Default `false`.
   */
  readonly guardConnections?: boolean;
  /**
   * Enforces the rules of Cloudflare's edge, which docs/edge.md lists: whatever breaks one fails with an error that names it, and is
   * reported as an `edge` event. In the children of a forking listener only `other-request` is enforced. Default: not enforced.
   */
  readonly edge?: EdgeOptions;
  /** Descriptors that are already bound or listening, from systemd or a previous program, for listeners to use instead of binding. Default: none. */
  readonly descriptors?: readonly ListenDescriptor[];
  /** 48 random bytes, from which each listener with TLS that has no `ticketKeys` derives its own: apps served with the same bytes resume each other's sessions. Default: new ones for each listener at each start. */
  readonly ticketKeys?: Uint8Array | undefined;
  /** Serve the control routes, too, and show each connection there as a session. Default: neither. */
  readonly control?: ControlOptions;
}

const CONTROL_NAMES = optionNamesOf<ControlOptions>("serveApp()'s control")({
  port: true,
  host: "string",
  tokens: "string",
  inspect: "boolean",
  fd: true,
});

/** Throws `TypeError` or `RangeError` if the port or the descriptor of the control routes is none. */
export const checkControl = ({ port = 0, fd = 0 }: ControlOptions): void => {
  checkCount("control.fd", fd, 0);
  if (checkCount("control.port", port, 0) > 65_535)
    throw new RangeError(`control.port must be 0 to 65535, not ${port}`);
};

export const REPLACE_NAMES = optionNamesOf<{ readonly module?: string }>()({ module: "string" });

export const SERVE_NAMES = optionNamesOf<ServeOptions>("serveApp()")({
  host: "string",
  anyPort: "boolean",
  data: "string",
  module: "string",
  certificate: true,
  onEvent: "function",
  drainTimeout: true,
  drainDelay: true,
  signal: "signal",
  handlerName: true,
  guardConnections: "boolean",
  edge: EDGE_NAMES,
  descriptors: "list",
  ticketKeys: true,
  control: CONTROL_NAMES,
});

/** One open listener. */
export interface Serving {
  readonly name: string;
  /** `tcp://127.0.0.1:7007`, `unix:/run/name`. */
  readonly url: string;
  /** How it takes its requests. */
  readonly serve: Serves;
  /** The command to try it with, filled in. */
  readonly try: string | undefined;
  /** The info of its server; if it forks, including its children (`ForkingInfo`). */
  info(): ServerInfo;
}

/** What `replace()` did to the listeners, by their URLs. */
export interface Replaced {
  readonly opened: readonly string[];
  readonly closed: readonly string[];
  /** Closed and opened again, because their options or the name of their handler changed. */
  readonly reopened: readonly string[];
}

/** A served app. */
export interface AppServer extends AsyncDisposable {
  readonly listeners: readonly Serving[];
  /** Where the control routes are served; `null` if they were not asked for. */
  readonly control: ControlServer | null;
  /** Stops being ready. After `drainDelay` it stops accepting, ends the dialled sessions, drains, and closes everything, the control routes last. */
  close(): Promise<void>;
  /**
   * Like `close()`, when another process listens on the same descriptors: stops accepting, serves everything that has come, and
   * ends what is not over within `drainTimeout`. `released` is called when lasting sessions are stored and another process may
   * continue them.
   */
  handOver(released?: () => void): Promise<void>;
  /** The descriptors that it listens on, for the `descriptors` option of another process; that of the control routes is named `control`. */
  descriptors(): readonly ListenDescriptor[];
  /** Reads the files of all certificates again, as a listener also does by itself when they change; returns how many listeners have TLS. Errors are reported as `certificate`. */
  reload(): number;
  /**
   * Serves another version of the app from now on: new connections get its handlers, and what its `context()` makes; those
   * that run go on with theirs. A listener that both versions have, with the same options, is not touched. One that the new
   * version adds is opened, one that it drops accepts no more; one whose options changed is closed and opened again.
   * `module` is where the children of a forking listener find the new version. Rejects as `serveApp()`, and then the former
   * version goes on. Calls one after the other: a call waits for the one before.
   */
  replace(app: App, options?: { readonly module?: string }): Promise<Replaced>;
  /** Ends running requests at once, and the `drainDelay` of a close. */
  abort(): void;
}

/** Options for a process of a cluster, or for one that takes over from another. */
export interface Hosting {
  /** Has a control plane, but no routes. */
  readonly plane?: { readonly secrets: readonly string[] };
  /** Whether lasting sessions are stored and continued. Default `true`. */
  readonly keeps?: boolean;
  /** Resolves when the process that has them now releases them. Default: no other process has them. */
  readonly after?: Promise<void>;
  /** The listeners of the descriptors, by their position in the app's list, if known. */
  readonly places?: readonly number[];
  /** Receives everything that passes over the app's connections, from the first one on. Needs `control`. */
  readonly sink?: RecordingSink | undefined;
  /** Called with descriptors that no listener is for. Default: they are an error. */
  readonly spare?: (descriptor: ListenDescriptor) => void;
}

/** A served app, and its control plane. */
export interface Opened extends AppServer {
  readonly plane: LocalPlane | null;
  /** How many of its listeners have TLS. */
  readonly secured: number;
}
