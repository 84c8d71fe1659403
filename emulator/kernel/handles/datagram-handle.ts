/** Datagrams directly through Node's handle of a UDP socket, bypassing the queue, the lookup and the events of `node:dgram`. */

import type { RemoteInfo, Socket } from "node:dgram";
import type { InternetAddress } from "../../../core/net/address.ts";
import type { Unsent } from "../../../core/sockets/datagram.ts";
import { runtime } from "../../runtime.ts";
import { hostOf, systemError } from "../addresses.ts";
import { type DatagramHandle, datagramHandleOf, sendRequest } from "./handles.ts";
import { intake } from "./intake.ts";

/**
 * Sends one datagram without waiting. The caller may reuse the bytes when it returns. Returns the kernel's error, `"full"` if
 * too many wait already, or `null` if the datagram was sent or will be.
 */
export type Post<To = InternetAddress> = (bytes: Uint8Array, to: To) => Error | "full" | null;

/** Called for a datagram that had to wait and then was not sent: `ECANCELED` if the socket was closed first. */
export type Late<To = InternetAddress> = (error: NodeJS.ErrnoException, size: number, to: To) => void;

/**
 * Calls `heard` for each datagram that the bound `socket` receives, in place of its event. Returns a function that sends from
 * it; `unsent` counts what has to wait. Returns `null`, and never calls `heard`, if this Node lacks what is needed.
 */
export const datagramHandle = (
  socket: Socket,
  heard: (message: Buffer, from: RemoteInfo) => void,
  unsent: Unsent,
  late: Late,
): Post | null => {
  const handle = datagramHandleOf(socket);
  const own = handle?.onmessage;
  if (!intake.on || typeof handle?.send !== "function" || typeof own !== "function") return null;
  const SendWrap = sendRequest();
  if (SendWrap === null) return null;
  handle.onmessage = function (size, from, message, sender) {
    if (size < 0) own.call(this, size, from, message, sender);
    else heard(message, sender);
  };
  let request = new SendWrap();
  let memory = new Uint8Array(0); // datagrams are copied here: one that has to wait must not change when its sender reuses the bytes
  let list: Uint8Array[] = [memory];
  return (bytes, to) => {
    const size = bytes.length;
    if (!unsent.fits(size)) return "full";
    if (memory.length < size) memory = new Uint8Array(size);
    memory.set(bytes);
    if (list[0]?.length !== size) list[0] = memory.subarray(0, size); // most datagrams have the same length as the one before
    const sent = request;
    const status = (handle as Required<DatagramHandle>).send(sent, list, 1, to.port, hostOf(to), true);
    if (status > 0) return null; // the kernel has it, so the request can be reused
    if (status < 0) return systemError(status);
    unsent.add(size);
    sent.list = list; // keeps it alive until it is sent
    sent.oncomplete = (status) => {
      unsent.remove(size);
      if (status < 0) late(systemError(status), size, to);
    };
    request = new SendWrap();
    memory = new Uint8Array(0);
    list = [memory];
    return null;
  };
};

/**
 * Sends one datagram through `node:dgram`; the peer `null` is that of a connected socket. On Bun a send may fail with the error of
 * an earlier datagram, without being sent itself (bun#36249), so it is repeated once.
 */
export const sendByNode = (
  socket: Socket,
  bytes: Uint8Array,
  to: InternetAddress | null,
  sent: (error: Error | null) => void,
): void => {
  if (to === null) {
    socket.send(bytes, sent);
    return;
  }
  const host = hostOf(to);
  const again = (error: Error | null): void => {
    if (error === null || error === undefined) sent(null);
    else {
      try {
        socket.send(bytes, to.port, host, sent);
      } catch {
        sent(error); // the socket is closed
      }
    }
  };
  socket.send(bytes, to.port, host, runtime === "Bun" ? again : sent);
};

/** The same through `node:dgram` itself; the peer `null` is that of a connected socket. Calls `late` for each datagram that was not sent. */
export const datagramPost = <To extends InternetAddress | null>(
  socket: Socket,
  unsent: Unsent,
  late: Late<To>,
): Post<To> => {
  return (bytes, to) => {
    const size = bytes.length;
    if (!unsent.fits(size)) return "full";
    let waits = false;
    const sent = (error: Error | null): void => {
      if (waits) unsent.remove(size);
      if (error) late(error, size, to);
    };
    sendByNode(socket, new Uint8Array(bytes), to, sent);
    waits = sendsWaiting(socket) > 0; // the kernel has taken what it could; datagrams behind a waiting one wait, too
    if (waits) unsent.add(size);
    return null;
  };
};

/** How many datagrams of `socket` wait for room in the kernel; 0 if the runtime does not say. */
export const sendsWaiting = (socket: Socket): number => socket.getSendQueueCount?.() ?? 0;
