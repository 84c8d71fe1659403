/** The sockets and listeners of `node:net` as holders of a descriptor. */

import type net from "node:net";
import { SocketError } from "../../core/errors.ts";
import type { Holder } from "./descriptors/kernel.ts";
import { descriptorOf } from "./handles.ts";

/** Resolves when Node has given all that was written to the kernel. */
export const drained = async (socket: net.Socket): Promise<void> => {
  // An empty piece behind what waits tells: 'drain' comes only where much waited.
  if (socket.writableLength > 0) await new Promise<void>((resolve) => socket.write("", () => resolve()));
};

/** The holder that a connection of Node's is; `closedTo` where it is TLS's. */
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
    socket.destroy(); // with a descriptor left the kernel sends no end
    return fd;
  },
  drained: () => drained(socket),
  onClose(told) {
    socket.once("close", told);
    return () => socket.removeListener("close", told);
  },
});

/** The holder that a listener of Node's is. */
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
