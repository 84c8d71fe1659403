/**
 * What is written arrives, or somebody is told: slow readers, peers that take nothing, and resets, on real sockets.
 * Time is the test's own where time-outs are meant: how long anything takes decides nothing.
 */

import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import {
  BaseRequestHandler,
  type InternetAddress,
  type StreamOptions,
  type StreamSocket,
  type UnixAddress,
} from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { afterAll, afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { intake } from "../../emulator/intake.ts";
import { ThreadingUnixStreamServer } from "../../emulator/unix.ts";
import { Told } from "../core/told.ts";
import { ownCertificates } from "../peers/certificates.ts";

const MB = 1e6;
const SIZE = 15 * MB; // bytes: several times what two kernels hold
const T = 1_000; // ms of a time-out, by the test's own clock
const folder = mkdtempSync(join(tmpdir(), "socklet-delivery-"));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => void vi.useRealTimers());

const { ca, cert, key } = ownCertificates() ?? { ca: "", cert: "", key: "" };

/** The byte at each place of what a handler writes. */
const written = Uint8Array.from({ length: SIZE }, (_, i) => (i * 31 + (i >> 8) * 7 + (i >> 16)) & 255);

/** A client that reads when it is told to, and keeps what it has read. */
class Reader {
  readonly socket: net.Socket;
  /** How many bytes it has, all of them right. */
  got = 0;
  ended = false;
  /** Why its connection broke. */
  code: string | null = null;
  readonly over: Promise<unknown>;

  #wake: () => void = () => {};

  constructor(socket: net.Socket) {
    this.socket = socket;
    const wake = (): void => this.#wake();
    socket.on("readable", wake).on("close", wake);
    socket.on("error", (error: NodeJS.ErrnoException) => {
      this.code = error.code ?? error.message;
    });
    socket.on("end", () => {
      this.ended = true;
      wake();
    });
    this.over = new Promise((resolve) => socket.once("close", resolve));
  }

