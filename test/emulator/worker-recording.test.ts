/** What passes over the connections of a Worker's sessions, kept by their objects, in real workerd. */

import dgram from "node:dgram";
import { once } from "node:events";
import net from "node:net";
import tls from "node:tls";
import { defineApp } from "socklet";
import {
  type ControlClient,
  controlClient,
  type RecordedPart,
  type RecordingChange,
  type Replayed,
  type SessionInfo,
} from "socklet/control";
import { serveApp } from "socklet/emulator";
import { parseTranscript } from "socklet/testing";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { inspectedApp } from "../conformance/inspected-app.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { reservePorts, reserveUdpPorts } from "../peers/ports.ts";
import { describeWith } from "../peers/program.ts";
import { fullBacklog } from "../peers/servers.ts";
import { untilNothingStoodStill } from "./standstill.ts";
import { runWorker } from "./workerd.ts";

const TOKEN = "a-token-for-the-tests";
const SILENCE = 300; // ms that a replay waits for an answer before it sends the next piece; then 30 ms of silence end the last answer
const LEASE = 5_000; // ms that recording continues after the last look of a watcher
const PACE = 1_000; // ms between two looks
const PATIENT = 120_000; // ms; a replay's own 10 s are too few if a process stalls

/** A server that greets, and returns each of its connections to the caller that asks for the next. */
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

/** The traffic, without what differs from run to run. */
const saidIn = ({ events, kind, side, dropped, first, next, total }: RecordedPart) => ({
  ...{ kind, side, dropped, first, next, total },
  events: events.map((event) => ({ ...(event as object), at: expect.any(Number) })),
});

const kept = await greeter();

/** A server that answers each line in upper case, in plain text and over TLS. */
const louds = async () => {
  const shout = (socket: net.Socket): void => {
    socket.on("error", () => {});
    socket.on("data", (bytes) => socket.write(String(bytes).toUpperCase()));
  };
  const certificates = ownCertificates();
  const { cert, key } = certificates ?? {};
  const plain = net.createServer(shout);
  const secured = tls.createServer({ cert, key }, shout);
  const listening = [plain, ...(certificates === null ? [] : [secured])];
  for (const server of listening) {
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
  }
  const at = (server: net.Server): string =>
    `127.0.0.1:${(server.address() as net.AddressInfo | null)?.port ?? 1}`;
  return {
    plain: at(plain),
    secured: at(secured),
    trusted: certificates !== null,
    close: () => {
      for (const server of listening) server.close();
    },
  };
};
const loud = await louds();

const [port, roomPort] = (await reservePorts(2)) as [number, number];
const addresses = {
  SHOUTS: `tcp://127.0.0.1:${port}`,
  KEPT: kept.address,
  LOUD: loud.plain,
  SECURED: loud.secured,
};
const app = defineApp(inspectedApp(addresses));

/** The control plane of that app in this process. */
const inNode = async (): Promise<ControlClient> => {
  const server = await serveApp(app, { anyPort: true, control: { port: 0, tokens: TOKEN } });
  onTestFinished(() => server.close());
  return controlClient(server.control?.url ?? "", { token: TOKEN });
};

let url: string;
let control: ControlClient;
const closing: (() => unknown)[] = [() => kept.close(), () => loud.close()];

