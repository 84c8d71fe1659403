/** Adds up the infos of one pool's parts, which may live in several processes or Durable Objects. */

import type { PoolInfo } from "../handlers/client.ts";

/** The sum of two infos. */
export const sumOf = (one: PoolInfo, other: PoolInfo): PoolInfo => ({
  ...one,
  max: one.max + other.max,
  connections: one.connections + other.connections,
  opening: one.opening + other.opening,
  idle: one.idle + other.idle,
  leased: one.leased + other.leased,
  running: one.running + other.running,
  waiting: one.waiting + other.waiting,
  answered: one.answered + other.answered,
  lost: one.lost + other.lost,
  abandoned: one.abandoned + other.abandoned,
  opened: one.opened + other.opened,
  failed: one.failed + other.failed,
  error: one.error ?? other.error,
});

/** One info for each name: the sum of those with that name. */
export const byName = (infos: Iterable<PoolInfo>): PoolInfo[] => {
  const sums = new Map<string, PoolInfo>();
  for (const info of infos) {
    const before = sums.get(info.name);
    sums.set(info.name, before === undefined ? info : sumOf(before, info));
  }
  return [...sums.values()];
};

/** The current counts of a pool without connections and without callers. */
export const NOTHING_NOW = {
  connections: 0,
  opening: 0,
  idle: 0,
  leased: 0,
  running: 0,
  waiting: 0,
  error: null,
} as const satisfies Partial<PoolInfo>;

/** The info of a pool whose process is gone: only its totals remain. */
export const pastOf = (info: PoolInfo): PoolInfo => ({ ...info, max: 0, ...NOTHING_NOW });
