/** docs/socket-module.md, made of the rows: `npm run docs`. Throws if a row has no test. */

import { nodeRows } from "./node.ts";
import { type Cell, type Row, rows } from "./rows.ts";
import { workerRows } from "./worker.ts";

const mustBeTested = (row: Row): void => {
  const missing = [row.id in nodeRows ? "" : "node.ts", row.id in workerRows ? "" : "worker.ts"];
  const where = missing.filter((file) => file !== "").join(" and ");
  if (where !== "") throw new Error(`row ${row.id} (${row.name}) has no test in test/rows/${where}`);
};

const said = (cell: Cell): string => {
  if ("cannot" in cell) return `**cannot**: ${cell.cannot}`;
  return cell.works === "" ? "works" : `works: ${cell.works}`;
};

/** A cell of a Markdown table. */
const escaped = (text: string): string => text.replaceAll("|", "\\|");

/** The program at the head of the page. A test runs it, and compares what it prints. */
export const EXAMPLE = `import { AF_INET, SHUT_WR, SOCK_DGRAM, SOCK_STREAM, SocketError, select } from "socklet";
import { getservbyname, socket } from "socklet/emulator";

// A connection, both ends.
await using listener = socket(AF_INET, SOCK_STREAM); // "await using" closes it at the end
await listener.bind("127.0.0.1:0"); // port 0: the system chooses one
await listener.listen();
await using client = socket(); // AF_INET and SOCK_STREAM are the default
client.settimeout(3_000); // each call that waits longer rejects with ETIMEDOUT
await client.connect(listener.getsockname()!);
const [connection] = await listener.accept();
await client.sendall("Hello\\nand goodbye\\n");
await client.shutdown(SHUT_WR); // the other end reads the end
for await (const line of connection.makefile("r")) console.log("line:", line.trimEnd());
await connection.close();

// Datagrams.
await using one = socket(AF_INET, SOCK_DGRAM);
await one.bind("127.0.0.1:0");
await using other = socket(AF_INET, SOCK_DGRAM);
await other.sendto("a datagram", one.getsockname()!);
const [bytes] = await one.recvfrom();
console.log(new TextDecoder().decode(bytes));

// Calls that do not wait, and errors.
one.setblocking(false);
try {
  await one.recv();
} catch (error) {
  if (!(error instanceof SocketError) || error.code !== "EWOULDBLOCK") throw error;
  console.log("nothing came:", error.errno);
}
const [readable] = await select([one, listener], [], [], 10);
console.log(readable.length, "ready;", "http is port", getservbyname("http"));
`;

export const PRINTS = `line: Hello
line: and goodbye
a datagram
nothing came: 11
0 ready; http is port 80
`;

/** The headings, each before the row that it begins with. */
const SECTIONS: Readonly<Record<string, string>> = {
  S1: "Addresses, names and services",
  S14: "Addresses as text and bytes",
  S19: "Byte order",
  S22: "The socket",
  S48: "Its names, waits and options",
};

/** The page of a table: the rows' own. */
export const socketModulePage = (table = rows): string => {
  for (const row of table) mustBeTested(row);
  const lines = table.flatMap((row) => {
    const section = SECTIONS[row.id];
    const heading = [
      `\n## ${section}\n`,
      "| | CPython | here | what it does | Node | Worker |",
      "|---|---|---|---|---|---|",
    ];
    const cells = [row.id, row.python, row.name, row.what, said(row.node), said(row.worker)];
    return [...(section === undefined ? [] : heading), `| ${cells.map(escaped).join(" | ")} |`];
  });
  return `# The socket module

<!-- Generated from test/rows by \`npm run docs\`; change that. -->

Python's \`socket\`, call by call: for a program that needs more than a handler, or that is ported from Python.

\`\`\`ts
${EXAMPLE}\`\`\`

It prints:

\`\`\`text
${PRINTS}\`\`\`

- **Names** keep their spelling, and each underscore becomes a capital: \`gethostbyname_ex\` is \`gethostbynameEx\`.
- **Calls** that wait return a promise. Times are milliseconds. Bytes are \`Uint8Array\`; calls that send also take text (as UTF-8).
- **The end** of a stream is \`null\`. An error is a \`SocketError\`, with a \`code\` and an \`errno\`, instead of \`OSError\`.
- **Imports**: constants and pure functions come from \`socklet\`; the rest from \`socklet/emulator\` in Node, and \`socklet/worker\` in a Worker.
- **\`koffi\`**, an optional package (\`npm install koffi\`), adds what Node itself cannot do. Without it such a call throws
  \`ERR_UNSUPPORTED\`, which names the package.

The tables list every part of CPython's \`socket\` that its tutorials teach. A test shows each cell, in its place: for *works* it makes the call,
for *cannot* it checks the error.
${lines.join("\n")}
`;
};
