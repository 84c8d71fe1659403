/** An output for lines: gathers them while earlier ones are written, up to a small limit. */

const FULL = 1024 * 1024; // characters that may wait before the producer of lines must
const GATHERED = 64 * 1024; // characters that end a delay early: a write of a few lines costs as much as the lines themselves

/** Writes text, and calls back when it is written, or failed. */
type Write = (text: string, done: (error?: Error | null) => void) => void;

/** Lines on their way to one place. */
export class Outlet {
  readonly #write: Write;
  readonly #failed: (error: Error) => void;
  readonly #delay: number;
  #waiting = "";
  #writing = false;
  #broken = false;
  #scheduled = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #room: PromiseWithResolvers<void> | null = null;
  #idle: PromiseWithResolvers<void> | null = null;

  /** `failed` is called once, when nothing more can be written; lines added after that are dropped. A few lines may wait for `delay` ms, so that more are written together. */
  constructor(write: Write, failed: (error: Error) => void, delay = 0) {
    this.#write = write;
    this.#failed = failed;
    this.#delay = delay;
  }

  add(lines: string): void {
    if (this.#broken) return;
    this.#waiting += lines;
    if (this.#writing || this.#scheduled) return;
    if (this.#delay > 0 && this.#waiting.length < GATHERED) {
      this.#timer ??= setTimeout(() => this.#go(), this.#delay);
      return;
    }
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#go();
    });
  }

  /** Takes everything that waits, if no write is under way: for a caller that must write it synchronously because the process is ending. */
  take(): string {
    if (this.#writing) return "";
    const lines = this.#waiting;
    this.#waiting = "";
    return lines;
  }

  /** How many characters wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** If too much waits, a promise that resolves when there is room. It never rejects. */
  get room(): Promise<void> | undefined {
    if (this.#waiting.length < FULL) return undefined;
    this.#room ??= Promise.withResolvers();
    return this.#room.promise;
  }

  /** Resolves when everything that was added is written, or can never be. */
  written(): Promise<void> {
    if (this.#waiting === "" && !this.#writing) return Promise.resolve();
    this.#idle ??= Promise.withResolvers();
    this.#go();
    return this.#idle.promise;
  }

  #go(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#writing) return;
    if (this.#waiting === "") {
      this.#idle?.resolve();
      this.#idle = null;
      return;
    }
    const lines = this.#waiting;
    this.#waiting = "";
    this.#writing = true;
    this.#room?.resolve();
    this.#room = null;
    this.#write(lines, (error) => {
      this.#writing = false;
      if (error) {
        this.#broken = true;
        this.#waiting = "";
        this.#failed(error);
      }
      if (this.#idle === null && this.#delay > 0 && this.#waiting.length < GATHERED) {
        if (this.#waiting !== "") this.#timer ??= setTimeout(() => this.#go(), this.#delay);
        return;
      }
      this.#go();
    });
  }
}
