/** `FileArchive`: keeps lasting sessions in a folder, one journal each, so that they survive when the process is killed. */

import { DONE } from "../../../core/bytes/data.ts";
import { isSessionId, type SessionSpec } from "../../../core/control/plane.ts";
import type { SessionChange, SessionStore } from "../../../core/control/sessions/commits.ts";
import type { ArchivedSession, SessionArchive } from "../../../core/control/sessions/local.ts";
import { fs, join } from "../../builtin.ts";
import { holdFolder, Journal } from "../../journal.ts";

const ENDING = ".log";

/** A whole session, or a change of the one before. */
type Entry = { readonly whole: ArchivedSession } | { readonly change: SessionChange };

const changed = (
  session: ArchivedSession,
  { info, events, oldest, state }: SessionChange,
): ArchivedSession => ({
  spec: session.spec,
  info,
  events: [...session.events, ...events].filter(({ id }) => id >= oldest),
  state: state ?? session.state ?? null,
});

/** Sessions in a folder. From the first session on, only this process uses the folder. */
export class FileArchive implements SessionArchive {
  readonly #folder: string;
  readonly #journals = new Map<string, Journal>();
  readonly #sessions = new Map<string, ArchivedSession>();
  #holding: Promise<() => Promise<void>> | undefined;

  readonly #after: Promise<void>;

  /** `after`: resolves when another process releases the folder. */
  constructor(folder: string, after: Promise<void> = DONE) {
    this.#folder = folder;
    this.#after = after;
  }

  async load(): Promise<readonly ArchivedSession[]> {
    await this.#after;
    const names = await fs.promises.readdir(this.#folder).catch((error) => {
      if (error.code === "ENOENT") return [] as string[];
      throw error;
    });
    const ids = names
      .filter((name) => name.endsWith(ENDING) && isSessionId(name.slice(0, -ENDING.length)))
      .map((name) => name.slice(0, -ENDING.length))
      .sort();
    if (ids.length === 0) return []; // so the folder is not locked
    await this.#hold();
    for (const id of ids) {
      const { journal, entries } = await Journal.open(this.#folder, id + ENDING);
      let session: ArchivedSession | undefined;
      for (const text of entries) {
        const entry: Entry = JSON.parse(text);
        if ("whole" in entry) session = entry.whole;
        else if (session !== undefined) session = changed(session, entry.change);
      }
      if (session === undefined) {
        // Its process ended before the first entry was written, so no caller knows that it had started.
        await journal.close();
        await fs.promises.rm(join(this.#folder, id + ENDING), { force: true });
        continue;
      }
      this.#journals.set(id, journal);
      this.#sessions.set(id, session);
    }
    return [...this.#sessions.values()];
  }

  async store(id: string, spec: SessionSpec): Promise<SessionStore> {
    await this.#hold();
    return { save: (change) => this.#save(id, spec, change) };
  }

  async forget(id: string): Promise<void> {
    const journal = this.#journals.get(id);
    this.#journals.delete(id);
    this.#sessions.delete(id);
    await journal?.close();
    await fs.promises.rm(join(this.#folder, id + ENDING), { force: true });
  }

  async close(): Promise<void> {
    for (const journal of this.#journals.values()) await journal.close();
    this.#journals.clear();
    await this.#holding?.then((release) => release()).catch(() => {});
    this.#holding = undefined;
  }

  async #hold(): Promise<void> {
    await this.#after;
    this.#holding ??= holdFolder(this.#folder);
    await this.#holding.catch((error) => {
      this.#holding = undefined; // the other process may have ended by the next try
      throw error;
    });
  }

  async #save(id: string, spec: SessionSpec, change: SessionChange): Promise<void> {
    const before = this.#sessions.get(id);
    let journal = this.#journals.get(id);
    if (journal === undefined) {
      ({ journal } = await Journal.open(this.#folder, id + ENDING));
      this.#journals.set(id, journal);
    }
    const session = changed(before ?? { spec, info: change.info, events: [], state: null }, change);
    const whole = before === undefined || journal.grown;
    const entry: Entry = whole ? { whole: session } : { change };
    if (whole && before !== undefined) await journal.replace(JSON.stringify(entry));
    else await journal.append(JSON.stringify(entry));
    this.#sessions.set(id, session);
  }
}
