import { describe, expect, test } from "vitest";
import type { SocketErrorCode } from "../../core/errors.ts";
import {
  BaseRequestHandler,
  DatagramRequestHandler,
  StreamRequestHandler,
} from "../../core/handlers/handler.ts";
import type { Address } from "../../core/net/address.ts";
import { type Datagram, MAX_DATAGRAM } from "../../core/sockets/datagram.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import {
  MemoryDatagramServer,
  MemoryNetwork,
  MemoryServer,
  memoryPair,
  ThreadingMemoryDatagramServer,
  ThreadingMemoryServer,
} from "../../core/testing/index.ts";

const text = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);
const codeOf = (promise: Promise<unknown>): Promise<SocketErrorCode | unknown[]> =>
  promise.then(
    (value) => ["no error", value],
    (error) => error.code ?? error,
  );
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Tells when each client's handler began, and ends it when the client says so. */
const turns: string[] = [];
class TakesTurns extends StreamRequestHandler {
  override async handle(): Promise<void> {
    const name = await this.rfile.line();
    turns.push(`${name} begins`);
    this.wfile.write("begun\n");
    await this.rfile.line();
    turns.push(`${name} ends`);
  }
}

class Echo extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const bytes of this.request) await this.request.sendall(bytes);
  }
}

class Upper extends DatagramRequestHandler {
  override handle(): void {
    if (this.request.data.length > 0) this.wfile.write((text(this.request.data) as string).toUpperCase());
  }
}

describe("memoryPair", () => {
  test("is two ends of one connection", async () => {
    const server: Address = { family: "IPv6", hostname: "::1", port: 25 };
    const [client, request] = memoryPair({}, server);
    expect(client.getpeername()).toEqual(server);
    expect(request.getsockname()).toEqual(server);
    expect(request.getpeername()).toEqual(client.getsockname());
    expect(client.capabilities).toEqual({ reset: true, peername: true });
  });

  test("no byte arrives in the middle of the code that sends it", async () => {
    const [a, b] = memoryPair();
    const reading = b.recv();
    a.sendall("now");
    expect(b.bytesRead).toBe(0);
    await reading;
    expect(b.bytesRead).toBe(3);
  });

  test("what is written leaves at the end of the turn, unasked", async () => {
    const [a, b] = memoryPair();
    a.wfile.write("un");
    a.wfile.write("asked");
    expect(text(await b.recv())).toBe("unasked");
  });

  test("holds `capacity` bytes a direction, and nothing is delivered that no read waits for", async () => {
    const [a, b] = memoryPair({ capacity: 10 });
    await a.sendall("0123456789");
    const over = a.sendall("x");
    await settled();
    expect([a.wfile.blocked, b.rfile.buffered]).toEqual([true, 0]);
    expect(text(await b.recv(1))).toBe("0");
    await over;
    expect(a.wfile.blocked).toBe(false);
  });
});

describe("stream servers", () => {
  test("serve", async () => {
    const server = new MemoryServer(Echo);
    const serving = server.serveForever();
    const client = server.connect();
    expect(client.getpeername()).toEqual(server.serverAddress);
    await client.sendall("hello");
    await client.close();
    const second = server.connect();
    await second.sendall("again");
    expect(text(await second.rfile.readexactly(5))).toBe("again");
    await second.close();
    await server.serverClose();
    await serving;
    expect(server.info()).toMatchObject({ served: 2, failed: 0, running: 0, state: "closed" });
    expect(await codeOf(server.connect().recv())).toBe("ECONNRESET");
  });

  const order = async (server: MemoryServer): Promise<string[]> => {
    turns.length = 0;
    const serving = server.serveForever();
    const [first, second] = [server.connect(), server.connect()];
    await first.sendall("first\n");
    await second.sendall("second\n");
    expect(await first.rfile.line()).toBe("begun");
    await settled();
    await second.sendall("go\n");
    await settled();
    await first.sendall("go\n");
    expect(await second.rfile.line()).toBe("begun");
    expect([await first.recv(), await second.recv()]).toEqual([null, null]);
    await server.serverClose();
    await serving;
    return turns;
  };

  test("one at a time, in the order in which they came", async () => {
    expect(await order(new MemoryServer(TakesTurns))).toEqual([
      "first begins",
      "first ends",
      "second begins",
      "second ends",
    ]);
  });

  test("or side by side", async () => {
    expect(await order(new ThreadingMemoryServer(TakesTurns))).toEqual([
      "first begins",
      "second begins",
      "second ends",
      "first ends",
    ]);
  });

  test("take the options of their streams", async () => {
    let timeout: number | null = 0;
    class Tells extends BaseRequestHandler<StreamSocket> {
      override handle(): void {
        timeout = this.request.gettimeout();
      }
    }
    const server = new MemoryServer(Tells, { stream: { timeout: 7, capacity: 1 } });
    const client = server.connect();
    await server.handleRequest();
    expect([timeout, client.gettimeout()]).toEqual([7, 7]);
    await server.serverClose();
  });
});

