/** What must outlive a process that is killed: journals, which are files of entries, and the folder that one process holds. */

import type { FileHandle } from "node:fs/promises";
import { SocketError } from "../core/errors.ts";
import { fs, join, lazy } from "./builtin.ts";

const SLACK = 1024 * 1024; // bytes a journal may grow by before it is written anew

/** Writes through to the disk what a folder lists. */
const syncFolder = async (folder: string): Promise<void> => {
  const handle = await fs.promises.open(folder, "r");
  await handle.sync().finally(() => handle.close());
};

const checksum = (text: string): string => lazy.zlib.crc32(text).toString(16).padStart(8, "0");
const lineOf = (entry: string): string => `${checksum(entry)} ${entry}\n`;

/**
 * A file of entries, each a line of text, that are there or not as a whole, whenever the process or the machine ends: a line
 * begins with its checksum (CRC-32, hex). A last line that is not sound was not written to its end, and is dropped; one before a sound line
 * is damage, which is told. `append()` resolves when the entry is on the disk.
 */
export class Journal {
  readonly #folder: string;
  readonly #path: string;
  readonly #part: string; // what it is written anew into
  #file: FileHandle | undefined;
  #size = 0;
  #whole = 0; // bytes that it had when it was last written anew
  #torn = false; // the remains of an entry that failed could not be taken away

  private constructor(folder: string, name: string) {
    this.#folder = folder;
    this.#path = join(folder, name);
    this.#part = join(folder, `.${name}.part`);
  }

  /** The journal `name` in `folder`, with its entries; one that is not there is made. Rejects with `ERR_INTERNAL` if it is damaged, and leaves it as it is. */
  static async open(folder: string, name: string): Promise<{ journal: Journal; entries: string[] }> {
    const journal = new Journal(folder, name);
    const text = await fs.promises.readFile(journal.#path, "utf8").catch((error) => {
      if (error.code === "ENOENT") return "";
      throw error;
    });
    const entries: string[] = [];
    let size = 0;
    for (let at = 0, end = text.indexOf("\n"); end >= 0; at = end + 1, end = text.indexOf("\n", at)) {
      const line = text.slice(at, end);
      const entry = line.slice(9);
      if (line.slice(0, 9) !== `${checksum(entry)} `) {
        if (end === text.length - 1) break; // the last one
        throw new SocketError(
          "ERR_INTERNAL",
          `${journal.#path} is damaged: line ${entries.length + 1} does not fit its checksum, and others follow; restore the file, or move it away to go on without it`,
        );
      }
      entries.push(entry);
      size += Buffer.byteLength(line) + 1;
    }
    journal.#file = await fs.promises.open(journal.#path, "a", 0o600); // it may hold secrets
    await journal.#file.truncate(size);
    journal.#size = size;
    journal.#whole = size;
    if (text === "") await syncFolder(folder);
    return { journal, entries };
  }

  /** Whether it is worth writing it anew, with `replace()`. */
  get grown(): boolean {
    return this.#size > this.#whole * 2 + SLACK;
  }

  /** Adds an entry, a text without a newline; the next one waits until this is done. If it fails, it is not there. */
  async append(entry: string): Promise<void> {
    const file = this.#file;
    if (file === undefined) throw new SocketError("EBADF", "the journal is closed");
    const line = Buffer.from(lineOf(entry));
    try {
      if (this.#torn) await file.truncate(this.#size); // or this entry would be part of a line that is not sound
      this.#torn = false;
      await file.writeFile(line); // all of it, and at the end: it was opened for appending
      await file.datasync();
    } catch (error) {
      await file.truncate(this.#size).catch(() => {
        this.#torn = true;
      });
      throw error;
    }
    this.#size += line.length;
  }

  /** Has `entry` in place of all its entries, or fails and leaves it as it was. */
  async replace(entry: string): Promise<void> {
    const line = Buffer.from(lineOf(entry));
    const file = await fs.promises.open(this.#part, "w", 0o600);
    try {
      await file.writeFile(line);
      await file.sync();
      await fs.promises.rename(this.#part, this.#path);
    } catch (error) {
      await file.close();
      await fs.promises.rm(this.#part, { force: true }); // which may be why the disk is full
      throw error;
    }
    await syncFolder(this.#folder);
    const before = this.#file;
    await file.close();
    this.#file = await fs.promises.open(this.#path, "a", 0o600);
    await before?.close();
    this.#size = line.length;
    this.#whole = line.length;
    this.#torn = false;
  }

  async close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.close();
  }
}

/** When a process began, by the kernel's clock: a number that another process of the same id has not. `""` where this system does not tell. */
const startOf = (pid: number): string => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  } catch {
    return "";
  }
};

