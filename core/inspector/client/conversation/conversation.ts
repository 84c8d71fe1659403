/** One connection as a conversation: what each side said and when, what the handler emitted, errors, and who ended it. */

import type { DecodedPart, EntryInfo, RecordedPart, SessionEvent } from "../../../control/plane.ts";
import { ask, follow, oneAtATime, Refusal } from "../data/api.ts";
import { type Said, type SaidLine, saidOf } from "../data/file.ts";
import { fromHex, hexdump, join, readable, size, visible } from "../display/bytes.ts";
import { button, choice, dialog, element, say } from "../display/dom.ts";
import type { Row } from "../list/rows.ts";
import { sayAgain } from "./again.ts";
import { asNc, asTest, asTranscript, type Copied } from "./copy.ts";

const MOST_ITEMS = 1_000; // items in the document at once
const MOST_SHOWN = 64 * 1024; // bytes of one item that are shown at first
const MOST_KEPT = 16 * 1024 * 1024; // bytes of one conversation that are loaded at first

type View = "text" | "lines" | "hex" | "decoded";

/** One line of the conversation. */
interface Item {
  /** Milliseconds since the beginning. */
  readonly at: number;
  readonly of: "client" | "server" | "made" | "failed";
  readonly who: string;
  readonly bytes?: Uint8Array;
  readonly text?: string;
}

/** What a conversation needs of the page. */
interface Surroundings {
  /** The entries that can be sent to by name. */
  entries(): Promise<readonly EntryInfo[]>;
  /** Closes the conversation's view. */
  leave(): void;
  /** Whether bytes can be shown: the server records, and the token may read it. */
  readonly records: boolean;
}

const seconds = (ms: number): string => `${ms < 0 ? "−" : "+"}${(Math.abs(ms) / 1000).toFixed(4)}`;

const WORDS = {
  "half-close": "ended its side (FIN)",
  close: "closed the connection",
  reset: "reset the connection (RST)",
} as const;

/** The view of a conversation. */
export class Conversation {
  readonly element: HTMLElement;
  row: Row;
  readonly #page: Surroundings;
  readonly #leaving = new AbortController();
  readonly #list = element("ol", { class: "said", tabindex: "0", "aria-label": "What was said" });
  readonly #facts = element("p", { class: "facts" });
  readonly #actions: HTMLButtonElement[] = [];
  #view: View = "text";
  #follows = true;
  #began = 0;
  #side: "client" | "server" = "server";
  #kind: "stream" | "datagrams" = "stream";
  #address: string;
  #dropped = 0;
  #said: Said[] = [];
  #events: SessionEvent[] = [];
  #bytes = 0;
  #next = 0;
  #total = 0;
  #loading = false;
  #mostKept = MOST_KEPT;
  #from: number | null = null; // the first item shown; `null`: the newest items are shown
  #note = "";
  #decoded: DecodedPart | null = null;
  #problem = ""; // what decoding failed with
  #whole = new Set<number>(); // items that are shown in full

  constructor(row: Row, page: Surroundings) {
    this.row = row;
    this.#page = page;
    this.#address = row.address;
    this.#began = row.started;
    this.element = this.#build();
    if (row.file !== undefined) {
      this.#said = [...row.file.events];
      this.#kind = row.file.kind;
      this.#dropped = row.file.dropped;
      this.#draw();
    } else {
      void this.load();
      if (row.kind === "session") void this.#hear();
    }
  }

  /** Stops following the connection. */
  close(): void {
    this.#leaving.abort();
  }

  /** The row has changed, so there may be more to load. */
  changed(row: Row): void {
    this.row = row;
    this.#enable();
    void this.load();
  }

