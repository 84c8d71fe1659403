/** Datagrams directly through the Bun socket under a `dgram.Socket`, bypassing its queue, its lookup and its events. */

import type { RemoteInfo } from "node:dgram";
import { hostOf } from "../../addresses.ts";
import { datagramPost } from "../../handles/datagram-handle.ts";
import { bunDatagramHandle } from "../../handles/handles.ts";
import type { OwnSockets } from "../own-sockets.ts";
import type { BunDatagrams } from "./api.ts";

/**
 * Errors of sent datagrams, which routers and hosts report later. Bun asks the kernel for them (`IP_RECVERR`) even on unconnected
 * sockets; Node does not, and sees none. bun#35922, bun#36249
 */
const ICMP: ReadonlySet<string> = new Set([
  ...["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN"],
  ...["ENOPROTOOPT", "EOPNOTSUPP", "EMSGSIZE", "EPROTO"],
]);

/** Implements `OwnSockets.datagrams`. A datagram that has to wait does so in `node:dgram`, and later ones wait behind it. */
export const datagramsOf: NonNullable<OwnSockets["datagrams"]> = (socket, heard, unsent, late) => {
  const handle = bunDatagramHandle<BunDatagrams>(socket, ["reload", "send"]);
  if (handle === null) return null;
  const own = handle.socket;
  own.reload({
    socket: {
      data(_, message, port, address, flags) {
        const from: RemoteInfo = {
          address,
          port,
          family: flags?.ipv6 === true ? "IPv6" : "IPv4",
          size: message.length,
        };
        heard(message, from);
      },
      drain: () => handle.drain(),
      error(error) {
        const late = error.errqueue === true || (error.syscall === "recv" && ICMP.has(error.code ?? ""));
        if (!late) socket.emit("error", error);
      },
    },
  });
  const wait = datagramPost(socket, unsent, late);
  return (bytes, to) => {
    if (handle.queueCount > 0) return wait(bytes, to);
    for (let again = true; ; again = false) {
      try {
        return own.send(bytes, to.port, hostOf(to)) ? null : wait(bytes, to);
      } catch (error) {
        // The first error may be that of an earlier datagram; the kernel then did not send this one.
        if (!again) return error as Error;
      }
    }
  };
};
