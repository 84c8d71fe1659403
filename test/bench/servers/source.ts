/** The bytes of one-way work, as load.c has them: byte n is the top byte of n * 0x9E3779B1 in 32 bits, n counted modulo 1 MiB. */

const PERIOD = 2 ** 20;

const byteAt = (n: number): number => Math.imul(n & (PERIOD - 1), 0x9e3779b1) >>> 24;

/** Those bytes in pieces of `size`, to be sent one after the other, again and again. */
export function pieces(size: number): Uint8Array[] {
  const all = Uint8Array.from({ length: PERIOD }, (_, n) => byteAt(n));
  return Array.from({ length: PERIOD / size }, (_, i) => all.subarray(i * size, (i + 1) * size));
}

/** Checks what `load source` and `load upload` send. */
export class SourceCheck {
  bytes = 0;
  #wrong = 0;
  readonly #every: boolean;

  /** `every`: each byte; else the first and the last of each piece, which costs nothing and finds what is lost or moved. */
  constructor(every: boolean) {
    this.#every = every;
  }

  take(piece: Uint8Array): void {
    const step = this.#every ? 1 : Math.max(piece.length - 1, 1);
    for (let i = 0; i < piece.length; i += step) if (piece[i] !== byteAt(this.bytes + i)) this.#wrong += 1;
    this.bytes += piece.length;
  }

  /** What the other side is told. */
  toString(): string {
    return `${this.bytes} bytes, ${this.#wrong} wrong`;
  }
}

/** What the runner asks for: `PORT every` or `PORT some`. */
export function parseOrder(line: string): {
  address: { hostname: string; port: number };
  check: SourceCheck;
} {
  const [port, which] = line.trim().split(" ");
  return {
    address: { hostname: "127.0.0.1", port: Number(port) },
    check: new SourceCheck(which === "every"),
  };
}
