/** The default bounds of a recording, and the largest that a caller may set. Sizes are bytes. */
export const RECORDING_BOUNDS = {
  /** Bytes kept in all; the oldest go first. */
  maxBytes: 64 * 1024 * 1024,
  mostBytes: 4 * 1024 * 1024 * 1024,
  /** The least that `maxBytes` may be: less could not hold a datagram. */
  leastBytes: 1024 * 1024,
  /** Conversations kept: connections, and senders of datagrams. */
  maxConnections: 10_000,
  mostConnections: 1_000_000,
  /** Bytes of a conversation in one response. */
  part: 256 * 1024,
  mostPart: 4 * 1024 * 1024,
  /** Bytes of one side that are decoded, and bytes of messages in one response. */
  decoded: 1024 * 1024,
  messages: 5_000,
} as const;

/**
 * How many of at most `most` entries to keep when there is one too many: a 64th go at once. A Map walks over the deleted entries at
 * its front, so deleting the oldest of 10 000 for each new one would cost more than adding it.
 */
export const afterTrim = (most: number): number => most - (most >> 6);
