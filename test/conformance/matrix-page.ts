/** docs/places.md, generated from the table of places and examples: `npm run docs`. */

import {
  COLUMNS,
  type Column,
  cellOf,
  type Example,
  examples,
  isDatagrams,
  type Place,
  type PlaceId,
  places,
} from "./matrix-table.ts";

const all = Object.entries(places) as [PlaceId, Place][];
const letter = (at: number): string => String.fromCharCode(97 + at);

const kindOf = (example: Example): string => {
  if (isDatagrams(example)) return "datagrams";
  return example.dials === undefined ? "server" : "client";
};

/** The reasons of the places that cannot, in the order of the page. */
const reasons = all.flatMap(([id, place]) =>
  (["streams", "datagrams"] as const).flatMap((kind) => {
    const cell = place[kind];
    return "cannot" in cell ? [{ id, kind, place, cell }] : [];
  }),
);

const said = (example: Example, id: PlaceId): string => {
  if ("works" in cellOf(example, id)) return "works";
  const kind = isDatagrams(example) ? "datagrams" : "streams";
  return `cannot (${letter(reasons.findIndex((one) => one.id === id && one.kind === kind))})`;
};

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");

const needs = ({ streams, datagrams }: Place): string =>
  [streams, datagrams]
    .flatMap((cell, i) =>
      "works" in cell && cell.works !== "" ? [`${i === 0 ? "streams" : "datagrams"} ${cell.works}`] : [],
    )
    .join("; ");

// ---- What works where ----

/** Where streams or datagrams can be served or dialled, by the table of places. */
const ways = (role: "serves" | "dials", kind: "streams" | "datagrams") => (column: Column) => {
  const found = all.flatMap(([, place]) => {
    const cell = place[kind];
    const way = place[role];
    if (place.column !== column || way === undefined || !("works" in cell)) return [];
    return [cell.works === "" ? way : `${way}, ${cell.works}`];
  });
  return found.length === 0 ? "no" : found.join("; ");
};

const CONFORMANCE = "test/conformance/stream-scenarios.ts";
const MATRIX = "[every example](#every-example-in-every-place)";

/** What the table of places does not say, and the tests that show it. */
const FACTS: readonly (Readonly<Record<Column, string>> & { readonly what: string; readonly by: string })[] =
  [
    {
      what: "STARTTLS, by `startTls()`",
      Node: "in both roles",
      Bun: "in both roles",
      Deno: "in both roles",
      Worker: "where it dials",
      memory: "no",
      by: "test/emulator/tls.test.ts, test/worker/sessions-tls.test.ts",
    },
    {
      what: "connections that write to each other, as in a [chat](broadcasts.md)",
      Node: "yes",
      Bun: "yes",
      Deno: "yes",
      Worker: "in one Durable Object, by `WorkerServer`: a request cannot use another's connection",
      memory: "yes",
      by: "test/emulator/broadcasts.test.ts, test/worker/broadcasts.test.ts",
    },
    {
      what: "forking servers, several processes, restarts without a gap",
      Node: "yes",
      Bun: "no: `ERR_UNSUPPORTED`",
      Deno: "no: `ERR_UNSUPPORTED`",
      Worker: "no: a Worker has no processes",
      memory: "no",
      by: "test/runtimes/serve.test.ts, test/emulator/forking.test.ts",
    },
    {
      what: "`abort()` sends a reset",
      Node: "yes; on Unix sockets the peer sees an end",
      Bun: "yes; on Unix sockets the peer sees an end",
      Deno: "yes; over TLS, a reset from the peer is read as the end",
      Worker: "no: the peer sees an end",
      memory: "yes",
      by: CONFORMANCE,
    },
    {
      what: "the peer's address is known",
      Node: "yes",
      Bun: "yes",
      Deno: "yes",
      Worker: "by port, and if it dials; not by a binding",
      memory: "yes",
      by: CONFORMANCE,
    },
  ];

const whatWorksWhere = (): string =>
  table(
    ["", ...COLUMNS, "shown by"],
    [
      ["serve streams", ...COLUMNS.map(ways("serves", "streams")), MATRIX],
      ["serve datagrams", ...COLUMNS.map(ways("serves", "datagrams")), MATRIX],
      ["dial streams", ...COLUMNS.map(ways("dials", "streams")), MATRIX],
      ["dial datagrams", ...COLUMNS.map(ways("dials", "datagrams")), MATRIX],
      ...FACTS.map(({ what, by, ...columns }) => [
        what,
        ...COLUMNS.map((column) => columns[column]),
        by
          .split(", ")
          .map((file) => `\`${file}\``)
          .join(", "),
      ]),
    ],
  );

export const placesPage = (): string => `# Places: what works where

<!-- Generated from test/conformance/matrix-table.ts by \`npm run docs\`; change that. -->

A place is where connections come from: a kind of listener or dialling in Node, in a Worker, or in memory. A handler does not
know which one it is in, but not every place can do everything:

${whatWorksWhere()}

## Every example in every place

Each example of \`examples/\` has one conversation, a script of \`socklet/testing\`, which runs in every place. What the dialling end
sends and receives is recorded, and must equal the recording made in memory, byte by byte. (Values that differ each time are left out,
such as the name of a kept mail.) The conversation runs once more with every byte to the handler sent separately. A server's also
runs in one piece, with the end immediately after it; and \`checkFraming\` runs it in memory under every cut, end and reset.

A **server** runs in the place, and the script dials it. A **client** dials, and the script is its server. A handler of
**datagrams** is served, and the script sends to it. Each cell is a test. If the cell says *works*, the conversation succeeds. If it
says *cannot*, the test tries, and compares the error with the one below.

${table(
  ["handler", "", "the conversation", ...all.map(([, { name }]) => name)],
  Object.entries(examples).map(([name, example]) => [
    `[\`${name}\`](../examples/${example.file})`,
    kindOf(example),
    example.says,
    ...all.map(([id]) => said(example, id)),
  ]),
)}

### What cannot work, and the error

${reasons
  .map(
    ({ kind, place, cell }, at) =>
      `- (${letter(at)}) **${kind}, ${place.name}**: ${cell.cannot}.\n  \`${cell.says}\``,
  )
  .join("\n")}

## The places

${table(
  ["place", "what serves, and what dials", "needs", "run by"],
  all.map(([, place]) => [place.name, place.ends, needs(place), `\`${place.file}\``]),
)}

To add a place or an example: [CONTRIBUTING.md](../CONTRIBUTING.md#how-to-add-a-place). A handler of \`examples/\` without a
conversation fails a test.
`;
