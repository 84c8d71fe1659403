/** The sockets and listeners of `node:net`, as holders of a descriptor. */

import type net from "node:net";
import { SocketError } from "../../../core/errors.ts";
import type { Holder } from "../descriptors/kernel.ts";
import { descriptorOf } from "./handles.ts";

/** Resolves when Node has handed everything that was written to the kernel. */
export const drained = async (socket: net.Socket): Promise<void> => {
  // An empty write is called back after all that waits; 'drain' is emitted only if much waited.
  if (socket.writableLength > 0) await new Promise<void>((resolve) => socket.write("", () => resolve()));
};

/** One of Node's connections as a holder; `closedTo` if it is TLS. */
export const socketHolder = (socket: net.Socket, closedTo?: string): Holder => ({
  ...(closedTo !== undefined && { closedTo }),
  get fd() {
    return socket.destroyed ? null : descriptorOf(socket);
  },
  take(libc) {
    const inside = socket.readableLength + socket.writableLength;
    if (inside > 0) {
      throw new SocketError("EBUSY", `${inside} bytes are on their way in or out; detach() would lose them`);
    }
    const fd = libc.dup(descriptorOf(socket));
    socket.destroy(); // while another descriptor is open, the kernel sends no FIN
    return fd;
  },
  drained: () => drained(socket),
  onClose(told) {
    socket.once("close", told);
    return () => socket.removeListener("close", told);
  },
});

/** One of Node's listeners as a holder. */
export const serverHolder = (server: net.Server): Holder => ({
  get fd() {
    return server.listening ? descriptorOf(server) : null;
  },
  take(libc) {
    const fd = libc.dup(descriptorOf(server));
    server.close();
    return fd;
  },
});
