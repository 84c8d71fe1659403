/**
 * The versions of an app, as its files change: `socklet dev`.
 *
 * Node keeps every module that it has imported by its URL, for ever. So a file that has changed, and every file that
 * imports it, gets another URL, `app.ts?socklet=2`, and is loaded again; all others stay the same modules, with
 * their state. Hooks of Node's module loader add the number, because the files import each other by their names.
 * Packages in node_modules stay as they are.
 */

import type { ResolveFnOutput, ResolveHookContext } from "node:module";
import type { App } from "../../../core/app/app.ts";
import { fileURLToPath, fs, lazy, pathToFileURL } from "../../builtin.ts";
import { isUsers } from "../../own-files.ts";
import { fileOf, loadApp } from "./modules.ts";
import { FileWatch, hashOf } from "./watch.ts";

const NUMBER = /[?&]socklet=\d+$/;

/** One file of the app. */
interface Source {
  /** The version that it was last loaded in. */
  version: number;
  /** Its contents then; `null` if there was none. */
  hash: string | null;
  /** The URLs of the files that it imports. */
  imports: Set<string>;
}

/** Loads one version of an app after another. */
export class Versions {
  readonly #path: string;
  readonly #entry: string;
  readonly #sources = new Map<string, Source>(); // by URL, without a number
  #number = 1;
  #failed = new Set<string>(); // loaded by a version that failed
  #seen = new Map<string, Set<string>>(); // what was imported since the last version began, by importer
  readonly #watching = new FileWatch();

  /** Throws a `UsageError` if there is no such file. */
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

  /** The number of files that are loaded again when they change. */
  get size(): number {
    return this.#sources.size;
  }

  /** Loads the app as its files are now. Throws a `UsageError`; then `changed()` resolves when the files may be right. */
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

  /** Resolves when the app's files have changed since they were loaded, to the paths of those that changed. */
  async changed(signal: AbortSignal): Promise<readonly string[]> {
    let changed: string[] = [];
    const paths = await this.#watching.changed(signal, () => {
      changed = this.#others();
      return changed.map((url) => fileURLToPath(url));
    });
    this.#next(changed);
    return paths;
  }

  /** Ends the watch. */
  close(): void {
    this.#watching.close();
  }

  /** The files that have changed since they were loaded. */
  #others(): string[] {
    return [...this.#sources].flatMap(([url, { hash }]) => (hashOf(new URL(url)) === hash ? [] : [url]));
  }

  /** Begins a version, in which these files, and all that import them, are loaded again. */
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
      source.hash = hashOf(new URL(url));
      delete lazy.module.createRequire(url).cache[fileURLToPath(url)];
    }
  }

  /** A version is loaded: files that are no longer imported do not belong to the app any more. */
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
      if (missing !== undefined && parent !== undefined) this.#import(parent, missing); // until it exists
      throw error;
    }
    const { url } = resolved;
    const own = /^file:/.test(url) && isUsers(url);
    if (!own && specifier !== this.#entry) return resolved;
    const { version } = this.#import(importer === undefined ? undefined : parent, url);
    if (!context.conditions.includes("import") || version === 1) return resolved; // require() takes no number
    return { ...resolved, url: `${url}${url.includes("?") ? "&" : "?"}socklet=${version}` };
  }

  /** Notes that one file imports another, and returns the other. */
  #import(from: string | undefined, url: string): Source {
    if (from !== undefined) {
      this.#sources.get(from)?.imports.add(url);
      const seen = this.#seen.get(from) ?? new Set();
      this.#seen.set(from, seen.add(url));
    }
    const known = this.#sources.get(url);
    if (known !== undefined) return known;
    const source: Source = { version: this.#number, hash: hashOf(new URL(url)), imports: new Set() };
    this.#sources.set(url, source);
    this.#watch();
    return source;
  }

  /** Follows all files. */
  #watch(): void {
    this.#watching.follow([...this.#sources.keys()].map((url) => fileURLToPath(url)));
  }
}
