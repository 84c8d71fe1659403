/** Bounds what waits for the channel to another process: the senders of these messages cannot be made to wait. */

const MOST = 16 * 1024 * 1024; // bytes: as much as a connection's output
const OVERHEAD = 1024; // bytes that a waiting message takes beyond its own

/** The waiting messages of one kind. Ask `fits` first; the sender counts what does not fit, and reports it later. */
export class Backlog {
  #bytes = 0; // with OVERHEAD

  /** Whether one more of `size` bytes may wait. */
  fits(size: number): boolean {
    return this.#bytes + size + OVERHEAD <= MOST;
  }

  /**
   * Sends a message of `size` bytes through `send`. That gets a function to call when the message has left, and returns whether the
   * channel has room for more. `empty` is called when none waits any more.
   */
  send(size: number, send: (left: () => void) => boolean, empty: () => void): void {
    const bytes = size + OVERHEAD;
    let waits = false;
    const left = (): void => {
      if (waits) this.#bytes -= bytes;
      if (this.#bytes === 0) empty();
    };
    waits = !send(left);
    if (waits) this.#bytes += bytes;
  }
}
