/** What passes over connections, kept and shown by the control routes: in memory, with all their edges. */

import { type Address, type App, type Decoder, defineApp, formatAddress, streamHandler } from "socklet";
import {
  type FlowInfo,
  type RecordedPart,
  Recorder,
  type RecordingChange,
  type SessionInfo,
} from "socklet/control";
import { parseTranscript } from "socklet/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { readEvents } from "../../core/control/http/sse.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { memoryPair } from "../../core/testing/index.ts";
import { fc } from "../conformance/properties.ts";
import { READ, serve } from "./control-setup.ts";

const MIB = 1024 * 1024;
const peers: readonly Address[] = [1, 2, 3].map((port) => ({ family: "IPv4", hostname: "127.0.0.1", port }));
const PATIENCE = 120_000; // ms that a session may take to end: it takes a few
const NOWHERE = "0193f0c2-7a10-7c3e-8b1f-5a0c2e4d6f80";

/** A session that talks to a socket of this test: its id, and that socket. */
const talking = async ({ ask, place }: ReturnType<typeof serve>): Promise<[string, StreamSocket]> => {
  const started = await ask("POST", "/v1/sessions", {
    json: { handler: "Follow", address: "10.0.0.2:7", background: true },
  });
  const { id } = (await started.json()) as SessionInfo;
  return [id, place.clients.at(-1) as StreamSocket];
};

const said = async ({ ask }: ReturnType<typeof serve>, id: string, query = "") =>
  (await ask("GET", `/v1/recording/${id}${query}`)).json();

/** Watches, as a page does; ends with the test. */
const watching = async ({ ask }: ReturnType<typeof serve>) => {
  const leaving = new AbortController();
  const response = await ask("GET", "/v1/recording/events");
  const body = response.body as ReadableStream<Uint8Array>;
  const changes = readEvents<RecordingChange>(body, leaving.signal);
  onTestFinished(() => leaving.abort());
  return { changes, leave: () => leaving.abort(), first: (await changes.next()).value as RecordingChange };
};

test("nothing is kept until somebody asks, and then from there on", async () => {
  const control = serve();
  const [id, peer] = await talking(control);
  await peer.sendall("before\n");
  expect((await control.ask("GET", `/v1/recording/${id}`)).status).toBe(404);
  const started = await control.ask("PUT", "/v1/recording", { json: {} });
  expect((await started.json()).recording).toMatchObject({ on: true, started: true, maxBytes: 64 * MIB });
  await peer.sendall("after\n");
  await peer.close();
  await control.plane.wait(id, PATIENCE);
  expect(await said(control, id)).toMatchObject({
    id,
    kind: "stream",
    side: "client",
    address: "10.0.0.2:7",
    dropped: 7, // "before\n"
    first: 0,
    events: [
      { from: "server", text: "after\n" },
      { from: "server", end: "half-close" },
      { from: "client", end: "close" },
    ],
  });
  const stopped = await control.ask("DELETE", "/v1/recording");
  expect((await stopped.json()).recording).toMatchObject({ on: false, bytes: 0, conversations: 0 });
  expect((await control.ask("GET", `/v1/recording/${id}`)).status).toBe(404);
});

test("bounds are changed without starting a recording, and hold for who watches", async () => {
  const control = serve();
  const changed = await control.ask("PATCH", "/v1/recording", { json: { maxBytes: 2 * MIB } });
  expect((await changed.json()).recording).toMatchObject({ on: false, started: false, maxBytes: 2 * MIB });
  const { first, leave } = await watching(control);
  expect(first.recording).toMatchObject({ on: true, started: false, maxBytes: 2 * MIB });
  const again = await control.ask("PATCH", "/v1/recording", { json: { maxConnections: 5 } });
  expect((await again.json()).recording).toMatchObject({
    started: false,
    maxBytes: 2 * MIB,
    maxConnections: 5,
  });
  leave();
  await control.plane.close();
});

