/** Follows files, and finds those that have changed. */

import { basename, dirname, fs, join, lazy, sep } from "../../builtin.ts";

const SETTLE = 20; // ms without a further change, after which the files are read: an editor writes in steps
const HALF_SAVED = 100; // ms that a file may be missing or empty, as in the middle of a save

/** A file's contents, as a short text; `null` if there is no such file, or it is empty. */
export const hashOf = (path: string | URL): string | null => {
  try {
    const bytes = fs.readFileSync(path);
    return bytes.length === 0 ? null : lazy.crypto.hash("sha1", bytes);
  } catch {
    return null;
  }
};

/**
 * Watches the folders of files, because an editor may replace a file, and a watcher of the file would then see no more. It also watches
 * the folders up to their common parent: a folder that is moved away, or removed and made again, is a different one to the kernel.
 */
export class FileWatch {
  readonly #watchers = new Map<string, import("node:fs").FSWatcher>(); // by folder
  #files: ReadonlySet<string> = new Set();
  #folders: ReadonlySet<string> = new Set();
  #told = Promise.withResolvers<void>(); // something has changed
  #closed = false;

  /** Follows only these files, including those that do not exist yet. */
  follow(files: Iterable<string>): void {
    this.#files = new Set(files);
    this.#folders = foldersOf([...this.#files]);
    this.#watch();
  }

  /** Resolves to the result of `others`, the files that have changed, once there are some. Rejects with the reason of `signal`. */
  async changed(signal: AbortSignal, others: () => string[]): Promise<string[]> {
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    aborted.catch(() => {});
    for (;;) {
      signal.throwIfAborted();
      await Promise.race([this.#told.promise, aborted]);
      await this.#settled();
      let changed = others();
      if (changed.some((file) => hashOf(file) === null)) {
        await pause(HALF_SAVED);
        changed = others();
      }
      if (changed.length > 0) return changed;
    }
  }

  close(): void {
    this.#closed = true;
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  /** Resolves when nothing has been reported for a moment. */
  async #settled(): Promise<void> {
    let more: boolean;
    do {
      this.#told = Promise.withResolvers();
      more = await Promise.race([this.#told.promise.then(() => true), pause(SETTLE).then(() => false)]);
    } while (more);
  }

  #watch(): void {
    if (this.#closed) return;
    const wanted = new Set([...this.#folders].map(nearest));
    for (const [folder, watcher] of this.#watchers) {
      if (wanted.has(folder)) continue;
      watcher.close();
      this.#watchers.delete(folder);
    }
    for (const folder of wanted) {
      if (this.#watchers.has(folder)) continue;
      try {
        const watcher = fs.watch(folder, (_, name) => this.#heard(folder, name));
        watcher.on("error", () => this.#lost(folder));
        this.#watchers.set(folder, watcher);
      } catch {
        setImmediate(() => this.#lost(folder)); // it has gone since
      }
    }
    if ([...this.#folders].some((folder) => !wanted.has(folder) && fs.existsSync(folder))) this.#watch(); // it has come since
  }

  /** Something happened to `name` in a folder that is watched. */
  #heard(folder: string, name: string | null): void {
    const path = name === null ? folder : join(folder, name);
    if (name === null || this.#files.has(path)) this.#told.resolve();
    else if (name === basename(folder) && !fs.existsSync(path))
      this.#lost(folder); // itself was removed, or moved
    else if ([...this.#folders].some((one) => isIn(one, path))) this.#lost(path);
  }

  /** A folder was replaced: it, and everything in it, is watched again. */
  #lost(folder: string): void {
    for (const [path, watcher] of this.#watchers) {
      if (!isIn(path, folder)) continue;
      watcher.close();
      this.#watchers.delete(path);
    }
    this.#watch();
    this.#told.resolve(); // it may contain other files by now
  }
}

/** The folders of these files, and those up to their common parent. */
const foldersOf = (files: readonly string[]): ReadonlySet<string> => {
  const folders = new Set(files.map((file) => dirname(file)));
  const [first = ""] = folders;
  let all = first;
  while (![...folders].every((folder) => isIn(folder, all))) all = dirname(all);
  for (const folder of folders) if (folder !== all) folders.add(dirname(folder)); // a set's loop sees what is added to it
  return folders;
};

const isIn = (path: string, folder: string): boolean =>
  path === folder || path.startsWith(folder.endsWith(sep) ? folder : folder + sep);

/** The folder itself, or the nearest one above it that exists. */
const nearest = (folder: string): string => {
  let at = folder;
  while (!fs.existsSync(at) && dirname(at) !== at) at = dirname(at);
  return at;
};

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
