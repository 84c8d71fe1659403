/**
 * An SMTP client (RFC 5321): delivers one message to one server, secured by STARTTLS (RFC 3207).
 *
 * If a server does not offer STARTTLS, somebody in between may have removed the word from its answer. So this client
 * gives up then, unless it is told to go on in plain text.
 */

import { SocketError, StreamRequestHandler } from "socklet";

/** The params of `SmtpClient`. */
export interface Delivery {
  /** The envelope's sender and its recipients; not the message's `From:` and `To:`. */
  readonly from: string;
  readonly to: readonly string[];
  /** The message: headers and body, with lines ended by LF or CR LF. It is sent as UTF-8. */
  readonly message: string;
  /** The name that the client gives in EHLO. Default `localhost`. */
  readonly name?: string;
  /** Deliver in plain text if there is no TLS. Default false. */
  readonly plain?: boolean;
}

/** The result of a delivery. */
export interface Delivered {
  readonly secured: boolean;
  /** The server's reply to the message. */
  readonly reply: string;
}

/** Delivers one message. Throws `ERR_REFUSED`, with the server's words, if the server does not take it. */
export class SmtpClient extends StreamRequestHandler<unknown, Delivery> {
  override async handle(): Promise<Delivered> {
    const { from, to, message, name = "localhost", plain = false } = delivery(this.params);
    await this.#reply("2");
    let extensions = await this.#ask(`EHLO ${name}`);
    const secured = /^STARTTLS$/im.test(extensions);
    if (secured) {
      await this.#ask("STARTTLS");
      await this.request.startTls();
      extensions = await this.#ask(`EHLO ${name}`); // anybody may have written what came before TLS
    } else if (!plain) {
      throw new SocketError(
        "ERR_REFUSED",
        "the server offers no STARTTLS; to deliver in plain text say plain: true",
      );
    }
    // Without these extensions only ASCII may be sent: 8BITMIME for a message's body (RFC 6152), SMTPUTF8 for its headers
    // and the addresses (RFC 6531).
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
      this.wfile.write(`${line.startsWith(".") ? "." : ""}${line}\r\n`); // a line with one dot would end the message
    }
    const reply = await this.#ask(".");
    await this.#ask("QUIT").catch(() => {}); // the server has the mail: to fail now would have it sent twice
    return { secured, reply };
  }

  /** Throws if the server has not announced this extension. */
  #demand(extension: string, extensions: string, otherwise: string): void {
    if (new RegExp(`^${extension}$`, "im").test(extensions)) return;
    throw new SocketError(
      "ERR_REFUSED",
      `the server takes ASCII alone (it has no ${extension}), and ${otherwise}`,
    );
  }

  /** Sends a command, and returns the text of its reply, which must begin with the digit `expected`. */
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
  // A line end in an address would begin another command.
  const word = (value: unknown): boolean => typeof value === "string" && /^[^\s<>\p{Cc}]*$/u.test(value);
  if (!word(from) || !word(name) || !Array.isArray(to) || to.length === 0 || !to.every(word)) {
    throw new TypeError('params must be { from: "me@example.com", to: ["you@example.com"], message: "…" }');
  }
  if (typeof message !== "string") throw new TypeError("params.message must be the message, as a string");
  return given as Delivery;
};
