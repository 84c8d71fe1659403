/** Accepted connections over Node's handle: the parts of Node that they use, and the rules for lent bytes. */

import { execFile } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import net from "node:net";
import { promisify } from "node:util";
import { DatagramRequestHandler, type InternetAddress, type SockletEvent, streamHandler } from "socklet";
import { createConnection, ThreadingTCPServer, ThreadingUDPServer } from "socklet/emulator";
import { expect, test } from "vitest";
import { intake } from "../../emulator/kernel/handles/intake.ts";
import type { Connection } from "../../emulator/kernel/transports/seam.ts";

const Echo = streamHandler(async ({ request }) => {
  for await (const bytes of request) await request.sendall(bytes);
});

test.each([
  ["as it is", []],
  ["with --pending-deprecation, which would warn of process.binding()", ["--pending-deprecation"]],
  ["under the permission model, which forbids it", ["--permission", "--allow-fs-read=*", "--allow-net"]],
])("Node %s: a server serves, and nothing is said on stderr", async (_, flags) => {
  const program = `
    import { ThreadingTCPServer, createConnection } from "socklet/emulator";
    import { streamHandler } from "socklet";
    const server = new ThreadingTCPServer("127.0.0.1:0", streamHandler(async ({ rfile, wfile }) => {
      wfile.write((await rfile.line()).toUpperCase());
    }));
    const address = await server.listen();
    void server.serveForever();
    const client = await createConnection(address);
    await client.sendall("hello\\n");
    console.log(await client.rfile.line());
    await client.close();
    await server.serverClose();
  `;
  const known = process.allowedNodeEnvironmentFlags;
  const args = flags.filter((flag) => known.has(flag.split("=")[0] as string));
  const run = promisify(execFile)(
    process.execPath,
    [
      "--no-warnings=ExperimentalWarning",
      "--conditions=socklet:source",
      ...args,
      "--input-type=module",
      "-e",
      program,
    ],
    { cwd: import.meta.dirname },
  );
  const { stdout, stderr } = await run;
  expect(stdout).toBe("HELLO\n");
  expect(stderr.replace(/^.*(SecurityWarning|--trace-warnings).*\n/gm, "")).toBe("");
});

test.each([
  ["process.binding", "process.binding = undefined;"],
  [
    "stream_wrap.WriteWrap",
    "const { binding } = process; process.binding = (name) => name === 'stream_wrap' ? {} : binding(name);",
  ],
  [
    "udp_wrap.SendWrap",
    "const { binding } = process; process.binding = (name) => name === 'udp_wrap' ? {} : binding(name);",
  ],
  [
    "useUserBuffer",
    "const { TCP } = process.binding('tcp_wrap'); for (let one = TCP.prototype; one; one = Object.getPrototypeOf(one)) delete one.useUserBuffer;",
  ],
  ["net._createServerHandle", "net._createServerHandle = undefined;"],
  [
    "net.Server.prototype._listen2",
    `const { listen, _listen2 } = net.Server.prototype;
     net.Server.prototype._listen2 = undefined;
     net.Server.prototype.listen = function (...how) { this._listen2 = _listen2; return listen.apply(this, how); };`,
  ],
])("on a Node without %s servers of TCP, UDP and paths serve all the same", async (_, without) => {
  const program = `
    import net from "node:net";
    ${without}
    const { createDatagramConnection, ThreadingTCPServer, ThreadingUDPServer, ThreadingUnixStreamServer } = await import("socklet/emulator");
    const { DatagramRequestHandler, streamHandler } = await import("socklet");
    const Upper = streamHandler(async ({ rfile, wfile }) => void wfile.write((await rfile.line()).toUpperCase() + '\\n'));
    for (const server of [new ThreadingTCPServer("127.0.0.1:0", Upper), new ThreadingUnixStreamServer("unix:\\0socklet-handle-" + crypto.randomUUID(), Upper)]) {
      const address = await server.listen();
      void server.serveForever();
      const { hostname: host, port, path } = address;
      const client = net.connect(path === undefined ? { host, port } : { path });
      client.end("hello\\n");
      for await (const bytes of client) process.stdout.write(bytes);
      await server.serverClose();
    }
    class Reply extends DatagramRequestHandler {
      handle() { this.request.reply(new TextDecoder().decode(this.request.data).toUpperCase()); }
    }
    const server = new ThreadingUDPServer("127.0.0.1:0", Reply);
    const { hostname, port } = await server.listen();
    void server.serveForever();
    const client = await createDatagramConnection({ scheme: "udp", hostname, port }, { timeout: null });
    await client.send("there");
    console.log(new TextDecoder().decode(await client.recv()));
    await client.close();
    await server.serverClose();
  `;
  const args = ["--no-warnings", "--conditions=socklet:source", "--input-type=module", "-e", program];
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname });
  expect(stdout).toBe("HELLO\nHELLO\nTHERE\n");
});

test("without net._createServerHandle and without koffi, bind() says what to install", async () => {
  const program = `
    import net from "node:net";
    net._createServerHandle = undefined;
    const { ThreadingTCPServer } = await import("socklet/emulator");
    const { streamHandler } = await import("socklet");
    await new ThreadingTCPServer("127.0.0.1:0", streamHandler(() => {})).listen().catch((error) => console.log(error.message));
  `;
  const args = ["--no-warnings", "--conditions=socklet:source", "--input-type=module", "-e", program];
  const env = { ...process.env, SOCKLET_NATIVE: "off" };
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname, env });
  expect(stdout).toBe(
    "ERR_UNSUPPORTED: bind() on this version of Node needs the package koffi, which SOCKLET_NATIVE=off turned off\n",
  );
});

