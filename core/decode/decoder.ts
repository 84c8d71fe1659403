/** Decoders turn bytes into messages for people to read: the `decode` of an app's entry. */

/** One message of one side. */
export interface DecodedMessage {
  /** Offsets of its first byte, and of the byte behind its last. */
  readonly start: number;
  readonly end: number;
  /** Its content as text, in one line or a few. */
  readonly text: string;
}

/**
 * Yields, in order, the messages in what one side has sent so far; for datagrams it is called with one at a time. An incomplete
 * message at the end is left out, and is shown as bytes. A decoder must be pure: it is called with the same bytes again when more
 * have come. If it throws, the error is shown beside the bytes.
 */
export type Decoder = (bytes: Uint8Array, from: "client" | "server") => Iterable<DecodedMessage>;
