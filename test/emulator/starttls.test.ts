/** The change of a conversation to TLS: every order in which client and server can request it, and every cut. */

import { expect, test } from "vitest";
import { beginningOf, type StartTlsProtocol, type Turn } from "../../emulator/wire/starttls.ts";

const bytes = (text: string | readonly number[]): Uint8Array =>
  typeof text === "string" ? Buffer.from(text, "latin1") : Uint8Array.from(text);

/** What each piece of a conversation means: `C` the client's, `S` the server's. */
type Piece = readonly ["C" | "S", string | readonly number[]];
const turns = (protocol: StartTlsProtocol, ...pieces: readonly Piece[]): Turn[] => {
  const beginning = beginningOf(protocol);
  return pieces.map(([who, text]) => beginning.said(who === "C" ? "client" : "server", bytes(text)));
};

const GREETING = [
  ["S", "220 mail.test ESMTP\r\n"],
  ["C", "EHLO me\r\n"],
  ["S", "250-mail.test\r\n250 STARTTLS\r\n"],
] as const;
const NONE = [null, null, null] as const;

test("SMTP: asked and agreed, asked and refused", () => {
  expect(turns("smtp", ...GREETING, ["C", "STARTTLS\r\n"], ["S", "220 go on\r\n"])).toEqual([
    ...NONE,
    "ask",
    "agree",
  ]);
  expect(
    turns(
      "smtp",
      ...GREETING,
      ["C", "starttls\r\n"],
      ["S", "454 not now\r\n"],
      ["C", "STARTTLS\r\n"],
      ["S", "220 now\r\n"],
    ),
  ).toEqual([...NONE, "ask", "no", "ask", "agree"]);
});

test("SMTP: however the lines are cut", () => {
  const beginning = beginningOf("smtp");
  const all: Turn[] = [];
  for (const [who, text] of [...GREETING, ["C", "STARTTLS\r\n"], ["S", "220-a\r\n220 b\r\n"]] as const) {
    for (const byte of bytes(text))
      all.push(beginning.said(who === "C" ? "client" : "server", Uint8Array.of(byte)));
  }
  expect(all.filter((turn) => turn !== null)).toEqual(["ask", "agree"]);
});

test("SMTP: behind commands that were sent at once, its reply is the last of theirs", () => {
  expect(
    turns(
      "smtp",
      ...GREETING,
      ["C", "RSET\r\nNOOP\r\nSTARTTLS\r\n"],
      ["S", "250 a\r\n250 b\r\n"],
      ["S", "220 c\r\n"],
    ),
  ).toEqual([...NONE, "ask", null, "agree"]);
});

test("SMTP: the word in a message is none", () => {
  expect(
    turns(
      "smtp",
      ...GREETING,
      ["C", "MAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n"],
      ["S", "250 a\r\n250 b\r\n354 go\r\n"],
      ["C", "Subject: x\r\n\r\nSTARTTLS\r\n..\r\n.\r\n"],
      ["S", "250 kept\r\n"],
      ["C", "STARTTLS\r\n"],
      ["S", "220 go\r\n"],
    ),
  ).toEqual([...NONE, null, null, null, null, "ask", "agree"]);
});

test("SMTP: what comes behind STARTTLS before TLS is looked into by nobody (CVE-2011-0411)", () => {
  expect(turns("smtp", ...GREETING, ["C", "STARTTLS\r\nMAIL FROM:<a>\r\n"])).toEqual([...NONE, "never"]);
  expect(turns("smtp", ...GREETING, ["C", "STARTTLS\r\n"], ["S", "220 a\r\n250 b\r\n"])).toEqual([
    ...NONE,
    "ask",
    "never",
  ]);
  expect(turns("smtp", ...GREETING, ["C", "BDAT 4 LAST\r\nabcd"])).toEqual([...NONE, "never"]);
  expect(turns("smtp", ["C", "x".repeat(5000)])).toEqual(["never"]);
});

const SSL = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS = [0, 0, 0, 8, 4, 210, 22, 48];
const STARTUP = [0, 0, 0, 9, 0, 3, 0, 0, 0];

test("PostgreSQL: asked and agreed, refused, after another request, and not at all", () => {
  expect(turns("postgres", ["C", SSL], ["S", "S"])).toEqual(["ask", "agree"]);
  expect(turns("postgres", ["C", SSL], ["S", "N"], ["C", STARTUP])).toEqual(["ask", "no", "never"]);
  expect(turns("postgres", ["C", GSS], ["S", "N"], ["C", SSL], ["S", "S"])).toEqual([
    "ask",
    "no",
    "ask",
    "agree",
  ]);
  expect(turns("postgres", ["C", GSS], ["S", "G"])).toEqual(["ask", "never"]);
  expect(turns("postgres", ["C", SSL.slice(0, 3)], ["C", SSL.slice(3)], ["S", "S"])).toEqual([
    null,
    "ask",
    "agree",
  ]);
  expect(turns("postgres", ["C", STARTUP])).toEqual(["never"]);
  expect(turns("postgres", ["C", [...SSL, 22, 3, 1]])).toEqual(["never"]); // a ClientHello that waits for no answer
  expect(turns("postgres", ["C", SSL], ["S", "SX"])).toEqual(["ask", "never"]); // CVE-2021-23222
  expect(turns("postgres", ["C", [22, 3, 1, 0]])).toEqual(["never"]); // sslnegotiation=direct
});
