/** Lasting sessions, with third-party servers, through kills; `KEPT_KILLS=50` for as many each (`npm run soak -- --keep` prints more). */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SessionEvent } from "socklet/control";
import { expect, test } from "vitest";
import { keptThrough, mosquitto, redisStream } from "../races/kept.ts";
import { type KeptPlace, servedPlace, workerPlace } from "../races/kept-places.ts";
import { reservePort } from "./ports.ts";
import { describeWith, redis, run, start } from "./program.ts";

const kills = Number(process.env.KEPT_KILLS ?? 0);
const places = [
  ["socklet serve", servedPlace],
  ["workerd", workerPlace],
] as const;

describeWith(["redis-server", "redis-cli"], "a reader of a Redis stream", () => {
  test.each(places)("tells each entry once through kills, in %s", async (_, place) => {
    await using server = await redisStream();
    await using where = await place({ redis: server.port });
    await told(where, server);
  });
});

describeWith(["mosquitto", "mosquitto_pub"], "an MQTT client", () => {
  test.each(places)("tells each message of QoS 2 once through kills, in %s", async (_, place) => {
    await using server = await mosquitto();
    await using where = await place({ mqtt: server.port });
    await told(where, server);
  });
});

const told = async (where: KeptPlace, server: Parameters<typeof keptThrough>[1]): Promise<void> => {
  const evictions = where.evict === undefined ? 0 : 1;
  const faults = Object.keys(where.faults).length + Object.keys(server.faults).length + evictions;
  const report = await keptThrough(where, server, { kills: Math.max(kills, faults), seed: 1 });
  expect([...report.told].sort((a, b) => a - b)).toEqual(report.told.map((_, i) => i + 1));
  expect(report.gaps).toEqual([]);
  expect(report.info).toMatchObject({ state: "ended", result: report.told.length, error: null });
  expect(Object.values(report.faults).every((times) => times > 0)).toBe(true);
  expect(report.info.kept?.attempt).toBeGreaterThan(2);
};

/** The `handler` events of the session, up to the first that `last` accepts. */
const said = async (place: KeptPlace, id: string, last: (detail: never) => unknown): Promise<unknown[]> => {
  const details: unknown[] = [];
  for await (const event of place.client().sessions.follow(id) as AsyncIterable<SessionEvent>) {
    if (event.type !== "handler") continue;
    details.push(event.detail);
    if (last(event.detail as never)) return details;
  }
  throw new Error(`its events ended: ${JSON.stringify(details)}`);
};

const MISSING = {
  missing: { from: expect.stringMatching(/^\d{4}-.*Z$/), to: expect.stringMatching(/^\d{4}-.*Z$/) },
};

describeWith(["redis-server", "redis-cli"], "a subscriber of a Redis channel", () => {
  test("subscribes again, and says for how long it did not hear", async () => {
    const first = await redis();
    await using place = await servedPlace({ redis: first.port });
    const { id } = await place
      .client()
      .sessions.start({ dial: "redisSubscriber", params: { channel: "the-news" } });
    const publish = async (text: string): Promise<void> => {
      for (;;) {
        const { stdout } = await run("redis-cli", ["-p", first.port, "PUBLISH", "the-news", text]);
        if (stdout.toString().trim() === "1") return; // a subscriber received it
      }
    };
    await publish("one");
    await said(place, id, ({ message }: { message?: string }) => message === "one");
    await first.program[Symbol.asyncDispose]();
    await using second = start("redis-server", ["--port", first.port, "--save", "", "--bind", "127.0.0.1"]);
    await second.line(/Ready to accept connections/);
    await publish("two");
    expect(await said(place, id, ({ message }: { message?: string }) => message === "two")).toEqual([
      { message: "one" },
      MISSING,
      { message: "two" },
    ]);
    expect(await place.client().sessions.end(id)).toMatchObject({ state: "cut", kept: { next: null } });
  });
});

describeWith(["ngircd"], "an IRC client", () => {
  test("joins again, and says for how long it was away", async () => {
    const port = await reservePort();
    const folder = mkdtempSync(join(tmpdir(), "socklet-ngircd-"));
    const file = join(folder, "ngircd.conf");
    writeFileSync(
      file,
      `[Global]\nName = irc.example.test\nInfo = a test\nListen = 127.0.0.1\nPorts = ${port}\nMotdPhrase = welcome\nServerUID = 0\nServerGID = 0\n[Options]\nDNS = no\nIdent = no\nPAM = no\n`,
    );
    const ircd = async () => {
      const program = start("ngircd", ["--nodaemon", "--config", file]);
      await program.line(/Now listening on/);
      return program;
    };
    try {
      await using first = await ircd();
      await using place = await servedPlace({ irc: port });
      const { id } = await place.client().sessions.start({
        dial: "irc",
        params: { nick: "socklet", channel: "#tea-room" },
      });
      await said(place, id, ({ joined }: { joined?: boolean }) => joined);
      const say = async (text: string): Promise<void> => {
        await using other = start("nc", ["127.0.0.1", port]);
        other.write("NICK ada\r\nUSER ada 0 * :ada\r\n");
        await other.line(/ 001 /);
        other.write("JOIN #tea-room\r\n");
        await other.line(/ 366 /);
        other.write(`PRIVMSG #tea-room :${text}\r\n`);
        await said(place, id, ({ text: heard }: { text?: string }) => heard === text);
      };
      await say("is there tea?");
      await first[Symbol.asyncDispose]();
      await using _second = await ircd();
      await said(place, id, ({ missing }: { missing?: object }) => missing);
      await say("there is");
      expect(await said(place, id, ({ text }: { text?: string }) => text === "there is")).toEqual([
        { joined: true },
        { from: "ada", text: "is there tea?" },
        MISSING,
        { from: "ada", text: "there is" },
      ]);
      await place.client().sessions.end(id);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
