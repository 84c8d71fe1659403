/** Datagrams: one that came in, with the way back to its sender. */

import { type Address, formatAddress } from "./address.ts";
import { SocketError } from "./errors.ts";
import type { Data } from "./stream.ts";

/** The most that a UDP datagram carries over IPv4. */
export const MAX_DATAGRAM = 65_507; // bytes: 65 535 − 20 IP − 8 UDP (RFC 768)

/** Sends datagrams: the way back that a `Datagram` carries. */
export interface DatagramSender {
  /**
   * Sends one datagram, and waits for nothing: like the network, it may lose it. `address` is that of a datagram
   * that came in: `null` where its sender could not be told. Throws `EMSGSIZE` where it is larger than one
   * datagram carries, `EBADF` after a close, `ENOTCONN` where it cannot know whom to send to.
   */
  post(data: Data, address: Address | null): void;
}

/** One datagram that came in, and the way back to its sender: what a datagram handler gets as `this.request`. */
export class Datagram {
  /** Its bytes; they are yours to keep. */
  readonly data: Uint8Array;
  /** Who sent it, or `null` where that cannot be told (workerd; a Unix sender without a name). */
  readonly address: Address | null;
  /** True where it was longer than the receiver takes, so that its end is lost. */
  readonly truncated: boolean;
  readonly #sender: DatagramSender;

  constructor(data: Uint8Array, address: Address | null, sender: DatagramSender, truncated = false) {
    this.data = data;
    this.address = address;
    this.truncated = truncated;
    this.#sender = sender;
  }

  /** Sends one datagram back. Throws as `DatagramSender.post`. */
  reply(data: Data): void {
    this.#sender.post(data, this.address);
  }
}

/** `address`, or `ENOTCONN` where there is none. */
export const knownSender = (address: Address | null): Address => {
  if (address !== null) return address;
  throw new SocketError("ENOTCONN", "the sender of this datagram is not known");
};

/** A datagram larger than the transport carries is an error, never cut. */
export const checkDatagramSize = (size: number, address?: Address | null): void => {
  if (size <= MAX_DATAGRAM) return;
  throw new SocketError(
    "EMSGSIZE",
    `a datagram of ${size} bytes is over the ${MAX_DATAGRAM} that UDP carries`,
    {
      address: address ? formatAddress(address) : undefined,
    },
  );
};
