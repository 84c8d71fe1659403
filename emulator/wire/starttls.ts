/**
 * Finds where a plain-text conversation turns to TLS: follows client and server until the server agrees, so that a proxy can do the
 * handshake with each of them and see what passes inside.
 */

import type { Side } from "../../core/testing/transcript/form.ts";

/** The supported protocols. */
export const STARTTLS = ["smtp", "postgres"] as const;
export type StartTlsProtocol = (typeof STARTTLS)[number];

/**
 * What a piece means. `ask`: the client has asked for TLS, and sends nothing more until it is answered. `agree`: the server has agreed,
 * and TLS begins after this piece. `no`: the server has refused, and the client goes on. `never`: TLS can no longer begin, or not in a
 * way that the proxy could join. `null`: nothing yet.
 */
export type Turn = "ask" | "agree" | "no" | "never" | null;

/** Follows one conversation. */
export interface Beginning {
  said(from: Side, bytes: Uint8Array): Turn;
}

export const beginningOf = (protocol: StartTlsProtocol): Beginning =>
  protocol === "smtp" ? new Smtp() : new Postgres();

const LONGEST = 4096; // bytes of a line; RFC 5321 section 4.5.3.1 asks for 512
const LF = 0x0a;

/** Splits pieces into lines. */
class Lines {
  #rest = "";

  /** Adds bytes and returns the lines that are now complete, without line ends; `null` if one is too long. */
  add(bytes: Uint8Array): string[] | null {
    const lines = (this.#rest + Buffer.from(bytes).toString("latin1")).split("\n");
    this.#rest = lines.pop() as string;
    return this.#rest.length > LONGEST ? null : lines.map((line) => line.replace(/\r$/, ""));
  }

  get rest(): string {
    return this.#rest;
  }
}

/** SMTP (RFC 5321) with STARTTLS (RFC 3207): each command gets one reply, in order, even when commands are pipelined. */
class Smtp implements Beginning {
  readonly #commands = new Lines();
  readonly #replies = new Lines();
  #due = 1; // replies that are still to come; the greeting is the first
  #asked = 0; // how many of them there are up to the reply to STARTTLS; 0: STARTTLS was not sent
  #mail = false; // whether the client is sending a message, which ends with the line "."

  said(from: Side, bytes: Uint8Array): Turn {
    return from === "client" ? this.#command(bytes) : this.#reply(bytes);
  }

  #command(bytes: Uint8Array): Turn {
    const lines = this.#commands.add(bytes);
    if (lines === null || this.#asked > 0) return "never"; // plain text behind STARTTLS must not be trusted
    for (const [i, line] of lines.entries()) {
      if (this.#mail) {
        if (line !== ".") continue;
        this.#mail = false;
      }
      if (/^BDAT /i.test(line)) return "never"; // binary data follows (RFC 3030)
      this.#due++;
      if (!/^STARTTLS\s*$/i.test(line)) continue;
      if (i < lines.length - 1 || this.#commands.rest !== "") return "never";
      this.#asked = this.#due;
      return "ask";
    }
    return null;
  }

  #reply(bytes: Uint8Array): Turn {
    const lines = this.#replies.add(bytes);
    if (lines === null) return "never";
    for (const [i, line] of lines.entries()) {
      const [, code] = /^(\d{3})(?: |$)/.exec(line) ?? [];
      if (code === undefined) continue; // "250-": the reply continues
      this.#due--;
      if (code === "354") this.#mail = true;
      if (this.#asked === 0 || --this.#asked > 0) continue;
      if (code !== "220") return "no";
      return i === lines.length - 1 && this.#replies.rest === "" && bytes.at(-1) === LF ? "agree" : "never";
    }
    return null;
  }
}

const SSL = 80877103; // PostgreSQL, "Message Formats": SSLRequest
const GSS = 80877104; // GSSENCRequest
const REQUEST = 8; // bytes of either
const S = 0x53;
const N = 0x4e;

/** PostgreSQL: the client's first message may ask for TLS, and the server answers with one byte. */
class Postgres implements Beginning {
  #first = new Uint8Array(0);
  #asked = 0;

  said(from: Side, bytes: Uint8Array): Turn {
    if (from === "server") {
      const asked = this.#asked;
      this.#asked = 0;
      if (asked === 0 || bytes.length !== 1) return "never";
      if (bytes[0] === N) return "no";
      return asked === SSL && bytes[0] === S ? "agree" : "never";
    }
    if (this.#asked !== 0) return "never";
    const first = Buffer.concat([this.#first, bytes]);
    this.#first = first;
    if (first.length < REQUEST)
      return first.length >= 4 && first.readUInt32BE(0) !== REQUEST ? "never" : null;
    const code = first.readUInt32BE(4);
    if (first.length > REQUEST || first.readUInt32BE(0) !== REQUEST || (code !== SSL && code !== GSS))
      return "never";
    this.#first = new Uint8Array(0);
    this.#asked = code;
    return "ask";
  }
}
