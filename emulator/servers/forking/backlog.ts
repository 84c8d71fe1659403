/** What waits for the channel to another process. It is bounded, since nobody can be held up who only tells something. */

const MOST = 16 * 1024 * 1024; // bytes: as much as a connection's output
const OVERHEAD = 1024; // bytes that a message which waits takes beside its own

/** Messages of one kind. Ask `fits` first; what does not fit is counted by its sender, and told later. */
export class Backlog {
  #bytes = 0; // with OVERHEAD

  /** Whether one more of `size` bytes may wait. */
  fits(size: number): boolean {
    return this.#bytes + size + OVERHEAD <= MOST;
  }

  /**
   * Sends one of `size` bytes by `send`, which is given what to call when it has left, and gives whether the channel has room for
   * more. `empty` is called when none waits any more.
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