test("a conversation is a transcript, which the test kit reads; it comes in parts that go on where the one before ended", async () => {
  const control = serve();
  await control.ask("PUT", "/v1/recording", { json: {} });
  const [id, peer] = await talking(control);
  await peer.sendall(Uint8Array.of(0, 255, 10));
  await control.ask("POST", `/v1/sessions/${id}/data`, { json: { text: "hällo\n" } });
  await peer.recv();
  await peer.close();
  await control.plane.wait(id, PATIENCE);
  const text = await (await control.ask("GET", `/v1/recording/${id}/transcript`)).text();
  const { events, kind, address } = parseTranscript(text);
  expect([kind, address]).toEqual(["stream", "10.0.0.2:7"]);
  expect(events).toMatchObject([
    { from: "server", data: Uint8Array.of(0, 255, 10) },
    { from: "client", data: new TextEncoder().encode("hällo\n") },
    { from: "server", end: "half-close" },
    { from: "client", end: "close" },
  ]);
  const one = await said(control, id, "?bytes=1");
  expect([one.first, one.next, one.total, one.events.length]).toEqual([0, 1, 4, 1]);
  const rest = await said(control, id, `?after=${one.next}`);
  expect([rest.first, rest.next, rest.events.length]).toEqual([1, 4, 3]);
  const none = await said(control, id, "?after=99");
  expect([none.first, none.next, none.events]).toEqual([99, 99, []]);
});

test("who watches is told of the sessions that change; what passes is kept while somebody does", async () => {
  const control = serve();
  const { changes, first, leave } = await watching(control);
  expect(first).toMatchObject({
    id: 1,
    type: "changed",
    sessions: [],
    recording: { on: true, started: false },
  });
  const [id, peer] = await talking(control);
  const seen: SessionInfo[] = [];
  const until = async (holds: (info: SessionInfo) => boolean): Promise<void> => {
    for (;;) {
      seen.push(...((await changes.next()).value as RecordingChange).sessions);
      if (seen.some((info) => info.id === id && holds(info))) return;
    }
  };
  await until(({ state }) => state === "running");
  await peer.sendall("five\n");
  await until(({ bytesRead }) => bytesRead === 5);
  await peer.close();
  await until(({ state }) => state === "ended");
  expect((await said(control, id)).events).toMatchObject([{ text: "five\n" }, {}, {}]);
  leave();
  await control.plane.close();
  expect(control.place.recorder.on).toBe(false);
});

