/** docs/places.md, made of the table: `npm run docs`. */

import {
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

export const placesPage = (): string => `# Every example in every place

<!-- Made of test/conformance/matrix-table.ts by \`npm run docs\`; change that. -->

A handler does not know where it runs. So each example of \`examples/\` is held to one conversation, a script of
\`socklet/testing\`, in each place that there is: the same script, and the same bytes. What the end that dialled sent and
received is recorded, and compared with the recording of the same conversation in memory, byte by byte. (What differs each
time is left out: the name of a kept mail.) It is held again with every byte that the handler is sent cut from the next; a
server's once more in one piece, with the end behind it; and in memory under every cut, end and reset, by \`checkFraming\`.

A **server** is served in the place, and the script dials it. A **client** dials, and the script is its server. A handler of
**datagrams** is served, and the script sends it some. Each cell is a test: one that works holds the conversation; one that
cannot asks for it, and compares what is then said with what stands here.

${table(
  ["handler", "", "the conversation", ...all.map(([, { name }]) => name)],
  Object.entries(examples).map(([name, example]) => [
    `[\`${name}\`](../examples/${example.file})`,
    kindOf(example),
    example.says,
    ...all.map(([id]) => said(example, id)),
  ]),
)}

## What cannot be, and how it is said

${reasons
  .map(
    ({ kind, place, cell }, at) =>
      `- (${letter(at)}) **${kind}, ${place.name}**: ${cell.cannot}.\n  It is said so: \`${cell.says}\``,
  )
  .join("\n")}

## The places

${table(
  ["place", "who serves, and who dials", "needs", "run by"],
  all.map(([, place]) => [place.name, place.ends, needs(place), `\`${place.file}\``]),
)}

A place is one entry of \`places\` in \`test/conformance/matrix-table.ts\`, and one in the test that it names; a handler is one
entry of \`examples\`. What has no entry fails a test.
`;
