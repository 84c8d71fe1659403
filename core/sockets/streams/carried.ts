/** Connections of this process whose bytes pass in another process, which reports them to their observers. */

import { type StreamSocket, tapStream } from "./stream-socket.ts";
import type { StreamTap } from "./tap.ts";

const carriers = new WeakMap<StreamSocket, (tap: StreamTap | null) => void>();

/** The bytes of `socket` pass in another process. `set` is called with the observer of the connection from now on, or `null`. To be called before there is one. */
export const carriedElsewhere = (socket: StreamSocket, set: (tap: StreamTap | null) => void): void =>
  void carriers.set(socket, set);

/** Whether the bytes of `socket` pass in another process. */
export const isCarried = (socket: StreamSocket): boolean => carriers.has(socket);

/** Lets `tap` observe the connection of `socket` from now on, in whichever process its bytes pass; `null` ends that. */
export const setTap = (socket: StreamSocket, tap: StreamTap | null): void => {
  const carrier = carriers.get(socket);
  if (carrier === undefined) tapStream(socket, tap);
  else carrier(tap);
};
