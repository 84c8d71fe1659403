/**
 * Lasting sessions, while what they need is killed: the server that they read from, their object, their process. Each fault
 * comes at a moment that is drawn from the seed: when so many more entries have been told, while others are on their way.
 * Afterwards each entry was told once.
 */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SessionEvent, SessionInfo } from "socklet/control";
import { chanceOf } from "../../core/testing/clock.ts";
import { awaited } from "../awaited.ts";
import { temporaryFolder } from "../peers/children.ts";
import { reservePort } from "../peers/ports.ts";
import { type Program, run, start } from "../peers/program.ts";
import type { KeptPlace } from "./kept-places.ts";

/** A server that keeps what comes for those who are away. */
export interface KeepingServer extends AsyncDisposable {
  readonly port: number;
  /** The entry of `dial` that reads from it, and its params, for a session that tells `limit` entries. */
  spec(limit: number): { dial: string; params: unknown };
  /** Resolves when it has entry `number`; it has each once. */
  publish(number: number): Promise<void>;
  /** The number of an entry that was told. */
  numberOf(detail: unknown): number | null;
  /** What can be done to it, by name. */
  readonly faults: Readonly<Record<string, () => Promise<void>>>;
}

/** Redis, whose stream is on its disk when it has answered. */
export const redisStream = async (): Promise<KeepingServer> => {
  const port = await reservePort();
  const { path: folder, remove } = temporaryFolder("redis");
  const begin = async (): Promise<Program> => {
    const kept = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", folder];
    const program = start("redis-server", ["--port", port, "--bind", "127.0.0.1", ...kept]);
    await program.line(/Ready to accept connections/);
    return program;
  };
  let program = await begin();
  return {
    port,
    spec: (limit) => ({ dial: "redisStream", params: { key: "entries", limit } }),
    async publish(number) {
      for (;;) {
        const { stdout } = await run("redis-cli", [
          "-p",
          port,
          "XADD",
          "entries",
          `${number}-0`,
          "n",
          number,
        ]);
        const said = stdout.toString();
        if (said.startsWith(`${number}-0`) || said.includes("equal or smaller")) return; // or it had it already
      }
    },
    numberOf: (detail) => Number((detail as { fields: string[] }).fields[1]),
    faults: {
      "SIGKILL of redis-server": async () => {
        program.kill("SIGKILL");
        await program.ended;
        program = await begin();
      },
    },
    async [Symbol.asyncDispose]() {
      await program[Symbol.asyncDispose]();
      remove();
    },
  };
};

/**
 * Mosquitto, which keeps the sessions of its clients on its disk when it is ended in order: what it had not written when it is
 * killed it sends again, or has lost, and no client can know.
 */
export const mosquitto = async (): Promise<KeepingServer> => {
  const port = await reservePort();
  const { path: folder, remove } = temporaryFolder("mosquitto");
  writeFileSync(
    join(folder, "mosquitto.conf"),
    [
      `listener ${port} 127.0.0.1`,
      "allow_anonymous true",
      "persistence true",
      `persistence_location ${folder}/`,
      "max_queued_messages 0",
      "log_dest stdout",
      ...["error", "warning", "notice", "information", "subscribe"].map((type) => `log_type ${type}`), // the default, and the last
      "user root",
    ].join("\n"),
  );
  const begin = async (): Promise<Program> => {
    const program = start("stdbuf", ["-oL", "mosquitto", "-c", join(folder, "mosquitto.conf")]);
    await program.line(/mosquitto version .* running/);
    return program;
  };
  let program = await begin();
  const clientId = "socklet-kept-subscriber";
  const subscribed = program.line(new RegExp(`: ${clientId} 2 entries/#`));
  subscribed.catch(() => {});
  let publishing = Promise.resolve();
  let restarting = Promise.resolve();
  return {
    port,
    spec: (limit) => ({ dial: "mqtt", params: { clientId, topic: "entries/#", limit } }),
    async publish(number) {
      await subscribed; // what is published before that is kept for nobody
      // A publisher that is cut does not know whether its message was taken. (A restart may begin while this waits.)
      for (let seen: Promise<void> | null = null; seen !== restarting; await seen) seen = restarting;
      publishing = (async () => {
        const message = ["-q", 2, "-t", "entries/all", "-m", number];
        const { code, stderr } = await run("mosquitto_pub", ["-h", "127.0.0.1", "-p", port, ...message]);
        if (code !== 0) throw new Error(`mosquitto_pub ended with ${code}: ${stderr}`);
      })();
      await publishing;
    },
    numberOf: (detail) => {
      const { message } = detail as { message?: string };
      return message === undefined ? null : Number(message);
    },
    faults: {
      "SIGTERM of mosquitto": async () => {
        const done = Promise.withResolvers<void>();
        restarting = done.promise;
        await publishing;
        program.kill("SIGTERM");
        await program.ended;
        program = await begin();
        done.resolve();
      },
    },
    async [Symbol.asyncDispose]() {
      await program[Symbol.asyncDispose]();
      remove();
    },
  };
};

