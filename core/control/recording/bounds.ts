/** The bounds of what is kept of what passes, where its caller names none, and the most of a caller's. Sizes are bytes. */
export const RECORDING_BOUNDS = {
  /** All that is kept: the newest. */
  maxBytes: 64 * 1024 * 1024,
  mostBytes: 4 * 1024 * 1024 * 1024,
  /** Less than this would not hold a datagram. */
  leastBytes: 1024 * 1024,
  /** Conversations that are kept: connections, and senders of datagrams. */
  maxConnections: 10_000,
  mostConnections: 1_000_000,
  /** What was said, in one answer. */
  part: 256 * 1024,
  mostPart: 4 * 1024 * 1024,
  /** What one side said, that is decoded, and the messages that one answer has. */
  decoded: 1024 * 1024,
  messages: 5_000,
} as const;

/**
 * How many of at most `most` are left when there was one too many: up to a 64th go at once. A Map passes over all that was deleted
 * from its beginning, so to take the oldest of 10 000 away for each new one costs more than to add it.
 */
export const afterTrim = (most: number): number => most - (most >> 6);
