/** The control plane of the emulator: its connections as sessions, and its routes over HTTP. */

import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import net from "node:net";
import {
  DatagramRequestHandler,
  defineApp,
  type Serving,
  type SocketError,
  type SockletEvent,
  streamHandler,
} from "socklet";
import {
  type ControlClient,
  controlClient,
  listenerInfo,
  type SessionEvent,
  type SessionInfo,
} from "socklet/control";
import { type AppServer, type ServeOptions, serveApp } from "socklet/emulator";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { Lines } from "../conformance/lines.ts";
import { reservePort } from "../peers/ports.ts";
import { describeWith, redis, start } from "../peers/program.ts";
import { runWorker } from "./workerd.ts";

const TOKEN = "a-token-for-the-tests";

/** Says "ready" first, and emits why its signal aborted. */
class Greets extends Lines {
  override setup(): Promise<void> {
    this.signal.addEventListener("abort", () => this.emit((this.signal.reason as SocketError).code));
    return this.request.sendall("ready\n");
  }
}

const Throws = streamHandler(() => {
  throw new RangeError("thrown by the handler");
});

/** Says "ready" and never ends, also when it is aborted. */
const NeverEnds = streamHandler(async ({ request }) => {
  await request.sendall("ready\n");
  await new Promise(() => {});
});

class EchoDatagram extends DatagramRequestHandler {
  override handle(): void {
    this.request.reply(this.request.data);
  }
}

const address = "tcp://127.0.0.1:0";

const app = defineApp({
  handlers: {
    lines: Lines,
    Greets,
    Throws,
    NeverEnds,
    EchoDatagram,
    resp: RespServer,
    respClient: RespClient,
  },
  listen: [
    { handler: "Greets", address },
    { handler: "lines", address, serve: "serial" },
    { handler: "Throws", address },
    { handler: "NeverEnds", address },
    { handler: "resp", address },
    { handler: "EchoDatagram", address: "udp://127.0.0.1:0" },
  ],
  allow: ["127.0.0.0/8:*"],
  context: () => ({ keys: new KeyStore() }),
});

