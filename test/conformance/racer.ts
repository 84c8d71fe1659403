/** The handler of the races: it identifies itself, counts lines, and ends in every way, as its peer asks. */

import { StreamRequestHandler } from "socklet";

/**
 * Sends its params (a number) as its first line and emits `{ token }`; then answers each line with the same line and
 * emits `{ line }`, its number. `return` makes it return, `throw` makes it throw, `hang` makes it wait for ever and
 * `burst` makes it emit twenty events at once. Its result is the number of lines.
 */
export class Racer extends StreamRequestHandler {
  override async handle(): Promise<number> {
    const token = (this.params ?? 0) as number;
    this.wfile.write(`${token}\n`);
    this.emit({ token });
    let count = 0;
    for await (const line of this.rfile.lines()) {
      count++;
      this.emit({ line: count });
      if (line === "return") return count;
      if (line === "throw") throw new RangeError("the peer asked for it");
      if (line === "hang") await new Promise(() => {});
      if (line === "burst") for (let i = 1; i <= 20; i++) this.emit({ burst: i });
      this.wfile.write(`${line}\n`);
    }
    return count;
  }
}
