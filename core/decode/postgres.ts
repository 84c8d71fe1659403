/** PostgreSQL's messages, version 3: https://www.postgresql.org/docs/current/protocol-message-formats.html */

import type { DecodedMessage } from "./decoder.ts";

const decoder = new TextDecoder();
const SHOWN = 200; // characters of a string that are shown

const CLIENT: Readonly<Record<string, string>> = {
  B: "Bind",
  C: "Close",
  d: "CopyData",
  c: "CopyDone",
  f: "CopyFail",
  D: "Describe",
  E: "Execute",
  H: "Flush",
  F: "FunctionCall",
  P: "Parse",
  p: "Password",
  Q: "Query",
  S: "Sync",
  X: "Terminate",
};
const SERVER: Readonly<Record<string, string>> = {
  R: "Authentication",
  K: "BackendKeyData",
  "2": "BindComplete",
  "3": "CloseComplete",
  C: "CommandComplete",
  d: "CopyData",
  c: "CopyDone",
  G: "CopyInResponse",
  H: "CopyOutResponse",
  D: "DataRow",
  I: "EmptyQueryResponse",
  E: "ErrorResponse",
  n: "NoData",
  N: "NoticeResponse",
  A: "NotificationResponse",
  t: "ParameterDescription",
  S: "ParameterStatus",
  "1": "ParseComplete",
  s: "PortalSuspended",
  Z: "ReadyForQuery",
  T: "RowDescription",
  v: "NegotiateProtocolVersion",
};
const TEXTS = new Set([
  "Query",
  "Parse",
  "CommandComplete",
  "ParameterStatus",
  "ErrorResponse",
  "NoticeResponse",
]);
/** The requests that a client may begin with, by code; they have no type byte. */
const REQUESTS: Readonly<Record<number, string>> = {
  196608: "StartupMessage 3.0",
  196610: "StartupMessage 3.2",
  80877102: "CancelRequest",
  80877103: "SSLRequest",
  80877104: "GSSENCRequest",
};

const textOf = (bytes: Uint8Array): string =>
  decoder
    .decode(bytes)
    .split("\0")
    .filter((part) => part !== "")
    .join(" ")
    .slice(0, SHOWN);

/** Decodes PostgreSQL: each message by name; queries, errors and settings with their text. Passwords are not shown. */
export function* decodePostgres(
  bytes: Uint8Array,
  from: "client" | "server",
): Generator<DecodedMessage, void, undefined> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let begun = from === "server"; // a client's first messages have no type byte
  for (let start = 0; start < bytes.length; ) {
    if (from === "server" && start === 0 && (bytes[0] === 78 || bytes[0] === 83) && bytes[1] !== 0) {
      yield { start, end: 1, text: bytes[0] === 83 ? "TLS: yes" : "TLS: no" };
      start = 1;
      continue;
    }
    const head = begun ? 5 : 4;
    if (bytes.length < start + head + (begun ? 0 : 4)) return;
    const size = view.getUint32(start + head - 4);
    if (size < 4 || size > 0x4000_0000) throw new Error(`byte ${start}: a message cannot have ${size} bytes`);
    const end = start + head - 4 + size;
    if (end > bytes.length) return;
    const body = bytes.subarray(start + head, end);
    if (!begun) {
      const code = view.getUint32(start + 4);
      const name = REQUESTS[code];
      if (name === undefined) throw new Error(`byte ${start}: ${code} is no request that PostgreSQL knows`);
      begun = name.startsWith("Startup");
      yield { start, end, text: begun ? `${name} ${textOf(body.subarray(4))}` : name };
    } else {
      const type = String.fromCharCode(bytes[start] ?? 0);
      const name = (from === "client" ? CLIENT : SERVER)[type];
      if (name === undefined)
        throw new Error(`byte ${start}: ${JSON.stringify(type)} is no type of a message`);
      const status = name === "ReadyForQuery" ? ` ${decoder.decode(body)}` : "";
      yield { start, end, text: TEXTS.has(name) ? `${name} ${textOf(body)}` : `${name}${status}` };
    }
    start = end;
  }
}
