/**
 * How much of the output the kernel still holds, and how long a closed connection lingers because of it.
 *
 * A kernel that closes a socket with unread input, or receives more after the close, answers with a reset and drops what it
 * still had to send (RFC 1122 4.2.2.13). So a closed connection keeps reading and discarding what its peer sends until the
 * peer ends. If the peer does not end, it waits only as long as there is output to lose.
 */

import { deadline } from "../../../core/bytes/alarm.ts";
import { type Address, type InternetAddress, packAddress } from "../../../core/net/address.ts";
import { fs } from "../../builtin.ts";
import { inodeOf } from "../descriptors/adopted.ts";

const LINGER = 2_000; // ms between two checks, and from the close to the first (nginx's lingering_timeout: 5 s a read)
const STALLED = 5; // checks in a row without progress in what is acknowledged
const UNKNOWN = 15; // checks in all if the platform does not say what the kernel holds (nginx's lingering_time: 30 s)
const MOST = 60; // checks in all if it does: 4 MB, the most that a kernel buffers by default, at 35 KB/s

// ---- What the kernel holds ----

const SHARE = 20; // a table of sockets is reused for this many times as long as reading it took, so reading takes at most 5 % of the time
const OLDEST = 1_000; // ms that a table is reused at most: the first check of a linger must not see one from before the close

type Row = readonly (string | undefined)[];

/** The bytes in the send buffers of all sockets of one family, as Linux reports them, by `key`. */
class Table {
  readonly #path: string;
  readonly #key: (row: Row) => string;
  #queues: ReadonlyMap<string, number> | null = new Map();
  #from = 0; // ms, by performance.now(): it is valid from then,
  #until = 0; // and is read again then

  constructor(path: string, key: (row: Row) => string) {
    this.#path = path;
    this.#key = key;
  }

  get(key: string): number | null {
    const now = performance.now();
    const holds = now >= this.#from && now < this.#until; // a test may put another clock in its place
    if (!holds && this.#queues !== null) {
      this.#queues = this.#read();
      this.#from = now;
      this.#until = performance.now() + Math.min((performance.now() - now) * SHARE, OLDEST);
    }
    return this.#queues?.get(key) ?? null;
  }

  #read(): Map<string, number> | null {
    let text: string;
    try {
      text = fs.readFileSync(this.#path, "latin1");
    } catch {
      return null; // not Linux, or not readable; it is not tried again
    }
    const queues = new Map<string, number>();
    for (const line of text.split("\n")) {
      // sl, local, remote, state, tx_queue:rx_queue, timer, retransmits, uid, timeout, inode (proc_pid_net(5))
      const fields = line.trim().split(/ +/, 10);
      const queue = Number.parseInt(fields[4] ?? "", 16);
      if (queue >= 0) queues.set(this.#key(fields), queue);
    }
    return queues;
  }
}

const PATHS = { IPv4: "/proc/net/tcp", IPv6: "/proc/net/tcp6" } as const;
const tablesBy = (key: (row: Row) => string) => ({
  IPv4: new Table(PATHS.IPv4, key),
  IPv6: new Table(PATHS.IPv6, key),
});

const BY_INODE = tablesBy((row) => row[9] as string);
const BY_ADDRESSES = tablesBy((row) => `${row[1]} ${row[2]}`);

/** An address as these tables print it on a little-endian machine: each four bytes as one number. */
const inTable = ({ hostname, port }: InternetAddress): string => {
  const bytes = packAddress(hostname) ?? new Uint8Array(0);
  let hex = "";
  for (let at = 0; at < bytes.length; at += 4) hex += toHex(bytes.slice(at, at + 4).reverse());
  return `${hex}:${toHex(Uint8Array.of(port >> 8, port & 255))}`;
};

const toHex = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"))
    .join("")
    .toUpperCase();

/**
 * How many bytes of a TCP socket's output the kernel holds because the peer has not acknowledged them; `null` if that is not
 * known (not on Linux). 0 for a Unix socket: what has left has arrived. Without a descriptor the socket is found by its addresses.
 */
export const unacknowledged = (
  fd: number,
  remote: Address | null,
  local?: () => Address | null,
): number | null => {
  if (remote === null || remote.family === "unix") return 0;
  try {
    if (fd >= 0) {
      const inode = inodeOf(fd);
      return inode === null ? null : BY_INODE[remote.family].get(inode);
    }
    const near = local?.() ?? null;
    if (near === null || near.family === "unix") return null;
    return BY_ADDRESSES[remote.family].get(`${inTable(near)} ${inTable(remote)}`);
  } catch {
    return null;
  }
};

// ---- The linger ----

/** A closed connection that continues to read what its peer sends. */
export interface Lingering {
  /** As in a transport. */
  unacknowledged(): number | null;
  /** How many pieces of input were dropped so far. */
  readonly dropped: number;
}

/**
 * Calls `over` when a closed connection no longer needs to linger although its peer has not ended: when everything is
 * acknowledged, or the peer takes nothing more. Returns a function that stops it. It keeps no process alive.
 */
export const linger = (connection: Lingering, over: () => void): (() => void) => {
  let looks = 0;
  let quiet = 0; // checks in a row without anything acknowledged
  let least = Number.POSITIVE_INFINITY;
  let dropped = connection.dropped;
  const isOver = (): boolean => {
    looks++;
    const inside = connection.unacknowledged();
    if (inside === null) {
      // A close does harm only while the peer still sends.
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
  let stopTimer: () => void;
  const wait = (): void => {
    stopTimer = deadline(LINGER, look, { daemon: true });
  };
  wait();
  return () => stopTimer();
};