  /** Loads what is new. */
  readonly load = oneAtATime(async () => {
    if (!this.#page.records) {
      this.#note = "The bytes are not kept here: what the handler emitted, and how it ended, is all.";
      this.#draw();
      return;
    }
    this.#loading = true;
    try {
      do {
        const part = await ask<RecordedPart>(
          "GET",
          `/recording/${this.row.id}?after=${this.#next}`,
          undefined,
          this.#leaving.signal,
        );
        this.#took(part);
        if (this.#view === "decoded" && part.events.length > 0) void this.#decode();
        this.#draw();
      } while (this.#next < this.#total && this.#bytes < this.#mostKept);
    } catch (error) {
      if (this.#leaving.signal.aborted) return;
      if (!(error instanceof Refusal) || error.status !== 404) say((error as Error).message, true);
      else if (this.#said.length === 0) {
        this.#note =
          "Nothing that was said is kept: it passed before this page was open, or who kept it is gone.";
        this.#draw();
      }
    } finally {
      this.#loading = false;
    }
  });

  #took({ began, side, kind, address, dropped = 0, next, total, events }: RecordedPart): void {
    this.#began = Date.parse(began);
    this.#side = side;
    this.#kind = kind;
    this.#address = address;
    this.#dropped = dropped;
    this.#next = next;
    this.#total = total;
    for (const line of events as unknown as SaidLine[]) {
      const said = saidOf(line);
      this.#bytes += said.data?.length ?? 0;
      this.#said.push(said);
    }
  }

  /** Loads the decoded messages. Until they come, the earlier ones are shown, and new bytes as bytes. */
  readonly #decode = oneAtATime(async () => {
    this.#problem = "";
    try {
      const { signal } = this.#leaving;
      this.#decoded = await ask<DecodedPart>("GET", `/recording/${this.row.id}/messages`, undefined, signal);
      const { error, whole } = this.#decoded;
      if (error !== null)
        this.#problem = `The decoder failed, and what it has not decoded is shown as bytes: ${error}`;
      else if (!whole) this.#problem = "Only the beginning is decoded";
    } catch (error) {
      if (this.#leaving.signal.aborted) return;
      this.#decoded = null;
      const missing = error instanceof Refusal && error.status === 404;
      this.#problem = missing
        ? "The entry of the app has no decode: the bytes are shown as text"
        : (error as Error).message;
    }
    this.#draw();
  });

  /** Follows what the handler emits, and its end. */
  async #hear(): Promise<void> {
    const { signal } = this.#leaving;
    try {
      for await (const event of follow<SessionEvent>(`/sessions/${this.row.id}/events`, signal)) {
        this.#events.push(event);
        this.#draw();
      }
    } catch (error) {
      if (!signal.aborted) say((error as Error).message, true);
    }
  }

  // ---- Drawing ----