beforeAll(async () => {
  const worker = await runWorker({
    main: "test/worker/inspected.ts",
    ports: [port, roomPort],
    classes: {
      SOCKLET_SESSIONS: "SockletSession",
      SOCKLET_REGISTRY: "SockletRegistry",
      SOCKLET_POOLS: "SockletPool",
      ROOM: "Room",
    },
    vars: { SOCKLET_TOKENS: TOKEN, ROOM_PORT: String(roomPort), ...addresses },
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

/** One conversation, to its end: the session sends no greeting, and one line by hand. */
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
  let id = "";
  /** Watches one conversation, to its end. */
  const watched = async (): Promise<void> => {
    const leaving = new AbortController();
    const changes = control.recording.watch({ signal: leaving.signal });
    const next = async (): Promise<RecordingChange> => (await changes.next()).value as RecordingChange;
    try {
      expect(await next()).toMatchObject({ type: "changed", recording: { on: true, started: false } });
      id = await converse(control);
      for (;;) {
        const told = (await next()).sessions.find((info) => info.id === id);
        if (told?.state === "ended") break;
      }
      expect((await control.recording.part(id)).events[0]).toMatchObject({ text: "welcome\n" });
    } finally {
      leaving.abort();
      await changes.return?.(undefined);
    }
  };
  await untilNothingStoodStill(LEASE - PACE, (timed) => timed(watched()));
  // The stream's end is seen with the next change that it cannot tell; from then on the lease runs out by itself.
  while ((await control.recording.info()).on) await converse(control);
  await expect(control.recording.part(id)).rejects.toMatchObject({ code: "ENOENT" });
});

/** What the objects do from now on (`test/worker/inspected.ts`), to the end of the test. */
const objectsAre = async (how: "apart" | "silent" | "together"): Promise<void> => {
  await fetch(`${url}/as/${how}`);
  if (how !== "together") onTestFinished(() => objectsAre("together"));
};

test("shows the flows of datagrams, as in Node, but for their senders, whom the platform does not tell", async () => {
  const [udp = 0] = await reserveUdpPorts(1);
  const own = await runWorker({
    main: "test/worker/inspected.ts",
    ports: [],
    udpPorts: [udp],
    classes: {
      SOCKLET_SESSIONS: "SockletSession",
      SOCKLET_REGISTRY: "SockletRegistry",
      SOCKLET_POOLS: "SockletPool",
    },
    vars: { SOCKLET_TOKENS: TOKEN, DATAGRAMS: `udp://127.0.0.1:${udp}` },
  });
  onTestFinished(() => own.close());
  const server = await serveApp(app, { anyPort: true, control: { port: 0, tokens: TOKEN } });
  onTestFinished(() => server.close());
  const listens = server.listeners.find(({ name }) => name === "EchoDatagram")?.url ?? "";
  const seen = [];
  for (const [of, at] of [
    [controlClient(server.control?.url ?? "", { token: TOKEN }), Number(new URL(listens).port)],
    [controlClient(own.url, { token: TOKEN }), udp],
  ] as const) {
    const client = dgram.createSocket("udp4");
    onTestFinished(() => void client.close());
    await of.recording.start();
    const changes = of.recording.watch();
    await changes.next(); // it watches
    const said: string[] = [];
    for (const text of ["one", "two, which is longer"]) {
      const came = once(client, "message");
      client.send(text, at, "127.0.0.1");
      said.push(String((await came)[0]));
    }
    const whole = ({ flows: [flow] }: RecordingChange): boolean => flow?.datagramsWritten === 2;
    for await (const change of changes) if (whole(change)) break;
    const [flow] = await of.recording.flows();
    const { id = "", handler, datagramsRead, bytesRead, bytesWritten } = flow ?? {};
    const { kind, side, events, dropped } = await of.recording.part(id);
    seen.push({
      ...{ said, handler, datagramsRead, bytesRead, bytesWritten, kind, side, dropped },
      events: events.map((event) => ({ ...(event as object), at: 0 })),
      found: (await of.recording.find("which is")).ids.indexOf(id),
    });
  }
  expect(seen[1]).toEqual(seen[0]);
  expect(seen[1]).toMatchObject({ handler: "EchoDatagram", datagramsRead: 2, bytesRead: 23, found: 0 });
});

describe("many isolates", () => {
  test("are all asked for bytes, also one whose sessions are older than the newest that are over", async () => {
    await objectsAre("apart");
    await control.recording.start();
    const first = await converse(control);
    expect(await control.recording.info()).not.toHaveProperty("unreached");
    const others = await Promise.all(Array.from({ length: 51 }, () => converse(control)));
    const { ids, more } = await control.recording.find("by hand");
    expect(ids).toContain(first);
    expect(ids).toContain(others.sort().at(-1));
    expect(more).toBe(false);
  });

  test("of which one does not answer are told, and after a stop it shows nothing more", async () => {
    await control.recording.start();
    const id = await converse(control);
    expect(await control.recording.find("by hand")).toEqual({ ids: [id], more: false });
    await objectsAre("silent");
    expect(await control.recording.find("by hand")).toEqual({ ids: [], more: true });
    expect(await control.recording.stop()).toMatchObject({ on: false, unreached: 1 });
    const part = (): Promise<unknown> => control.recording.part(id).catch(({ code }) => code);
    await expect.poll(part).toBe("ENOENT");
    await objectsAre("together");
    const info = await control.recording.info();
    expect(info).toMatchObject({ on: false, bytes: 0, conversations: 0 });
    expect(info).not.toHaveProperty("unreached");
  });
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

describe("said again", () => {
  /** What both sides sent, joined, and the error. */
  const answer = ({ events, error }: Replayed) => {
    const of = (side: string): string =>
      (events as { from?: string; text?: string; base64?: string }[])
        .filter(({ from }) => from === side)
        .map(({ text = "", base64 = "" }) => text + base64)
        .join("");
    return { client: of("client"), server: of("server"), error };
  };

  test.each([
    ["a listener", { to: "Shouts", pieces: ["", "hi\n", "QUIT\n"] }, "ready\nHI\nQUIT\n"],
    ["a listener that ends with its client", { to: "Shouts", pieces: ["hi\n"] }, "ready\nHI\n"],
    ["a handler that throws", { to: "Shouts", pieces: ["a\nCRASH\n"] }, "ready\nA\n"],
    ["one that repeats bytes", { to: "Echo", pieces: [Uint8Array.of(0, 255)] }, "AP8="],
    ["a listener of datagrams", { to: "EchoDatagram", pieces: ["one", "two"] }, "onetwo"],
    ["an entry of dial", { to: "loud", pieces: ["one", " two"] }, "ONE TWO"],
    ...(loud.trusted ? [["one that is secured", { to: "secured", pieces: ["hush"] }, "HUSH"] as const] : []),
    ["an address that is allowed", { to: loud.plain, pieces: ["three"] }, "THREE"],
  ] as const)("to %s, it is the same in a Worker as in Node", async (_, spec, server) => {
    const both = [await inNode(), control];
    await untilNothingStoodStill(SILENCE, async (timed) => {
      const [node, inWorker] = await timed(
        Promise.all(both.map(async (of) => answer(await of.replay({ ...spec, timeout: PATIENT })))),
      );
      expect(inWorker).toEqual(node);
      expect(inWorker).toMatchObject({ server, error: null });
    });
  });

  test.each([true, false])(
    "a server that is slow to answer, and ends with its client, is heard before the end: half-close %s",
    async (halfClose) => {
      const slow = net.createServer((socket) => {
        socket.on("error", () => {});
        socket.on("data", (bytes) => void setTimeout(() => socket.write(String(bytes).toUpperCase()), 500)); // more than is waited between pieces
      });
      slow.listen(0, "127.0.0.1");
      await once(slow, "listening");
      onTestFinished(() => void slow.close());
      const to = `127.0.0.1:${(slow.address() as net.AddressInfo).port}`;
      for (const of of [await inNode(), control]) {
        const said = await of.replay({ to, pieces: ["late"], halfClose, timeout: PATIENT });
        expect(answer(said)).toMatchObject({ server: "LATE", error: null });
      }
    },
  );

  test("a server that answers only after its client's end has that end in half of the time", async () => {
    const sums = net.createServer({ allowHalfOpen: true }, (socket) => {
      let said = "";
      socket.on("error", () => {});
      socket.on("data", (bytes) => {
        said += bytes;
      });
      socket.on("end", () => socket.end(said.toUpperCase()));
    });
    sums.listen(0, "127.0.0.1");
    await once(sums, "listening");
    onTestFinished(() => void sums.close());
    const to = `127.0.0.1:${(sums.address() as net.AddressInfo).port}`;
    const timeout = 20_000; // ms; half of it is more than processes stand still
    const said = await Promise.all(
      [await inNode(), control].map(async (of) =>
        answer(await of.replay({ to, pieces: ["a", "b"], timeout })),
      ),
    );
    expect(said).toMatchObject([
      { server: "AB", error: null },
      { server: "AB", error: null },
    ]);
  });

  test.each([
    ["10.0.0.1:25", "ERR_REFUSED", "10.0.0.1:25"],
    ["nobody", "ERR_INVALID_ADDRESS", "nobody"],
    ["unix:/run/x", "ERR_REFUSED", "is a path"],
    ["127.0.0.1:0", "ERR_INVALID_ADDRESS", "port 0"],
  ])("to %s it is refused by the rules of sessions, as in Node", async (to, code, message) => {
    for (const of of [await inNode(), control]) {
      const refused = of.replay({ to, pieces: ["x"] });
      await expect(refused).rejects.toMatchObject({
        code,
        message: expect.stringContaining(message),
      });
    }
  });

  test("to what no Worker can dial, it is refused with the platform's reason", async () => {
    for (const [to, message] of [
      ["127.0.0.1:25", "port 25"],
      ["udp://127.0.0.1:53", "no outbound UDP"],
    ] as const) {
      const refused = control.replay({ to, pieces: ["x"] });
      await expect(refused).rejects.toMatchObject({
        code: "ERR_UNSUPPORTED",
        message: expect.stringContaining(message),
      });
    }
  });

  test("to a server that does not end, it is over at its time", async () => {
    const late = await control.replay({ to: "loud", pieces: ["hi"], halfClose: false, timeout: 60_000 });
    expect(answer(late)).toMatchObject({ server: "HI", error: null });
    const held = await greeter();
    onTestFinished(() => held.close());
    // Twice as long each time, until the greeting comes within it: a process may stand still, also while it dials.
    let timeout = 400;
    const again = async () => {
      try {
        return answer(await control.replay({ to: held.address, pieces: ["hi\n"], timeout }));
      } catch (error) {
        if ((error as { code?: string }).code !== "ETIMEDOUT") throw error;
        return { client: "", server: "", error };
      }
    };
    let replayed = await again();
    for (; replayed.server === ""; timeout *= 2, replayed = await again());
    const error = { code: "ETIMEDOUT", message: expect.stringContaining(`after ${timeout} ms`) };
    expect(replayed).toMatchObject({ server: "welcome\n", error });
  });

  describeWith(["python3"], "to a server that does not answer", () => {
    test("it fails with ETIMEDOUT, as in Node", async () => {
      await using silent = await fullBacklog();
      for (const of of [await inNode(), control]) {
        const late = of.replay({ to: `127.0.0.1:${silent.port}`, pieces: ["x"], timeout: 100 });
        await expect(late).rejects.toMatchObject({
          code: "ETIMEDOUT",
          message: expect.stringContaining("within 100 ms"),
        });
      }
    });
  });

  test("entries are the listeners and what is dialled, none of which takes faults", async () => {
    const entries = await control.entries();
    expect(entries.map(({ on, entry, faults }) => [on, entry, faults])).toEqual([
      ["listen", "Echo", false],
      ["listen", "Shouts", false],
      ["listen", "EchoDatagram", false],
      ["listen", "Asked", false],
      ["dial", "kept", false],
      ["dial", "loud", false],
      ["dial", "secured", false],
    ]);
    const inANode = await (await inNode()).entries();
    expect(inANode.map(({ on, entry }) => [on, entry])).toEqual(entries.map(({ on, entry }) => [on, entry]));
  });
});

describe("what a Worker accepts", () => {
  /** The record of the newest session of this handler, once it is as `wanted`. */
  const shown = async (
    of: ControlClient,
    handler: string,
    wanted: (info: SessionInfo) => boolean,
  ): Promise<SessionInfo> => {
    for await (const _ of of.recording.watch()) {
      const { sessions } = await of.sessions.list({ handler });
      if (sessions[0] !== undefined && wanted(sessions[0])) return sessions[0];
    }
    throw new Error("it was not shown");
  };
  const over = ({ state }: SessionInfo): boolean => !["connecting", "running"].includes(state);
  const runs = ({ state }: SessionInfo): boolean => state === "running";

  /** Connects, and waits for the greeting. */
  const greeted = async (at: number): Promise<net.Socket> => {
    const socket = net.connect({ port: at, host: "127.0.0.1", allowHalfOpen: true });
    socket.on("error", () => {});
    onTestFinished(() => void socket.destroy());
    await once(socket, "data");
    return socket;
  };

  /** Says it, and reads to the end. */
  const talk = async (at: number, text: string): Promise<string> => {
    const socket = await greeted(at);
    socket.write(text);
    const said: Buffer[] = [];
    for await (const bytes of socket) said.push(bytes as Buffer);
    socket.end();
    return String(Buffer.concat(said));
  };

  test("is the same as in Node: both directions, what was emitted, messages, the transcript, and what is found", async () => {
    const server = await serveApp(app, { anyPort: true, control: { port: 0, tokens: TOKEN } });
    onTestFinished(() => server.close());
    const url = server.listeners.find(({ name }) => name === "Shouts")?.url ?? "";
    const node = controlClient(server.control?.url ?? "", { token: TOKEN });
    const seen = [];
    for (const [of, at] of [
      [node, Number(new URL(url).port)],
      [control, port],
    ] as const) {
      await of.recording.start();
      expect(await talk(at, "hi\nQUIT\n")).toBe("HI\nQUIT\n");
      const { id, ...info } = await shown(of, "Shouts", over);
      const emitted: unknown[] = [];
      for await (const event of of.sessions.follow(id)) {
        emitted.push(event.type === "handler" ? event.detail : event.type);
      }
      const { events } = parseTranscript(await of.recording.transcript(id));
      const joined = (from: string): string =>
        events
          .map((event) =>
            "data" in event && event.from === from ? new TextDecoder().decode(event.data) : "",
          )
          .join("");
      const { direction, state, bytesRead, bytesWritten, error } = info;
      seen.push({
        ...{ direction, state, bytesRead, bytesWritten, error },
        emitted,
        client: joined("client"),
        server: joined("server"),
        ends: events.flatMap((event) => ("end" in event ? [`${event.from} ${event.end}`] : [])),
        messages: (await of.recording.messages(id)).messages.map(({ text }) => text).sort(),
        found: (await of.recording.find("QUIT")).ids.includes(id),
        same: (await of.sessions.get(id)).id === id,
        side: (await of.recording.part(id)).side,
      });
    }
    expect(seen[1]).toEqual(seen[0]);
    expect(seen[1]).toMatchObject({
      direction: "inbound",
      state: "ended",
      client: "hi\nQUIT\n",
      server: "ready\nHI\nQUIT\n",
      emitted: ["connecting", "open", { line: "hi" }, { line: "QUIT" }, "ended"],
      found: true,
    });
  });

  test("is not shown while nobody asks; one that is open then is, from there on, and can be sent to and closed", async () => {
    while ((await control.recording.info()).on) await converse(control); // somebody has just watched
    await talk(port, "QUIT\n");
    const socket = await greeted(port);
    expect((await control.sessions.list({ handler: "Shouts" })).sessions).toEqual([]);
    await control.recording.start();
    const { id } = await shown(control, "Shouts", runs);
    const came = once(socket, "data");
    await control.sessions.send(id, "by hand\n");
    expect(String((await came)[0])).toBe("by hand\n");
    const ended = once(socket, "end");
    await control.sessions.end(id, { graceful: true });
    await ended;
    socket.end();
    expect(await shown(control, "Shouts", over)).toMatchObject({
      id,
      state: "cut",
      error: { code: "ECANCELED" },
    });
    const part = await control.recording.part(id);
    expect(part.dropped).toBe("ready\n".length);
    expect(part.events[0]).toMatchObject({ from: "server", text: "by hand\n" });
    await control.recording.stop();
    await expect(control.recording.part(id)).rejects.toMatchObject({ code: "ENOENT" });
    await expect(control.sessions.get(id)).rejects.toMatchObject({ code: "ENOENT" });
  });

  test("is half-closed by hand, as in Node", async () => {
    const server = await serveApp(app, { anyPort: true, control: { port: 0, tokens: TOKEN } });
    onTestFinished(() => server.close());
    const shouts = server.listeners.find(({ name }) => name === "Shouts")?.url ?? "";
    const node = controlClient(server.control?.url ?? "", { token: TOKEN });
    const seen = [];
    for (const [of, at] of [
      [node, Number(new URL(shouts).port)],
      [control, port],
    ] as const) {
      await of.recording.start();
      const socket = await greeted(at);
      const { id } = await shown(of, "Shouts", runs);
      const ended = once(socket, "end");
      const { state } = await of.sessions.halfClose(id);
      await ended;
      socket.end();
      const { state: last, error } = await shown(of, "Shouts", over);
      const types: string[] = [];
      for await (const { type } of of.sessions.follow(id)) types.push(type);
      const { events } = await of.recording.part(id);
      seen.push({
        state,
        last,
        error,
        types,
        events: events.map((event) => ({ ...(event as object), at: 0 })),
      });
    }
    expect(seen[1]).toEqual(seen[0]);
    expect(seen[1]).toMatchObject({ state: "running", last: "ended" });
    expect(seen[1]?.events).toContainEqual({ at: 0, from: "server", end: "half-close" });
  });

  test("is cut where the isolate that had the connection is gone, and what passed is still there", async () => {
    await control.recording.start();
    const socket = await greeted(roomPort);
    const { id } = await shown(
      control,
      "room",
      ({ state, bytesWritten }) => state === "running" && bytesWritten > 0,
    );
    await fetch(`${url}/lose`);
    expect(await shown(control, "room", over)).toMatchObject({
      id,
      state: "cut",
      error: { code: "ECONNABORTED", message: expect.stringContaining("isolate") },
    });
    socket.destroy();
    const { events } = await control.recording.part(id);
    expect(events[0]).toMatchObject({ from: "server", text: "ready\n" });
    await expect(control.sessions.send(id, "x")).rejects.toMatchObject({ code: "ENOTCONN" });
    expect(await talk(roomPort, "QUIT\n")).toBe("QUIT\n"); // the next connection makes the object again
  });

  test("in a Durable Object is shown, too", async () => {
    await control.recording.start();
    expect(await talk(roomPort, "in the room\nQUIT\n")).toBe("IN THE ROOM\nQUIT\n");
    const { id, address } = await shown(control, "room", over);
    expect(address).toBe("room");
    expect((await control.recording.find("in the room")).ids).toEqual([id]);
  });

  test("of a handler that throws has its error", async () => {
    await control.recording.start();
    await talk(port, "CRASH\n");
    expect(await shown(control, "Shouts", over)).toMatchObject({
      state: "failed",
      error: { message: expect.stringContaining("it crashed") },
    });
  });

  test("and dials for a pool is shown as the pool's, on which nothing is sent by hand", async () => {
    await control.recording.start();
    await control.replay({ to: "Asked", pieces: ["one\n", "two\n"], timeout: PATIENT });
    const { id, direction } = await shown(control, "upper", ({ bytesRead }) => bytesRead === 8);
    expect(direction).toBe("outbound");
    const { events, side } = await control.recording.part(id);
    expect([side, (events as { text?: string }[]).map(({ text }) => text)]).toEqual([
      "client",
      ["one\n", "ONE\n", "two\n", "TWO\n"],
    ]);
    await expect(control.sessions.send(id, "x")).rejects.toMatchObject({ code: "EBUSY" });
    await control.sessions.end(id);
    expect(await control.sessions.get(id)).toMatchObject({ state: "cut" });
  });
});
