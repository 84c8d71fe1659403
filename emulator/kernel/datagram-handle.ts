/** Datagrams by Node's handle of a UDP socket, past the queue, the look-up and the events of `node:dgram`. */

import type { RemoteInfo, Socket } from "node:dgram";
import { systemError } from "./addresses.ts";
import { type DatagramHandle, datagramHandleOf, sendRequest } from "./handles.ts";
import { intake } from "./intake.ts";

/**
 * Calls `heard` for each datagram that `socket`, which is bound, receives, without its event. Returns a function that sends
 * one from it to an address without waiting, and returns the kernel's error, if any. Returns `null`, and never calls
 * `heard`, where this Node lacks what that needs.
 */
export const datagramHandle = (
  socket: Socket,
  heard: (message: Buffer, from: RemoteInfo) => void,
): ((bytes: Uint8Array, port: number, address: string) => Error | null) | null => {
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
  let list: Uint8Array[] = [];
  return (bytes, port, address) => {
    list[0] = bytes;
    const status = (handle as Required<DatagramHandle>).send(request, list, 1, port, address, false);
    if (status > 0) return null; // the kernel has it, and the request can be used again
    if (status < 0) return systemError(status);
    request.list = list; // until it is sent
    request = new SendWrap();
    list = [];
    return null;
  };
};