test("memory that is given away is freed by young collections", async () => {
  const program = `
    import { Intake } from "../../emulator/kernel/handles/intake.ts";
    const intake = new Intake();
    const bytes = new Uint8Array(256 * 1024);
    const give = async (times) => {
      for (let i = 0; i < times; i++) {
        intake.copy(bytes);
        if (i % 10 === 0) await new Promise(setImmediate);
      }
    };
    await give(500);
    console.log("warm");
    await give(4 * 512);
  `;
  const args = ["--trace-gc", "--no-warnings", "--input-type=module", "-e", program];
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname });
  const [, told = ""] = stdout.split("warm\n");
  // By itself V8 makes no young collection, but a full one every 64 MiB.
  expect(told.match(/Scavenge/g)?.length).toBeGreaterThan(8);
});

test("whoever subscribes to Node's channel of accepted sockets is given sockets", async () => {
  const seen: unknown[] = [];
  const told = (message: unknown): void => void seen.push((message as { socket: unknown }).socket);
  subscribe("net.server.socket", told);
  try {
    await using server = new ThreadingTCPServer("127.0.0.1:0", Echo);
    const address = await server.listen();
    void server.serveForever();
    await using client = await createConnection(address as never);
    await client.sendall("x");
    expect(await client.recv()).toEqual(new Uint8Array([120]));
  } finally {
    unsubscribe("net.server.socket", told);
  }
  expect(seen.length).toBe(1);
  expect(seen[0]).toBeInstanceOf(net.Socket);
});

test("bytes that are sent are the caller's again at once, also where the kernel has no room for them", async () => {
  const PIECES = 20_000;
  const SIZE = 1_000; // bytes: 20 MB, more than the kernel keeps for a peer that does not read
  const Sender = streamHandler(async ({ request }) => {
    const piece = new Uint8Array(SIZE);
    for (let i = 0; i < PIECES; i++) {
      piece.fill(i % 251);
      const sent = request.sendall(piece);
      piece.fill(255);
      await sent;
    }
  });
  await using server = new ThreadingTCPServer("127.0.0.1:0", Sender);
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  const client = net.connect({ port, host: "127.0.0.1" });
  client.pause();
  await new Promise((resolve) => client.once("connect", resolve));
  await expect.poll(() => server.info().running).toBe(1);
  let at = 0;
  let wrong = 0;
  for await (const chunk of client) {
    for (const byte of chunk as Buffer) if (byte !== Math.floor(at++ / SIZE) % 251) wrong++;
  }
  expect([at, wrong]).toEqual([PIECES * SIZE, 0]);
});

test("so are those of a Buffer that a client sends", async () => {
  const PIECES = 20_000;
  const SIZE = 1_000;
  const wrong = Promise.withResolvers<number[]>();
  const go = Promise.withResolvers<void>();
  const Counting = streamHandler(async ({ request }) => {
    await go.promise; // until then the client writes to a peer that does not read
    let at = 0;
    let count = 0;
    for await (const bytes of request)
      for (const byte of bytes) if (byte !== Math.floor(at++ / SIZE) % 251) count++;
    wrong.resolve([at, count]);
  });
  await using server = new ThreadingTCPServer("127.0.0.1:0", Counting);
  const address = await server.listen();
  void server.serveForever();
  await using client = await createConnection(address as never);
  const piece = Buffer.alloc(SIZE);
  for (let i = 0; i < PIECES; i++) {
    piece.fill(i % 251);
    const sent = client.sendall(piece);
    piece.fill(255);
    if (i === PIECES / 2) go.resolve();
    if (i > PIECES / 2) await sent;
  }
  await client.close();
  expect(await wrong.promise).toEqual([PIECES * SIZE, 0]);
});

test("what Node can do with its own sockets it can do with an accepted one: toNode()", async () => {
  const given = Promise.withResolvers<net.Socket>();
  class Giving extends ThreadingTCPServer {
    protected override accepted(connection: Connection): void {
      given.resolve(connection.toNode().socket);
    }
  }
  await using server = new Giving("127.0.0.1:0", Echo);
  await using client = await createConnection((await server.listen()) as never);
  void server.serveForever();
  const socket = await given.promise;
  await client.sendall("hello");
  socket.setEncoding("latin1").resume();
  expect(await new Promise((resolve) => socket.once("data", resolve))).toBe("hello");
  socket.end("bye");
  expect(await client.rfile.read()).toEqual(new TextEncoder().encode("bye"));
  socket.destroy();
});

test.each([true, false])(
  "a datagram that the kernel refuses is told as an error (by its handle: %s)",
  async (on) => {
    const before = intake.on;
    intake.on = on;
    try {
      const refused = Promise.withResolvers<SockletEvent>();
      class Silent extends DatagramRequestHandler {}
      await using server = new ThreadingUDPServer("127.0.0.1:0", Silent, {
        onEvent: (event) => event.type === "error" && refused.resolve(event),
      });
      await server.listen();
      // To all, which a socket must be allowed (SO_BROADCAST): nothing is sent.
      server.post("x", { family: "IPv4", hostname: "255.255.255.255", port: 9 });
      const error = { name: "SocketError", code: "EACCES", address: "255.255.255.255:9" };
      expect(await refused.promise).toMatchObject({ error });
    } finally {
      intake.on = before;
    }
  },
);
