/** What passes over the connections of a Worker's sessions, kept by their objects, in real workerd. */

import { once } from "node:events";
import net from "node:net";
import { decodeLines, defineApp } from "socklet";
import { type ControlClient, controlClient, type RecordedPart, type RecordingChange } from "socklet/control";
import { serveApp } from "socklet/emulator";
import { parseTranscript } from "socklet/testing";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { Lines } from "../conformance/lines.ts";
import { runWorker } from "./workerd.ts";

const TOKEN = "a-token-for-the-tests";

/** A server that greets, and gives each of its connections to who asks for the next. */
const greeter = async () => {
  const arrived: net.Socket[] = [];
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    socket.write("welcome\n");
    arrived.push(socket);
    server.emit("arrived");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    address: `127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    next: async (): Promise<net.Socket> => {
      if (arrived.length === 0) await once(server, "arrived");
      return arrived.shift() as net.Socket;
    },
    close: () => {
      for (const socket of arrived) socket.destroy();
      server.close();
    },
  };
};

/** Waits until the session has emitted this. */
const emitted = async (control: ControlClient, id: string, detail: string, after = 0): Promise<number> => {
  for await (const event of control.sessions.follow(id, { after }))
    if (event.type === "handler" && event.detail === detail) return event.id;
  throw new Error(`the session is over, and it did not emit ${detail}`);
};

/** What was said, without what differs from run to run. */
const saidIn = ({ events, kind, side, dropped, first, next, total }: RecordedPart) => ({
  ...{ kind, side, dropped, first, next, total },
  events: events.map((event) => ({ ...(event as object), at: expect.any(Number) })),
});

const kept = await greeter();

/** The same app as the Worker's, as far as these tests ask. */
const app = defineApp({
  handlers: { Lines },
  dial: {
    kept: {
      handler: "Lines",
      address: kept.address,
      decode: decodeLines,
      keep: { redial: { retryDelay: 1 } },
    },
  },
  allow: ["127.0.0.0/8:*"],
});

/** The control plane of that app in this process. */
const inNode = async (): Promise<ControlClient> => {
  const server = await serveApp(app, { control: { port: 0, tokens: TOKEN } });
  onTestFinished(() => server.close());
  return controlClient(server.control?.url ?? "", { token: TOKEN });
};

let url: string;
let control: ControlClient;
const closing: (() => unknown)[] = [() => kept.close()];

beforeAll(async () => {
  const worker = await runWorker({
    main: "test/worker/inspected.ts",
    ports: [],
    classes: { SOCKLET_SESSIONS: "SockletSession", SOCKLET_REGISTRY: "SockletRegistry" },
    vars: { SOCKLET_TOKENS: TOKEN, KEPT: kept.address },
  });
  closing.unshift(() => worker.close());
  ({ url } = worker);
  control = controlClient(url, { token: TOKEN });
});
afterAll(async () => {
  for (const close of closing) await close();
});
beforeEach(async () => {
  await control.recording.stop();
});

/** One conversation, to its end: the session greets nobody, and says one line by hand. */
const converse = async (of: ControlClient): Promise<string> => {
  const server = await greeter();
  onTestFinished(() => server.close());
  const { id } = await of.sessions.start({ handler: "Lines", address: server.address });
  const peer = await server.next();
  await emitted(of, id, "welcome");
  const came = once(peer, "data");
  await of.sessions.send(id, "by hand\n");
  await came;
  peer.end("bye\n");
  for await (const _ of of.sessions.follow(id));
  return id;
};

test("is the same in a Worker as in Node: both directions, messages, the transcript, and what is found", async () => {
  const [node, inWorker] = await Promise.all(
    [await inNode(), control].map(async (of) => {
      await of.recording.start();
      const id = await converse(of);
      const { address, ...transcript } = parseTranscript(await of.recording.transcript(id));
      const { messages, ...more } = await of.recording.messages(id);
      return {
        part: saidIn(await of.recording.part(id)),
        rest: saidIn(await of.recording.part(id, 2)),
        messages: { ...more, messages: messages.map(({ at: _, ...message }) => message) },
        transcript: transcript.events.map(({ at: _, ...event }) => event),
        found: (await of.recording.find("by hand")).ids.indexOf(id),
        missing: (await of.recording.find("nobody said this")).ids,
      };
    }),
  );
  expect(inWorker).toEqual(node);
  expect(inWorker?.part.events).toMatchObject([
    { from: "server", text: "welcome\n" },
    { from: "client", text: "by hand\n" },
    { from: "server", text: "bye\n" },
    { from: "server", end: "half-close" },
    { from: "client", end: "close" },
  ]);
  expect(inWorker?.messages.messages.map(({ text }) => text)).toEqual(["welcome", "by hand", "bye"]);
  expect([inWorker?.found, inWorker?.missing]).toEqual([0, []]);
});

test("is not kept while nobody asks, and nothing of it is when the recording was stopped", async () => {
  const unasked = await converse(control);
  expect(await control.recording.info()).toMatchObject({ on: false, started: false, bytes: 0 });
  await expect(control.recording.part(unasked)).rejects.toMatchObject({ code: "ENOENT" });
  expect(await control.recording.start()).toMatchObject({ on: true, started: true });
  const asked = await converse(control);
  expect((await control.recording.part(asked)).events.length).toBeGreaterThan(3);
  await expect(control.recording.part(unasked)).rejects.toMatchObject({ code: "ENOENT" });
  expect(await control.recording.stop()).toMatchObject({ on: false, bytes: 0, conversations: 0 });
  await expect(control.recording.part(asked)).rejects.toMatchObject({ code: "ENOENT" });
});

test.each(["Node", "a Worker"])(
  "says of a session that ran already how much is not kept, also over earlier connections: in %s",
  async (place) => {
    const of = place === "Node" ? await inNode() : control;
    const { id } = await of.sessions.start({ dial: "kept" });
    onTestFinished(async () => {
      await of.sessions.end(id);
    });
    const first = await kept.next();
    const seen = await emitted(of, id, "welcome");
    first.destroy();
    const second = await kept.next();
    await emitted(of, id, "welcome", seen);
    await of.recording.start();
    const seconds = await emitted(of, id, "welcome", seen);
    second.write("after\n");
    await emitted(of, id, "after", seconds);
    const { dropped, events } = await of.recording.part(id);
    expect(dropped).toBe(2 * "welcome\n".length);
    expect(events).toMatchObject([{ from: "server", text: "after\n" }]);
    // The next connection is of the same conversation.
    second.destroy();
    await kept.next();
    const again = expect.objectContaining({ from: "server", text: "welcome\n" });
    for await (const _ of of.recording.watch()) {
      const part = await of.recording.part(id);
      if (part.events.some((event) => again.asymmetricMatch(event))) break;
    }
  },
);

test("is kept while somebody watches, who is told of the sessions that change, and is forgotten when nobody does", async () => {
  const leaving = new AbortController();
  const changes = control.recording.watch({ signal: leaving.signal });
  const next = async (): Promise<RecordingChange> => (await changes.next()).value as RecordingChange;
  expect(await next()).toMatchObject({ type: "changed", recording: { on: true, started: false } });
  const id = await converse(control);
  for (;;) {
    const told = (await next()).sessions.find((info) => info.id === id);
    if (told?.state === "ended") break;
  }
  expect((await control.recording.part(id)).events[0]).toMatchObject({ text: "welcome\n" });
  leaving.abort();
  await changes.return?.(undefined);
  // The stream's end is seen with the next change that it cannot tell; from then on the lease runs out by itself.
  while ((await control.recording.info()).on) await converse(control);
  await expect(control.recording.part(id)).rejects.toMatchObject({ code: "ENOENT" });
});

describe("bounds", () => {
  test("are those that were set, also where nothing is started", async () => {
    const limits = { maxBytes: 2 * 1024 ** 2, maxConnections: 2 };
    expect(await control.recording.limit(limits)).toMatchObject({ ...limits, started: false, on: false });
    await control.recording.start();
    const ids = [await converse(control), await converse(control), await converse(control)];
    expect(await control.recording.info()).toMatchObject({ ...limits, conversations: 2 });
    await expect(control.recording.part(ids[0] as string)).rejects.toMatchObject({ code: "ENOENT" });
    expect((await control.recording.part(ids[2] as string)).total).toBe(5);
  });

  test("are those that an isolate can have", async () => {
    await expect(control.recording.start({ maxBytes: 65 * 1024 ** 2 })).rejects.toMatchObject({
      code: "EINVAL",
      message: expect.stringContaining("must be at most 67108864 in a Worker"),
    });
  });
});
