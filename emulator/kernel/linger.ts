/**
 * What the kernel still holds of what was written, and how long a closed connection lingers because of it.
 *
 * A kernel that closes a socket with unread input, or that receives more after the close, answers with a reset, and drops
 * what it still had to send (RFC 1122 4.2.2.13). So a closed connection goes on taking what its peer sends, and drops it,
 * until the peer's end. A peer that sends none is waited for only as long as there is something to lose.
 */

import type { Address } from "../../core/net/address.ts";
import { fs } from "../builtin.ts";
import { inodeOf } from "./descriptors/adopted.ts";

const LINGER = 2_000; // ms from one look to the next, and from the close to the first (nginx's lingering_timeout: 5 s a read)
const STALLED = 5; // looks in a row that saw nothing acknowledged
const UNKNOWN = 15; // looks in all where the platform does not tell what the kernel holds (nginx's lingering_time: 30 s)
const MOST = 60; // looks in all where it does: 4 MB, the most that a kernel buffers unasked, at 35 KB/s

// ---- What the kernel holds ----

const SHARE = 20; // of the time that it took to read a table of sockets, so many times it may be used again: reading it costs 5 % of the time at most
const OLDEST = 1_000; // ms that it may be used at most: the first look of a linger must not find one from before the close

/** What Linux tells of all sockets of one family: the bytes in their send buffers, by inode. */
class Table {
  readonly #path: string;
  #queues: ReadonlyMap<string, number> | null = new Map();
  #from = 0; // it holds from then,
  #until = 0; // and is read anew then

  constructor(path: string) {
    this.#path = path;
  }

  get(inode: string): number | null {
    const now = performance.now();
    const holds = now >= this.#from && now < this.#until; // a test may put another clock in its place
    if (!holds && this.#queues !== null) {
      this.#queues = this.#read();
      this.#from = now;
      this.#until = performance.now() + Math.min((performance.now() - now) * SHARE, OLDEST);
    }
    return this.#queues?.get(inode) ?? null;
  }

  #read(): Map<string, number> | null {
    let text: string;
    try {
      text = fs.readFileSync(this.#path, "latin1");
    } catch {
      return null; // no Linux, or it may not be read: so it stays
    }
    const queues = new Map<string, number>();
    for (const line of text.split("\n")) {
      // sl, local, remote, state, tx_queue:rx_queue, timer, retransmits, uid, timeout, inode (proc_pid_net(5))
      const fields = line.trim().split(/ +/, 10);
      const queue = Number.parseInt(fields[4] ?? "", 16);
      if (queue >= 0) queues.set(fields[9] as string, queue);
    }
    return queues;
  }
}

const TABLES = { IPv4: new Table("/proc/net/tcp"), IPv6: new Table("/proc/net/tcp6") };

/**
 * How many bytes of what was written a TCP socket's kernel holds, since the peer's has not acknowledged them; `null` where
 * that cannot be known (elsewhere than on Linux). On a Unix socket the peer has what has left: 0.
 */
export const unacknowledged = (fd: number, remote: Address | null): number | null => {
  if (remote === null || remote.family === "unix") return 0;
  try {
    const inode = inodeOf(fd);
    return inode === null ? null : TABLES[remote.family].get(inode);
  } catch {
    return null;
  }
};

// ---- The linger ----

/** A closed connection that goes on taking what its peer sends. */
export interface Lingering {
  /** As a transport's. */
  unacknowledged(): number | null;
  /** How many pieces of input were dropped so far. */
  readonly dropped: number;
}

/**
 * Calls `over` when a closed connection need not linger any more, though its peer has not ended: when all has been
 * acknowledged, or the peer takes none. Gives what stops that. It keeps no process alive.
 */
export const linger = (connection: Lingering, over: () => void): (() => void) => {
  let looks = 0;
  let quiet = 0; // looks in a row that saw nothing acknowledged
  let least = Number.POSITIVE_INFINITY;
  let dropped = connection.dropped;
  const isOver = (): boolean => {
    looks++;
    const inside = connection.unacknowledged();
    if (inside === null) {
      // A close does harm only where the peer still sends.
      const silent = dropped === connection.dropped;
      dropped = connection.dropped;
      return silent || looks >= UNKNOWN;
    }
    quiet = inside < least ? 0 : quiet + 1;
    least = inside;
    return inside === 0 || quiet >= STALLED || looks >= MOST;
  };
  const look = (): void => {
    if (isOver()) over();
    else wait();
  };
  let timer: ReturnType<typeof setTimeout>;
  const wait = (): void => {
    timer = setTimeout(look, LINGER);
    timer.unref();
  };
  wait();
  return () => clearTimeout(timer);
};
