/**
 * The secrets of TLS sessions, written to the file that `SSLKEYLOGFILE` names, as browsers and curl do: who captures by other means decrypts
 * by them (Wireshark, "(Pre)-Master-Secret log filename"). Asked for by the command alone: no library reads a variable that gives keys away.
 */

import type tls from "node:tls";
import { fs } from "../../builtin.ts";

let fd: number | null = null;

/** From now on, in the whole process: the secrets of each handshake are added to the file at `path`. Throws where it cannot be written. */
export const logKeysTo = (path: string): void => {
  fd = fs.openSync(path, "a", 0o600);
};

/** Notes the secrets of this connection, where that was asked for; before its handshake. */
export const logKeysOf = <Socket extends tls.TLSSocket>(socket: Socket): Socket => {
  if (fd === null) return socket;
  const to = fd;
  return socket.on("keylog", (line) => fs.writeSync(to, line));
};
