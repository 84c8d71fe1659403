/** The property of delivery in real workerd: what the Worker and an object of it serve, and the records of sessions. */

import type net from "node:net";
import { Log, LogLevel, Miniflare } from "miniflare";
import { afterAll, beforeAll, test } from "vitest";
import { Told } from "../core/told.ts";
import {
  type DeliveryPlace,
  holdsDelivery,
  type Meeting,
  type Mix,
  outcomeOf,
  Reader,
  sessionOf,
} from "./deliveries.ts";
import { sessionsWorker } from "./sessions-worker.ts";
import { workerScript } from "./worker-script.ts";

const TOKEN = "abcdefghijklmnop0123";
let workerd: Miniflare;
let origin: string;

beforeAll(async () => {
  workerd = new Miniflare({
    ...sessionsWorker(await workerScript("test/worker/delivery-main.ts"), {
      bindings: { SOCKLET_TOKENS: TOKEN },
      objects: { ROOM: "Room" },
      accepts: true,
    }),
    log: new Log(LogLevel.NONE),
  } as ConstructorParameters<typeof Miniflare>[0]);
  ({ origin } = await workerd.ready);
});
afterAll(() => workerd.dispose());

const post = async (path: string, body?: unknown): Promise<unknown> => {
  const answer = await fetch(`${origin}/${path}`, { method: "POST", body: JSON.stringify(body) });
  return answer.json();
};

const served = async (where: "worker" | "object", { steps, closeTimeout }: Mix): Promise<Meeting> => {
  await post(`meet/${where}`, { steps, stream: { timeout: 2_000, closeTimeout } });
  const socket = (await workerd.dispatchConnect()) as net.Socket;
  const peer = new Reader(socket);
  const told = new Told();
  /** Polls the reported events until there is one of this type: the Worker cannot call the test. */
  const until = async (type: string): Promise<void> => {
    while (!told.all.some((event) => event.type === type)) {
      told.all.length = 0;
      for (const event of (await post("events")) as Parameters<Told["on"]>[0][]) told.on(event);
    }
  };
  await until("begin");
  return {
    peer,
    stop: (how) => post(`end/${how}`),
    outcome: async () => {
      await until("end");
      return outcomeOf(told);
    },
    [Symbol.asyncDispose]: async () => void socket.destroy(),
  };
};

const IN_WORKERD = {
  pauses: [0, 0, 10],
  closeTimeouts: [30, 2_000],
  slack: Number.POSITIVE_INFINITY, // after an abort everything passed to workerd may still arrive, counted or not
};

const places: Readonly<Record<string, DeliveryPlace>> = {
  "served by a Worker": { ...IN_WORKERD, runs: 15, meet: (mix) => served("worker", mix) },
  "served by a Durable Object": { ...IN_WORKERD, runs: 15, meet: (mix) => served("object", mix) },
  "a session's record": {
    ...IN_WORKERD,
    runs: 6, // a close takes its 5 s if its peer stalls
    meet: (mix) => sessionOf(origin, TOKEN, mix, (id) => post(`lose/${id}`)),
  },
};

test.each(Object.entries(places))(
  "%s: whatever the sizes, the reading, half-closes, resets and stops: a prefix arrives, and all where it is not said otherwise",
  (_, place) => holdsDelivery(place),
);
