/**
 * A mail sink: an SMTP server (RFC 5321) that takes mail from anyone to anyone, keeps it, and delivers nothing. It knows
 * SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531: addresses beyond ASCII), PIPELINING (RFC 2920) and, where its
 * context says so, STARTTLS (RFC 3207).
 *
 * A mail is kept byte for byte as it was sent, without the dots that SMTP adds. Only CRLF "." CRLF ends it: a server that
 * also accepts a bare LF there lets a sender hide a second mail in the first ("SMTP smuggling").
 */

import { type BlobStorage, SocketError, type StartTlsOptions, StreamRequestHandler } from "socklet";

const HOST = "socklet.test"; // the sink's name (RFC 2606: never a real one)
const MAX_SIZE = 10 * 1024 * 1024; // bytes of one mail: 10 MiB, as most servers take
const MAX_COMMAND = 512; // bytes of a command line with its CRLF (RFC 5321, 4.5.3.1.4)
const MAX_PARAMETERS = 256; // bytes more for the parameters of MAIL: RFC 1870 adds 26, RFC 6152 17, RFC 6531 10
const MAX_LINE = 65_536; // bytes of a line in a mail: RFC 5321 says 1 000, but much software sends longer lines
const MAX_RECIPIENTS = 100; // of one mail: as many as a server must take (RFC 5321, 4.5.3.1.8)
const GO_AHEAD = "220 Go ahead"; // with TLS
const FIRST_ROOM = 16 * 1024; // bytes reserved for a mail at first; doubled as needed
const DOT = 0x2e;

/** What the sink needs of the app. */
export interface MailContext {
  /** Where mails are kept. */
  readonly storage: BlobStorage;
  /** Offers STARTTLS, with this `cert` and `key`; `{}`: with those of the listener (`secureTransport: "starttls"`). Default: it is not offered. */
  readonly startTls?: StartTlsOptions | undefined;
}

/** The event when a mail has been kept. */
export interface KeptMail {
  readonly kept: string;
  readonly from: string;
  readonly to: readonly string[];
  /** Bytes. */
  readonly size: number;
}

// <user@host> or <"quoted > part"@host>. A source route in front of it is accepted and ignored.
const PATH = String.raw`<(?:@[^<>:\s]*:)?((?:"(?:[^"\\]|\\.)*"|[^<>"\s])*)>`;
const FROM = new RegExp(`^FROM: ?${PATH}((?: \\S+)*) *$`, "i");
const TO = new RegExp(`^TO: ?${PATH}((?: \\S+)*) *$`, "i");

/**
 * Matches what a mail client never sends: HTTP, which a page in a browser can send to any port, with commands in its body;
 * and anything that does not begin with a letter, such as TLS. Postfix closes at the same (`smtpd_forbidden_commands`).
 */
const FORBIDDEN = /^(?:CONNECT|GET|POST|[^A-Z].*)$/s;

const encoder = new TextEncoder();

/** Takes mail on one connection, and keeps each mail as `<time>-<n>.eml` in the context's storage. */
export class MailRequestHandler extends StreamRequestHandler<MailContext> {
  #greeted = false;
  #from: string | null = null; // null: no mail has begun; "" is the sender of a bounce
  #to: string[] = [];
  #utf8 = false; // MAIL said that this mail's addresses may go beyond ASCII

  override async handle(): Promise<void> {
    const { rfile, wfile } = this;
    rfile.maxRead = MAX_LINE; // for readuntil(); commands are bounded by maxLine
    wfile.write(`220 ${HOST} ESMTP Socklet\r\n`);
    try {
      for await (const line of rfile.lines()) {
        const reply = await this.#reply(line);
        wfile.write(`${reply}\r\n`);
        if (reply.startsWith("221 ")) return; // QUIT, or something that no mail client sends
        if (reply === GO_AHEAD) await this.#secure();
      }
    } catch (error) {
      const code = error instanceof SocketError ? error.code : undefined;
      if (code === "ERR_INCOMPLETE_READ") return; // the peer left in the middle of a mail, which is dropped
      if (code === "ERR_LIMIT") wfile.write("500 Line too long\r\n");
      else if (code === "ETIMEDOUT") wfile.write(`421 ${HOST} Timeout, closing\r\n`);
      else throw error;
    }
  }

