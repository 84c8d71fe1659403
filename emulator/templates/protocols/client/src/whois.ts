import { StreamRequestHandler } from "socklet";

const MAX_ANSWER = 65_536; // bytes

/** Asks a WHOIS server (RFC 3912) about a name, the first of `params`, and returns its answer. */
export class Whois extends StreamRequestHandler<unknown, readonly string[]> {
  override async handle(): Promise<string> {
    const [name] = this.params;
    if (name === undefined || /[\r\n]/.test(name)) throw new TypeError("give one name, such as example.com");
    this.wfile.write(`${name}\r\n`);
    this.rfile.maxRead = MAX_ANSWER;
    return new TextDecoder().decode((await this.rfile.read()) ?? undefined); // the answer ends with the connection
  }
}