  /** How a side is named to the reader: this process is one of the two. */
  #who(side: "client" | "server"): string {
    return this.row.kind === "file" ? side : side === this.#side ? "handler" : "peer";
  }

  #items(): Item[] {
    const items: Item[] = this.#view === "lines" && this.#kind === "stream" ? this.#lines() : [];
    const decoded = this.#view === "decoded" ? this.#decoded : null;
    const done = { client: 0, server: 0 }; // bytes that are part of a message
    for (const { at, from, bytes, text } of decoded?.messages ?? []) {
      done[from] += bytes;
      items.push({ at, of: from, who: this.#who(from), text });
    }
    for (const { at, from, data, end, tls, dropped, fault, rule } of this.#said) {
      const of = from ?? "server";
      const who = from === undefined ? "" : this.#who(from);
      if (data !== undefined) {
        const known = from === undefined || decoded === null ? 0 : Math.min(done[from], data.length);
        if (from !== undefined) done[from] -= known;
        const rest = known === 0 ? data : data.subarray(known);
        if ((this.#view !== "lines" || this.#kind === "datagrams") && (rest.length > 0 || decoded === null))
          items.push({ at, of, who, bytes: rest });
      } else if (end !== undefined) {
        const text = `${from} ${WORDS[end]}`;
        items.push({ at, of: end === "reset" ? "failed" : "made", who, text });
      } else if (tls) items.push({ at, of: "made", who: "both", text: "speak through TLS from here on" });
      else if (dropped !== undefined)
        items.push({ at, of: "failed", who: "", text: `${size(dropped)} that were said are not here` });
      else if (fault !== undefined)
        items.push({ at, of: "made", who: "rule", text: `${rule ?? ""}: ${fault}` });
    }
    for (const event of this.#events) {
      const at = Date.parse(event.at) - this.#began;
      const made = (of: Item["of"], who: string, text: string): void =>
        void items.push({ at, of, who, text });
      if (event.type === "handler") made("made", "emitted", JSON.stringify(event.detail));
      else if (event.type === "failed" || event.type === "cut")
        made("failed", event.type, event.error.message);
      else if (event.type === "sent") made("made", "by hand", `${event.bytes} bytes`);
      else if (event.type === "halfClosed") made("made", "by hand", "our side was ended");
      else if (event.type === "connecting" && event.hint) made("made", "hint", event.hint);
      else if (event.type === "waiting") made("made", "waits", `until ${event.next}`);
    }
    return items.sort((one, other) => one.at - other.at);
  }

  /** The lines of each side, each at the time of its end. */
  #lines(): Item[] {
    const items: Item[] = [];
    const rest: Record<"client" | "server", Uint8Array[]> = { client: [], server: [] };
    let last = 0;
    for (const { at, from, data } of this.#said) {
      last = at;
      if (data === undefined || from === undefined) continue;
      let begin = 0;
      for (let end = data.indexOf(10); end !== -1; end = data.indexOf(10, begin)) {
        const bytes = join([...rest[from], data.subarray(begin, end + 1)]);
        rest[from] = [];
        begin = end + 1;
        items.push({ at, of: from, who: this.#who(from), bytes });
      }
      if (begin < data.length) rest[from].push(data.subarray(begin));
    }
    for (const from of ["client", "server"] as const) {
      const bytes = join(rest[from]);
      if (bytes.length > 0) items.push({ at: last, of: from, who: this.#who(from), bytes });
    }
    return items;
  }

  #drawing = false;

  #draw(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#drawNow();
    });
  }

  #drawNow(): void {
    const items = this.#items();
    const from = this.#from ?? Math.max(0, items.length - MOST_ITEMS);
    const shown = items.slice(from, from + MOST_ITEMS);
    const lines: HTMLElement[] = shown.map((item, i) => this.#line(item, from + i));
    const more = (label: string, click: () => void): HTMLElement =>
      element("li", {}, element("span"), element("span"), button(label, click));
    if (from > 0) lines.unshift(more(`${from} earlier`, () => this.#show(Math.max(0, from - MOST_ITEMS))));
    const after = items.length - from - shown.length;
    if (after > 0) lines.push(more(`${after} later`, () => this.#show(from + MOST_ITEMS)));
    if (this.#next < this.#total && !this.#loading) {
      lines.push(
        more(`${this.#total - this.#next} events are not loaded: load more`, () => {
          this.#mostKept = this.#bytes + MOST_KEPT;
          void this.load();
        }),
      );
    }
    this.#list.replaceChildren(...lines);
    if (this.#follows && this.#from === null) this.#list.scrollTop = this.#list.scrollHeight;
    this.#facts.textContent = visible(this.#factsNow());
    this.#enable();
  }

  #show(from: number): void {
    this.#from = from;
    this.#list.scrollTop = 0;
    this.#draw();
  }

  #line({ at, of, who, bytes, text }: Item, number: number): HTMLElement {
    const whole = bytes === undefined || bytes.length <= MOST_SHOWN || this.#whole.has(number);
    const seen = bytes === undefined || whole ? bytes : bytes.subarray(0, MOST_SHOWN);
    const shown =
      seen === undefined
        ? (text ?? "")
        : this.#view === "hex"
          ? hexdump(seen)
          : readable(seen).replace(/\n$/, "");
    const pre = element("pre", this.#view === "hex" && bytes !== undefined ? { class: "hex" } : {}, shown);
    const contents = element("div", {}, pre);
    if (!whole && bytes !== undefined) {
      contents.append(
        button(`${size(bytes.length - MOST_SHOWN)} more`, () => {
          this.#whole.add(number);
          this.#draw();
        }),
      );
    }
    return element(
      "li",
      { class: of },
      element("span", { class: "dim" }, seconds(at)),
      element("span", { class: "who" }, who),
      contents,
    );
  }

  #factsNow(): string {
    const { row } = this;
    const ends = this.#said.filter(({ end }) => end !== undefined);
    const [first] = ends;
    const how = first?.end === undefined ? "" : `; ended first by the ${first.from} (${first.end})`;
    const lost = this.#dropped > 0 ? `; ${size(this.#dropped)} of it are not kept` : "";
    const error = row.error === "" ? "" : `; ${row.error}`;
    const counts = `${size(row.read)} received, ${size(row.written)} sent`;
    const problem = this.#view === "decoded" ? this.#problem : "";
    return [`${row.state}; ${counts}${how}${lost}${error}`, this.#note, problem]
      .filter((text) => text !== "")
      .join(". ");
  }

  // ---- Acting ----

  #copied(): Copied {
    return {
      kind: this.#kind,
      handler: this.row.handler,
      address: this.#address,
      began: new Date(this.#began).toISOString(),
      events: this.#said,
    };
  }

  #paste(title: string, text: string, name: string): void {
    const area = element("textarea", { readonly: true, "aria-label": title, spellcheck: "false" });
    area.value = text;
    const copy = async (): Promise<void> => {
      await navigator.clipboard.writeText(text).then(
        () => say("Copied"),
        () => {
          area.select();
          say("Press Ctrl+C: this page may not use the clipboard", true);
        },
      );
    };
    const save = (): void => {
      const url = URL.createObjectURL(new Blob([text]));
      element("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1_000);
    };
    dialog(
      title,
      area,
      element(
        "div",
        { class: "bar" },
        button("Copy", () => void copy()),
        button("Save", save),
      ),
    );
    area.focus();
    area.select();
  }

  #asking = false;

  /** Opens the dialog once, however often it is asked for meanwhile. */
  async #sayAgain(): Promise<void> {
    if (this.#asking) return;
    this.#asking = true;
    const entries = await this.#page.entries();
    this.#asking = false;
    if (!this.#leaving.signal.aborted) sayAgain(this.#copied(), entries);
  }

  async #act(label: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
      say(label);
    } catch (error) {
      say((error as Error).message, true);
    }
  }

  /** Enables the buttons that can be used now. */
  #enable(): void {
    const runs = this.row.kind === "session" && this.row.state === "running";
    for (const one of this.#actions) one.disabled = !runs;
  }

  #build(): HTMLElement {
    const { row } = this;
    const views = (["text", "lines", "hex", "decoded"] as const).map((view) => {
      const one: HTMLButtonElement = button(
        view,
        () => {
          this.#view = view;
          for (const other of views) other.setAttribute("aria-pressed", String(other === one));
          this.#from = null;
          if (view === "decoded") void this.#decode();
          this.#draw();
        },
        { "aria-pressed": String(view === this.#view) },
      );
      return one;
    });
    const follows = element("input", { type: "checkbox", checked: true });
    follows.addEventListener("change", () => {
      this.#follows = follows.checked;
      this.#from = null;
      this.#draw();
    });
    const path = `/sessions/${row.id}`;
    const halfClose = button(
      "Half-close",
      () => void this.#act("Our side is ended", () => ask("POST", `${path}/half-close`)),
    );
    const close = button(
      "Close connection",
      () => void this.#act("The connection is closed", () => ask("DELETE", `${path}?graceful=true`)),
      { title: "After what was written has left" },
    );
    const reset = button("Reset", () => void this.#act("The connection is reset", () => ask("DELETE", path)));
    const ends = [halfClose, close, reset];
    this.#actions.push(...ends);
    return element(
      "article",
      { "aria-label": `Conversation of ${row.handler}`, class: "whole" },
      element(
        "div",
        { class: "bar" },
        element("h2", {}, `${row.handler}  ${row.peer} ${row.inbound ? "→" : "←"} ${row.address}`),
        button("Close", () => this.#page.leave(), { "aria-keyshortcuts": "Escape" }),
      ),
      element(
        "div",
        { class: "bar", role: "toolbar", "aria-label": "How it is shown" },
        ...views,
        element("label", {}, follows, "follow"),
        button("Send again…", () => void this.#sayAgain()),
        button("Copy as nc", () => this.#paste("A line for a shell", asNc(this.#copied()), "say.sh")),
        button("Copy as test", () => this.#paste("A test", asTest(this.#copied()), `${row.handler}.test.ts`)),
        button("Copy as transcript", () =>
          this.#paste("A transcript", asTranscript(this.#copied()), `${row.handler}.jsonl`),
        ),
      ),
      this.#facts,
      this.#list,
      ...(row.kind === "session" ? [this.#sender(path, ends)] : []),
    );
  }

  #sender(path: string, ends: readonly HTMLButtonElement[]): HTMLElement {
    const { label, select } = choice("Send ", [
      ["text", "text and a line end"],
      ["raw", "text"],
      ["hex", "hex"],
    ]);
    const input = element("input", {
      "aria-label": "What to send",
      type: "search",
      spellcheck: "false",
      autocomplete: "off",
    });
    const file = element("input", { type: "file", "aria-label": "A file to send" });
    let before: Promise<unknown> = Promise.resolve(); // the end of what was sent last
    const send = (): Promise<void> => {
      const [chosen] = file.files ?? [];
      const [typed, how] = [input.value, select.value];
      // What is typed or chosen before this has been sent is the next.
      if (chosen === undefined) input.value = "";
      else file.value = "";
      const sent = before.then(async () => {
        try {
          const bytes =
            chosen !== undefined
              ? new Uint8Array(await chosen.arrayBuffer())
              : how === "hex"
                ? fromHex(typed)
                : new TextEncoder().encode(typed + (how === "text" ? "\r\n" : ""));
          await ask("POST", `${path}/data`, bytes);
        } catch (error) {
          if (chosen === undefined) input.value ||= typed;
          else if (file.files?.length === 0) {
            const again = new DataTransfer();
            again.items.add(chosen);
            file.files = again.files;
          }
          throw error;
        }
      });
      before = sent.catch(() => {});
      return sent;
    };
    const go = element("button", { type: "submit" }, "Send");
    this.#actions.push(go);
    const form = element(
      "form",
      { class: "bar", "aria-label": "Send by hand" },
      label,
      input,
      file,
      go,
      ...ends,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#act("Sent", send);
    });
    return form;
  }
}
