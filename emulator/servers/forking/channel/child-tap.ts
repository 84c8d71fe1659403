/** Taps a connection that a child serves: the child reports what passes, and the parent hands it to the tap. */

import { type Data, toBytes } from "../../../../core/bytes/data.ts";
import type { StreamTap, TappedEnd } from "../../../../core/sockets/streams/tap.ts";

/** A report of what passed over a request's connection. */
export type Passed =
  | { readonly what: "received" | "sent"; readonly bytes: Uint8Array }
  | { readonly what: "peerEnded" | "ended"; readonly how: TappedEnd }
  | { readonly what: "secured" }
  | { readonly what: "missed"; readonly bytes: number };

/** Hands a child's report to `tap`. */
export const passOn = (tap: StreamTap, passed: Passed): void => {
  switch (passed.what) {
    case "received":
    case "sent":
      tap[passed.what](passed.bytes);
      break;
    case "peerEnded":
    case "ended":
      tap[passed.what](passed.how);
      break;
    case "secured":
      tap.secured();
      break;
    case "missed":
      tap.missed(passed.bytes);
  }
};

const PIECE = 64 * 1024; // bytes of one message: larger ones are no faster
const MOST_UNSENT = 16 * 1024 * 1024; // bytes that may wait for the channel. Beyond that they are only counted, since the handler cannot be made to wait here

/** Sends a report to the parent. Returns whether it was sent at once, or waits; `sent` is called when it has left. */
type Tell = (passed: Passed, sent: () => void) => boolean;

/** The tap in the child. It reports at once, so that a child that crashes, or loops for ever, has reported everything up to then. */
export class ChildTap implements StreamTap {
  static #unsent = 0; // bytes; all taps share the one channel
  readonly #tell: Tell;
  #missed = 0; // bytes that were not reported, until their number is

  constructor(tell: Tell) {
    this.#tell = tell;
  }

  received(bytes: Uint8Array): void {
    this.#said("received", bytes);
  }

  sent(data: Data): void {
    this.#said("sent", toBytes(data));
  }

  peerEnded(how: TappedEnd): void {
    this.#happened({ what: "peerEnded", how });
  }

  ended(how: TappedEnd): void {
    this.#happened({ what: "ended", how });
  }

  secured(): void {
    this.#happened({ what: "secured" });
  }

  missed(bytes: number): void {
    if (bytes > 0) this.#happened({ what: "missed", bytes });
  }

  #said(what: "received" | "sent", bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += PIECE) {
      const piece = bytes.subarray(at, at + PIECE);
      if (ChildTap.#unsent + piece.length > MOST_UNSENT) this.#missed += piece.length;
      else this.#happened({ what, bytes: piece }, piece.length);
    }
  }

  #happened(passed: Passed, size = 0): void {
    const missed = this.#missed;
    this.#missed = 0;
    if (missed > 0) this.missed(missed);
    let waits = false;
    const sent = (): void => {
      if (waits) ChildTap.#unsent -= size;
    };
    waits = !this.#tell(passed, sent);
    if (waits) ChildTap.#unsent += size;
  }
}
