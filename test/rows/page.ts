/** docs/socket-module.md, made of the rows: `npm run docs`. Throws where a row has no test. */

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

/** The page of a table: the rows' own. */
export const socketModulePage = (table = rows): string => {
  for (const row of table) mustBeTested(row);
  const lines = table.map((row) =>
    [row.id, row.python, row.name, row.what, said(row.node), said(row.worker)].map(escaped).join(" | "),
  );
  return `# The socket module

<!-- Made of test/rows by \`npm run docs\`; change that. -->

Every part of CPython's \`socket\` that its tutorials teach, and what it is here. A name keeps its spelling, and each
underscore becomes a capital: \`gethostbyname_ex\` is \`gethostbynameEx\`. What waits gives a promise; times are
milliseconds; bytes are \`Uint8Array\`, and what sends takes text, too; the end of a stream is \`null\`; what CPython's
\`OSError\` says a \`SocketError\` says by its \`code\` (and \`errno\`).

Constants and what is pure come from \`socklet\`; the rest from the entry of the place, \`socklet/emulator\` in Node and
\`socklet/worker\` in a Worker. In Node the optional package \`koffi\` (\`npm install koffi\`) adds what Node itself has no word for;
without it that throws \`ERR_UNSUPPORTED\`, which names the package.

Each cell is shown by a test, in that place: one that works, by doing it; one that cannot, by the error that says so.

| | CPython | here | what it does | Node | Worker |
|---|---|---|---|---|---|
${lines.map((line) => `| ${line} |`).join("\n")}
`;
};
