/** Blobs: one body over files and memory (a Durable Object's is test/worker's). */

import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlobStorage, defineApp, streamHandler } from "socklet";
import { FileStorage, serveApp } from "socklet/emulator";
import { MemoryStorage } from "socklet/testing";
import { afterAll, describe, expect, test } from "vitest";

const folder = mkdtempSync(join(tmpdir(), "socklet-storage-"));
afterAll(() => rmSync(folder, { recursive: true }));

const storages: Record<string, BlobStorage> = {
  files: new FileStorage(join(folder, "made", "when", "needed")),
  memory: new MemoryStorage(),
};

describe.each(Object.entries(storages))("%s", (_, storage) => {
  test("keeps bytes by name, replaces them whole, and lists them", async () => {
    expect(await storage.list()).toEqual([]);
    expect(await storage.get("none")).toBeNull();
    const bytes = Uint8Array.of(1, 2, 3);
    await storage.put("b.eml", bytes);
    await storage.put("a-1_x", new Uint8Array(0));
    bytes.fill(9);
    const buffer = Buffer.from("abc"); // whose slice() copies nothing
    await storage.put("a-2", buffer);
    buffer.fill("x");
    expect(await storage.get("a-2")).toEqual(new TextEncoder().encode("abc"));
    expect(await storage.get("b.eml")).toEqual(Uint8Array.of(1, 2, 3));
    await storage.put("b.eml", Uint8Array.of(4));
    expect(await storage.get("b.eml")).toEqual(Uint8Array.of(4));
    expect(await storage.get("a-1_x")).toEqual(new Uint8Array(0));
    expect(await storage.list()).toEqual(["a-1_x", "a-2", "b.eml"]);
  });

  test.each(["", ".", "..", ".hidden", "a/b", "../x", "a\\b", "a\0", "é", "x".repeat(129)])(
    "refuses the name %j",
    async (name) => {
      await expect(storage.put(name, new Uint8Array(1))).rejects.toThrow(RangeError);
      await expect(storage.get(name)).rejects.toThrow(/1 to 128 letters/);
    },
  );
});

test("many at once leave no part behind; a folder that is a file is an error", async () => {
  const storage = new FileStorage(join(folder, "busy"));
  await Promise.all(
    Array.from({ length: 50 }, (_, i) => storage.put("same", new Uint8Array(10_000).fill(i))),
  );
  expect(new Set(await storage.get("same")).size).toBe(1);
  expect(readdirSync(join(folder, "busy"))).toEqual(["same"]);
  writeFileSync(join(folder, "file"), "");
  await expect(new FileStorage(join(folder, "file")).put("x", new Uint8Array(1))).rejects.toMatchObject({
    code: /EEXIST|ENOTDIR/,
  });
});

test("serveApp() refuses a `data` that can be no folder, and makes none that is not there yet", async () => {
  const app = defineApp({
    handlers: { Idle: streamHandler(() => {}) },
    listen: [{ handler: "Idle", address: "127.0.0.1:0" }],
  });
  const file = join(folder, "taken");
  writeFileSync(file, "");
  for (const data of [file, join(file, "below")]) {
    await expect(serveApp(app, { data })).rejects.toMatchObject({
      code: "ENOTDIR",
      message: expect.stringContaining(
        `data must be a folder, or a path where nothing is yet, not ${data}: `,
      ),
    });
  }
  const data = join(folder, "later");
  await (await serveApp(app, { data })).close();
  expect(readdirSync(folder)).not.toContain("later");
});
