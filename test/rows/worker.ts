/** The rows' tests that are a Worker's own. */

import {
  AF_INET,
  AF_UNIX,
  IP_TTL,
  IPPROTO_RAW,
  MSG_DONTROUTE,
  MSG_OOB,
  SHUT_WR,
  SO_SNDBUF,
  SOCK_DGRAM,
  SOCK_RAW,
  SOL_IP,
  SOL_SOCKET,
  StreamSocket,
  type UnconnectedSocket,
} from "socklet";
import { expect } from "vitest";
import { code, connected, type RowPlace, type RowTests, sharedRows } from "./shared.ts";

interface WorkerSocket extends UnconnectedSocket {
  bind(address: string): Promise<void>;
  listen(): Promise<void>;
  accept(): Promise<never>;
}

type Host = readonly [string, readonly string[], readonly string[]];

/** What a Worker's rows are given beside. */
export interface WorkerPlace extends RowPlace {
  socket(family?: number, type?: number, proto?: number): WorkerSocket;
  readonly gethostname: () => string;
  readonly gethostbynameEx: (name: string) => Promise<Host>;
  readonly gethostbyaddr: (address: string) => Promise<Host>;
  readonly getfqdn: (name?: string) => Promise<string>;
  readonly getaddrinfo: (host: string, port: string) => Promise<readonly { address: unknown }[]>;
  readonly getnameinfo: (address: string) => Promise<[string, string]>;
}

const unsupported = code("ERR_UNSUPPORTED");

export const workerRows: RowTests<WorkerPlace> = {
  ...sharedRows,
  async S4(place) {
    await using stream = await connected(place);
    const pieces = Array.from({ length: 200 }, (_, i) => `${i} `);
    for (const piece of pieces) stream.wfile.write(piece);
    await stream.shutdown(SHUT_WR);
    expect(await stream.makefile().read()).toBe(pieces.join(""));
    expect(() => place.socket(AF_INET, SOCK_DGRAM)).toThrow(unsupported);
  },
  S5({ gethostname }) {
    expect(gethostname()).toBe("localhost");
  },
  async S8({ gethostbynameEx }) {
    expect(await gethostbynameEx("localhost")).toEqual(["localhost", [], ["127.0.0.1"]]);
  },
  async S9({ gethostbynameEx }) {
    const [name, aliases, addresses] = await gethostbynameEx("web.example.test");
    expect([name, aliases]).toEqual(["www.example.test", ["web.example.test"]]);
    expect(addresses.length).toBeGreaterThan(0);
  },
  async S10({ gethostbyaddr }) {
    expect(await gethostbyaddr("192.0.2.80")).toEqual([
      "www.example.test",
      ["web.example.test"],
      ["192.0.2.80"],
    ]);
  },
  async S12({ getfqdn }) {
    expect(await getfqdn("192.0.2.80")).toBe("www.example.test");
    expect(await getfqdn("nowhere.invalid")).toBe("nowhere.invalid");
  },
  async S13({ getaddrinfo, getnameinfo }) {
    expect((await getaddrinfo("127.0.0.1", "http"))[0]?.address).toEqual({
      family: "IPv4",
      hostname: "127.0.0.1",
      port: 80,
    });
    expect(await getnameinfo("192.0.2.80:80")).toEqual(["www.example.test", "http"]);
  },
  S23({ socket }) {
    expect(() => socket(AF_INET, SOCK_DGRAM)).toThrow(/ERR_UNSUPPORTED.*relay/);
    expect(() => socket(AF_UNIX)).toThrow(/ERR_UNSUPPORTED.*tcp:/);
  },
  S24({ socket }) {
    expect(IPPROTO_RAW).toBe(255);
    expect(() => socket(AF_INET, SOCK_RAW, IPPROTO_RAW)).toThrow(unsupported);
  },
  S26({ exports }) {
    expect(exports).not.toContain("fromfd");
    expect(exports).not.toContain("socketpair");
  },
  async S27(place) {
    await using socket = await connected(place);
    expect(() => socket.fileno()).toThrow(unsupported);
  },
  async S30({ socket }) {
    await expect(socket().bind("127.0.0.1:0")).rejects.toThrow(/ERR_UNSUPPORTED.*WorkerServer/);
  },
  async S31({ socket, exports }) {
    await expect(socket().listen()).rejects.toThrow(/ERR_UNSUPPORTED.*WorkerServer/);
    expect(exports).not.toContain("createServer");
  },
  async S32({ socket }) {
    await expect(socket().listen()).rejects.toThrow(unsupported);
  },
  async S34({ socket }) {
    await expect(socket().accept()).rejects.toThrow(/ERR_UNSUPPORTED.*WorkerServer/);
  },
  async S35(place) {
    await using socket = await connected(place);
    expect(socket.getpeername()).toMatchObject({ port: place.echo.port });
    expect(socket.getsockname()).toBeNull();
  },
  S38({ socket }) {
    expect(() => socket(AF_INET, SOCK_DGRAM)).toThrow(unsupported);
  },
  S40({ socket }) {
    expect(() => socket(AF_INET, SOCK_DGRAM)).toThrow(unsupported);
    expect("sendto" in StreamSocket.prototype).toBe(false);
  },
  S43({ socket }) {
    expect(() => socket(AF_INET, SOCK_DGRAM)).toThrow(unsupported);
  },
  async S44(place) {
    await using socket = await connected(place);
    await expect(socket.send("!", MSG_OOB)).rejects.toEqual(unsupported);
    await expect(socket.recv(1, MSG_OOB)).rejects.toEqual(unsupported);
  },
  async S46(place) {
    await using socket = await connected(place);
    await expect(socket.send("x", MSG_DONTROUTE)).rejects.toEqual(unsupported);
  },
  async S50(place) {
    await using socket = await connected(place);
    expect(() => socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_535)).toThrow(unsupported);
  },
  async S51(place) {
    await using socket = await connected(place);
    expect(() => socket.getsockopt(SOL_SOCKET, SO_SNDBUF)).toThrow(unsupported);
  },
  async S52(place) {
    await using socket = await connected(place);
    expect(() => socket.getsockopt(SOL_SOCKET, SO_SNDBUF, 4)).toThrow(unsupported);
  },
  async S53(place) {
    await using socket = await connected(place);
    expect(() => socket.getsockopt(SOL_IP, IP_TTL)).toThrow(unsupported);
  },
};
