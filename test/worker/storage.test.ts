/** Blobs in a Durable Object. */

import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, test } from "vitest";
import { boundStorage } from "../../worker/objects/storage.ts";

const storage = env.STORAGE.getByName("blobs");

test("keeps bytes by name, of every size across its rows, replaces them whole, and lists them; also after an eviction", async () => {
  expect(await storage.get("none")).toBeNull();
  const MiB = 1024 * 1024;
  for (const size of [0, 1, MiB - 1, MiB, MiB + 1, 3 * MiB + 5]) {
    const bytes = Uint8Array.from({ length: size }, (_, i) => i * 7 + (i >> 10));
    await storage.put("blob", bytes);
    expect(await storage.get("blob")).toEqual(bytes);
  }
  await storage.put("blob", Uint8Array.of(1, 2));
  await storage.put("a", new Uint8Array(0));
  await evictDurableObject(storage);
  expect([await storage.get("blob"), await storage.list()]).toEqual([Uint8Array.of(1, 2), ["a", "blob"]]);
});

test("as an app's storage: a bad name is refused, and a missing binding named", async () => {
  const bound = boundStorage(env as unknown as Record<string, unknown>);
  await expect(bound.put("../x", new Uint8Array(1))).rejects.toThrow(RangeError);
  await expect(bound.get("")).rejects.toThrow(/1 to 128 letters/);
  await bound.put("ours", Uint8Array.of(7));
  expect([await bound.get("ours"), (await bound.list()).includes("ours")]).toEqual([Uint8Array.of(7), true]);
  await expect(boundStorage({}).list()).rejects.toMatchObject({
    code: "ERR_UNSUPPORTED",
    message: expect.stringContaining("bind it as STORAGE"),
  });
});
