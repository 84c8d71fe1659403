/** A conversation as something to paste: a shell command, a test, a transcript. */

import { lineOf, type Said } from "../data/file.ts";
import { join, toBase64, utf8 } from "../display/bytes.ts";

/** What is to be copied. */
export interface Copied {
  readonly kind: "stream" | "datagrams";
  /** The handler's name. */
  readonly handler: string;
  readonly address: string;
  readonly began: string;
  readonly events: readonly Said[];
}

/** What one side said until the other one spoke. */
interface Turn {
  readonly from: "client" | "server";
  readonly data: Uint8Array;
}

/** The conversation as turns; each datagram is one. */
export const turnsOf = ({ kind, events }: Pick<Copied, "kind" | "events">): Turn[] => {
  const turns: { from: "client" | "server"; pieces: Uint8Array[] }[] = [];
  for (const { from, data } of events) {
    if (data === undefined || from === undefined) continue;
    const last = turns.at(-1);
    if (kind === "stream" && last?.from === from) last.pieces.push(data);
    else turns.push({ from, pieces: [data] });
  }
  return turns.map(({ from, pieces }) => ({ from, data: join(pieces) }));
};

/** Bytes as an argument of `printf %b`: every byte that is special to it, or to the shell, in octal. */
const octal = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) =>
    byte === 13
      ? "\\r"
      : byte === 10
        ? "\\n"
        : byte >= 32 && byte < 127 && byte !== 39 && byte !== 92
          ? String.fromCharCode(byte)
          : `\\0${byte.toString(8).padStart(3, "0")}`,
  ).join("");

/** The arguments of `nc` for an address. */
const placeOf = (address: string): string => {
  const url = URL.parse(address.includes("://") ? address : `tcp://${address}`);
  if (address.startsWith("unix:")) return `-U '${address.slice(5)}'`;
  return `${(url?.hostname ?? "127.0.0.1").replace(/^\[|\]$/g, "")} ${url?.port ?? ""}`;
};

/** A shell command that sends what the client said. */
export const asNc = (copied: Copied): string => {
  const said = turnsOf(copied).filter(({ from }) => from === "client");
  const flags = copied.kind === "datagrams" ? "-u -w 1" : "-N";
  if (copied.kind === "datagrams") {
    return said
      .map(({ data }) => `printf %b '${octal(data)}' | nc ${flags} ${placeOf(copied.address)}`)
      .join("\n");
  }
  const secured = copied.address.startsWith("tls:");
  const text = `printf %b '${octal(join(said.map(({ data }) => data)))}'`;
  const place = placeOf(copied.address);
  return secured
    ? `${text} | openssl s_client -quiet -connect ${place.replace(" ", ":")}`
    : `${text} | nc ${flags} ${place}`;
};

/** Bytes as a TypeScript expression. */
const written = (bytes: Uint8Array): string => {
  const text = utf8(bytes);
  if (text !== null) {
    return JSON.stringify(text).replace(
      /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
      (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
  }
  return `Uint8Array.from(atob("${toBase64(bytes)}"), (c) => c.charCodeAt(0))`;
};

/** A test that sends what the client said, and expects what the server answered. */
export const asTest = (copied: Copied): string => {
  const { handler, kind, events } = copied;
  const turns = turnsOf(copied);
  const first = turns.find(({ from }) => from === "client");
  const title = `${handler}: ${
    utf8(first?.data ?? new Uint8Array())
      ?.trim()
      .split("\n")[0]
      ?.slice(0, 60) ?? "a conversation"
  }`;
  const steps = turns.map(
    ({ from, data }) => `    .${from === "client" ? "send" : "expect"}(${written(data)})`,
  );
  const ends = events.filter(({ end }) => end !== undefined);
  if (ends.some(({ from, end }) => from === "client" && end !== "reset")) steps.push("    .halfClose()");
  if (ends.some(({ from, end }) => from === "server" && end !== "reset")) steps.push("    .expectEnd()");
  if (ends.some(({ from, end }) => from === "server" && end === "reset")) steps.push("    .expectReset()");
  const name = JSON.stringify(handler);
  const by =
    kind === "stream"
      ? ["    await client.run(stream);"]
      : ["    // A conversation of datagrams: run it by `socklet replay`, with its transcript."];
  return [
    `import { createConnection, serveApp } from "socklet/emulator";`,
    `import { conversation } from "socklet/testing";`,
    `import { expect, test } from "vitest";`,
    `import { app } from "./app.ts";`,
    "",
    `test(${JSON.stringify(title)}, async () => {`,
    "  const client = conversation()",
    `${steps.join("\n")};`,
    "  const server = await serveApp(app, { anyPort: true });",
    "  try {",
    `    const listener = server.listeners.find(({ name }) => name === ${name});`,
    `    expect(listener, ${JSON.stringify(`the app has a listener ${handler}`)}).toBeDefined();`,
    `    const stream = await createConnection(listener?.url ?? "");`,
    ...by,
    "    await stream.close();",
    "  } finally {",
    "    await server.close();",
    "  }",
    "});",
    "",
  ].join("\n");
};

/** The transcript, as JSON Lines. */
export const asTranscript = ({ kind, address, began, handler, events }: Copied): string => {
  const header = { socklet: "transcript", version: 1, kind, note: handler, address, began };
  return [JSON.stringify(header), ...events.map(lineOf), ""].join("\n");
};