/** What came of a run. */
export interface KeptReport {
  /** How often each fault happened. */
  readonly faults: Readonly<Record<string, number>>;
  /** The numbers that were told, in their order. */
  readonly told: readonly number[];
  /** Ids of events that are missing, or came twice. */
  readonly gaps: readonly number[];
  readonly info: SessionInfo;
}

const PER_FAULT = 12; // entries that are told between two faults, on the average

/** Runs a session on `server` in `place` through `kills` faults, and `entries` entries in all. */
export const keptThrough = async (
  place: KeptPlace,
  server: KeepingServer,
  { kills, seed }: { kills: number; seed: number },
): Promise<KeptReport> => {
  const chance = chanceOf(seed);
  const entries = (kills + 2) * PER_FAULT;
  const { id } = await place.client().sessions.start(server.spec(entries) as never);
  const told: number[] = [];
  const gaps: number[] = [];
  let last = 0;
  let more = Promise.withResolvers<void>();
  let over = false;
  let leaving = new AbortController(); // of who follows
  let away = Promise.resolve();
  const follow = async (): Promise<void> => {
    while (!over) {
      await away;
      const { signal } = leaving;
      try {
        for await (const event of place
          .client()
          .sessions.follow(id, { after: last, signal }) as AsyncIterable<SessionEvent>) {
          if (event.id !== last + 1) gaps.push(event.id);
          last = event.id;
          if (event.type === "ended" || event.type === "failed" || event.type === "cut") over = true;
          const number = event.type === "handler" ? server.numberOf(event.detail) : null;
          if (number !== null) told.push(number);
          more.resolve();
          more = Promise.withResolvers();
        }
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 50)); // its process is being started again
      }
    }
    more.resolve();
  };
  let done = 0; // faults
  const publish = async (): Promise<void> => {
    for (let number = 1; number <= entries; number++) {
      while (number > (done + 2) * PER_FAULT && !over) await more.promise; // so that all faults happen while something comes
      await server.publish(number);
    }
  };
  const all: Record<string, (id: string) => Promise<void>> = { ...place.faults, ...server.faults };
  const [[how, lose] = []] = Object.entries(server.faults);
  if (place.evict !== undefined && lose !== undefined) {
    all[`eviction of the object, with ${how}`] = async () => {
      const back = Promise.withResolvers<void>();
      away = back.promise;
      leaving.abort();
      leaving = new AbortController();
      await Promise.all([place.evict?.(id), lose()]); // it waits for both: who follows, and the connection
      back.resolve();
    };
  }
  const names = Object.keys(all);
  const faults: Record<string, number> = Object.fromEntries(names.map((name) => [name, 0]));
  const disturb = async (): Promise<void> => {
    for (; done < kills && !over; done++) {
      const name = names[done < names.length ? done : Math.floor(chance() * names.length)] as string; // each at least once
      const until = done * PER_FAULT + Math.floor(chance() * PER_FAULT);
      while (told.length < until && !over) await more.promise;
      await all[name]?.(id);
      faults[name] = (faults[name] ?? 0) + 1;
      more.resolve(); // who waits to publish more
      more = Promise.withResolvers();
    }
  };
  await awaited(
    Promise.all([follow(), publish(), disturb()]),
    () => `${entries} entries, with ${done} of ${kills} faults so far; these were told: ${told.join(" ")}`,
  );
  return { faults, told, gaps, info: await place.client().sessions.get(id) };
};
