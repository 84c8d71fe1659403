/** The keys and values of the RESP server: in memory, with a limit. */

import { latin1 } from "./bytes.ts";

/** Bytes that a `KeyStore` holds. With copies in flight that is well below the 128 MB of a Worker. */
export const MAX_MEMORY = 32 * 1024 * 1024;

const ENTRY = 512; // bytes that a key costs besides itself and its value: V8's about 300 (measured), and malloc's

/** Keys and their values, which are any bytes. All connections with the same context share it. */
export class KeyStore {
  readonly #values = new Map<string, Uint8Array>();
  #memory = 0;
  #connections = 0;

  /** How many keys there are. */
  get size(): number {
    return this.#values.size;
  }

  /** Bytes taken, of `MAX_MEMORY`. */
  get memory(): number {
    return this.#memory;
  }

  get(key: Uint8Array): Uint8Array | undefined {
    return this.#values.get(latin1(key));
  }

  /** Returns false, and keeps the old value, if the new one does not fit into the memory. */
  set(key: Uint8Array, value: Uint8Array): boolean {
    const name = latin1(key);
    const old = this.#values.get(name);
    const more = old === undefined ? ENTRY + key.length + value.length : value.length - old.length;
    if (more > 0 && this.#memory + more > MAX_MEMORY) return false;
    this.#memory += more;
    this.#values.set(name, value);
    return true;
  }

  delete(key: Uint8Array): boolean {
    const name = latin1(key);
    const old = this.#values.get(name);
    if (old === undefined) return false;
    this.#memory -= ENTRY + key.length + old.length;
    return this.#values.delete(name);
  }

  /** A number for a new connection to this store: what `CLIENT ID` answers. */
  connect(): number {
    this.#connections += 1;
    return this.#connections;
  }
}
