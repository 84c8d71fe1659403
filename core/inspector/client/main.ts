/** The page: what it loads, what it follows, and its keys. */

import type {
  EntryInfo,
  FlowInfo,
  RecordingChange,
  RecordingInfo,
  SessionPage,
} from "../../control/plane.ts";
import { Conversation } from "./conversation/conversation.ts";
import { ask, follow, hasToken, oneAtATime, Refusal, setToken, takeToken, whenRefused } from "./data/api.ts";
import { conversationsOf } from "./data/file.ts";
import { size } from "./display/bytes.ts";
import { at, button, choice, element, say } from "./display/dom.ts";
import { List } from "./list/list.ts";
import { type Row, Rows, rowOfFile, rowOfFlow, rowOfSession } from "./list/rows.ts";
import { showFaults, showListeners, showPools } from "./list/tables.ts";

const PAGE = 1_000; // sessions in one answer
const AGAIN = 2_000; // ms between two requests for what sends no events
const TABS = ["connections", "listeners", "pools", "faults"] as const;
const STATES = [
  "",
  "connecting",
  "running",
  "waiting",
  "ended",
  "failed",
  "cut",
  "error",
  "datagrams",
  "file",
];

const rows = new Rows();
let records = true; // whether bytes can be shown
let shown: Conversation | null = null;
let tab: (typeof TABS)[number] = "connections";
let recording: RecordingInfo | null = null;

const list = new List(rows, (row) => {
  leave(false);
  shown = new Conversation(row, {
    entries,
    leave: () => leave(),
    get records() {
      return records;
    },
  });
  at("conversation").replaceChildren(shown.element);
  at("conversation").hidden = false;
  at("panel-connections").classList.remove("alone");
});

const leave = (focus = true): void => {
  shown?.close();
  shown = null;
  at("conversation").hidden = true;
  at("panel-connections").classList.add("alone");
  if (focus) list.leave();
};

// ---- The list's filters ----

const filter = element("input", {
  type: "search",
  id: "filter",
  placeholder: "Filter ( / )",
  "aria-label": "Filter",
  "aria-keyshortcuts": "/",
  spellcheck: "false",
});
const state = choice(
  "State ",
  STATES.map((name) => [name, name === "" ? "any" : name] as const),
);
const find = element("input", {
  type: "search",
  id: "find",
  placeholder: "Find in bytes",
  "aria-label": "Find in bytes: text, or hex after 0x",
  spellcheck: "false",
});
const count = element("span", { class: "dim", id: "count", role: "status" });
let found: ReadonlySet<string> | null = null;

const apply = (): void => {
  rows.filter(filter.value, state.select.value, found);
  counted();
  list.draw();
};

const counted = (): void => {
  const all = rows.all.length.toLocaleString("en");
  count.textContent = rows.shown === rows.all ? all : `${rows.shown.length.toLocaleString("en")} of ${all}`;
};

const search = oneAtATime(async () => {
  const wanted = find.value;
  found = null;
  if (wanted !== "") {
    const how = /^0x/i.test(wanted)
      ? `hex=${wanted.slice(2).replace(/\s/g, "")}`
      : `text=${encodeURIComponent(wanted)}`;
    try {
      const { ids, more } = await ask<{ ids: string[]; more: boolean }>("GET", `/recording/find?${how}`);
      found = new Set(ids);
      if (more)
        say(
          `The newest ${ids.length} that have it are shown; there may be more, where it was not looked for`,
        );
    } catch (error) {
      say((error as Error).message, true);
    }
  }
  apply();
});

const buildList = (): void => {
  const follows = element("input", { type: "checkbox", checked: true, id: "follow" });
  follows.addEventListener("change", () => {
    list.follows = follows.checked;
    list.draw();
  });
  list.element.addEventListener("wheel", () => {
    if (list.element.scrollTop > 0 && list.follows) {
      list.follows = false;
      follows.checked = false;
    }
  });
  filter.addEventListener("input", apply);
  state.select.addEventListener("change", apply);
  find.addEventListener("change", () => void search());
  const open = element("input", {
    type: "file",
    accept: ".jsonl,.json,application/jsonl",
    hidden: true,
    id: "open",
  });
  open.addEventListener("change", async () => {
    const [file] = open.files ?? [];
    if (file === undefined) return;
    try {
      const conversations = conversationsOf(file.name, await file.text());
      rows.put(conversations.map(rowOfFile));
      apply();
      const [first] = rows.all.slice(-conversations.length);
      if (first !== undefined) list.choose(first);
    } catch (error) {
      say((error as Error).message, true);
    }
    open.value = "";
  });
  open.setAttribute("aria-label", "A transcript");
  at("connections").replaceChildren(
    element(
      "div",
      { class: "bar", role: "search" },
      filter,
      find,
      state.label,
      element("label", {}, follows, "follow"),
      button("Open a recording…", () => open.click()),
      open,
      count,
    ),
    list.element,
  );
};