const runs = (pid: number, start: string): boolean => {
  if (pid === process.pid && start === startOf(pid)) return true;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as { code?: string }).code === "ESRCH") return false;
  }
  return start === startOf(pid);
};

const textOf = (path: string): Promise<string | null> => fs.promises.readFile(path, "utf8").catch(() => null);

/** Whether the process that wrote this into a file of `hold()` still runs. */
const stillRuns = (holder: string): boolean => {
  const [pid, start = ""] = holder.split(" ");
  return runs(Number(pid), start);
};

/**
 * Makes the file `path`, which says that this process holds what the path stands for: gives what lets go of it. Rejects with
 * `EBUSY`, in the words of `used`, if a process that runs holds it. The file of a process that is gone is replaced by the one
 * that holds the right to follow it, which is a file of the same kind; so several that find it gone never both have it.
 */
const hold = async (path: string, used: (pid: string) => string): Promise<() => Promise<void>> => {
  const id = crypto.randomUUID();
  const mine = `${process.pid} ${startOf(process.pid)} ${id}`;
  const part = `${path}-${id}`;
  await fs.promises.writeFile(part, mine);
  try {
    for (;;) {
      try {
        await fs.promises.link(part, path); // whole, and only if there is none
        break;
      } catch (error) {
        if ((error as { code?: string }).code !== "EEXIST") throw error;
      }
      const holder = await textOf(path);
      if (holder === null) continue;
      if (stillRuns(holder)) throw new SocketError("EBUSY", used(holder.split(" ", 1)[0] as string));
      const letGo = await hold(`${path}-${checksum(holder)}`, used);
      try {
        if ((await textOf(path)) !== holder) continue; // another followed it, before we had the right to
        await fs.promises.rename(part, path);
        break;
      } finally {
        await letGo();
      }
    }
  } finally {
    await fs.promises.rm(part, { force: true });
  }
  return async () => {
    if ((await textOf(path)) === mine) await fs.promises.rm(path, { force: true });
  };
};

const HOLDER = ".holder";

/**
 * Removes what processes that were killed while they took over the folder have left in it. The one that holds the folder may:
 * each of these files is one of a process that is gone, or the right to follow a holder that is not there any more.
 */
const clearLeftovers = async (folder: string): Promise<void> => {
  for (const name of await fs.promises.readdir(folder)) {
    if (!name.startsWith(`${HOLDER}-`)) continue;
    const path = join(folder, name);
    const holder = await textOf(path);
    if (holder !== null && !stillRuns(holder)) await fs.promises.rm(path, { force: true });
  }
};

/**
 * Holds `folder` for this process, by a file in it: gives what lets go of it. Rejects with `EBUSY` if another process that
 * runs holds it. One that was killed holds nothing.
 */
export const holdFolder = async (folder: string): Promise<() => Promise<void>> => {
  await fs.promises.mkdir(folder, { recursive: true, mode: 0o700 });
  const letGo = await hold(
    join(folder, HOLDER),
    (pid) => `${folder} is used by process ${pid}; give this one a folder of its own`,
  );
  await clearLeftovers(folder).catch(() => {}); // they are in nobody's way
  return letGo;
};