describe("the bounds", () => {
  /** A recorder with one connection, whose other end is given. */
  const recorded = (recorder: Recorder, id: string): StreamSocket => {
    const [ours, theirs] = memoryPair();
    recorder.opened({ id, socket: ours, side: "server", address: "tcp://127.0.0.1:7" });
    void (async () => {
      for await (const bytes of ours) if (bytes.length === 0) return;
    })();
    return theirs;
  };

  test("of bytes: the newest are kept, and what is gone is counted", async () => {
    const recorder = new Recorder();
    recorder.start({ maxBytes: 2 * MIB });
    const [one, other] = [recorded(recorder, "one"), recorded(recorder, "other")];
    const piece = new Uint8Array(64 * 1024).fill(65);
    for (let i = 0; i < 64; i++) {
      piece[0] = i;
      await one.sendall(piece);
      if (i === 60) await other.sendall("late");
    }
    await one.close();
    const { bytes, dropped, maxBytes } = recorder.info();
    expect(bytes).toBeLessThanOrEqual(maxBytes);
    expect(dropped).toBeGreaterThan(MIB);
    const part = recorder.part("one", 0, 8 * MIB);
    const kept = part?.events.reduce((sum: number, event) => {
      const { text = "", base64 = "" } = event as { text?: string; base64?: string };
      return sum + text.length + atob(base64).length;
    }, 0);
    expect((part?.dropped ?? 0) + (kept ?? 0)).toBe(64 * piece.length);
    expect(part?.first).toBeGreaterThan(0);
    expect(recorder.part("other", 0, MIB)).toMatchObject({ first: 0, events: [{ text: "late" }] });
    const { dropped: said } = parseTranscript([...recorder.transcript("one")].join(""));
    expect(said).toBe(part?.dropped);
  });

  test("of connections: the oldest go first", async () => {
    const recorder = new Recorder();
    recorder.start({ maxConnections: 2 });
    for (const id of ["a", "b", "c"]) await recorded(recorder, id).sendall(id);
    expect(["a", "b", "c"].map((id) => recorder.part(id, 0, 1)?.total ?? null)).toEqual([null, 1, 1]);
    recorder.close();
    expect(() => recorder.start()).toThrow("this process is ending");
  });

  test("of many connections: never more than that, and never less than all but a 64th", async () => {
    const recorder = new Recorder();
    recorder.start({ maxConnections: 128 });
    const ids = Array.from({ length: 300 }, (_, i) => `connection ${i}`);
    const counts: number[] = [];
    for (const id of ids) {
      await recorded(recorder, id).sendall("x");
      counts.push(recorder.info().conversations);
    }
    expect(counts.slice(0, 128)).toEqual(ids.slice(0, 128).map((_, i) => i + 1));
    expect(Math.max(...counts)).toBe(128);
    expect(Math.min(...counts.slice(128))).toBe(126);
    const kept = ids.filter((id) => recorder.part(id, 0, 1) !== null);
    expect(kept).toEqual(ids.slice(-kept.length)); // the newest
  });

  test("a connection of a hundred thousand pieces has no more places than are kept", async () => {
    const recorder = new Recorder();
    recorder.start({ maxBytes: MIB });
    const peer = recorded(recorder, "one");
    const line = new Uint8Array(50).fill(65);
    for (let i = 0; i < 100_000; i++) await peer.sendall(line);
    await peer.close();
    const { first = 0, next = 0, total = 0 } = recorder.part("one", 0, 1) ?? {};
    expect([next - first, total - first]).toEqual([1, expect.any(Number)]);
    expect(total - first).toBeLessThanOrEqual(MIB / 66);
  });

  test("what is kept of each of several conversations are its newest records, whole, read from any of them on", () => {
    const sizes = fc.oneof(fc.nat(30), fc.nat(60_000));
    const said = fc.array(fc.tuple(fc.nat(2), sizes), { minLength: 1, maxLength: 400 });
    fc.assert(
      fc.property(said, fc.nat(400), (pieces, after) => {
        const recorder = new Recorder();
        recorder.start({ maxBytes: 2 * MIB });
        const model: Uint8Array[][] = [[], [], []];
        for (const [number, [which, size]] of pieces.entries()) {
          const bytes = new Uint8Array(size).fill(number);
          model[which]?.push(bytes);
          recorder.datagram("dns", "udp://127.0.0.1:53", peers[which] as Address, bytes, false);
        }
        for (const { id, peer } of recorder.flows()) {
          const all = model[peers.findIndex((one) => formatAddress(one) === peer)] as Uint8Array[];
          const { first = 0, next, total } = recorder.part(id, 0, 8 * MIB) as RecordedPart;
          expect([next, total]).toEqual([all.length, all.length]);
          const text = [...recorder.transcript(id)].join("");
          const datas = parseTranscript(text).events.map((event) => ("data" in event ? event.data : null));
          expect(datas).toEqual(all.slice(first));
          const later = recorder.part(id, after, 8 * MIB) as RecordedPart;
          expect(later.events.length).toBe(Math.max(0, all.length - Math.max(after, first)));
        }
      }),
      { numRuns: 30 },
    );
  });

  test("a transcript that is read slowly goes on with what is kept still", () => {
    const recorder = new Recorder();
    recorder.start({ maxBytes: MIB });
    const [peer] = peers;
    const say = (count: number, size: number): void => {
      for (let i = 0; i < count; i++)
        recorder.datagram("dns", "udp://127.0.0.1:53", peer as Address, new Uint8Array(size), false);
    };
    say(10, 1_000);
    const [{ id }] = recorder.flows() as [FlowInfo];
    const slow = recorder.transcript(id);
    expect(slow.next().value).toContain('"transcript"');
    expect(JSON.parse(slow.next().value as string)).toMatchObject({ from: "client" });
    say(40, 60_000); // all of those are forgotten, which were there as it began
    expect([...slow]).toEqual([]);
    recorder.stop();
    expect([...recorder.transcript(id)]).toEqual([]);
  });
});

test.each<[what: string, query: string, cuts: readonly string[]]>([
  ["in one piece", "text=needle", ["a needle here"]],
  ["across two", "text=needle", ["a nee", "dle here"]],
  ["byte by byte", "hex=6e6565646c65", [..."a needle here"]],
])("finds the conversations where some bytes were said, %s", async (_, query, cuts) => {
  const control = serve();
  await control.ask("PUT", "/v1/recording", { json: {} });
  const [id, peer] = await talking(control);
  const [, other] = await talking(control);
  await other.sendall("a need\n");
  for (const cut of cuts) await peer.sendall(cut);
  await Promise.all([peer.close(), other.close()]);
  await control.plane.wait(id, PATIENCE);
  const found = await control.ask("GET", `/v1/recording/find?${query}`);
  expect(await found.json()).toEqual({ ids: [id], more: false });
});

