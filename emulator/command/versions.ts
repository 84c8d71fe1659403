/**
 * The versions of an app, as its files change: `socklet dev`.
 *
 * Node keeps every module that it has imported by its URL, for ever. So a file that has changed, and every file that
 * imports it, gets another URL, `app.ts?socklet=2`, and is loaded anew; all others stay the modules that they are, with
 * what they hold. Hooks of Node's module loader add the number, because the files import each other by their names.
 * Packages in node_modules stay as they are.
 */

import type { ResolveFnOutput, ResolveHookContext } from "node:module";
import { basename, sep } from "node:path";
import { pathToFileURL } from "node:url";
import type { App } from "../../core/serve/app.ts";
import { dirname, fileURLToPath, fs, join, lazy } from "../builtin.ts";
import { fileOf, loadApp } from "./modules.ts";

const SETTLE = 20; // ms without a further change, after which the files are looked at: an editor writes in steps
const HALF_SAVED = 100; // ms that a file may be missing or empty, as in the middle of a save
const NUMBER = /[?&]socklet=\d+$/;

/** This package's own files; of the sources, these folders. */
const ours = ["../", "../../core/", "../../worker/"].map((folder) => new URL(folder, import.meta.url).href);

/** One file of the app. */
interface Source {
  /** The version that it was last loaded in. */
  version: number;
  /** What it held then; `null` where there was none. */
  hash: string | null;
  /** The URLs of those that it imports. */
  imports: Set<string>;
}

const hashOf = (url: string): string | null => {
  try {
    const bytes = fs.readFileSync(new URL(url));
    return bytes.length === 0 ? null : lazy.crypto.hash("sha1", bytes);
  } catch {
    return null;
  }
};

/** Loads one version of an app after the other. */
export class Versions {
  readonly #path: string;
  readonly #entry: string;
  readonly #sources = new Map<string, Source>(); // by URL, without a number
  #number = 1;
  #failed = new Set<string>(); // loaded by a version that failed
  #seen = new Map<string, Set<string>>(); // what was imported since the last version began, by importer
  readonly #watched = new Map<string, import("node:fs").FSWatcher>(); // by folder
  #folders: ReadonlySet<string> = new Set(); // those that are to be watched
  #closed = false;
  #told = Promise.withResolvers<void>(); // something in one of the folders has changed

  /** Throws a `UsageError` where there is no such file. */
  constructor(path: string) {
    this.#path = path;
    this.#entry = pathToFileURL(fs.realpathSync(fileOf(path))).href;
    lazy.module.registerHooks({
      resolve: (specifier, context, next) => this.#resolve(specifier, context, next),
    });
  }

  /** The number of the version that was loaded last, from 1. */
  get number(): number {
    return this.#number;
  }

  /** The number of files that are loaded anew when they change. */
  get size(): number {
    return this.#sources.size;
  }

