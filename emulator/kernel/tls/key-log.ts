/**
 * Writes the secrets of TLS sessions to the file that `SSLKEYLOGFILE` names, as browsers and curl do, so that a capture can be decrypted
 * (Wireshark, "(Pre)-Master-Secret log filename"). Only the command turns it on: a library must not obey a variable that gives keys away.
 */

import type tls from "node:tls";
import { fs } from "../../builtin.ts";

let fd: number | null = null;

/** From now on, for the whole process, appends the secrets of each handshake to the file at `path`. Throws if it cannot be written. */
export const logKeysTo = (path: string): void => {
  fd = fs.openSync(path, "a", 0o600);
};

/** Logs the secrets of this connection, if that is on. Call it before the handshake. */
export const logKeysOf = <Socket extends tls.TLSSocket>(socket: Socket): Socket => {
  if (fd === null) return socket;
  const to = fd;
  return socket.on("keylog", (line) => fs.writeSync(to, line));
};
