/** Datagram servers on real sockets. */

import { createHook } from "node:async_hooks";
import dgram from "node:dgram";
import { once } from "node:events";
import {
  BaseRequestHandler,
  type Datagram,
  DatagramRequestHandler,
  type InternetAddress,
  SocketError,
  type SockletEvent,
} from "socklet";
import { ThreadingUDPServer, UDPServer } from "socklet/emulator";
import { afterEach, describe, expect, test } from "vitest";

class Echo extends BaseRequestHandler<Datagram> {
  override handle() {
    this.request.reply(this.request.data);
  }
}

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

const up = async (server: UDPServer): Promise<InternetAddress> => {
  cleanups.push(() => {
    server.abort();
    return server.serverClose();
  });
  const address = (await server.listen()) as InternetAddress;
  void server.serveForever();
  return address;
};

/** A bare client. */
class Client {
  readonly #socket: dgram.Socket;
  constructor({ family }: InternetAddress) {
    this.#socket = dgram.createSocket(family === "IPv6" ? "udp6" : "udp4");
    cleanups.push(() => this.#socket.close());
  }
  static async to(address: InternetAddress): Promise<Client> {
    const client = new Client(address);
    await new Promise<void>((resolve) => client.#socket.connect(address.port, address.hostname, resolve));
    return client;
  }
  get port(): number {
    return this.#socket.address().port;
  }
  send(data: Uint8Array | string): void {
    this.#socket.send(data);
  }
  async next(): Promise<Uint8Array> {
    const [message] = (await once(this.#socket, "message")) as [Buffer];
    return new Uint8Array(message);
  }
  async ask(data: Uint8Array | string): Promise<Uint8Array> {
    const reply = this.next();
    this.send(data);
    return reply;
  }
}

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

for (const Server of [UDPServer, ThreadingUDPServer]) {
  describe(`${Server.name} on this machine`, () => {
    test("datagrams of every size come back whole, one for one", async () => {
      const client = await Client.to(await up(new Server("127.0.0.1:0", Echo)));
      for (const size of [0, 1, 512, 1472, 9000, 65_507]) {
        const data = Uint8Array.from({ length: size }, (_, i) => (i * 7) & 255);
        expect(await client.ask(data)).toEqual(data);
      }
    });

    test("a handler that throws costs its own datagram; the server goes on", async () => {
      const events: SockletEvent[] = [];
      const crashed = Promise.withResolvers<void>();
      class Picky extends DatagramRequestHandler {
        override handle() {
          const line = this.rfile.tryLine();
          if (line === "crash") throw new Error("as asked");
          this.wfile.write(`got ${line}`);
        }
      }
      const server = new Server("127.0.0.1:0", Picky, {
        onEvent(event) {
          events.push(event);
          if (event.type === "error") crashed.resolve();
        },
      });
      const client = await Client.to(await up(server));
      client.send("crash\n");
      await crashed.promise; // Deno may send the second datagram first
      expect(text(await client.ask("fine\n"))).toBe("got fine");
      expect(events.filter(({ type }) => type === "error")).toMatchObject([
        { id: 1, error: { message: "as asked" } },
      ]);
      expect(server.info()).toMatchObject({ served: 2, failed: 1, running: 0 });
    });

    test("nothing written sends nothing; what was written leaves as one datagram", async () => {
      class Quiet extends DatagramRequestHandler {
        override async handle() {
          for await (const word of this.rfile.lines()) if (word !== "hush") this.wfile.write(`${word};`);
        }
      }
      const client = await Client.to(await up(new Server("127.0.0.1:0", Quiet)));
      client.send("hush\n");
      expect(text(await client.ask("one\ntwo\nhush\nthree"))).toBe("one;two;three;");
    });

    test("a reply larger than a datagram is an error that says so", async () => {
      const errors: unknown[] = [];
      class TooMuch extends DatagramRequestHandler {
        override handle() {
          this.wfile.write(new Uint8Array(this.request.data.length === 0 ? 65_508 : 1));
        }
      }
      const server = new Server("127.0.0.1:0", TooMuch, {
        onEvent: (event) => event.type === "error" && errors.push(event.error),
      });
      const client = await Client.to(await up(server));
      client.send("");
      expect(await client.ask("x")).toEqual(new Uint8Array(1));
      expect(errors).toMatchObject([{ code: "EMSGSIZE", message: expect.stringContaining("65507") }]);
    });

    test("handlers know their peer, and that maxPacketSize cut a datagram", async () => {
      class Tell extends DatagramRequestHandler {
        override handle() {
          this.wfile.write(
            JSON.stringify([this.clientAddress, this.request.data.length, this.request.truncated]),
          );
        }
      }
      const address = await up(new Server("127.0.0.1:0", Tell, { maxPacketSize: 4 }));
      const client = await Client.to(address);
      const me = { family: "IPv4", hostname: "127.0.0.1", port: client.port };
      expect(JSON.parse(text(await client.ask("four")))).toEqual([me, 4, false]);
      expect(JSON.parse(text(await client.ask("fives")))).toEqual([me, 4, true]);
    });

    test("a datagram to where nobody is costs no other, and is no error", async () => {
      const events: SockletEvent[] = [];
      // A port that stays taken, by a socket to which only another server's datagrams get: ours are refused.
      const { port } = await Client.to(await up(new Server("127.0.0.1:0", Echo)));
      const nobody: InternetAddress = { family: "IPv4", hostname: "127.0.0.1", port };
      class Both extends BaseRequestHandler<Datagram> {
        override handle() {
          (this.server as unknown as UDPServer).post("to nobody", nobody);
          this.request.reply(this.request.data);
        }
      }
      const onEvent = (event: SockletEvent): void => void events.push(event);
      const client = await Client.to(await up(new Server("127.0.0.1:0", Both, { onEvent })));
      for (let i = 0; i < 50; i++) expect(text(await client.ask(`${i}`))).toBe(`${i}`);
      expect(events.filter(({ type }) => type === "error" || type === "dropped")).toEqual([]);
    });

    test("IPv6", async () => {
      const address = await up(new Server("[::1]:0", Echo));
      expect(address).toMatchObject({ family: "IPv6", hostname: "::1" });
      expect(text(await (await Client.to(address)).ask("six"))).toBe("six");
    });

    test("a close answers what had begun, and frees the port", async () => {
      /** Whether the port was free again; if not, another program may have been given it. */
      const reopened = async (): Promise<boolean> => {
        const begun = Promise.withResolvers<void>();
        const go = Promise.withResolvers<void>();
        class Slow extends DatagramRequestHandler {
          override async handle() {
            begun.resolve();
            await go.promise;
            this.wfile.write("late");
          }
        }
        const server = new Server("127.0.0.1:0", Slow);
        const address = await up(server);
        const reply = (await Client.to(address)).ask("x");
        await begun.promise;
        const closing = server.serverClose();
        go.resolve();
        expect(text(await reply)).toBe("late");
        await closing;
        const inUse = { code: "EADDRINUSE" };
        const there = await up(new Server(`127.0.0.1:${address.port}`, Echo)).catch(
          (error: unknown) => error,
        );
        if (there instanceof SocketError && there.code === inUse.code) return false;
        expect(there).toEqual(address);
        await expect(new Server(`127.0.0.1:${address.port}`, Echo).listen()).rejects.toMatchObject(inUse);
        return true;
      };
      for (let tries = 1; !(await reopened()); tries++) expect(tries).toBeLessThan(10);
    });
  });
}

test("UDPServer takes one datagram at a time, in order; ThreadingUDPServer takes them as they come", async () => {
  const order: string[] = [];
  class Gate extends DatagramRequestHandler<{ gates: Map<string, PromiseWithResolvers<void>> }> {
    override async handle() {
      const name = text(this.request.data);
      order.push(`begin ${name}`);
      await this.context.gates.get(name)?.promise;
      order.push(`end ${name}`);
      this.wfile.write(name);
    }
  }
  for (const [Server, expected] of [
    [UDPServer, ["begin a", "end a", "begin b", "end b"]],
    [ThreadingUDPServer, ["begin a", "begin b", "end b", "end a"]],
  ] as const) {
    order.length = 0;
    const gates = new Map([["a", Promise.withResolvers<void>()]]);
    const server = new Server("127.0.0.1:0", Gate, { context: { gates } });
    const address = await up(server as unknown as UDPServer);
    const one = await Client.to(address);
    const two = await Client.to(address);
    const a = one.ask("a");
    const b = two.ask("b");
    if (Server === ThreadingUDPServer) await b;
    gates.get("a")?.resolve();
    await Promise.all([a, b]);
    expect(order).toEqual(expected);
  }
});

test("a handler that does not wait costs no promise, from the socket's message to its reply", async () => {
  const address = await up(new ThreadingUDPServer("udp://127.0.0.1:0", Echo));
  const client = dgram.createSocket("udp4");
  cleanups.push(() => client.close());
  await new Promise<void>((resolve) => client.connect(address.port, address.hostname, resolve));
  let promises = 0;
  let replies = 0;
  const hook = createHook({
    init: (_, type) => {
      if (type === "PROMISE") promises++;
    },
  });
  await new Promise<void>((resolve) => {
    client.on("message", () => {
      if (++replies < 1_000) client.send("x");
      else {
        hook.disable();
        resolve();
      }
      if (replies === 1) hook.enable(); // from the second on: what is made once is made
    });
    client.send("x");
  });
  expect(promises).toBeLessThan(200); // one for each would be 1 000; what there are is the test runner's own
});