test.each<[listen: string, dial: string, moves: ServeOptions, to: string]>([
  ["127.0.0.1:7", "127.0.0.1:7", { anyPort: true }, "127.0.0.1:NEW"],
  ["127.0.0.1:7", "localhost:7", { anyPort: true }, "localhost:NEW"],
  ["localhost:7", "127.0.0.1:7", { anyPort: true }, "127.0.0.1:NEW"],
  ["0.0.0.0:7", "127.0.0.3:7", { anyPort: true }, "127.0.0.3:NEW"],
  [":7", "localhost:7", { anyPort: true }, "localhost:NEW"],
  ["[::1]:7", "[0:0:0:0:0:0:0:1]:7", { anyPort: true }, "[0:0:0:0:0:0:0:1]:NEW"],
  ["127.0.0.1:7", "127.0.0.1:7", { anyPort: true, host: "127.0.0.2" }, "127.0.0.2:NEW"],
  ["127.0.0.1:7", "localhost:7", { anyPort: true, host: "0.0.0.0" }, "localhost:NEW"],
  ["127.0.0.1:7", "127.0.0.2:7", { anyPort: true }, "127.0.0.2:7"],
  ["127.0.0.1:7", "127.0.0.1:8", { anyPort: true }, "127.0.0.1:8"],
  ["udp://127.0.0.1:7", "127.0.0.1:7", { anyPort: true }, "127.0.0.1:7"],
])("an app that listens on %s and dials %s, served with %o, dials %s", async (listen, dial, moves, to) => {
  const handler = listen.startsWith("udp") ? "EchoDatagram" : "lines";
  const app = defineApp({
    handlers: { lines: Lines, EchoDatagram },
    listen: [{ handler, address: listen }],
    dial: { it: { handler: "lines", address: dial } },
  });
  await using server = await serveApp(app, { ...moves, control: { port: 0, tokens: TOKEN } });
  const control = controlClient(server.control?.url ?? "", { token: TOKEN });
  const { address } = await control.sessions.start({ dial: "it" });
  const port = /\d+$/.exec(server.listeners[0]?.url ?? "")?.[0] ?? "";
  expect(address.replace(/^tcp:\/\//, "")).toBe(to.replace("NEW", port));
  expect(app.dial.it?.endpoint).toMatchObject({ port: Number(/\d+$/.exec(dial)?.[0]) }); // the app itself is unchanged
});

test("with anyPort what an app has at one port stays at one", async () => {
  const listen = ["udp://127.0.0.1:7", "tcp://127.0.0.1:8", "tcp://127.0.0.1:7", "tcp://127.0.0.2:7"];
  const app = defineApp({
    handlers: { lines: Lines, EchoDatagram },
    listen: listen.map((address) => {
      return { handler: address.startsWith("udp") ? "EchoDatagram" : "lines", address };
    }),
  });
  await using server = await serveApp(app, { anyPort: true });
  const ports = server.listeners.map(({ url }) => new URL(url).port);
  expect(server.listeners.map(({ url }) => url.replace(/\d+$/, ""))).toEqual(
    listen.map((url) => url.replace(/\d+$/, "")),
  );
  expect(ports).toEqual([ports[0], ports[1], ports[0], ports[0]]);
  expect(ports[0]).not.toBe(ports[1]);
});

test("with anyPort what cannot be at one port has ports of its own", async () => {
  const app = defineApp({
    handlers: { EchoDatagram },
    listen: ["udp://127.0.0.1:7", "udp://0.0.0.0:7"].map((address) => {
      return { handler: "EchoDatagram", address };
    }),
  });
  await using server = await serveApp(app, { anyPort: true });
  const [one, other, ...more] = server.listeners.map(({ url }) => new URL(url).port);
  expect(one).not.toBe(other);
  expect(more).toEqual([]);
});

interface Place {
  readonly server: AppServer;
  readonly control: ControlClient;
  readonly events: SockletEvent[];
  port(listener: string): number;
}

/** The app with its control plane; closed when the test is over, unless it is closed already. */
const serve = async (options: ServeOptions = {}): Promise<Place> => {
  const events: SockletEvent[] = [];
  const onEvent = (event: SockletEvent): void => void events.push(event);
  const server = await serveApp(app, { control: { port: 0, tokens: TOKEN }, onEvent, ...options });
  onTestFinished(() => {
    server.abort();
    return server.close();
  });
  return {
    server,
    control: controlClient(server.control?.url as string, { token: TOKEN }),
    events,
    port: (listener) =>
      Number(new URL(server.listeners.find(({ name }) => name === listener)?.url as string).port),
  };
};

/** One end of a connection; what comes is gathered. */
class Peer {
  readonly socket: net.Socket;
  /** How the other end left: `end`, or the code of an error. */
  readonly over: Promise<string>;
  #text = "";
  #look: (() => void)[] = [];

  constructor(socket: net.Socket) {
    this.socket = socket;
    const told = (): void => {
      for (const look of this.#look.splice(0)) look();
    };
    socket.setEncoding("utf8").on("data", (text) => {
      this.#text += text;
      told();
    });
    this.over = new Promise((resolve) => {
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code as string));
      socket.once("end", () => resolve("end"));
    });
    socket.once("close", told);
    onTestFinished(() => void socket.destroy());
  }

  static to(port: number): Peer {
    return new Peer(net.connect({ host: "127.0.0.1", port, allowHalfOpen: true }));
  }

  async said(text: string): Promise<void> {
    while (!this.#text.includes(text)) {
      if (this.socket.closed) throw new Error(`it ended before ${JSON.stringify(text)}`);
      await new Promise<void>((resolve) => this.#look.push(resolve));
    }
  }
}

/** A server that a session dials. */
const listens = async (): Promise<{ address: string; next(): Promise<Peer> }> => {
  const arrived: net.Socket[] = [];
  const server = net.createServer({ allowHalfOpen: true }, (socket) => void arrived.push(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return {
    address: `127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    next: async () => {
      if (arrived.length === 0) await once(server, "connection");
      return new Peer(arrived.shift() as net.Socket);
    },
  };
};

/** The next event of this type. */
const until = async (
  events: AsyncGenerator<SessionEvent>,
  type: SessionEvent["type"],
): Promise<SessionEvent & Record<string, unknown>> => {
  for (;;) {
    const { value, done } = await events.next();
    if (done) throw new Error(`the session is over, and no event was of type ${type}`);
    if (value.type === type) return value as SessionEvent & Record<string, unknown>;
  }
};

/** The record once it is over. */
const whenOver = async (control: ControlClient, id: string): Promise<SessionInfo> => {
  for await (const _ of control.sessions.follow(id));
  return control.sessions.get(id);
};

/** The newest session. */
const newest = async ({ control }: Place): Promise<SessionInfo> => {
  const [session] = (await control.sessions.list({ limit: 1 })).sessions;
  if (session === undefined) throw new Error("there is no session");
  return session;
};

// ---- One client, two places ----

describe.each(["an emulator", "a Worker"])("the control client drives %s", (place) => {
  let url: string;
  let close: () => Promise<void>;
  let control: ControlClient;

  beforeAll(async () => {
    if (place === "an emulator") {
      const server = await serveApp(app, { control: { port: 0, tokens: TOKEN } });
      url = server.control?.url as string;
      close = () => server.close();
    } else {
      const worker = await runWorker({
        main: "test/worker/sessions-main.ts",
        ports: [],
        classes: { SOCKLET_SESSIONS: "SockletSession", SOCKLET_REGISTRY: "SockletRegistry" },
        vars: { SOCKLET_TOKENS: TOKEN, ALLOW: ["127.0.0.0/8:*"] },
      });
      url = worker.url;
      close = () => worker.close();
    }
    control = controlClient(url, { token: TOKEN });
  });

  afterAll(() => close());

  test("which is ready", async () => {
    expect(await control.health()).toMatchObject({ status: "ok" });
    expect(await control.ready()).toEqual({ ready: true });
    await expect(controlClient(url, { token: `${TOKEN}!` }).listeners()).rejects.toMatchObject({
      code: "EACCES",
    });
    await expect(controlClient(url).listeners()).rejects.toMatchObject({ code: "EACCES" });
  });

  test("to run a session and have its result", async () => {
    const { address, next } = await listens();
    const running = control.sessions.run({ handler: "lines", address });
    const peer = await next();
    peer.socket.end("one\ntwo\n");
    expect(await running).toMatchObject({
      handler: "lines",
      direction: "outbound",
      address,
      state: "ended",
      bytesRead: 8,
      result: 2,
      error: null,
    });
  });

  test("to start one, list it, follow it, send to it, half-close it", async () => {
    const { address, next } = await listens();
    const { id } = await control.sessions.start({ handler: "lines", address });
    const events = control.sessions.follow(id);
    const peer = await next();
    await until(events, "open");
    const { sessions } = await control.sessions.list({ state: "running", handler: "lines" });
    expect(sessions.map((session) => session.id)).toEqual([id]);

    await control.sessions.send(id, "by hand\n");
    await peer.said("by hand\n");
    expect(await until(events, "sent")).toMatchObject({ bytes: 8 });
    peer.socket.write("heard\n");
    expect(await until(events, "handler")).toMatchObject({ detail: "heard" });
    await control.sessions.halfClose(id);
    expect(await peer.over).toBe("end");
    await until(events, "halfClosed");
    peer.socket.end("last\n");
    expect(await until(events, "ended")).toMatchObject({ bytesRead: 11, bytesWritten: 8 });
    expect(await events.next()).toEqual({ value: undefined, done: true });
    expect(await control.sessions.get(id)).toMatchObject({ state: "ended", result: 2 });
    await expect(control.sessions.send(id, "late")).rejects.toMatchObject({ code: "ENOTCONN" });
  });

  test("to end one", async () => {
    const { address, next } = await listens();
    const { id } = await control.sessions.start({ handler: "lines", address });
    const peer = await next();
    await until(control.sessions.follow(id), "open");
    expect(await control.sessions.end(id)).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
    await peer.over;
    expect(await whenOver(control, id)).toMatchObject({ state: "cut" });
  });

  test("to end one gracefully: its peer gets what was written, then the end, and no reset", async () => {
    const { address, next } = await listens();
    const { id } = await control.sessions.start({ handler: "lines", address });
    const peer = await next();
    await until(control.sessions.follow(id), "open");
    await control.sessions.send(id, "the last\n");
    const hangUp = peer.over.finally(() => peer.socket.end());
    const [, how] = await Promise.all([control.sessions.end(id, { graceful: true }), hangUp]);
    await peer.said("the last\n");
    expect(how).toBe("end");
    const over = await whenOver(control, id); // a busy peer may take longer than the call waits
    expect(over).toMatchObject({ state: "cut", bytesWritten: 9, error: { code: "ECANCELED" } });
  });

  test("which keeps what failed, and refuses what it may not do", async () => {
    const port = await reservePort(); // nothing listens there
    const failed = await control.sessions.run({ handler: "lines", address: `127.0.0.1:${port}` });
    expect(failed).toMatchObject({
      state: "failed",
      error: { code: expect.stringMatching(/^(ECONNREFUSED|ERR_CONNECT_FAILED)$/) },
    });
    expect(await control.sessions.get(failed.id)).toEqual(failed);
    const refused = { handler: "lines", address: "192.0.2.1:80" };
    await expect(control.sessions.run(refused)).rejects.toMatchObject({ code: "ERR_REFUSED" });
    await expect(control.sessions.run({ dial: "nothing" })).rejects.toMatchObject({ code: "EINVAL" });
    const unknown = "01890000-0000-7000-8000-000000000000";
    await expect(control.sessions.get(unknown)).rejects.toMatchObject({ code: "ENOENT" });
    await expect(control.sessions.follow(unknown).next()).rejects.toMatchObject({ code: "ENOENT" });
  });

  describeWith(["redis-server"], "and redis-server", () => {
    test("to ask it with the RESP client", async () => {
      const { port, program } = await redis();
      await using _ = program;
      const ask = (params: string[]) =>
        control.sessions.run({ handler: "respClient", address: `127.0.0.1:${port}`, params });
      expect(await ask(["SET", "k", "v"])).toMatchObject({ state: "ended", result: "OK" });
      expect(await ask(["GET", "k"])).toMatchObject({ state: "ended", result: "v" });
    });
  });
});

// ---- Connections that came in ----

describe("a connection that came in is a session", () => {
  test("with its peer, state, bytes and times", async () => {
    const place = await serve();
    const peer = Peer.to(place.port("Greets"));
    await peer.said("ready\n");
    const session = await newest(place);
    expect(session).toEqual({
      id: expect.any(String),
      handler: "Greets",
      direction: "inbound",
      address: `tcp://127.0.0.1:${place.port("Greets")}`,
      peer: `127.0.0.1:${peer.socket.localPort}`,
      state: "running",
      startedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      endedAt: null,
      bytesRead: 0,
      bytesWritten: 6,
      result: null,
      error: null,
      kept: null,
    });
    const { port } = place;
    const listens = (name: string, serve: Serving, scheme = "tcp") => ({
      ...listenerInfo(name, `${scheme}://127.0.0.1:${port(name)}`, serve),
      state: "serving",
    });
    expect(await place.control.listeners()).toEqual([
      { ...listens("Greets", "threading"), running: 1 },
      listens("lines", "serial"),
      listens("Throws", "threading"),
      listens("NeverEnds", "threading"),
      listens("resp", "threading"),
      listens("EchoDatagram", "threading", "udp"),
    ]);
    expect(await place.control.health()).toEqual({ status: "ok", listeners: 6, running: 1 });

    peer.socket.end("one\n");
    const over = await whenOver(place.control, session.id);
    expect(over).toMatchObject({ state: "ended", result: null, bytesRead: 4, bytesWritten: 6 });
    expect(Date.parse(over.endedAt as string)).toBeGreaterThanOrEqual(Date.parse(over.startedAt));
  });

  test("which can be followed, sent to and half-closed; a server's own watcher is told as before", async () => {
    const place = await serve();
    const { control } = place;
    const peer = Peer.to(place.port("Greets"));
    await peer.said("ready\n");
    const { id } = await newest(place);
    const events = control.sessions.follow(id);
    expect(await until(events, "open")).toMatchObject({ peer: `127.0.0.1:${peer.socket.localPort}` });
    await control.sessions.send(id, "by hand\n");
    await peer.said("by hand\n");
    peer.socket.write("heard\n");
    expect(await until(events, "handler")).toMatchObject({ detail: "heard" });
    await control.sessions.halfClose(id);
    expect(await peer.over).toBe("end");
    peer.socket.end();
    await until(events, "ended");
    const told = place.events.map(({ type }) => type);
    expect(told.filter((type) => type !== "listening" && type !== "end")).toEqual(["begin", "handler"]);
  });

  test("which can be ended: its signal aborts, its peer sees a reset, and handleError is called once", async () => {
    const place = await serve();
    const peer = Peer.to(place.port("Greets"));
    await peer.said("ready\n");
    const { id } = await newest(place);
    const events = place.control.sessions.follow(id);
    const cut = { state: "cut", error: { code: "ECANCELED" } };
    expect(await place.control.sessions.end(id)).toMatchObject(cut);
    expect(await peer.over).toBe("ECONNRESET");
    expect(await until(events, "handler")).toMatchObject({ detail: "ECANCELED" });
    await until(events, "cut");
    expect(place.events.filter(({ type }) => type === "error")).toEqual([
      expect.objectContaining({ server: "Greets", error: expect.objectContaining({ code: "ECANCELED" }) }),
    ]);
    expect(await place.control.sessions.end(id)).toMatchObject(cut); // once more changes nothing
    expect(place.server.listeners[0]?.info()).toMatchObject({ running: 0, served: 1, failed: 1 });
  });

  test("whose handler failed, with its code; handleError is called once", async () => {
    const place = await serve();
    const peer = Peer.to(place.port("Throws"));
    expect(await peer.over).toBe("end");
    expect(await newest(place)).toMatchObject({
      handler: "Throws",
      state: "failed",
      error: { code: "ERR_HANDLER", message: "ERR_HANDLER: thrown by the handler" },
    });
    expect(place.events.filter(({ type }) => type === "error")).toEqual([
      expect.objectContaining({ server: "Throws", id: 1, error: expect.any(RangeError) }),
    ]);
  });

  test("of a serial server: the next is one when its turn has come", async () => {
    const place = await serve();
    const first = Peer.to(place.port("lines"));
    first.socket.write("first\n");
    await expect.poll(() => place.events.map(({ type }) => type)).toContain("handler");
    const second = Peer.to(place.port("lines"));
    await once(second.socket, "connect");
    expect((await place.control.sessions.list()).sessions).toHaveLength(1);
    const { id } = await newest(place);
    await place.control.sessions.end(id);
    second.socket.end("second\n");
    expect(await second.over).toBe("end");
    const { sessions } = await place.control.sessions.list({ handler: "lines" });
    expect(sessions.map(({ state }) => state)).toEqual(["ended", "cut"]);
  });

  test("and a datagram is none", async () => {
    const { createSocket } = await import("node:dgram");
    const place = await serve();
    const socket = createSocket("udp4");
    onTestFinished(() => void socket.close());
    socket.send("ping", place.port("EchoDatagram"), "127.0.0.1");
    await once(socket, "message");
    expect((await place.control.sessions.list()).sessions).toEqual([]);
  });

  test("which shows none of the tokens", async () => {
    const place = await serve();
    const peer = Peer.to(place.port("Greets"));
    await peer.said("ready\n");
    const { id } = await newest(place);
    peer.socket.end(`it is ${TOKEN}!\n`);
    expect(await until(place.control.sessions.follow(id), "handler")).toMatchObject({
      detail: "it is [redacted]!",
    });
  });

  describeWith(["redis-cli"], "redis-cli's", () => {
    test("is listed and ended", async () => {
      const place = await serve();
      await using cli = start("redis-cli", ["-p", place.port("resp")]);
      cli.write("PING\n");
      await cli.line(/^PONG$/);
      const { sessions } = await place.control.sessions.list({ state: "running" });
      expect(sessions).toMatchObject([{ handler: "resp", direction: "inbound" }]);
      await place.control.sessions.end(sessions[0]?.id as string);
      cli.write("PING\nPING\n"); // the first notices it ("Connection reset by peer"), the second connects again
      await cli.line(/^PONG$/);
      const states = (await place.control.sessions.list()).sessions.map(({ state }) => state);
      expect(states).toEqual(["running", "cut"]);
    });
  });
});

