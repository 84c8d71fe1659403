/** What the parts of one pool say of themselves, as one: a pool may have some in several processes, or objects. */

import type { PoolInfo } from "../handlers/client.ts";

/** Both together. */
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

/** Those of one name together. */
export const byName = (infos: Iterable<PoolInfo>): PoolInfo[] => {
  const sums = new Map<string, PoolInfo>();
  for (const info of infos) {
    const before = sums.get(info.name);
    sums.set(info.name, before === undefined ? info : sumOf(before, info));
  }
  return [...sums.values()];
};

/** What a pool has now that has no connection, and of which nobody wants one. */
export const NOTHING_NOW = {
  connections: 0,
  opening: 0,
  idle: 0,
  leased: 0,
  running: 0,
  waiting: 0,
  error: null,
} as const satisfies Partial<PoolInfo>;

/** What is left of one whose process is gone: what it has done. */
export const pastOf = (info: PoolInfo): PoolInfo => ({ ...info, max: 0, ...NOTHING_NOW });