// ---- The recording ----

/** Elements of the bar. They are made once, so that news from the server does not overwrite what somebody is typing. */
const toggle = button(
  "Record",
  () =>
    void (async () => {
      const started = recording?.started ?? false;
      try {
        const answer = started ? await ask("DELETE", "/recording") : await ask("PUT", "/recording", {});
        recording = answer.recording;
        say(
          started
            ? "Nothing is kept when this page is closed"
            : "What passes is kept, also when this page is closed",
        );
      } catch (error) {
        say((error as Error).message, true);
      }
      showRecording();
    })(),
  { title: "Keep what passes when this page is closed, too" },
);
const mebi = element("input", {
  type: "number",
  min: "1",
  max: "4096",
  "aria-label": "MiB that are kept",
  size: "5",
});
const most = element("input", {
  type: "number",
  min: "1",
  max: "1000000",
  "aria-label": "Connections that are kept",
  size: "7",
});
const bound = oneAtATime(async () => {
  try {
    const limits = { maxBytes: Number(mebi.value) * 1024 ** 2, maxConnections: Number(most.value) };
    recording = (await ask("PATCH", "/recording", limits)).recording;
  } catch (error) {
    say((error as Error).message, true);
  }
  showRecording();
});
mebi.addEventListener("change", () => void bound());
most.addEventListener("change", () => void bound());
const kept = element("span", { class: "dim", id: "kept" });
const recordingBar = [
  toggle,
  " ",
  element("label", {}, mebi, "MiB"),
  " ",
  element("label", {}, most, "connections"),
  " ",
  kept,
];

let bounds = ""; // the bounds that the fields show, unless somebody has typed others

const showRecording = (): void => {
  const box = at("recording");
  if (recording === null) {
    box.replaceChildren(element("span", { class: "dim" }, records ? "" : "no bytes are kept here"));
    return;
  }
  const { started, bytes, maxBytes, maxConnections, unreached = 0 } = recording;
  toggle.setAttribute("aria-pressed", String(started));
  const missing = unreached > 0 ? `; ${unreached} isolates did not answer` : "";
  kept.textContent = `${size(bytes)} of ${size(maxBytes)} kept${missing}`;
  if (bounds !== `${maxBytes} ${maxConnections}`) {
    bounds = `${maxBytes} ${maxConnections}`;
    mebi.value = String(maxBytes / 1024 ** 2);
    most.value = String(maxConnections);
  }
  if (!toggle.isConnected) box.replaceChildren(...recordingBar);
};

// ---- Loading and following ----

const changed = (ids: readonly string[]): void => {
  counted();
  list.draw();
  const row = shown === null ? undefined : rows.get(shown.row.id);
  if (shown !== null && row !== undefined && ids.includes(row.id)) shown.changed(row);
};

/** The ids of the changes that arrive during a load; a change is newer than what is loaded. */
let arrived: Set<string> | null = null;

const loadAll = async (): Promise<void> => {
  const newer = new Set<string>();
  arrived = newer;
  try {
    await loadOlderThan(newer);
  } finally {
    if (arrived === newer) arrived = null;
  }
  changed([]);
};

