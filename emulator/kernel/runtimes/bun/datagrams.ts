/** Datagrams by the socket of Bun's under a `dgram.Socket`, past its queue, its look-up and its events. */

import type { RemoteInfo } from "node:dgram";
import { hostOf } from "../../addresses.ts";
import { datagramPost } from "../../handles/datagram-handle.ts";
import { bunDatagramHandle } from "../../handles/handles.ts";
import type { OwnSockets } from "../own-sockets.ts";
import type { BunDatagrams } from "./api.ts";

/**
 * The errors of datagrams that were sent, which routers and hosts report later. Bun asks the kernel for them (`IP_RECVERR`), also where
 * a socket is not connected; Node does not, and hears of none. bun#35922, bun#36249
 */
const ICMP: ReadonlySet<string> = new Set([
  ...["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN"],
  ...["ENOPROTOOPT", "EOPNOTSUPP", "EMSGSIZE", "EPROTO"],
]);

/** As `OwnSockets.datagrams`. What has to wait waits with `node:dgram`, and what is sent then waits behind it. */
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
        // The first may be that of an earlier datagram, for which the kernel did not send this one.
        if (!again) return error as Error;
      }
    }
  };
};
