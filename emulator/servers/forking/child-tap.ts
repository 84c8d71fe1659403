/** Looking on at a connection whose bytes pass in a child: what the child tells, and how its parent takes it. */

import { type Data, toBytes } from "../../../core/bytes/data.ts";
import type { StreamTap, TappedEnd } from "../../../core/sockets/streams/tap.ts";

/** One thing that passed over the connection of a request. */
export type Passed =
  | { readonly what: "received" | "sent"; readonly bytes: Uint8Array }
  | { readonly what: "peerEnded" | "ended"; readonly how: TappedEnd }
  | { readonly what: "secured" }
  | { readonly what: "missed"; readonly bytes: number };

/** Tells `tap` what a child has told. */
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

const PIECE = 64 * 1024; // bytes of one message: the channel takes larger ones no faster
const MOST_UNSENT = 16 * 1024 * 1024; // bytes that may wait for the channel; more are not told, since nobody can be held up from here

/** Tells the parent. Gives whether it is on its way, or waits; `sent` is called later, when it has left. */
type Tell = (passed: Passed, sent: () => void) => boolean;

/** Looks on in the child. What passes is told at once: a child that crashes, or loops for ever, has told all until then. */
export class ChildTap implements StreamTap {
  static #unsent = 0; // bytes; all taps share the one channel
  readonly #tell: Tell;
  #missed = 0; // bytes that were not told, until that is

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
