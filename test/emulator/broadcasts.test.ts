/** One slow reader does not affect others, in memory, on real sockets through both of Node's paths, and behind a Worker's port. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type InternetAddress,
  type StreamOptions,
  StreamRequestHandler,
  type StreamSocket,
  type UnixAddress,
} from "socklet";
import { createConnection, ThreadingTCPServer, ThreadingUnixStreamServer } from "socklet/emulator";
import { ThreadingMemoryServer } from "socklet/testing";
import { afterAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { intake } from "../../emulator/kernel/handles/intake.ts";
import { Chat, type ChatContext } from "../../examples/chat.ts";
import { checkTold, slowMember } from "../conformance/slow-member.ts";
import { codeOf } from "../core/outcome.ts";
import { Told } from "../core/told.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { byOneIntake, rustls } from "./runtime-rows.ts";

const folder = mkdtempSync(join(tmpdir(), "socklet-broadcasts-"));
afterAll(() => rmSync(folder, { recursive: true }));
const { ca, cert, key } = ownCertificates() ?? { ca: "", cert: "", key: "" };
const STARTTLS = { tls: { cert, key }, secureTransport: "starttls" } as const;
const code = (error: unknown): unknown => (error as { code?: string }).code;

class SecuredTCPServer<Context> extends ThreadingTCPServer<Context> {
  override async finishRequest(request: StreamSocket, address: never): Promise<unknown> {
    await request.startTls();
    return super.finishRequest(request, address);
  }
}

const chat = () => {
  const told = new Told();
  return { told, options: { context: { members: new Set<Chat>() } satisfies ChatContext, onEvent: told.on } };
};

describe("a member of a chat that never reads is cut and told, and the others go on", () => {
  test("in memory", async () => {
    const { told, options } = chat();
    await using server = new ThreadingMemoryServer<ChatContext>(Chat, options);
    void server.serveForever();
    const slow = await slowMember(async () => server.connect());
    await told.next("end", 3);
    checkTold(told.all, code);
    expect(await codeOf(slow.rfile.read())).toBe("ECONNRESET");
    expect(options.context.members.size).toBe(0);
  });

  const places: readonly { name: string; unix?: true; secure?: true; intake?: false }[] = [
    { name: "TCP" },
    { name: "TCP, by net.Socket", intake: false },
    { name: "TLS", secure: true },
    { name: "Unix", unix: true },
    { name: "Unix, by net.Socket", unix: true, intake: false },
  ];

  test.each(byOneIntake(places))("$name", async (place) => {
    const { told, options } = chat();
    const before = intake.on;
    intake.on = before && (place.intake ?? true);
    onTestFinished(() => {
      intake.on = before;
    });
    const Server = place.secure ? SecuredTCPServer<ChatContext> : ThreadingTCPServer<ChatContext>;
    await using server = place.unix
      ? new ThreadingUnixStreamServer<ChatContext>(`unix:${folder}/${place.intake ?? true}`, Chat, options)
      : new Server("127.0.0.1:0", Chat, place.secure ? { ...options, ...STARTTLS } : options);
    const address = (await server.listen()) as InternetAddress | UnixAddress;
    void server.serveForever();
    const to = "path" in address ? { path: address.path } : address;
    const secure = place.secure
      ? { secureTransport: "on" as const, tls: { ca, serverName: "localhost" } }
      : {};
    const slow = await slowMember(() => createConnection(to, secure));
    await told.next("end", 3);
    checkTold(told.all, code);
    const end = told.of("end").find(({ failed }) => failed);
    const got = await slow.rfile.read().catch(code);
    // It sees a reset if there is one (not on Unix sockets), in place of what it had not read.
    // Deno's TLS does not get one either.
    if (!place.unix && !(rustls && place.secure)) expect(got).toBe("ECONNRESET");
    expect(end?.bytesWritten).toBeGreaterThan(0);
    await slow.close().catch(() => {});
    expect(options.context.members.size).toBe(0);
  });
});

const MiB = 1024 * 1024;

/** Serves `handle` on TCP, to one client. */
const serve = async (handle: (handler: StreamRequestHandler) => unknown, stream: Partial<StreamOptions>) => {
  class Handler extends StreamRequestHandler {
    override async handle() {
      await this.rfile.line(); // the client is there
      return handle(this);
    }
  }
  const told = new Told();
  const server = new ThreadingTCPServer("127.0.0.1:0", Handler, { stream, onEvent: told.on });
  const address = (await server.listen()) as InternetAddress;
  void server.serveForever();
  const client = await createConnection(address);
  await client.sendall("\n");
  onTestFinished(async () => {
    client.abort();
    server.abort();
    await server.serverClose();
  });
  return { told, client };
};

