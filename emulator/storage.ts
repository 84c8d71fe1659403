/** Blobs as files in one folder. */

import { SocketError } from "../core/errors.ts";
import { type BlobStorage, checkBlobName } from "../core/storage.ts";
import { fs, join } from "./builtin.ts";

/** Throws an error that names the option `what` if `folder` can be none. It may be missing: it is made when it is first needed. */
export const checkFolder = (what: string, folder: string): void => {
  try {
    fs.opendirSync(folder).closeSync();
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (code === "ENOENT") return;
    const right = `${what} must be a folder, or a path where nothing is yet, not ${folder}: ${message}`;
    throw new SocketError(SocketError.isCode(code) ? code : "EINVAL", right, { cause: error });
  }
};

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
    await fs.promises.mkdir(this.#folder, { recursive: true });
    await fs.promises.writeFile(part, bytes);
    await fs.promises.rename(part, path); // whole or not at all
  }

  async get(name: string): Promise<Uint8Array | null> {
    try {
      return new Uint8Array(await fs.promises.readFile(join(this.#folder, checkBlobName(name))));
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return null;
      throw error;
    }
  }

  async list(): Promise<string[]> {
    try {
      return (await fs.promises.readdir(this.#folder)).filter((name) => !name.startsWith(".")).sort();
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return [];
      throw error;
    }
  }
}