test.each<[method: string, path: string, json: unknown, status: number, field: string]>([
  ["PUT", "/v1/recording", { maxBytes: 5 }, 422, "maxBytes"],
  ["PUT", "/v1/recording", { maxConnections: 0 }, 422, "maxConnections"],
  ["PUT", "/v1/recording", { bytes: 1 }, 422, "bytes"],
  ["PATCH", "/v1/recording", { maxBytes: 5 }, 422, "maxBytes"],
  ["GET", "/v1/recording/find", undefined, 422, "body"],
  ["GET", "/v1/recording/find?text=a&hex=61", undefined, 422, "body"],
  ["GET", "/v1/recording/find?hex=6", undefined, 422, "hex"],
  [`GET`, `/v1/recording/${NOWHERE}?after=-1`, undefined, 422, "after"],
  [`GET`, `/v1/recording/${NOWHERE}?bytes=0`, undefined, 422, "bytes"],
  ["POST", "/v1/replays", { to: "a", pieces: "hello" }, 422, "pieces"],
  ["POST", "/v1/replays", { to: "a", pieces: ["hello"] }, 422, "pieces[0]"],
  ["POST", "/v1/replays", { to: "a", pieces: [{ text: "x" }, {}] }, 422, "pieces[1]"],
  ["POST", "/v1/replays", { to: "a", pieces: [{ text: 5 }] }, 422, "pieces[0].text"],
  ["POST", "/v1/replays", { to: "a", pieces: [{ txt: "x" }] }, 422, "pieces[0].txt"],
])("%s %s %j: %i, and names %s", async (method, path, json, status, field) => {
  const { ask } = serve({ replay: () => expect.fail("it replays") });
  const response = await ask(method, path, { json });
  const { errors } = await response.json();
  expect([response.status, errors[0].field]).toEqual([status, field]);
});

test("a token that only reads sees no bytes", async () => {
  const { ask } = serve();
  const paths = ["/v1/recording/events", `/v1/recording/${NOWHERE}`, "/v1/recording/find?text=a"];
  for (const path of paths) expect((await ask("GET", path, { token: READ })).status).toBe(403);
  expect((await ask("GET", "/v1/recording", { token: READ })).status).toBe(200);
});

test("a plane that keeps nothing says so", async () => {
  const { ask } = serve({ recorder: undefined });
  for (const [method, path] of [
    ["GET", "/v1/recording"],
    ["GET", "/v1/entries"],
    ["POST", "/v1/replays"],
  ] as const) {
    const response = await ask(method, path, method === "POST" ? { json: { to: "a", pieces: [] } } : {});
    expect([response.status, (await response.json()).code]).toEqual([501, "ERR_UNSUPPORTED"]);
  }
});

describe("messages", () => {
  const decoded = (decode?: Decoder) => {
    const app = defineApp({
      handlers: { Follow: streamHandler(async ({ rfile }) => void (await rfile.read())) },
      dial: { it: { handler: "Follow", address: "10.0.0.2:7", ...(decode && { decode }) } },
    }) as unknown as App;
    return serve({ app });
  };

  test("are what the decode of the entry makes of each side; what it throws is told, and what it gave before is kept", async () => {
    const control = decoded(function* (bytes, from) {
      if (from === "client") return;
      yield { start: 0, end: 4, text: `four of ${bytes.length}` };
      throw new Error("and no more");
    });
    await control.ask("PUT", "/v1/recording", { json: {} });
    const started = await control.ask("POST", "/v1/sessions", { json: { dial: "it", background: true } });
    const { id } = (await started.json()) as SessionInfo;
    const peer = control.place.clients.at(-1) as StreamSocket;
    await peer.sendall("12345678");
    await peer.close();
    await control.plane.wait(id, PATIENCE);
    const { messages, error, whole } = await (
      await control.ask("GET", `/v1/recording/${id}/messages`)
    ).json();
    expect([messages, error, whole]).toEqual([
      [{ at: expect.any(Number), from: "server", bytes: 4, text: "four of 8" }],
      "Error: and no more",
      true,
    ]);
  });

  test("there are none where the entry has no decode", async () => {
    const control = decoded();
    await control.ask("PUT", "/v1/recording", { json: {} });
    const started = await control.ask("POST", "/v1/sessions", { json: { dial: "it", background: true } });
    const { id } = (await started.json()) as SessionInfo;
    const answer = await control.ask("GET", `/v1/recording/${id}/messages`);
    expect([answer.status, (await answer.json()).detail]).toEqual([
      404,
      expect.stringContaining("has no decode"),
    ]);
    await (control.place.clients.at(-1) as StreamSocket).close();
    await control.plane.wait(id, PATIENCE);
  });
});