describe("a single writer that never waits", () => {
  const piece = new Uint8Array(64 * 1024);
  const SIZE = 100 * MiB;

  test("is told by its next flush(), and by the end of its request; no more than the limit was kept", async () => {
    let taken = 0;
    let kept = 0;
    let flushed: unknown;
    const { told, client } = await serve(
      async ({ wfile, request }) => {
        for (let i = 0; i < SIZE; i += piece.length) {
          const size = wfile.write(piece);
          if (size === 0) kept ||= taken - request.bytesWritten;
          taken += size;
        }
        flushed = await codeOf(wfile.flush());
      },
      { maxPending: 4 * MiB },
    );
    await told.next("end");
    expect(flushed).toBe("ENOBUFS");
    expect([kept > 4 * MiB, kept <= 4 * MiB + 2 * piece.length, taken < SIZE]).toEqual([true, true, true]);
    expect(told.of("error")).toMatchObject([{ error: { code: "ENOBUFS" } }]);
    expect(told.of("end")).toMatchObject([{ failed: true }]);
    expect(await codeOf(client.rfile.read())).toBe("ECONNRESET");
  });

  test("that does not even flush fails, too", async () => {
    const { told } = await serve(({ wfile }) => {
      for (let i = 0; i < SIZE; i += piece.length) wfile.write(piece);
    }, {});
    await told.next("end");
    expect(told.of("error")).toMatchObject([{ id: 1, error: { code: "ENOBUFS" } }]);
    expect(told.of("end")).toMatchObject([{ failed: true }]);
  });

  test('with whenSlow "throw" it gets ENOBUFS, and what was taken arrives', async () => {
    let taken = 0;
    let thrown: unknown;
    const { told, client } = await serve(
      ({ wfile }) => {
        try {
          for (let i = 0; i < SIZE; i += piece.length) taken += wfile.write(piece);
        } catch (error) {
          thrown = code(error);
        }
      },
      { whenSlow: "throw" },
    );
    let got = 0;
    for await (const bytes of client) got += bytes.length;
    await told.next("end");
    expect([thrown, got, taken > 16 * MiB, taken < SIZE]).toEqual(["ENOBUFS", taken, true, true]);
    expect(told.of("end")).toMatchObject([{ failed: false, bytesWritten: taken }]);
  });

  test("that looks at unsent before it writes is never cut, though the queue is seldom empty", async () => {
    const { told, client } = await serve(
      async ({ wfile }) => {
        for (let sent = 0; sent < SIZE; ) {
          if (wfile.unsent < MiB) sent += wfile.write(piece);
          else await new Promise(setImmediate);
        }
      },
      { maxPending: MiB },
    );
    let got = 0;
    for await (const bytes of client) got += bytes.length;
    await told.next("end");
    expect([got, told.of("end").map(({ failed }) => failed)]).toEqual([SIZE, [false]]);
  });
});

test("a handler that waits for something else does not make the writes of others throw, and is told when it reads", async () => {
  const wake = Promise.withResolvers<void>();
  const subscriber = Promise.withResolvers<StreamRequestHandler>();
  const { told } = await serve(
    async (handler) => {
      subscriber.resolve(handler);
      await wake.promise;
      await handler.rfile.line();
    },
    { maxPending: MiB },
  );
  const { wfile } = await subscriber.promise;
  const piece = "x".repeat(64 * 1024);
  while (wfile.write(piece) > 0);
  for (let i = 0; i < 10; i++) expect(wfile.write(piece)).toBe(0);
  wake.resolve();
  await told.next("end");
  expect(told.of("error")).toMatchObject([{ error: { code: "ENOBUFS" } }]);
  expect(wfile.write.bind(wfile, "x")).toThrow("EBADF"); // it is over: code that still has it in a list has forgotten to remove it
});

test("a member whose connection is reset is dropped by the others' writes as soon as its handler was told", async () => {
  const { told, options } = chat();
  await using server = new ThreadingMemoryServer<ChatContext>(Chat, options);
  void server.serveForever();
  const member = server.connect();
  await member.sendall("member\n");
  await member.rfile.readuntil("of 1\n");
  const [chatting] = options.context.members;
  const { wfile } = chatting as Chat;
  const write = vi.fn<() => unknown>().mockImplementationOnce(() => wfile.write("x"));
  const fail = wfile.fail.bind(wfile);
  wfile.fail = (...given) => {
    fail(...given);
    write(); // the handler's read was rejected, and the handler has not run yet
  };
  member.abort();
  await told.next("end");
  expect(write.mock.results[0]).toEqual({ type: "return", value: 0 });
  expect(told.of("error")).toMatchObject([{ error: { code: "ECONNRESET" } }]);
});