const loadOlderThan = async (newer: ReadonlySet<string>): Promise<void> => {
  const put = (loaded: readonly Row[]): void => rows.put(loaded.filter(({ id }) => !newer.has(id)));
  const first = rows.all.length === 0;
  for (let before = ""; ; ) {
    const page: SessionPage = await ask(
      "GET",
      `/sessions?limit=${first ? PAGE : 50}${before && `&before=${before}`}`,
    );
    const made = page.sessions.map(rowOfSession).reverse();
    if (first) rows.putMissing(made);
    else put(made);
    changed(made.map(({ id }) => id));
    if (page.next === null || !first) break;
    before = page.next;
  }
  if (records) {
    const { flows } = await ask<{ flows: FlowInfo[] }>("GET", "/recording/flows").catch(() => ({
      flows: [],
    }));
    put(flows.map(rowOfFlow));
  }
};

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Follows changes for as long as the page is open. */
const watch = async (): Promise<never> => {
  for (;;) {
    try {
      if (records) {
        let loaded = false;
        for await (const change of follow<RecordingChange>(
          "/recording/events",
          new AbortController().signal,
        )) {
          if (!loaded) loadAll().catch((error) => say((error as Error).message, true));
          loaded = true;
          ({ recording } = change);
          showRecording();
          const fresh = [...change.sessions.map(rowOfSession), ...change.flows.map(rowOfFlow)];
          for (const { id } of fresh) arrived?.add(id);
          if (fresh.length > 0) rows.put(fresh.sort((one, other) => (one.id < other.id ? -1 : 1)));
          changed(fresh.map(({ id }) => id));
        }
      } else await loadAll();
    } catch (error) {
      const status = error instanceof Refusal ? error.status : 0;
      if (status === 401) await new Promise(() => {}); // asked for a token
      if (records && [403, 404, 501].includes(status)) {
        records = false;
        recording = null;
        showRecording();
        continue;
      }
      say(status === 0 ? "The server cannot be reached; trying again" : (error as Error).message, true);
    }
    await pause(AGAIN);
  }
};

/** Refreshes every tab but the connections. Fault rules are refreshed only when their tab is opened, since somebody may be typing there. */
const refresh = async (fresh: boolean): Promise<void> => {
  try {
    if (tab === "listeners") await showListeners();
    else if (tab === "pools") await showPools();
    else if (tab === "faults" && fresh) await showRules();
  } catch (error) {
    if (!(error instanceof Refusal)) return; // watch() reports it
    say(error.message, true);
  }
};

const select = (name: (typeof TABS)[number], focus = false): void => {
  tab = name;
  for (const one of TABS) {
    const its = at(`tab-${one}`);
    its.setAttribute("aria-selected", String(one === name));
    its.tabIndex = one === name ? 0 : -1;
    at(`panel-${one}`).hidden = one !== name;
  }
  if (focus) at(`tab-${name}`).focus();
  void refresh(true);
};

/** The app's entries; none if nothing can be sent to them. */
const entries = async (): Promise<readonly EntryInfo[]> => {
  const none = { entries: [] };
  return (await ask<{ entries: readonly EntryInfo[] }>("GET", "/entries").catch(() => none)).entries;
};

/** Shows the fault rules, which can be set for listeners and for dialled servers. */
const showRules = async (): Promise<void> => {
  try {
    await showFaults((await entries()).filter(({ faults }) => faults));
  } catch (error) {
    at("faults").replaceChildren(element("p", {}, (error as Error).message));
  }
};

// ---- Keys ----

const listen = (): void => {
  for (const name of TABS) at(`tab-${name}`).addEventListener("click", () => select(name));
  at("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    select(TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length] as (typeof TABS)[number], true);
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test((event.target as HTMLElement).tagName);
    if (document.querySelector("dialog[open]") !== null) return;
    if (event.key === "Escape" && shown !== null && !typing) leave();
    if (event.key === "/" && !typing) {
      event.preventDefault();
      select("connections");
      filter.focus();
    }
  });
};

const askToken = (): void => {
  const input = element("input", {
    type: "password",
    "aria-label": "Token",
    autocomplete: "off",
    size: "50",
  });
  const form = element(
    "form",
    { class: "column" },
    element("h2", {}, "A token"),
    element(
      "p",
      {},
      "This server shows traffic only to holders of one of its tokens: the one that `socklet dev` or `socklet serve` printed, or one of SOCKLET_TOKENS.",
    ),
    input,
    element("button", { type: "submit" }, "Open"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(input.value);
    location.reload();
  });
  document.querySelector("main")?.replaceChildren(form);
  input.focus();
};

const begin = (): void => {
  takeToken();
  whenRefused.call = askToken;
  listen();
  buildList();
  leave(false);
  if (!hasToken()) {
    askToken();
    return;
  }
  select("connections");
  setInterval(() => {
    if (!document.hidden) void refresh(false);
  }, AGAIN);
  void watch();
};

begin();