describe("datagram sockets", () => {
  test("keep borders, order, and datagrams of no bytes", async () => {
    const network = new MemoryNetwork();
    const [a, b] = [network.socket(), network.socket()];
    for (const data of ["one", "", "three"]) {
      expect(await a.sendto(data, b.getsockname())).toBe(data.length);
    }
    const got: Datagram[] = [];
    for (let i = 0; i < 3; i++) got.push(await b.recvfrom());
    expect(got.map(({ data }) => text(data))).toEqual(["one", "", "three"]);
    expect(got[0]).toMatchObject({ address: a.getsockname(), truncated: false });
    got[0]?.reply("back");
    expect(text((await a.recvfrom()).data)).toBe("back");
  });

  test("the sender may change its bytes afterwards", async () => {
    const network = new MemoryNetwork();
    const [a, b] = [network.socket(), network.socket()];
    const data = Buffer.from("first");
    a.post(data, b.getsockname());
    data.fill(0);
    expect(text((await b.recvfrom()).data)).toBe("first");
  });

  test("carry 65 507 bytes and refuse one more, whoever sends it", async () => {
    const network = new MemoryNetwork();
    const [a, b] = [network.socket(), network.socket()];
    await a.sendto(new Uint8Array(MAX_DATAGRAM), b.getsockname());
    const datagram = await b.recvfrom();
    expect(datagram.data.length).toBe(MAX_DATAGRAM);
    expect(await codeOf(a.sendto(new Uint8Array(MAX_DATAGRAM + 1), b.getsockname()))).toBe("EMSGSIZE");
    expect(() => datagram.reply("x".repeat(MAX_DATAGRAM + 1))).toThrow(/EMSGSIZE/);
  });

  test("nobody hears what is sent to nobody", async () => {
    const network = new MemoryNetwork();
    const [a, gone] = [network.socket(), network.socket()];
    const address = gone.getsockname();
    a.post("under way", address);
    await gone.close();
    expect(await a.sendto("lost", address)).toBe(4);
    await settled();
  });

  test("drop what comes when 256 wait already", async () => {
    const network = new MemoryNetwork();
    const [a, b] = [network.socket(), network.socket()];
    for (let i = 0; i < 300; i++) a.post(String(i), b.getsockname());
    await settled();
    expect(b.dropped).toBe(44);
    for (let i = 0; i < 256; i++) expect(text((await b.recvfrom()).data)).toBe(String(i));
    const next = b.recvfrom();
    a.post("next", b.getsockname());
    expect(text((await next).data)).toBe("next");
  });

  test("close: ECANCELED for those who wait, EBADF afterwards", async () => {
    const network = new MemoryNetwork();
    const [a, b] = [network.socket(), network.socket()];
    const waiting = [codeOf(a.recvfrom()), codeOf(a.recvfrom())];
    {
      await using socket = a;
      expect(socket).toBe(a);
    }
    expect(await Promise.all(waiting)).toEqual(["ECANCELED", "ECANCELED"]);
    expect(await codeOf(a.recvfrom())).toBe("EBADF");
    expect(await codeOf(a.sendto("x", b.getsockname()))).toBe("EBADF");
    expect(() => a.post("x", b.getsockname())).toThrow(/EBADF/);
  });

  test("two sockets of a network never have the same address", () => {
    const network = new MemoryNetwork();
    const first = network.socket().getsockname();
    const ports = new Set([JSON.stringify(first)]);
    for (let i = 0; i < 16_383; i++) memoryPair(); // the ports go round twice
    for (let i = 0; i < 100; i++) ports.add(JSON.stringify(network.socket().getsockname()));
    expect(ports.size).toBe(101);
  });
});

