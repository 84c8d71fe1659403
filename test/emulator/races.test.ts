/** The races (test/races) in both places, short; `npm run soak -- --races` has them for as long as one likes. */

import { once } from "node:events";
import { readFileSync } from "node:fs";
import net from "node:net";
import { controlClient } from "socklet/control";
import { describe, expect, onTestFinished, test } from "vitest";
import { emulator, TOKEN, workerd } from "../races/places.ts";
import { type RaceOptions, race } from "../races/run.ts";

const SEED = Number(process.env.RACES_SEED ?? 12);

const nothingIsWrong = async (place: typeof emulator, options: Omit<RaceOptions, "seed">): Promise<void> => {
  await using at = await place();
  const { breaches, sessions, counts } = await race(at, { ...options, seed: SEED });
  expect(breaches, `RACES_SEED=${SEED}`).toEqual([]);
  expect(sessions).toBeGreaterThan(options.clients);
  expect(counts.kill ?? 0).toBe(options.kills ?? 0);
};

describe("many clients of the same sessions, who leave in the middle", () => {
  test("the emulator", () => nothingIsWrong(emulator, { clients: 12, steps: 30 }));

  test("the emulator, which is closed in the middle", () =>
    nothingIsWrong(emulator, { clients: 12, steps: 30, stop: true }));

  test("workerd, whose objects are lost in their beginning and later, and whose process is killed", () =>
    nothingIsWrong(workerd, {
      clients: 12,
      steps: 20,
      early: true,
      faults: ["lose", "loseRegistry", "ring", "ringRegistry", "delay"],
      kills: 1,
    }));
});

test("a session in workerd whose peer takes nothing is ended, and its object holds no connection any more", async () => {
  await using place = await workerd();
  const server = net.createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.pause());
    onTestFinished(() => void socket.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const { sessions } = controlClient(place.url(), { token: TOKEN });
  const address = `127.0.0.1:${(server.address() as net.AddressInfo).port}`;
  const { id } = await sessions.start({ handler: "racer", address, params: 1 });
  for await (const { type } of sessions.follow(id)) if (type === "handler") break;
  const megabyte = new Uint8Array(1024 * 1024);
  const sends = Array.from({ length: 12 }, () => sessions.send(id, megabyte).catch(({ code }) => code));
  let sent = 0;
  for await (const { type } of sessions.follow(id)) if (type === "sent" && ++sent === sends.length) break;
  const over = await sessions.end(id);
  expect(over).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
  expect((await Promise.all(sends)).at(-1)).toBe("ECONNABORTED");
  // Linux's table of connections: the remote address and port in hexadecimal, then the state, of which 01 is ESTABLISHED.
  const port = Number(address.split(":")[1]).toString(16).toUpperCase().padStart(4, "0");
  const established = (): boolean => readFileSync("/proc/net/tcp", "utf8").includes(` 0100007F:${port} 01 `);
  while (established()) await new Promise((resolve) => setImmediate(resolve));
  expect(await sessions.get(id)).toEqual(over);
});
