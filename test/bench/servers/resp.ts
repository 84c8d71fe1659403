/**
 * The RESP subset of all RESP servers here, so that only the reading and the writing differ: PING [text], SET key
 * value, GET key, as arrays of bulk strings or inline. Arguments are one line of ASCII each, which is what
 * redis-benchmark sends; a bulk string of another length than its line is a protocol error.
 *
 * Lines in, replies out: `take(line)` gives the reply when the line completes a command.
 */
export class RespSession {
  readonly #store: Map<string, string>;
  #missing = 0; // arguments of the array that have not come yet
  #length = -1; // of the bulk string whose text is the next line; -1: its `$length` line is next
  #words: string[] = [];

  constructor(store: Map<string, string>) {
    this.#store = store;
  }

  take(line: string): string | undefined {
    if (this.#missing === 0) {
      if (line.charCodeAt(0) !== 0x2a /* * */) return line === "" ? undefined : this.#run(line.split(" "));
      this.#missing = Number(line.slice(1));
      if (!(this.#missing >= 0 && this.#missing <= 1024)) return this.#refuse("invalid multibulk length");
      this.#words = [];
      return undefined;
    }
    if (this.#length === -1) {
      this.#length = line.charCodeAt(0) === 0x24 /* $ */ ? Number(line.slice(1)) : -2;
      if (!(this.#length >= 0)) return this.#refuse("expected '$'");
      return undefined;
    }
    if (line.length !== this.#length) return this.#refuse("invalid bulk length");
    this.#length = -1;
    this.#words.push(line);
    this.#missing -= 1;
    return this.#missing === 0 ? this.#run(this.#words) : undefined;
  }

  #run(words: string[]): string {
    switch (words[0]!.toUpperCase()) {
      case "PING":
        return words.length === 1 ? "+PONG\r\n" : bulk(words[1]);
      case "SET":
        if (words.length < 3) break;
        this.#store.set(words[1]!, words[2]!);
        return "+OK\r\n";
      case "GET":
        return bulk(this.#store.get(words[1] ?? ""));
    }
    return "-ERR unknown command or wrong number of arguments\r\n";
  }

  #refuse(why: string): string {
    this.#missing = 0;
    this.#length = -1;
    return `-ERR Protocol error: ${why}\r\n`;
  }
}

function bulk(text: string | undefined): string {
  return text === undefined ? "$-1\r\n" : `$${text.length}\r\n${text}\r\n`;
}
