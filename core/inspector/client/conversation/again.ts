/** "Say it again": sends what the client said, edited or not, to a listener or server, and shows how the answer differs. */

import type { EntryInfo, Replayed } from "../../../control/plane.ts";
import { ask, oneAtATime } from "../data/api.ts";
import { type SaidLine, saidOf } from "../data/file.ts";
import { fromLine, readable, toBase64, toLine } from "../display/bytes.ts";
import { button, choice, dialog, element, say } from "../display/dom.ts";
import { type Copied, turnsOf } from "./copy.ts";

const ELSEWHERE = ""; // the choice "another address"; no entry has this name
const MOST_LINES = 2_000; // lines that are compared one by one

/** The differences between two texts, line by line. */
const differences = (
  before: string,
  now: string,
): { readonly sign: "" | "-" | "+"; readonly line: string }[] => {
  const [old, fresh] = [before, now].map((text) => text.split("\n").slice(0, MOST_LINES)) as [
    string[],
    string[],
  ];
  let head = 0;
  while (head < old.length && head < fresh.length && old[head] === fresh[head]) head++;
  let tail = 0;
  while (
    tail < old.length - head &&
    tail < fresh.length - head &&
    old[old.length - 1 - tail] === fresh[fresh.length - 1 - tail]
  )
    tail++;
  return [
    ...old.slice(0, head).map((line) => ({ sign: "" as const, line })),
    ...old.slice(head, old.length - tail).map((line) => ({ sign: "-" as const, line })),
    ...fresh.slice(head, fresh.length - tail).map((line) => ({ sign: "+" as const, line })),
    ...old.slice(old.length - tail).map((line) => ({ sign: "" as const, line })),
  ];
};

const serverSide = (copied: Pick<Copied, "kind" | "events">): string =>
  turnsOf(copied)
    .filter(({ from }) => from === "server")
    .map(({ data }) => readable(data))
    .join("");

/** The text to edit: one line for each piece; an empty line waits for the server. */
const piecesOf = (copied: Copied): string => {
  const turns = turnsOf(copied);
  const said = turns.filter(({ from }) => from === "client").map(({ data }) => toLine(data));
  return [...(turns[0]?.from === "server" ? [""] : []), ...said].join("\n");
};

/** Opens the dialog. */
export const sayAgain = (copied: Copied, entries: readonly EntryInfo[]): void => {
  const there = entries.find(({ address }) => address === copied.address);
  const known = there ?? entries.find(({ entry }) => entry === copied.handler);
  const all = known === undefined ? entries : [known, ...entries.filter((one) => one !== known)];
  const named = all.filter(({ entry }, i) => i === all.findIndex((one) => one.entry === entry));
  const { label, select } = choice(
    "To ",
    [
      ...named.map(({ on, entry }) => [entry, on === "dial" ? `dial ${entry}` : entry] as const),
      [ELSEWHERE, "another address"],
    ],
    { id: "again-to" },
  );
  const address = element("input", {
    "aria-label": "Address",
    placeholder: "host:port",
    value: copied.address,
  });
  const settle = (): void => {
    address.hidden = select.value !== ELSEWHERE;
  };
  settle();
  select.addEventListener("change", settle);
  const text = element("textarea", {
    "aria-label": "What to say, a piece a line",
    spellcheck: "false",
    id: "again-text",
  });
  text.value = piecesOf(copied);
  const ends = element("input", { type: "checkbox", checked: copied.kind === "stream" });
  const answer = element("div", {
    id: "again-answer",
    role: "region",
    "aria-label": "The answer",
    "aria-live": "polite",
  });
  const go = oneAtATime(async () => {
    answer.replaceChildren("…");
    try {
      const pieces = text.value.split("\n").map((line) => ({ base64: toBase64(fromLine(line)) }));
      const to = select.value === ELSEWHERE ? address.value : select.value;
      const { events, error } = await ask<Replayed>("POST", "/replays", {
        to,
        pieces,
        halfClose: ends.checked,
      });
      const now = { kind: copied.kind, events: (events as unknown as SaidLine[]).map(saidOf) };
      const lines = differences(serverSide(copied), serverSide(now));
      const same = lines.every(({ sign }) => sign === "");
      answer.replaceChildren(
        element(
          "h3",
          {},
          same ? "The server answered the same as before." : "The server answered differently:",
        ),
        ...(error === null ? [] : [element("p", { class: "bad" }, error.message)]),
        element(
          "pre",
          { class: "diff", tabindex: "0" },
          ...lines.map(({ sign, line }) =>
            element(
              "span",
              { class: sign === "-" ? "minus" : sign === "+" ? "plus" : "" },
              `${sign === "" ? " " : sign} ${line}\n`,
            ),
          ),
        ),
      );
    } catch (error) {
      answer.replaceChildren(element("p", { class: "bad" }, (error as Error).message));
      say((error as Error).message, true);
    }
  });
  dialog(
    "Send again",
    element(
      "p",
      { class: "dim" },
      "Each line is one piece, with the escapes \\r \\n \\t \\xNN. It is sent when the one before is answered; an empty line only waits for the server.",
    ),
    element("div", { class: "bar" }, label, address, element("label", {}, ends, "then end our side")),
    text,
    element(
      "div",
      { class: "bar" },
      button("Send", () => void go(), { id: "again-send" }),
    ),
    answer,
  );
  text.focus();
};