describe("datagram servers", () => {
  test("answer each datagram, also those that came before they listened", async () => {
    const server = new MemoryDatagramServer(Upper);
    const client = server.network.socket();
    await client.sendto("early", server.serverAddress);
    await settled();
    const serving = server.serveForever();
    expect(text((await client.recvfrom()).data)).toBe("EARLY");
    await client.sendto("", server.serverAddress); // nothing is written, and nothing sent back
    await client.sendto("late", server.serverAddress);
    const { data, address } = await client.recvfrom();
    expect([text(data), address]).toEqual(["LATE", server.serverAddress]);
    expect(server.info()).toMatchObject({ served: 3, failed: 0 });
    await server.serverClose();
    await serving;
    await client.sendto("too late", server.serverAddress);
    await settled();
    expect(server.info().served).toBe(3);
  });

  test("one at a time, or side by side", async () => {
    for (const [Server, most] of [
      [MemoryDatagramServer, 1],
      [ThreadingMemoryDatagramServer, 5],
    ] as const) {
      let running = 0;
      let seen = 0;
      class Slow extends BaseRequestHandler<Datagram> {
        override async handle(): Promise<void> {
          seen = Math.max(seen, ++running);
          await settled();
          running--;
          this.request.reply("done");
        }
      }
      const server = new Server(Slow);
      const serving = server.serveForever();
      const client = server.network.socket();
      for (let i = 0; i < 5; i++) client.post(String(i), server.serverAddress);
      for (let i = 0; i < 5; i++) expect(text((await client.recvfrom()).data)).toBe("done");
      expect(seen).toBe(most);
      await server.serverClose();
      await serving;
    }
  });

  test("lose what comes when too many wait, as a network does", async () => {
    const server = new MemoryDatagramServer(Upper, { requestQueueSize: 2 });
    const client = server.network.socket();
    await server.listen();
    for (let i = 0; i < 5; i++) client.post(`n${i}`, server.serverAddress);
    await settled();
    expect(server.info()).toMatchObject({ waiting: 2, refused: 3 });
    const serving = server.serveForever();
    expect([text((await client.recvfrom()).data), text((await client.recvfrom()).data)]).toEqual([
      "N0",
      "N1",
    ]);
    await server.serverClose();
    await serving;
  });

  test("a reply of 16 KiB and more, of text and bytes, is one datagram", async () => {
    class Large extends DatagramRequestHandler {
      override handle(): void {
        this.wfile.write("\ud83d");
        this.wfile.write("\ude00");
        this.wfile.write(new Uint8Array(20_000));
        this.wfile.write("end");
      }
    }
    const server = new MemoryDatagramServer(Large);
    const client = server.network.socket();
    client.post("", server.serverAddress);
    await server.handleRequest();
    const { data } = await client.recvfrom();
    expect([data.length, text(data.subarray(-3))]).toEqual([20_009, "end"]);
    await server.serverClose();
  });

  test("a reply has what its own handler wrote, whatever others write meanwhile or later", async () => {
    class Pieces extends DatagramRequestHandler {
      static readonly over: DatagramRequestHandler[] = [];

      override async handle(): Promise<void> {
        const piece = new Uint8Array(this.request.data);
        const late = new Uint8Array(300).fill(46); // what is written after finish() is lost
        for (let i = 0; i < 4; i++) {
          this.wfile.write(piece);
          for (const { wfile } of Pieces.over) wfile.write(late);
          piece.fill(33); // it is the handler's again
          await settled();
          if (i % 2 === 1) await this.wfile.flush();
          piece.set(this.request.data);
        }
      }

      override finish(): void {
        super.finish();
        Pieces.over.push(this);
      }
    }
    const server = new ThreadingMemoryDatagramServer(Pieces);
    const serving = server.serveForever();
    const client = server.network.socket();
    for (let round = 0; round < 3; round++) {
      const sent = ["a", "b", "c", "d", "e"].map((letter, i) => letter.repeat(700 * i + 1));
      // Another is first each time: it gathers where the last one of the time before did.
      for (const piece of [...sent.slice(round), ...sent.slice(0, round)])
        client.post(piece, server.serverAddress);
      const got: (string | null)[] = [];
      for (const _ of sent) got.push(text((await client.recvfrom()).data));
      expect(got.toSorted()).toEqual(sent.map((piece) => piece.repeat(4)));
    }
    await server.serverClose();
    await serving;
  });
});

test("what is written to a peer that has just reset the connection is not counted as sent", async () => {
  const [near, far] = memoryPair();
  far.abort();
  near.wfile.write(new Uint8Array(100_000)); // at once: it has not heard of the reset yet
  expect([near.bytesWritten, near.wfile.unsent]).toEqual([0, 100_000]);
  await expect(near.recv()).rejects.toMatchObject({ code: "ECONNRESET" });
});
