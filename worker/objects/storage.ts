/// <reference types="@cloudflare/workers-types" />
/** Blobs in one Durable Object with SQLite. */

import { joinBytes } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import { type BlobStorage, checkBlobName } from "../../core/storage.ts";
import { PlatformObject, type PlatformState } from "../platform.ts";

const PART = 1024 * 1024; // bytes of one row: objects with SQLite take rows of at most 2 MB

/**
 * The Durable Object that keeps an app's blobs. Export it from the Worker's main module, and bind it as `STORAGE`:
 *
 *     [[durable_objects.bindings]]
 *     name = "STORAGE"
 *     class_name = "SockletStorage"
 */
export class SockletStorage extends PlatformObject<unknown> implements BlobStorage {
  constructor(state: PlatformState, env: unknown) {
    super(state, env);
    state.storage.sql.exec(
      "CREATE TABLE IF NOT EXISTS parts (name TEXT, part INTEGER, bytes BLOB, PRIMARY KEY (name, part))",
    );
  }

  async put(name: string, bytes: Uint8Array): Promise<void> {
    checkBlobName(name);
    const { storage } = this.ctx;
    storage.transactionSync(() => {
      storage.sql.exec("DELETE FROM parts WHERE name = ?", name);
      for (let part = 0; part === 0 || part * PART < bytes.length; part++) {
        const slice = bytes.slice(part * PART, (part + 1) * PART);
        storage.sql.exec("INSERT INTO parts VALUES (?, ?, ?)", name, part, slice.buffer);
      }
    });
  }

  async get(name: string): Promise<Uint8Array | null> {
    const rows = this.ctx.storage.sql
      .exec<{ bytes: ArrayBuffer }>(
        "SELECT bytes FROM parts WHERE name = ? ORDER BY part",
        checkBlobName(name),
      )
      .toArray();
    if (rows.length === 0) return null;
    const parts = rows.map(({ bytes }) => new Uint8Array(bytes));
    return joinBytes(
      parts,
      parts.reduce((size, part) => size + part.length, 0),
    );
  }

  async list(): Promise<string[]> {
    return this.ctx.storage.sql
      .exec<{ name: string }>("SELECT DISTINCT name FROM parts ORDER BY name")
      .toArray()
      .map(({ name }) => name);
  }
}

/** The storage behind a Worker's binding `STORAGE`. Without that binding, every call throws `ERR_UNSUPPORTED`. */
export const boundStorage = (bindings: Readonly<Record<string, unknown>>): BlobStorage => {
  const namespace = bindings.STORAGE as DurableObjectNamespace<SockletStorage> | undefined;
  const object = (): BlobStorage => {
    if (namespace !== undefined) return namespace.getByName("blobs");
    throw new SocketError(
      "ERR_UNSUPPORTED",
      "this Worker has no storage: export SockletStorage from its main module and bind it as STORAGE",
    );
  };
  return {
    // Names are checked here, too, because a RangeError that crosses to another object loses its class.
    put: async (name, bytes) => object().put(checkBlobName(name), bytes),
    get: async (name) => object().get(checkBlobName(name)),
    list: async () => object().list(),
  };
};
