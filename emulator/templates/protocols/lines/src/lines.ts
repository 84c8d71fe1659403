import { StreamRequestHandler } from "socklet";

/** Answers each line of text with the same in capitals. */
export class Lines extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const line of this.rfile.lines()) this.wfile.write(`${line.toUpperCase()}\n`);
  }
}
