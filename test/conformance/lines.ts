/** The handler that the tests of both control planes watch. */

import { StreamRequestHandler } from "socklet";

/** Emits each line until the end, and returns their number. */
export class Lines extends StreamRequestHandler {
  override async handle(): Promise<number> {
    let count = 0;
    for await (const line of this.rfile.lines()) {
      count++;
      this.emit(line);
    }
    return count;
  }
}
