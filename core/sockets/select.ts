/** Waiting for several sockets at once: `select()` and `poll()`, as CPython's `select` module has them. */

import { deadline } from "../bytes/alarm.ts";
import { SocketError } from "../errors.ts";
import { POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI } from "../net/constants.ts";
import { checkTime } from "../options.ts";

/** What `select()` and `poll()` wait on: every socket of this library. */
export interface Selectable {
  /** The `POLL…` bits of `mask` that hold now, and `POLLERR`, `POLLHUP` and `POLLNVAL` if they do. */
  readiness(mask: number): number;
  /** Calls `told` when `readiness(mask)` may have changed, and makes that happen (a read must begin before it can end). Returns a function that stops it. */
  onReadiness(mask: number, told: () => void): () => void;
}

type Watched<T> = readonly [selectable: T, mask: number];

/** Returns `selectable` if it is one. Throws `TypeError` if not, for example for a descriptor, which CPython accepts. */
const checkSelectable = <T extends Selectable>(selectable: T, call: string): T => {
  if (typeof selectable?.readiness === "function") return selectable;
  throw new TypeError(`${call} takes sockets, as socket() gives them, not ${String(selectable)}`);
};

/**
 * Waits until one of `watched` is ready, at most `timeout` ms, and returns all that are, with their bits. Nothing is read before a call
 * asks for it. So if some are ready and others are not yet known to be, the platform gets its turn: otherwise a loop that also asks for
 * room to write would be answered at once each time, and would never see that bytes have arrived.
 */
const ready = async <T extends Selectable>(
  watched: readonly Watched<T>[],
  timeout: number | null,
): Promise<[T, number][]> => {
  const holds = (): [T, number][] =>
    watched.flatMap(([selectable, mask]): [T, number][] => {
      const bits = selectable.readiness(mask);
      return bits === 0 ? [] : [[selectable, bits]];
    });
  const now = holds();
  const whole = watched.every(([selectable, mask]) => (selectable.readiness(mask) & mask) === mask);
  if (now.length > 0 && whole) return now;
  const stops: (() => void)[] = [];
  try {
    return await new Promise((resolve, reject) => {
      const look = (): void => {
        try {
          const found = holds();
          if (found.length > 0) resolve(found);
        } catch (error) {
          reject(error);
        }
      };
      const within = now.length > 0 ? 0 : timeout;
      if (within !== null) stops.push(deadline(within, () => resolve(holds())));
      for (const [selectable, mask] of watched) stops.push(selectable.onReadiness(mask, look));
      if (now.length === 0) look(); // what became ready meanwhile
    });
  } finally {
    for (const stop of stops) stop();
  }
};

/**
 * Waits until one of the sockets can be read from, can be written to, or has urgent data. Resolves to the ready ones of each list, in
 * the order given; the lists are empty if `timeout` ms have passed (`null`: no limit; 0: it only polls). A listener can be read from
 * when a connection waits for `accept()`.
 *
 * The end of a stream and an error count as something to read. Rejects with `EBADF` for a closed socket, with
 * `TypeError` for what is not a socket, and with `ERR_UNSUPPORTED` for the third list in a place without urgent data (all but Node with `koffi`).
 * CPython's `select.select`, in milliseconds.
 */
export const select = async <
  R extends Selectable = never,
  W extends Selectable = never,
  E extends Selectable = never,
>(
  read: Iterable<R>,
  write: Iterable<W>,
  except: Iterable<E>,
  timeout: number | null = null,
): Promise<[R[], W[], E[]]> => {
  checkTime("a timeout", timeout, 0, true);
  const lists = [[...read], [...write], [...except]] as const;
  const masks = new Map<Selectable, number>();
  for (const [i, list] of lists.entries()) {
    const mask = [POLLIN, POLLOUT, POLLPRI][i] as number;
    for (const one of list) {
      const selectable = checkSelectable(one, "select()");
      masks.set(selectable, (masks.get(selectable) ?? 0) | mask);
    }
  }
  const found = new Map(await ready([...masks], timeout));
  const bitsOf = (selectable: Selectable): number => {
    const bits = found.get(selectable) ?? 0;
    if (bits & POLLNVAL) throw new SocketError("EBADF", "select() was given a closed socket");
    return bits;
  };
  return [
    lists[0].filter((one) => bitsOf(one) & (POLLIN | POLLHUP | POLLERR)),
    lists[1].filter((one) => bitsOf(one) & (POLLOUT | POLLERR)),
    lists[2].filter((one) => bitsOf(one) & POLLPRI),
  ];
};

/** CPython's polling object: sockets, each with the events that it is watched for. */
export class Poll<T extends Selectable = Selectable> {
  readonly #masks = new Map<T, number>();

  /** Watches `selectable` for these events from now on (CPython's default includes `POLLPRI`, which most places do not have). Throws `TypeError` if it is not a socket, `RangeError` if the mask is not of `POLLIN`, `POLLPRI`, `POLLOUT`. */
  register(selectable: T, eventmask: number = POLLIN | POLLOUT): void {
    this.#masks.set(checkSelectable(selectable, "register()"), checkMask(eventmask));
  }

  /** As `register()`, for a socket that is watched already. Throws `ENOENT` if it is not. */
  modify(selectable: T, eventmask: number): void {
    this.#mustBeWatched(selectable);
    this.register(selectable, eventmask);
  }

  /** Stops watching it. Throws `ENOENT` if it is not watched. */
  unregister(selectable: T): void {
    this.#mustBeWatched(selectable);
    this.#masks.delete(selectable);
  }

  /**
   * Waits until something is ready, at most `timeout` ms (`null`: no limit). Resolves to each ready socket with its events: of those
   * asked for, and `POLLERR`, `POLLHUP`, `POLLNVAL` (closed). CPython returns descriptors instead of sockets.
   */
  poll(timeout: number | null = null): Promise<[socket: T, events: number][]> {
    checkTime("a timeout", timeout, 0, true);
    return ready([...this.#masks], timeout);
  }

  #mustBeWatched(selectable: T): void {
    if (!this.#masks.has(selectable))
      throw new SocketError("ENOENT", "poll(): that socket is not registered");
  }
}

/** A new, empty `Poll`. CPython's `select.poll()`. */
export const poll = <T extends Selectable = Selectable>(): Poll<T> => new Poll<T>();

const checkMask = (mask: number): number => {
  if (Number.isInteger(mask) && (mask & ~(POLLIN | POLLPRI | POLLOUT)) === 0) return mask;
  throw new RangeError(`an event mask is made of POLLIN, POLLPRI and POLLOUT, not ${mask}`);
};
