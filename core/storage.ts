/** Where a handler keeps bytes, by name: one small interface over files, a Durable Object, or memory. */

/** Keeps bytes by name. Names are made of letters, digits, `.`, `-` and `_`, at most 128 of them. */
export interface BlobStorage {
  /** Keeps `bytes` under `name`, in place of what was there; whole or not at all. */
  put(name: string, bytes: Uint8Array): Promise<void>;
  /** The bytes, or `null` if there are none of that name. */
  get(name: string): Promise<Uint8Array | null>;
  /** All names, sorted. */
  list(): Promise<string[]>;
}

/** `name`, or a `RangeError` that says what a name is: one that could climb out of a folder is none. */
export const checkBlobName = (name: string): string => {
  if (/^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$/.test(name)) return name;
  throw new RangeError(
    `a blob's name is 1 to 128 letters, digits, ".", "-" and "_", not beginning with ".": not ${JSON.stringify(name)}`,
  );
};

/** Blobs in memory: for tests. */
export class MemoryStorage implements BlobStorage {
  readonly #blobs = new Map<string, Uint8Array>();

  async put(name: string, bytes: Uint8Array): Promise<void> {
    this.#blobs.set(checkBlobName(name), new Uint8Array(bytes));
  }

  async get(name: string): Promise<Uint8Array | null> {
    return this.#blobs.get(checkBlobName(name))?.slice() ?? null;
  }

  async list(): Promise<string[]> {
    return [...this.#blobs.keys()].sort();
  }
}
