/** The rows' tests that are Node's own. */

import { openSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import { join } from "node:path";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  EAI_AGAIN,
  EAI_NODATA,
  EAI_NONAME,
  type InternetAddress,
  IP_TTL,
  IPPROTO_RAW,
  MSG_DONTROUTE,
  MSG_OOB,
  MSG_WAITALL,
  POLLPRI,
  SHUT_WR,
  SO_ACCEPTCONN,
  SO_KEEPALIVE,
  SO_RCVBUF,
  SO_REUSEADDR,
  SO_SNDBUF,
  SO_TYPE,
  SOCK_DGRAM,
  SOCK_RAW,
  SOCK_STREAM,
  SOL_IP,
  SOL_SOCKET,
  SOL_TCP,
  StreamSocket,
  select,
  TCP_NODELAY,
} from "socklet";
import * as emulator from "socklet/emulator";
import { fromfd, socket, ThreadingTCPServer } from "socklet/emulator";
import { expect } from "vitest";
import { Echo } from "../../examples/echo.ts";
import { reservePort } from "../peers/ports.ts";
import { code, GREETING, type RowPlace, type RowTests, sharedRows, text } from "./shared.ts";

/** What Node's rows are given beside. */
export interface NodePlace extends RowPlace {
  /** Whether the package `koffi` may be used. */
  readonly native: boolean;
}

const unsupported = code("ERR_UNSUPPORTED");

/** Two ends of one TCP connection: the listener's and the dialler's. */
const pair = async () => {
  const listener = socket();
  await listener.bind("127.0.0.1:0");
  await listener.listen();
  const near = socket();
  await near.connect(listener.getsockname() as InternetAddress);
  const [far, address] = await listener.accept();
  return {
    listener,
    near,
    far,
    address,
    async [Symbol.asyncDispose]() {
      await Promise.all([listener.close(), near.close(), far.close()]);
    },
  };
};

/** Two datagram sockets that are bound to this machine's own address. */
const datagrams = async () => {
  const [one, other] = [socket(AF_INET, SOCK_DGRAM), socket(AF_INET, SOCK_DGRAM)];
  await one.bind("127.0.0.1:0");
  await other.bind("127.0.0.1:0");
  return {
    one,
    other,
    async [Symbol.asyncDispose]() {
      await Promise.all([one.close(), other.close()]);
    },
  };
};

const here = (bound: { getsockname(): unknown }): InternetAddress => bound.getsockname() as InternetAddress;