  /** Takes what has come; waits for some where nothing has. False: no more comes. */
  async read(): Promise<boolean> {
    for (;;) {
      const bytes = this.socket.read() as Buffer | null;
      if (bytes !== null) {
        if (Buffer.compare(bytes, written.subarray(this.got, this.got + bytes.length)) !== 0)
          throw new Error(`not what was written, in the ${bytes.length} bytes from ${this.got} on`);
        this.got += bytes.length;
        return true;
      }
      if (this.ended || this.socket.destroyed) return false;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async readAll(): Promise<void> {
    while (await this.read());
  }
}

interface Place {
  readonly name: string;
  readonly secure?: true;
  readonly intake?: false;
  readonly unix?: true;
}

const places: readonly Place[] = [
  { name: "TCP, by its handle" },
  { name: "TCP, by net.Socket", intake: false },
  { name: "TLS", secure: true },
  { name: "TLS, by net.Socket", secure: true, intake: false },
  { name: "Unix", unix: true },
  { name: "Unix, by net.Socket", unix: true, intake: false },
];

let made = 0;

/** A server at a place whose handler does `handle`, and a client that has connected. */
const meet = async (
  place: Place,
  handle: (request: StreamSocket) => unknown,
  stream: Partial<StreamOptions>,
  options: { readonly requestTimeout?: number; readonly idleTimeout?: number } = {},
): Promise<{ told: Told; client: Reader; request: StreamSocket; server: ThreadingTCPServer }> => {
  const told = new Told();
  const given = Promise.withResolvers<StreamSocket>();
  class Handler extends BaseRequestHandler<StreamSocket> {
    override async setup(): Promise<void> {
      if (place.secure) await this.request.startTls({ cert, key });
    }
    override handle(): unknown {
      given.resolve(this.request);
      return handle(this.request);
    }
  }
  const before = intake.on;
  intake.on = place.intake ?? true;
  const given2 = { ...options, stream, onEvent: told.on };
  const server = place.unix
    ? new ThreadingUnixStreamServer(`unix:${folder}/${++made}`, Handler, given2)
    : new ThreadingTCPServer("127.0.0.1:0", Handler, given2);
  const address = (await server.listen()) as InternetAddress | UnixAddress;
  intake.on = before;
  void server.serveForever();
  onTestFinished(async () => {
    vi.useRealTimers();
    server.abort();
    await server.serverClose();
  });
  const to = "path" in address ? { path: address.path } : { port: address.port, host: "127.0.0.1" };
  const plain = { ...to, allowHalfOpen: true };
  const socket = place.secure ? tls.connect({ ...plain, ca, servername: "localhost" }) : net.connect(plain);
  const client = new Reader(socket);
  onTestFinished(() => void socket.destroy());
  return { told, client, request: await given.promise, server: server as ThreadingTCPServer };
};

/** From now on the time-outs of both ends go by the test's clock. */
const holdTime = (): void => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

/** The peer takes something just in time, again and again, until all has left. Gives how often. */
const readSlowly = async (request: StreamSocket, client: Reader, size: number): Promise<number> => {
  let rounds = 0;
  for (; request.bytesWritten < size && !client.ended && client.code === null; rounds++) {
    await pass(0.7 * T);
    const before = request.bytesWritten;
    while (request.bytesWritten === before && (await client.read()));
  }
  return rounds;
};

const writesAll = (request: StreamSocket): void => {
  request.wfile.write(written);
};

describe.each(places)("$name", (place) => {
  const reset = !place.unix;

  describe.each([
    ["the end of a handler", writesAll],
    [
      "close()",
      async (request: StreamSocket) => {
        request.wfile.write(written);
        await request.close();
      },
    ],
    [
      "flush()",
      async (request: StreamSocket) => {
        request.wfile.write(written);
        await request.wfile.flush();
      },
    ],
    ["sendall()", (request: StreamSocket) => request.sendall(written)],
    [
      "shutdown()",
      async (request: StreamSocket) => {
        request.wfile.write(written);
        await request.shutdown(1);
      },
    ],
  ] as const)("%s", (_, handle) => {
    test("waits as long as the peer takes bytes", async () => {
      holdTime();
      const { told, client, request } = await meet(place, handle, { timeout: T, closeTimeout: T });
      expect(await readSlowly(request, client, SIZE)).toBeGreaterThan(1); // in all more than T
      await Promise.all([client.readAll(), told.count("end", 1)]);
      expect([client.got, client.ended, client.code]).toEqual([SIZE, true, null]);
      expect(told.of("end")).toMatchObject([{ failed: false, bytesWritten: SIZE }]);
      expect(told.of("error")).toEqual([]);
    });

    test("is cut when the peer takes nothing, and it is told", async () => {
      holdTime();
      const { told, client, request } = await meet(place, handle, { timeout: T, closeTimeout: T });
      await expect.poll(() => request.wfile.unsent).toBeGreaterThan(0);
      await pass(0.9 * T);
      expect(told.of("error")).toEqual([]);
      for (let i = 0; i < 3; i++) await pass(T); // what was written before a flush() goes on at the close
      await told.count("end", 1);
      await client.readAll();
      if (reset) await client.over;
      const [end] = told.of("end");
      expect(told.of("error")).toMatchObject([{ id: 1, error: { code: "ETIMEDOUT" } }]);
      expect(end).toMatchObject({ failed: true });
      expect(end?.bytesWritten).toBeLessThan(SIZE);
      expect(client.got).toBeLessThanOrEqual((end?.bytesWritten ?? 0) + 256 * 1024);
      if (reset) expect(client.code).toBe("ECONNRESET");
    });
  });

  test("a peer that takes too little for minWriteRate is cut, and one that takes enough is not", async () => {
    for (const [minWriteRate, failed] of [
      [50 * MB, true],
      [1_000, false],
    ] as const) {
      const stream = { closeTimeout: T, minWriteRate };
      holdTime();
      const { told, client, request } = await meet(place, writesAll, stream);
      await expect.poll(() => request.wfile.unsent).toBeGreaterThan(0);
      while (told.of("end").length === 0) {
        await pass(0.7 * T);
        const before = request.bytesWritten;
        while (request.bytesWritten === before && told.of("end").length === 0 && (await client.read()));
      }
      await client.readAll();
      expect(told.of("end")).toMatchObject([{ failed }]);
      if (failed) expect(told.of("error")).toMatchObject([{ error: { code: "ETIMEDOUT" } }]);
      else expect(client.got).toBe(SIZE);
      vi.useRealTimers();
    }
  });

  test("requestTimeout stays absolute, also where the close takes long", async () => {
    holdTime();
    const stream = { closeTimeout: T };
    const { told, client, request } = await meet(place, writesAll, stream, { requestTimeout: 1.3 * T });
    for (let rounds = 0; told.of("timeout").length === 0; rounds++) {
      expect(rounds).toBeLessThan(4);
      await readSlowly(request, client, request.bytesWritten + 1);
    }
    await told.count("end", 1);
    expect(told.of("timeout")).toMatchObject([{ limit: "requestTimeout" }]);
    expect(told.of("error")).toMatchObject([{ error: { code: "ECONNABORTED" } }]);
    expect(told.of("end")).toMatchObject([{ failed: true }]);
  });

  test("idleTimeout lets a connection be whose peer takes bytes, and ends one whose peer takes none", async () => {
    holdTime();
    const stream = { closeTimeout: 100 * T };
    const { told, client, request } = await meet(place, writesAll, stream, { idleTimeout: T });
    for (let i = 0; i < 2; i++) await readSlowly(request, client, request.bytesWritten + 1);
    expect(told.of("timeout")).toEqual([]);
    await pass(2 * T);
    await told.count("end", 1);
    expect(told.of("timeout")).toMatchObject([{ limit: "idleTimeout" }]);
    expect(told.of("end")).toMatchObject([{ failed: true }]);
  });

  test("a peer that resets what it did not read: it is told, with the bytes that had left", async () => {
    const { told, client, request } = await meet(place, writesAll, {});
    await expect.poll(() => request.wfile.unsent).toBeGreaterThan(0);
    while (client.got < MB) await client.read();
    client.socket.destroy();
    await told.count("end", 1);
    const [error] = told.of("error");
    expect(["ECONNRESET", "EPIPE"]).toContain((error?.error as { code?: string } | undefined)?.code);
    expect(told.of("end")).toMatchObject([{ failed: true }]);
    const { bytesWritten = 0 } = told.of("end")[0] ?? {};
    expect(bytesWritten).toBeLessThan(SIZE);
    expect(bytesWritten).toBeGreaterThan(client.got - 256 * 1024);
  });
});