  /** Loads the app as its files are now. Throws a `UsageError`; then `changed()` resolves when it may be right. */
  async load(): Promise<App> {
    this.#seen = new Map();
    const number = this.#number;
    try {
      const app = await loadApp(this.#path, this.#entry);
      if (number === this.#number) this.#loaded();
      return app;
    } catch (error) {
      for (const [url, { version }] of this.#sources) if (version === number) this.#failed.add(url);
      throw error;
    } finally {
      this.#watch();
    }
  }

  /** Resolves when the app's files are others than were loaded last, to the paths of those that changed. */
  async changed(signal: AbortSignal): Promise<readonly string[]> {
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    aborted.catch(() => {});
    for (;;) {
      signal.throwIfAborted();
      await Promise.race([this.#told.promise, aborted]);
      await this.#settled();
      let changed = this.#others();
      if (changed.some((url) => hashOf(url) === null)) {
        await pause(HALF_SAVED);
        changed = this.#others();
      }
      if (changed.length === 0) continue;
      this.#next(changed);
      return changed.map((url) => fileURLToPath(url));
    }
  }

  /** Ends the watch. */
  close(): void {
    this.#closed = true;
    for (const watcher of this.#watched.values()) watcher.close();
    this.#watched.clear();
  }

  /** Resolves when nothing has been told for a moment. */
  async #settled(): Promise<void> {
    let more: boolean;
    do {
      this.#told = Promise.withResolvers();
      more = await Promise.race([this.#told.promise.then(() => true), pause(SETTLE).then(() => false)]);
    } while (more);
  }

  /** The files that are others than were loaded. */
  #others(): string[] {
    return [...this.#sources].flatMap(([url, { hash }]) => (hashOf(url) === hash ? [] : [url]));
  }

  /** Begins a version, in which these files are loaded anew, and all that import them. */
  #next(changed: readonly string[]): void {
    this.#number++;
    const anew = new Set([...changed, ...this.#failed]);
    for (const url of anew) {
      for (const [importer, { imports }] of this.#sources) if (imports.has(url)) anew.add(importer);
    }
    this.#failed.clear();
    for (const url of anew) {
      const source = this.#sources.get(url);
      if (source === undefined) continue;
      source.version = this.#number;
      source.hash = hashOf(url);
      delete lazy.module.createRequire(url).cache[fileURLToPath(url)];
    }
  }

  /** A version is loaded: files that are not imported any more are none of the app. */
  #loaded(): void {
    for (const [url, source] of this.#sources) {
      if (source.version === this.#number) source.imports = this.#seen.get(url) ?? new Set();
    }
    const reached = new Set([this.#entry]);
    for (const url of reached) for (const next of this.#sources.get(url)?.imports ?? []) reached.add(next);
    for (const url of this.#sources.keys()) if (!reached.has(url)) this.#sources.delete(url);
  }

  #resolve(
    specifier: string,
    context: ResolveHookContext,
    next: (specifier: string, context?: Partial<ResolveHookContext>) => ResolveFnOutput,
  ): ResolveFnOutput {
    const parent = context.parentURL?.replace(NUMBER, "");
    const importer = parent === undefined ? undefined : this.#sources.get(parent);
    if (specifier !== this.#entry && importer === undefined) return next(specifier, context);
    let resolved: ResolveFnOutput;
    try {
      resolved = next(specifier, context);
    } catch (error) {
      const missing = /^(\.|file:)/.test(specifier) ? URL.parse(specifier, parent)?.href : undefined;
      if (missing !== undefined && parent !== undefined) this.#import(parent, missing); // until it is there
      throw error;
    }
    const { url } = resolved;
    const own =
      /^file:/.test(url) && !url.includes("/node_modules/") && !ours.some((one) => url.startsWith(one));
    if (!own && specifier !== this.#entry) return resolved;
    const { version } = this.#import(importer === undefined ? undefined : parent, url);
    if (!context.conditions.includes("import") || version === 1) return resolved; // require() takes no number
    return { ...resolved, url: `${url}${url.includes("?") ? "&" : "?"}socklet=${version}` };
  }

  /** Notes that one file imports another, and gives that one. */
  #import(from: string | undefined, url: string): Source {
    if (from !== undefined) {
      this.#sources.get(from)?.imports.add(url);
      const seen = this.#seen.get(from) ?? new Set();
      this.#seen.set(from, seen.add(url));
    }
    const known = this.#sources.get(url);
    if (known !== undefined) return known;
    const source: Source = { version: this.#number, hash: hashOf(url), imports: new Set() };
    this.#sources.set(url, source);
    this.#watch();
    return source;
  }

  /**
   * Watches the folders of all files: an editor that replaces a file would leave behind who watches that. And those between them
   * and the one that has them all: a folder that is moved away, or removed and made anew, is another one to the kernel.
   */
  #watch(): void {
    if (this.#closed) return;
    const folders = foldersOf([...this.#sources.keys()].map((url) => fileURLToPath(url)));
    const wanted = new Set([...folders].map(nearest));
    this.#folders = folders;
    for (const [folder, watcher] of this.#watched) {
      if (wanted.has(folder)) continue;
      watcher.close();
      this.#watched.delete(folder);
    }
    for (const folder of wanted) {
      if (this.#watched.has(folder)) continue;
      try {
        const watcher = fs.watch(folder, (_, name) => this.#heard(folder, name));
        watcher.on("error", () => this.#lost(folder));
        this.#watched.set(folder, watcher);
      } catch {
        setImmediate(() => this.#lost(folder)); // it has gone since
      }
    }
    if ([...folders].some((folder) => !wanted.has(folder) && fs.existsSync(folder))) this.#watch(); // it has come since
  }

  /** Something happened to `name` in a folder that is watched. */
  #heard(folder: string, name: string | null): void {
    const path = name === null ? folder : join(folder, name);
    if (name === null || this.#sources.has(pathToFileURL(path).href)) this.#told.resolve();
    else if (name === basename(folder) && !fs.existsSync(path))
      this.#lost(folder); // itself was removed, or moved
    else if ([...this.#folders].some((one) => isIn(one, path))) this.#lost(path);
  }

  /** A folder is not what it was: it, and all in it, is watched anew. */
  #lost(folder: string): void {
    for (const [path, watcher] of this.#watched) {
      if (!isIn(path, folder)) continue;
      watcher.close();
      this.#watched.delete(path);
    }
    this.#watch();
    this.#told.resolve(); // what is in it may be other files by now
  }
}

/** The folders of these files, and those between them and the one that has them all. */
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

/** The folder itself, or the nearest above it that is there. */
const nearest = (folder: string): string => {
  let at = folder;
  while (!fs.existsSync(at) && dirname(at) !== at) at = dirname(at);
  return at;
};

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
