/**
 * IRC (RFC 2812), the client's side: it joins a channel and tells what is said there. A server keeps nothing for those who are
 * away, so a client that comes back says for how long it was.
 */

import { SocketError, StreamRequestHandler } from "socklet";

/** What `IrcClient` takes as its params. */
export interface IrcParams {
  readonly nick: string;
  /** `#name`. */
  readonly channel: string;
  /** How many messages it tells on one connection; default: it goes on for ever. */
  readonly limit?: number;
}

const IDLE = 300_000; // ms of silence, after which it asks whether the server is there: servers ask every few minutes
const WORD = /^[^\s:,\0][^\s,\0]*$/; // a word of a command: nothing that would begin another one

/** Tells what is said, as `{ from, text }`, and, as `{ missing: { from, to } }`, when it could not hear. */
export class IrcClient extends StreamRequestHandler<unknown, IrcParams, { readonly heard: Date }> {
  override readonly timeout = IDLE;

  override async handle(): Promise<number> {
    const { nick, channel, limit = Number.POSITIVE_INFINITY } = this.params;
    if (!WORD.test(nick) || !WORD.test(channel)) {
      throw new TypeError(
        'params must be { nick, channel }, each one word: { "nick": "ada", "channel": "#tea" }',
      );
    }
    const before = this.state;
    this.wfile.write(`NICK ${nick}\r\nUSER ${nick} 0 * :${nick}\r\n`);
    let told = 0;
    while (told < limit) {
      const { from, command, words } = parse(await this.#line());
      if (command === "PING") this.wfile.write(`PONG :${words.at(-1) ?? ""}\r\n`);
      else if (command === "001") this.wfile.write(`JOIN ${channel}\r\n`);
      else if (command === "433")
        throw new SocketError("ERR_REFUSED", `the nick ${nick} is taken`); // by what is left of us: it is dialled again
      else if (command === "ERROR") throw new SocketError("ERR_REFUSED", words.at(-1));
      else if (command === "366") {
        const heard = new Date(); // that we are in the channel
        this.emit(before === undefined ? { joined: true } : { missing: { from: before.heard, to: heard } });
        await this.save({ heard });
      } else if (command === "PRIVMSG") {
        this.emit({ from, text: words.at(-1) });
        told++;
        await this.save({ heard: new Date() });
      }
    }
    return this.done(told);
  }

  /** A line, which an idle server is asked for. */
  async #line(): Promise<string> {
    for (let asked = false; ; asked = true) {
      try {
        const line = await this.rfile.line();
        if (line === null) throw new SocketError("ECONNRESET", "the server has left");
        return line;
      } catch (error) {
        if (asked || !(error instanceof SocketError) || error.code !== "ETIMEDOUT") throw error;
        this.wfile.write("PING :still there?\r\n");
      }
    }
  }
}

/** `[":" prefix] command {word} [":" the rest]`. */
const parse = (line: string): { from: string; command: string; words: string[] } => {
  const [, prefix = "", rest = ""] = /^(?::(\S*) +)?(.*)$/.exec(line) ?? [];
  const [, head = "", tail] = /^(.*?)(?: :(.*))?$/.exec(rest) ?? [];
  const [command = "", ...words] = head.split(/ +/).filter((word) => word !== "");
  return { from: prefix.split("!")[0] ?? "", command, words: tail === undefined ? words : [...words, tail] };
};