export const nodeRows: RowTests<NodePlace> = {
  ...sharedRows,
  async S4() {
    await using ends = await pair();
    const pieces = Array.from({ length: 200 }, (_, i) => `${i} `);
    for (const piece of pieces) ends.near.wfile.write(piece);
    await ends.near.shutdown(SHUT_WR);
    expect(await ends.far.makefile().read()).toBe(pieces.join(""));

    await using both = await datagrams();
    for (const piece of ["one", "", "three"]) await both.one.sendto(piece, here(both.other));
    const came = [await both.other.recv(), await both.other.recv(), await both.other.recv()];
    expect(came.map(text)).toEqual(["one", "", "three"]); // each whole, on this machine in order
  },
  S5() {
    expect(emulator.gethostname()).toBe(os.hostname());
  },
  async S8() {
    const [name, , addresses] = await emulator.gethostbynameEx("localhost");
    expect(name).toBe("localhost");
    expect(addresses).toContain("127.0.0.1");
  },
  async S9() {
    expect(await emulator.gethostbynameEx("192.168.1.4")).toEqual(["192.168.1.4", [], ["192.168.1.4"]]);
    await expect(emulator.gethostbynameEx("192. 168.1.4")).rejects.toEqual(code("ERR_NAME"));
  },
  async S10() {
    const [name, , addresses] = await emulator.gethostbyaddr("127.0.0.1");
    expect([typeof name, addresses]).toEqual(["string", ["127.0.0.1"]]);
  },
  async S12() {
    expect(await emulator.getfqdn("nowhere.invalid")).toBe("nowhere.invalid");
    expect(await emulator.getfqdn()).toBeTypeOf("string");
  },
  async S13() {
    const [found] = await emulator.getaddrinfo("127.0.0.1", "http", { type: SOCK_STREAM });
    expect(found).toMatchObject({
      family: AF_INET,
      proto: 6,
      address: { family: "IPv4", hostname: "127.0.0.1", port: 80 },
    });
    expect((await emulator.getnameinfo("127.0.0.1:80"))[1]).toBe("http");
  },
  async S23({ native }) {
    for (const family of [AF_INET, AF_INET6]) {
      await using stream = socket(family);
      await using datagram = socket(family, SOCK_DGRAM);
      expect([stream.family, datagram.family, stream.type, datagram.type]).toEqual([
        family,
        family,
        SOCK_STREAM,
        SOCK_DGRAM,
      ]);
    }
    if (!native) {
      expect(() => socket(AF_UNIX, SOCK_DGRAM)).toThrow(/ERR_UNSUPPORTED.*npm install koffi/);
      return;
    }
    const folder = await mkdtemp(join(os.tmpdir(), "socklet-"));
    const path = join(folder, "datagrams");
    await using receiver = socket(AF_UNIX, SOCK_DGRAM);
    await using sender = socket(AF_UNIX, SOCK_DGRAM);
    await receiver.bind({ path });
    await sender.sendto("over a path", { path });
    expect((await receiver.recvfrom()).map((part) => part && text(part as Uint8Array))).toEqual([
      "over a path",
      null,
    ]);
    await rm(folder, { recursive: true });
  },
  S24() {
    expect(IPPROTO_RAW).toBe(255);
    expect(() => socket(AF_INET, SOCK_RAW, IPPROTO_RAW)).toThrow(unsupported);
  },
  async S26({ native }) {
    await using ends = await pair();
    if (!native) {
      expect(() => fromfd(ends.near.fileno(), AF_INET, SOCK_STREAM)).toThrow(/ERR_UNSUPPORTED.*koffi/);
      return;
    }
    const again = fromfd(ends.near.fileno(), AF_INET, SOCK_STREAM);
    expect(again.fileno()).not.toBe(ends.near.fileno());
    await again.sendall("by another descriptor");
    expect(text(await ends.far.recv())).toBe("by another descriptor");
    await again.close();
    expect(() => fromfd(openSync("/dev/null", "r"), AF_INET, SOCK_STREAM)).toThrow(code("ENOTSOCK"));
  },
  async S27() {
    await using ends = await pair();
    expect(ends.near.fileno()).toBeGreaterThan(2);
    expect(ends.listener.fileno()).toBeGreaterThan(2);
    await ends.near.close();
    expect(ends.near.fileno()).toBe(-1);
  },
  async S30() {
    await using bound = socket();
    await bound.bind("127.0.0.1:0");
    expect(here(bound).port).toBeGreaterThan(0);
    await using late = socket();
    await bound.listen();
    await expect(late.bind(here(bound))).rejects.toEqual(code("EADDRINUSE"));
    const unknown = await late.bind("name.invalid:127").catch((error) => error);
    expect(unknown).toEqual(code("ERR_NAME"));
    expect([EAI_NONAME, EAI_NODATA, EAI_AGAIN]).toContain(unknown.errno); // what the resolver here says of it
    await expect(late.bind("127.0.0.1:65536")).rejects.toThrow(RangeError);
  },
  async S31() {
    await using listener = socket();
    await expect(listener.accept()).rejects.toEqual(code("EINVAL"));
    await listener.bind("127.0.0.1:0");
    await listener.listen(1);
    await using client = socket();
    expect(await client.connectEx(here(listener))).toBe(0);
  },
  async S32() {
    // The one that is served holds the server; the next waits; the one after it is refused.
    const entered = Promise.withResolvers<void>();
    const hold = Promise.withResolvers<void>();
    class Held extends Echo {
      override async handle(): Promise<void> {
        entered.resolve();
        await hold.promise;
      }
    }
    await using server = new emulator.TCPServer("127.0.0.1:0", Held, { requestQueueSize: 1 });
    const address = (await server.listen()) as InternetAddress;
    void server.serveForever();
    await using first = await emulator.createConnection(address);
    await entered.promise;
    await using second = await emulator.createConnection(address);
    const third = emulator.createConnection(address).then((connection) => connection.recv());
    await expect(third).rejects.toEqual(code("ECONNRESET"));
    hold.resolve();
    expect([await first.recv(), await second.recv()]).toEqual([null, null]);
  },
  async S34() {
    await using ends = await pair();
    expect(ends.far).toBeInstanceOf(StreamSocket);
    expect(ends.address).toEqual(ends.near.getsockname());
    ends.listener.setblocking(false);
    await expect(ends.listener.accept()).rejects.toEqual(code("EWOULDBLOCK"));
    ends.listener.settimeout(1);
    await expect(ends.listener.accept()).rejects.toEqual(code("ETIMEDOUT"));
    ends.listener.settimeout(null);
    await using next = socket();
    await next.connect(here(ends.listener));
    for await (const [connection, address] of ends.listener.connections()) {
      expect(address).toEqual(next.getsockname());
      await connection.close();
      break;
    }
  },
  async S35() {
    await using ends = await pair();
    expect(ends.far.getpeername()).toEqual(ends.near.getsockname());
    expect(ends.far.getsockname()).toEqual(ends.near.getpeername());
    expect(here(ends.near).port).not.toBe(here(ends.listener).port);
  },
  async S38() {
    await using both = await datagrams();
    await using stranger = socket(AF_INET, SOCK_DGRAM);
    await both.one.connect(here(both.other));
    await stranger.sendto("from a stranger", here(both.one));
    await both.one.send("ping");
    const [ping, from] = await both.other.recvfrom();
    expect([text(ping), from]).toEqual(["ping", both.one.getsockname()]);
    await both.other.sendto("pong", here(both.one));
    expect(text(await both.one.recv())).toBe("pong");
    expect(both.one.getpeername()).toEqual(both.other.getsockname());
  },
  async S40() {
    await using both = await datagrams();
    expect(await both.one.sendto(GREETING, here(both.other))).toBe(32);
    expect(text(await both.other.recv())).toBe(GREETING);
    expect(await both.one.sendto(new Uint8Array(65_507), here(both.other))).toBe(65_507);
    expect((await both.other.recv()).length).toBe(65_507);
    await expect(both.one.sendto(new Uint8Array(65_508), here(both.other))).rejects.toEqual(code("EMSGSIZE"));
  },
  async S43() {
    await using both = await datagrams();
    await both.one.sendto("who am I?", here(both.other));
    const [bytes, address] = await both.other.recvfrom(3);
    expect([text(bytes), address]).toEqual(["who", both.one.getsockname()]);
  },
  async S44({ native }) {
    await using ends = await pair();
    if (!native) {
      await expect(ends.near.send("!", MSG_OOB)).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
      return;
    }
    await expect(ends.far.recv(1, MSG_OOB)).rejects.toEqual(code("EINVAL"));
    const urgent = select([], [], [ends.far]);
    expect(await ends.near.send("!", MSG_OOB)).toBe(1);
    expect(await urgent).toEqual([[], [], [ends.far]]);
    expect(ends.far.readiness(POLLPRI)).toBe(POLLPRI);
    expect(text(await ends.far.recv(1, MSG_OOB))).toBe("!");
    await ends.far.send("?", MSG_OOB);
    await select([], [], [ends.near]);
    expect(text(await ends.near.recv(1, MSG_OOB))).toBe("?");
  },
  async S46({ native }) {
    await using ends = await pair();
    if (!native) {
      await expect(ends.near.send("x", MSG_DONTROUTE)).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
      return;
    }
    expect(await ends.near.send("straight on", MSG_DONTROUTE)).toBe(11);
    expect(text(await ends.far.recv(11, MSG_WAITALL))).toBe("straight on");
  },
  async S50({ native }) {
    await using ends = await pair();
    for (const end of [ends.near, ends.far]) {
      end.setsockopt(SOL_SOCKET, SO_KEEPALIVE, true);
      expect(end.getsockopt(SOL_SOCKET, SO_KEEPALIVE)).toBe(1);
      end.setsockopt(SOL_TCP, TCP_NODELAY, 1);
      expect(end.getsockopt(SOL_TCP, TCP_NODELAY)).toBe(1);
    }
    await using fresh = socket();
    fresh.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    if (native) {
      expect(() => ends.near.setsockopt(SOL_TCP, 9999, 1)).toThrow(code("ENOPROTOOPT"));
      ends.near.setsockopt(SOL_SOCKET, SO_RCVBUF, Uint8Array.of(0, 64, 0, 0));
      expect(ends.near.getsockopt(SOL_SOCKET, SO_RCVBUF)).toBe(32_768);
    } else {
      expect(() => ends.near.setsockopt(SOL_TCP, 9999, 1)).toThrow(/ERR_UNSUPPORTED.*koffi/);
    }
  },
  async S51({ native }) {
    await using ends = await pair();
    expect(ends.near.getsockopt(SOL_SOCKET, SO_TYPE)).toBe(SOCK_STREAM);
    expect(ends.listener.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)).toBe(1);
    expect(ends.near.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)).toBe(0);
    if (native) expect(ends.near.getsockopt(SOL_SOCKET, SO_TYPE, 4)).toEqual(Uint8Array.of(1, 0, 0, 0));
  },
  async S52({ native }) {
    await using both = await datagrams();
    both.one.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_535);
    expect(both.one.getsockopt(SOL_SOCKET, SO_SNDBUF)).toBe(131_070);
    await using ends = await pair();
    for (const end of [ends.near, ends.far, ends.listener]) {
      if (native) {
        end.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_535);
        expect(end.getsockopt(SOL_SOCKET, SO_SNDBUF)).toBe(131_070);
      } else {
        expect(() => end.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_535)).toThrow(/ERR_UNSUPPORTED.*koffi/);
      }
    }
  },
  async S53({ native }) {
    await using ends = await pair();
    for (const end of [ends.near, ends.far, ends.listener]) {
      if (native) expect(end.getsockopt(SOL_IP, IP_TTL)).toBe(64);
      else expect(() => end.getsockopt(SOL_IP, IP_TTL)).toThrow(/ERR_UNSUPPORTED.*koffi/);
    }
  },
};

/** The place that Node's rows run in, and what ends it. */
export const nodePlace = async (native: boolean): Promise<NodePlace & AsyncDisposable> => {
  const server = new ThreadingTCPServer("127.0.0.1:0", Echo);
  const echo = (await server.listen()) as InternetAddress;
  void server.serveForever();
  return {
    ...emulator,
    socket: () => socket(),
    exports: Object.keys(emulator),
    native,
    echo,
    nobody: `127.0.0.1:${await reservePort()}`,
    refused: 111, // ECONNREFUSED
    [Symbol.asyncDispose]: () => server.serverClose(),
  };
};