// ---- Over HTTP ----

/** A request with headers of any kind. */
const ask = async (
  url: string,
  headers: Record<string, string>,
): Promise<{ status: number; body: string }> => {
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    request(url, { headers: { authorization: `Bearer ${TOKEN}`, ...headers } }, resolve)
      .on("error", reject)
      .end();
  });
  let body = "";
  for await (const text of answer.setEncoding("utf8")) body += text;
  return { status: answer.statusCode as number, body };
};

describe("the control routes", () => {
  test.each([
    ["127.0.0.1", 200],
    ["127.0.0.1:7100", 200],
    ["127.9.9.9:1", 200],
    ["localhost:7100", 200],
    ["LOCALHOST", 200],
    ["socklet.localhost", 200],
    ["[::1]:7100", 200],
    ["evil.example", 403],
    ["evil.example:7100", 403],
    ["127.0.0.1.evil.example", 403],
    ["localhost.evil.example:7100", 403],
    ["evillocalhost", 403],
    ["192.0.2.1", 403],
    ["0.0.0.0", 403],
    ["[::]", 403],
  ])("with the Host %s answer %i", async (host, status) => {
    const { server } = await serve();
    const answer = await ask(`${server.control?.url}/v1/sessions`, { host });
    expect(answer.status).toBe(status);
    if (status === 403) {
      expect(JSON.parse(answer.body)).toMatchObject({
        code: "ERR_REFUSED",
        detail: expect.stringContaining("loopback"),
      });
    }
  });

  test.each(["0.0.0.0", "::", "192.0.2.1", "localhost", "example.com", "127.0.0.1.example.com", ""])(
    "are not served on the host %j, and no listener is left",
    async (host) => {
      const port = await reservePort();
      const one = defineApp({
        handlers: { Throws },
        listen: [{ handler: "Throws", address: `127.0.0.1:${port}` }],
      });
      await expect(serveApp(one, { control: { host } })).rejects.toThrow(TypeError);
      await using again = await serveApp(one);
      expect(again.listeners).toHaveLength(1);
    },
  );

  test("are served on any spelling of loopback", async () => {
    const { server } = await serve({ control: { host: "0x7f.2", port: 0, tokens: TOKEN } });
    expect(server.control?.url).toMatch(/^http:\/\/127\.0\.0\.2:\d+$/);
    expect(await controlClient(server.control?.url as string).health()).toMatchObject({ status: "ok" });
  });

  test("have a token of their own making, another each time", async () => {
    vi.stubEnv("SOCKLET_TOKENS", undefined);
    const tokens = new Set<string>();
    for (let i = 0; i < 2; i++) {
      const { server } = await serve({ control: { port: 0 } });
      const token = server.control?.token as string;
      expect(token).toMatch(/^[\w-]{32}$/);
      tokens.add(token);
      const control = controlClient(server.control?.url as string, { token });
      expect((await control.sessions.list()).sessions).toEqual([]);
    }
    expect(tokens.size).toBe(2);
  });

  test("take those of SOCKLET_TOKENS, with their scopes, and do not tell them", async () => {
    vi.stubEnv("SOCKLET_TOKENS", `read:${TOKEN}-read run:${TOKEN}-run`);
    const { server } = await serve({ control: { port: 0 } });
    expect(server.control).toEqual({ url: expect.any(String), token: null });
    const url = server.control?.url as string;
    await controlClient(url, { token: `${TOKEN}-read` }).sessions.list();
    await expect(controlClient(url, { token: `${TOKEN}-run` }).sessions.list()).rejects.toMatchObject({
      code: "ERR_REFUSED",
    });
    await expect(controlClient(url, { token: TOKEN }).sessions.list()).rejects.toMatchObject({
      code: "EACCES",
    });
  });

  test("are not served where a token is not sound", async () => {
    await expect(serveApp(app, { control: { port: 0, tokens: "short" } })).rejects.toMatchObject({
      code: "EINVAL",
      message: expect.stringMatching(/entry 1 of SOCKLET_TOKENS is shorter than 16 characters/),
    });
  });

  test("take another port where theirs is taken, unless that one was asked for", async () => {
    const first = await serve({ control: { tokens: TOKEN } });
    const second = await serve({ control: { tokens: TOKEN } });
    expect(second.server.control?.url).not.toBe(first.server.control?.url);
    const port = Number(new URL(first.server.control?.url as string).port);
    await expect(serveApp(app, { control: { port, tokens: TOKEN } })).rejects.toMatchObject({
      code: "EADDRINUSE",
      address: `tcp://127.0.0.1:${port}`,
    });
  });

  test("leave the process's own Request and Response alone", async () => {
    const before = [Request, Response];
    const { control } = await serve();
    await control.health();
    expect([Request, Response]).toEqual(before);
  });

  test("are not there where nobody asked for them", async () => {
    await using server = await serveApp(app);
    expect(server.control).toBeNull();
  });

  test("close with the app: what drains is seen to its end, and then nothing listens", async () => {
    const controlPort = await reservePort();
    const { server, control, port } = await serve({ control: { port: controlPort, tokens: TOKEN } });
    const { address, next } = await listens();
    const outbound = await control.sessions.start({ handler: "lines", address });
    const dialled = await next();
    const peer = Peer.to(port("Greets"));
    await peer.said("ready\n");
    const inbound = await newest({ server, control, port, events: [] });
    const [following, watching] = [control.sessions.follow(inbound.id), control.sessions.follow(outbound.id)];
    await until(following, "open");
    await until(watching, "open");

    const closed = server.close();
    // Outbound ones are cut at once.
    expect(await until(watching, "cut")).toMatchObject({ error: { code: "ECANCELED" } });
    expect(await dialled.over).toBe("ECONNRESET");
    await expect(control.ready()).rejects.toMatchObject({ code: "ERR_APP" });
    await expect(control.sessions.start({ handler: "lines", address })).rejects.toMatchObject({
      code: "EBADF",
    });
    // Inbound ones drain.
    peer.socket.end("last\n");
    await until(following, "ended");
    await closed;
    expect(await Peer.to(controlPort).over).toBe("ECONNREFUSED");
  });

  test("leave no port and no timer: a process that closed them ends by itself", async () => {
    const source = `
      import { controlClient } from "socklet/control";
      import { createConnection, serveApp } from "socklet/emulator";
      import { app } from "./test/emulator/fixtures/controlled.ts";
      const server = await serveApp(app, { control: { port: 0, tokens: "a-token-for-the-tests" } });
      const control = controlClient(server.control.url, { token: "a-token-for-the-tests" });
      const { sessions } = control;
      const [{ url: address }] = server.listeners;
      await sessions.run({ handler: "Hears", address });
      const socket = await createConnection(address);
      await socket.rfile.line();
      const [{ id }] = (await sessions.list({ state: "running" })).sessions;
      for await (const { type } of sessions.follow(id)) if (type === "open") socket.close();
      await sessions.start({ handler: "Greets", address, deadline: 60_000 });
      await server.close();
      console.log("closed");
    `;
    await using program = start(process.execPath, [
      "--conditions=socklet:source",
      "--input-type=module",
      "-e",
      source,
    ]);
    await program.line(/^closed$/);
    expect(await program.ended).toMatchObject({ code: 0, stderr: "" });
  });

  test("close also where a handler does not end and somebody follows it", async () => {
    const place = await serve({ drainTimeout: 1 });
    const peer = Peer.to(place.port("NeverEnds"));
    await peer.said("ready\n");
    const { id } = await newest(place);
    const response = await fetch(`${place.server.control?.url}/v1/sessions/${id}/events`, {
      headers: { authorization: `Bearer ${TOKEN}` },
    });
    await place.server.close();
    await response.text().catch(() => {}); // it is over, one way or the other
    expect(place.events.map(({ type }) => type)).toContain("stuck");
  });
});

afterEach(() => void vi.unstubAllEnvs());