  /** The reply to one command line. */
  #reply(line: string): string | Promise<string> {
    const space = line.indexOf(" ");
    const verb = (space < 0 ? line : line.slice(0, space)).replace(/[a-z]/g, (letter) =>
      letter.toUpperCase(),
    );
    const argument = space < 0 ? "" : line.slice(space + 1).trim();
    const size = encoder.encode(line).length + 2;
    if (size > MAX_COMMAND + (verb === "MAIL" ? MAX_PARAMETERS : 0)) return "500 Line too long";
    if (FORBIDDEN.test(verb)) {
      this.emit({ refused: verb });
      return `221 ${HOST} This is SMTP: closing`;
    }
    switch (verb) {
      case "HELO":
      case "EHLO":
        return this.#hello(verb, argument);
      case "MAIL":
        return this.#mail(argument);
      case "RCPT":
        return this.#recipient(argument);
      case "DATA":
        return argument === "" ? this.#data() : "501 DATA takes no argument";
      case "RSET":
        if (argument !== "") return "501 RSET takes no argument";
        this.#reset();
        return "250 OK";
      case "QUIT":
        return argument === "" ? `221 ${HOST} Bye` : "501 QUIT takes no argument";
      case "NOOP":
        return "250 OK";
      case "STARTTLS":
        if (argument !== "") return "501 STARTTLS takes no argument";
        return this.#offersTls ? GO_AHEAD : "503 Not offered now";
      case "VRFY":
        return argument === "" ? "501 VRFY <address>" : "252 Cannot verify, but will take mail for it";
      default:
        return "500 Command not known";
    }
  }

  #hello(verb: "HELO" | "EHLO", domain: string): string {
    if (domain === "") return `501 ${verb} <your domain>`;
    this.#greeted = true;
    this.#reset();
    if (verb === "HELO") return `250 ${HOST}`;
    const knows = ["PIPELINING", `SIZE ${MAX_SIZE}`, "8BITMIME", ...(this.#offersTls ? ["STARTTLS"] : [])];
    return [...[HOST, ...knows].map((line) => `250-${line}`), "250 SMTPUTF8"].join("\r\n");
  }

  get #offersTls(): boolean {
    return this.context.startTls !== undefined && this.request.tls === null;
  }

  /** What the client said before counts no more: somebody in between may have said it (RFC 3207, section 4.2). */
  async #secure(): Promise<void> {
    await this.request.startTls(this.context.startTls);
    this.#greeted = false;
    this.#reset();
  }

  #mail(argument: string): string {
    if (!this.#greeted) return "503 HELO or EHLO first";
    if (this.#from !== null) return "503 A mail is begun already; RSET drops it";
    const [, from, parameters] = FROM.exec(argument) ?? [];
    if (from === undefined) return "501 MAIL FROM:<address>";
    let utf8 = false;
    for (const parameter of words(parameters)) {
      const [, size] = /^SIZE=(\d{1,20})$/i.exec(parameter) ?? [];
      if (size !== undefined) {
        if (Number(size) > MAX_SIZE) return `552 More than ${MAX_SIZE} bytes`;
      } else if (/^SMTPUTF8$/i.test(parameter)) {
        utf8 = true;
      } else if (!/^BODY=(7BIT|8BITMIME)$/i.test(parameter)) {
        return /^(SIZE|BODY|SMTPUTF8)(=|$)/i.test(parameter)
          ? `501 Not understood: ${parameter}`
          : `555 Not known: ${parameter}`;
      }
    }
    const wrong = wrongAddress(from, utf8);
    if (wrong !== null) return wrong;
    this.#from = from;
    this.#utf8 = utf8;
    return "250 OK";
  }

  #recipient(argument: string): string {
    if (this.#from === null) return "503 MAIL first";
    const [, to, parameters] = TO.exec(argument) ?? [];
    if (to === undefined || to === "") return "501 RCPT TO:<address>";
    const [unknown] = words(parameters);
    if (unknown !== undefined) return `555 Not known: ${unknown}`;
    const wrong = wrongAddress(to, this.#utf8);
    if (wrong !== null) return wrong;
    if (this.#to.length >= MAX_RECIPIENTS) return "452 Too many recipients";
    this.#to.push(to);
    return "250 OK";
  }

  async #data(): Promise<string> {
    if (this.#from === null) return "503 MAIL first";
    if (this.#to.length === 0) return "503 RCPT first";
    this.wfile.write("354 Go on; a line with only a dot ends it\r\n");
    const mail = await this.#receive();
    const from = this.#from;
    const to = this.#to;
    this.#reset();
    if (mail === null) return `552 More than ${MAX_SIZE} bytes`;
    const kept = nameOfMail();
    try {
      await this.context.storage.put(kept, mail);
    } catch (error) {
      this.emit({ notKept: kept, error: String(error) });
      return "451 Could not be kept; try again later";
    }
    this.emit({ kept, from, to, size: mail.length } satisfies KeptMail);
    return `250 Kept as ${kept}`;
  }

  /** The mail up to its last dot; `null` if it is over `MAX_SIZE`, and its rest is then read and dropped. */
  async #receive(): Promise<Uint8Array | null> {
    const room = new ArrayBuffer(FIRST_ROOM, { maxByteLength: MAX_SIZE });
    const bytes = new Uint8Array(room); // always `room` long
    let size = 0;
    for (;;) {
      let line = await this.rfile.readuntil("\r\n");
      if (line[0] === DOT) {
        if (line.length === 3) break;
        line = line.subarray(1);
      }
      const end = size + line.length;
      if (end <= MAX_SIZE) {
        if (end > room.byteLength) room.resize(Math.min(MAX_SIZE, end * 2));
        bytes.set(line, size);
      }
      size = end;
    }
    return size <= MAX_SIZE ? bytes.slice(0, size) : null;
  }

  #reset(): void {
    this.#from = null;
    this.#to = [];
  }
}

/** The reply to an address that cannot be accepted, or `null`. */
const wrongAddress = (address: string, utf8: boolean): string | null => {
  if (address.includes("\uFFFD")) return "501 The address is not UTF-8"; // lines() puts it for bytes that are not UTF-8
  if (utf8 || /^[\0-\x7f]*$/.test(address)) return null;
  return "553 The address is not ASCII, and MAIL did not say SMTPUTF8";
};

const words = (text: string | undefined): string[] => text?.split(" ").filter((word) => word !== "") ?? [];

/** `20261123T055124123Z-2716057.eml`: sorts by time; the number tells mails of one millisecond apart. */
const nameOfMail = (): string => {
  const time = new Date().toISOString().replace(/[^\dTZ]/g, "");
  return `${time}-${crypto.getRandomValues(new Uint32Array(1))[0]}.eml`;
};
