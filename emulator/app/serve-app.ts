/** `serveApp()`: loads what serves an app when one is served, so that a program with servers alone starts without it. */

import type { App } from "../../core/app/app.ts";
import type { AppServer, ServeOptions } from "./app-server.ts";

/**
 * Opens all listeners of `app`, and serves. If one cannot be opened, it closes those before it and rejects with the reason:
 * `EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL` or `ERR_NAME`. It also rejects with `ERR_APP` if `app` is not an app; with the reason of
 * `signal` if that aborts before one is open; with `EINVAL` if a token of the control routes is malformed, or a descriptor is for
 * no listener; and with `TypeError` if the control routes' host is not loopback.
 */
export const serveApp = async <Context>(app: App<Context>, options: ServeOptions = {}): Promise<AppServer> =>
  (await import("./serve.ts")).openApp(app, options);
