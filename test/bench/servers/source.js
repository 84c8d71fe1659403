/** Checks what `load source` sends: byte n is the top byte of n * 0x9E3779B1 in 32 bits, n counted modulo 1 MiB. */
export class SourceCheck {
  bytes = 0;
  #wrong = 0;
  #every;

  /** `every`: each byte; else the first and the last of each piece, which costs nothing and finds what is lost or moved. */
  constructor(every) {
    this.#every = every;
  }

  take(piece) {
    const step = this.#every ? 1 : Math.max(piece.length - 1, 1);
    for (let i = 0; i < piece.length; i += step) {
      if (piece[i] !== Math.imul((this.bytes + i) & 0xfffff, 0x9e3779b1) >>> 24) this.#wrong += 1;
    }
    this.bytes += piece.length;
  }

  /** What the runner is told. */
  toString() {
    return `${this.bytes} bytes, ${this.#wrong} wrong`;
  }
}

/** What the runner asks for: `PORT every` or `PORT some`. */
export function parseOrder(line) {
  const [port, which] = line.trim().split(" ");
  return {
    address: { hostname: "127.0.0.1", port: Number(port) },
    check: new SourceCheck(which === "every"),
  };
}
