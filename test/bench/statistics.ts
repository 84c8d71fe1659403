export interface Interval {
  readonly low: number;
  readonly high: number;
  /** How sure it is, from the binomial distribution: at least 0.95. */
  readonly coverage: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/**
 * A 95 % interval of the median by order statistics: it supposes nothing about how the values are distributed. The
 * true median lies below the k-th smallest of n values with probability P(Binomial(n, 1/2) < k), and the same above
 * the k-th largest; k is the largest that leaves at least 95 % between. `null` below 6 values, where not even the
 * extremes are that sure.
 */
export function medianInterval(values: readonly number[]): Interval | null {
  const n = values.length;
  const sorted = [...values].sort((a, b) => a - b);
  let k = 0;
  let coverage = 0;
  let term = 0.5 ** n; // P(Binomial = k)
  for (let outside = 2 * term; outside <= 0.05; outside += 2 * term) {
    coverage = 1 - outside;
    k += 1;
    term *= (n - k + 1) / k;
  }
  return k === 0 ? null : { low: sorted[k - 1]!, high: sorted[n - k]!, coverage };
}
