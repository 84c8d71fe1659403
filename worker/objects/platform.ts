/** What an app's `context()` is given in a Worker. */

import { SocketError } from "../../core/errors.ts";
import type { Platform } from "../../core/serve/app.ts";
import { boundStorage } from "./storage.ts";

export const platformOf = (bindings: Readonly<Record<string, unknown>>): Platform => ({
  name: "workerd",
  bindings,
  storage: boundStorage(bindings),
  pool: (name) => {
    const message = `pool("${name}"): a connection of one request cannot be used in another here; dial with a TCPConnector in each`;
    throw new SocketError("ERR_UNSUPPORTED", message);
  },
});
