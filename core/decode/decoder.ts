/** What makes messages of bytes, for a reader: the `decode` of an app's entry. */

/** One message of one side. */
export interface DecodedMessage {
  /** Where it begins in the bytes, and where it ends. */
  readonly start: number;
  readonly end: number;
  /** What it says, in a line or a few. */
  readonly text: string;
}

/**
 * Gives the messages in what one side has said so far, in order; of datagrams it is called for each by itself. What is not yet
 * whole at the end is left out, and shown as bytes. Pure: it is called again for the same bytes when there are more. What it throws is
 * shown beside the bytes.
 */
export type Decoder = (bytes: Uint8Array, from: "client" | "server") => Iterable<DecodedMessage>;
