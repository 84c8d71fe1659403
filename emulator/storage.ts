/** Blobs as files in one folder. */

import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type BlobStorage, checkBlobName } from "../core/storage.ts";

/** Keeps each blob as a file of its name in `folder`, which is made when the first one is kept. */
export class FileStorage implements BlobStorage {
  readonly #folder: string;
  #writes = 0;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async put(name: string, bytes: Uint8Array): Promise<void> {
    const path = join(this.#folder, checkBlobName(name));
    const part = join(this.#folder, `.${process.pid}-${this.#writes++}.part`); // no blob's name begins with a dot
    await mkdir(this.#folder, { recursive: true });
    await writeFile(part, bytes);
    await rename(part, path); // whole or not at all
  }

  async get(name: string): Promise<Uint8Array | null> {
    try {
      return new Uint8Array(await readFile(join(this.#folder, checkBlobName(name))));
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return null;
      throw error;
    }
  }

  async list(): Promise<string[]> {
    try {
      return (await readdir(this.#folder)).filter((name) => !name.startsWith(".")).sort();
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return [];
      throw error;
    }
  }
}
