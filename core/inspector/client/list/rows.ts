/** The rows of the list: one for each session, each sender of datagrams, and each conversation of an opened file. */

import type { FlowInfo, SessionInfo } from "../../../control/plane.ts";
import type { FileConversation } from "../data/file.ts";

/** One row. Rows share equal strings, to save memory. */
export interface Row {
  readonly id: string;
  readonly kind: "session" | "flow" | "file";
  readonly started: number;
  readonly handler: string;
  /** Whether the connection was accepted, not dialled. */
  readonly inbound: boolean;
  readonly address: string;
  peer: string;
  state: string;
  ended: number;
  read: number;
  written: number;
  error: string;
  /** The text that the filter searches, in lower case. */
  key: string;
  readonly file?: FileConversation;
}

const shared = new Map<string, string>();
const one = (text: string): string => {
  const known = shared.get(text);
  if (known !== undefined) return known;
  if (shared.size < 10_000) shared.set(text, text);
  return text;
};

const keyed = (row: Row): Row => {
  row.key =
    `${row.handler} ${row.peer} ${row.address} ${row.state} ${row.inbound ? "in" : "out"} ${row.error}`.toLowerCase();
  return row;
};

export const rowOfSession = (info: SessionInfo): Row =>
  keyed({
    id: info.id,
    kind: "session",
    started: Date.parse(info.startedAt),
    handler: one(info.handler),
    inbound: info.direction === "inbound",
    address: one(info.address),
    peer: info.peer ?? "",
    state: one(info.state),
    ended: info.endedAt === null ? 0 : Date.parse(info.endedAt),
    read: info.bytesRead,
    written: info.bytesWritten,
    error: info.error === null ? "" : one(info.error.message.slice(0, 200)),
    key: "",
  });

export const rowOfFlow = (info: FlowInfo): Row =>
  keyed({
    id: info.id,
    kind: "flow",
    started: Date.parse(info.startedAt),
    handler: one(info.handler),
    inbound: true,
    address: one(info.address),
    peer: info.peer ?? "",
    state: "datagrams",
    ended: 0,
    read: info.bytesRead,
    written: info.bytesWritten,
    error: "",
    key: "",
  });

export const rowOfFile = (file: FileConversation): Row =>
  keyed({
    id: file.id,
    kind: "file",
    started: Date.parse(file.began) || Date.now(),
    handler: file.name,
    inbound: true,
    address: file.address,
    peer: `#${file.peer}`,
    state: "file",
    ended: 0,
    read: file.read,
    written: file.written,
    error: "",
    key: "",
    file,
  });

/** The order of the rows. The ids of sessions and flows begin with their time; conversations of files come last, in their own order. */
const byAge = (one: Row, other: Row): number => {
  const [file, otherFile] = [one.kind === "file", other.kind === "file"];
  return file || otherFile ? Number(file) - Number(otherFile) : one.id < other.id ? -1 : 1;
};

/** All rows, oldest first, and those that pass the filter. */
export class Rows {
  readonly #byId = new Map<string, number>(); // the index of a row
  #all: Row[] = [];
  #shown: Row[] = [];
  #words: readonly string[] = [];
  #state = "";
  #ids: ReadonlySet<string> | null = null;

  get all(): readonly Row[] {
    return this.#all;
  }

  /** The rows that are shown, newest last. */
  get shown(): readonly Row[] {
    return this.#shown;
  }

  get(id: string): Row | undefined {
    return this.#all[this.#byId.get(id) ?? -1];
  }

  /** Adds or updates rows. */
  put(rows: readonly Row[]): void {
    const fresh = new Map<string, Row>();
    for (const row of rows) {
      const place = this.#byId.get(row.id);
      if (place === undefined) fresh.set(row.id, row);
      else this.#all[place] = row;
    }
    this.#add([...fresh.values()]);
  }

  /** Adds rows. One that is there already is newer, and stays. */
  putMissing(rows: readonly Row[]): void {
    this.#add(rows.filter(({ id }) => !this.#byId.has(id)));
  }

  /** Adds rows that are not there yet, each at its place. */
  #add(fresh: readonly Row[]): void {
    const [oldest] = fresh.toSorted(byAge);
    if (oldest !== undefined) {
      let place = this.#all.length;
      while (place > 0 && byAge(this.#all[place - 1] as Row, oldest) > 0) place--;
      for (const row of [...this.#all.splice(place), ...fresh].sort(byAge)) {
        this.#byId.set(row.id, this.#all.length);
        this.#all.push(row);
      }
    }
    this.#filter();
  }

  clear(): void {
    this.#byId.clear();
    this.#all = [];
    this.#filter();
  }

  /** Shows the rows that contain all these words, are in this state, and are among these ids. */
  filter(text: string, state: string, ids: ReadonlySet<string> | null): void {
    this.#words = text
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== "");
    this.#state = state;
    this.#ids = ids;
    this.#filter();
  }

  #filter(): void {
    const [words, state, ids] = [this.#words, this.#state, this.#ids];
    if (words.length === 0 && state === "" && ids === null) {
      this.#shown = this.#all;
      return;
    }
    this.#shown = this.#all.filter(
      (row) =>
        (state === "" || (state === "error" ? row.error !== "" : row.state === state)) &&
        (ids === null || ids.has(row.id)) &&
        words.every((word) => row.key.includes(word)),
    );
  }
}
