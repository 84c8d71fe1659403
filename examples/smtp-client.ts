/**
 * SMTP (RFC 5321), the side that delivers: one message to one server, secured by STARTTLS (RFC 3207).
 *
 * A client that meets a server without STARTTLS can go on in plain text, or not at all: who stands between may
 * have taken the word out of the server's answer. This one does not go on, unless it is told to.
 */

import { SocketError, StreamRequestHandler } from "socklet";

/** What `SmtpClient` takes as its params. */
export interface Delivery {
  /** The envelope's sender and its recipients; not the message's `From:` and `To:`. */
  readonly from: string;
  readonly to: readonly string[];
  /** The message, headers and body, its lines ended by LF or CR LF. What is beyond ASCII is sent as UTF-8. */
  readonly message: string;
  /** Who we say that we are. Default `localhost`. */
  readonly name?: string;
  /** Deliver in plain text, too. Default false. */
  readonly plain?: boolean;
}

/** What became of it. */
export interface Delivered {
  readonly secured: boolean;
  /** The server's last word on the message. */
  readonly reply: string;
}

/** Delivers one message. Fails with `ERR_REFUSED` and the server's words where it does not take it. */
export class SmtpClient extends StreamRequestHandler<unknown, Delivery> {
  override async handle(): Promise<Delivered> {
    const { from, to, message, name = "localhost", plain = false } = delivery(this.params);
    await this.#reply("2");
    let extensions = await this.#ask(`EHLO ${name}`);
    const secured = /^STARTTLS$/im.test(extensions);
    if (secured) {
      await this.#ask("STARTTLS");
      await this.request.startTls();
      extensions = await this.#ask(`EHLO ${name}`); // what was said before anybody may have said
    } else if (!plain) {
      throw new SocketError(
        "ERR_REFUSED",
        "the server offers no STARTTLS; to deliver in plain text say plain: true",
      );
    }
    // Only ASCII passes where the server has not said that it takes more: in the text of a message (RFC 6152), and
    // in its headers and the addresses (RFC 6531).
    const [headers] = message.split(/\r?\n\r?\n/, 1);
    let parameters = "";
    if (!isAscii(message)) {
      this.#demand("8BITMIME", extensions, "the message has more; encode it (RFC 2045)");
      parameters += " BODY=8BITMIME";
    }
    if (![from, ...to, headers].every(isAscii)) {
      this.#demand("SMTPUTF8", extensions, "an address or a header has more; encode headers (RFC 2047)");
      parameters += " SMTPUTF8";
    }
    await this.#ask(`MAIL FROM:<${from}>${parameters}`);
    for (const recipient of to) await this.#ask(`RCPT TO:<${recipient}>`);
    await this.#ask("DATA", "3");
    for (const line of message.replace(/\r?\n$/, "").split(/\r?\n/)) {
      this.wfile.write(`${line.startsWith(".") ? "." : ""}${line}\r\n`); // a dot of its own would end it
    }
    const reply = await this.#ask(".");
    await this.#ask("QUIT").catch(() => {}); // the mail is theirs: one that failed now would be sent twice
    return { secured, reply };
  }

  /** Fails where the server has not said that it has this extension. */
  #demand(extension: string, extensions: string, otherwise: string): void {
    if (new RegExp(`^${extension}$`, "im").test(extensions)) return;
    throw new SocketError(
      "ERR_REFUSED",
      `the server takes ASCII alone (it has no ${extension}), and ${otherwise}`,
    );
  }

  /** Sends a command, and gives the text of its reply, which must begin with the digit `expected`. */
  #ask(command: string, expected = "2"): Promise<string> {
    this.wfile.write(`${command}\r\n`);
    return this.#reply(expected, command);
  }

  async #reply(expected: string, command = "the greeting"): Promise<string> {
    const lines: string[] = [];
    for (;;) {
      const line = await this.rfile.line();
      if (line === null)
        throw new SocketError("ECONNRESET", `the server left instead of answering ${command}`);
      const [, code, more, text = ""] = /^(\d{3})([ -]?)(.*)$/.exec(line) ?? [];
      lines.push(text);
      if (code === undefined || lines.length > MAX_LINES) {
        throw new SocketError(
          "ERR_REFUSED",
          `the server does not speak SMTP: ${JSON.stringify(line.slice(0, 80))}`,
        );
      }
      if (more === "-") continue;
      if (code.startsWith(expected)) return lines.join("\n");
      throw new SocketError("ERR_REFUSED", `${command}: the server answered ${code} ${lines.join(" ")}`);
    }
  }
}

const isAscii = (text: string): boolean => /^[\0-\x7f]*$/.test(text);

const MAX_LINES = 100; // of one reply: servers have about 15 extensions

const delivery = (params: unknown): Delivery => {
  const given = (params ?? {}) as Partial<Delivery>;
  const { from, to, message, name = "" } = given;
  // A line end in an address would begin a command of its own.
  const word = (value: unknown): boolean => typeof value === "string" && /^[^\s<>\p{Cc}]*$/u.test(value);
  if (!word(from) || !word(name) || !Array.isArray(to) || to.length === 0 || !to.every(word)) {
    throw new TypeError('params must be { from: "me@example.com", to: ["you@example.com"], message: "…" }');
  }
  if (typeof message !== "string") throw new TypeError("params.message must be the message, as a string");
  return given as Delivery;
};
