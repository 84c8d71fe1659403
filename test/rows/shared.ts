/** The rows' tests that are the same in Node and in a Worker: each is given the place it runs in. */

import * as core from "socklet";
import {
  type AddressLike,
  AF_INET,
  AF_INET6,
  htonl,
  htons,
  IPPROTO_RAW,
  IPPROTO_TCP,
  inetAton,
  inetNtoa,
  inetNtop,
  inetPton,
  isLoopback,
  isPrivate,
  isReserved,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_PEEK,
  MSG_TRUNC,
  MSG_WAITALL,
  ntohl,
  ntohs,
  SHUT_RD,
  SHUT_WR,
  SOCK_STREAM,
  select,
  type UnconnectedSocket,
} from "socklet";
import { expect } from "vitest";
import type { Row } from "./rows.ts";

/** What a row's test is given of its place. */
export interface RowPlace {
  /** The names that the place's entry exports. */
  readonly exports: readonly string[];
  socket(): UnconnectedSocket;
  /** A server that sends back what it gets. */
  readonly echo: AddressLike & { readonly hostname: string; readonly port: number };
  /** Nothing listens there. */
  readonly nobody: AddressLike;
  /** What `connectEx` gives for it. */
  readonly refused: number | string;
  readonly getservbyname: (name: string, protocol?: string) => number;
  readonly getservbyport: (port: number, protocol?: string) => string;
  readonly getprotobyname: (name: string) => number;
  readonly gethostbyname: (name: string) => Promise<string>;
}

export type RowTest<Place> = (place: Place) => void | Promise<void>;
export type RowTests<Place> = Partial<Record<Row["id"], RowTest<Place>>>;

export const text = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);

export const code = (expected: string): unknown => expect.objectContaining({ code: expected });

/** The tutorial's greeting: it has 32 bytes, and not the 31 of its transcript. */
export const GREETING = "Hello, I come from pythontik.com";

/** A socket that is connected to the echo server. */
export const connected = async (place: RowPlace): Promise<UnconnectedSocket> => {
  const socket = place.socket();
  await socket.connect(place.echo);
  return socket;
};

export const sharedRows: RowTests<RowPlace> = {
  async S1({ socket }) {
    await expect(socket().connect("127.0.0.1:65536")).rejects.toThrow(/port .* 0 to 65535, not 65536/);
    await expect(socket().connect("127.0.0.1:0")).rejects.toThrow(RangeError);
  },
  S2() {
    expect([core.IPPORT_RESERVED, core.IPPORT_USERRESERVED]).toEqual([1024, 5000]);
  },
  S3() {
    expect(["192.168.1.4", "10.0.0.1", "172.16.0.1", "222.76.216.16"].map(isPrivate)).toEqual([
      true,
      true,
      true,
      false,
    ]);
    expect(["127.0.0.1", "127.255.0.1", "0x7f.1", "::1", "::ffff:127.0.0.1"].every(isLoopback)).toBe(true);
    expect(isReserved("240.0.0.1")).toBe(true);
  },
  async S6({ gethostbyname }) {
    expect(await gethostbyname("localhost")).toBe("127.0.0.1");
    expect(await gethostbyname("")).toBe("0.0.0.0");
    expect(await gethostbyname("<broadcast>")).toBe("255.255.255.255");
    expect(await gethostbyname("127.1")).toBe("127.0.0.1");
    await expect(gethostbyname("::1")).rejects.toEqual(code("ERR_NAME"));
  },
  async S7({ gethostbyname }) {
    expect(inetNtoa(inetAton("222.76.216.16"))).toBe("222.76.216.16");
    for (const mangled of ["192. 168.1.4", " 1.2.3.4", "1.2.3."]) {
      expect(() => inetAton(mangled, { strict: true })).toThrow(code("ERR_INVALID_ADDRESS"));
      expect(() => inetPton(AF_INET, mangled)).toThrow(code("ERR_INVALID_ADDRESS"));
    }
    expect(await gethostbyname("192.168.1.4")).toBe("192.168.1.4");
  },
  S11({ getservbyname }) {
    expect([getservbyname("http", "tcp"), getservbyname("telnet", "tcp"), getservbyname("www")]).toEqual([
      80, 23, 80,
    ]);
    expect(() => getservbyname("HTTP")).toThrow(code("ERR_NAME"));
  },
  S11b({ getservbyport }) {
    expect([getservbyport(80), getservbyport(25, "tcp")]).toEqual(["http", "smtp"]);
    expect(() => getservbyport(70_000)).toThrow(RangeError);
  },
  S14() {
    expect([...inetAton("222.76.216.16")]).toEqual([222, 76, 216, 16]);
    const forms = ["127.1", "0x7f.1", "017700000001", "2130706433", "127.0.0.1 x"];
    expect(forms.map((form) => inetNtoa(inetAton(form)))).toEqual(forms.map(() => "127.0.0.1"));
    for (const form of forms) expect(() => inetAton(form, { strict: true })).toThrow();
    for (const bad of ["256.1.1.1", "1.2.3.4.5", "", "4294967296"]) {
      expect(() => inetAton(bad)).toThrow(code("ERR_INVALID_ADDRESS"));
    }
  },
  S15() {
    expect(inetNtoa(Uint8Array.of(222, 76, 216, 16))).toBe("222.76.216.16");
    expect(() => inetNtoa(new Uint8Array(5))).toThrow(code("ERR_INVALID_ADDRESS"));
  },
  S16() {
    expect(inetAton("1.2.3.4")).toEqual(Uint8Array.of(1, 2, 3, 4));
  },
  S17() {
    expect(inetNtop(AF_INET6, inetPton(AF_INET6, "2001:db8:0:0:1:0:0:1"))).toBe("2001:db8::1:0:0:1");
    expect(inetNtop(AF_INET6, inetPton(AF_INET6, "::ffff:1.2.3.4"))).toBe("::ffff:1.2.3.4");
    expect(() => inetPton(AF_INET, "010.0.0.1")).toThrow(code("ERR_INVALID_ADDRESS"));
    expect(() => inetPton(99, "::1")).toThrow(code("EAFNOSUPPORT"));
  },
  S18() {
    expect([core.INADDR_ANY, core.INADDR_BROADCAST, core.INADDR_LOOPBACK]).toEqual([
      0, 4294967295, 2130706433,
    ]);
  },
  S19() {
    expect([htons(20000), htonl(20000), ntohl(541982720), ntohs(8270)]).toEqual([
      8270, 541982720, 20000, 20000,
    ]);
    expect(() => htons(65536)).toThrow(RangeError);
    expect(() => htonl(2 ** 32)).toThrow(RangeError);
    expect(() => htons(1.5)).toThrow(TypeError);
  },
  S20({ exports }) {
    expect([...exports, ...Object.keys(core)]).not.toContain("nthol");
    expect(Object.keys(core)).toContain("ntohl");
  },
  S21({ exports }) {
    expect(exports).toEqual(
      expect.arrayContaining([
        ...["socket", "createConnection", "gethostname", "gethostbyname", "gethostbynameEx", "gethostbyaddr"],
        ...["getfqdn", "getaddrinfo", "getnameinfo", "getservbyname", "getservbyport", "getprotobyname"],
      ]),
    );
  },
  async S22({ socket }) {
    await using made = socket();
    expect([made.family, made.type, made.proto]).toEqual([AF_INET, SOCK_STREAM, 0]);
    await expect(made.recv()).rejects.toEqual(code("ENOTCONN"));
  },
  S25({ getprotobyname }) {
    expect([getprotobyname("tcp"), getprotobyname("udp"), getprotobyname("icmp")]).toEqual([6, 17, 1]);
    expect(() => getprotobyname("nonsense")).toThrow(code("ERR_NAME"));
    expect([IPPROTO_TCP, IPPROTO_RAW]).toEqual([6, 255]);
  },
  async S28(place) {
    const socket = await connected(place);
    await socket.close();
    await socket.close();
    await expect(socket.recv()).rejects.toEqual(code("EBADF"));
    await expect(socket.send("x")).rejects.toEqual(code("EBADF"));
    expect(socket.fileno()).toBe(-1);
    const disposed = await (async () => {
      await using inner = await connected(place);
      return inner;
    })();
    expect(disposed.closed).toBe(true);
  },
  async S29(place) {
    await using socket = await connected(place);
    await socket.sendall("all of it");
    await socket.shutdown(SHUT_WR);
    await expect(socket.send("more")).rejects.toEqual(code("EPIPE"));
    expect(text(await socket.recv(100, MSG_WAITALL))).toBe("all of it"); // the echo ended because it read our end
    expect(await socket.recv()).toBeNull();

    await using deaf = await connected(place);
    await deaf.shutdown(SHUT_RD);
    expect(await deaf.recv()).toBeNull();
    await expect(deaf.shutdown(3)).rejects.toThrow(RangeError);
  },
  S33() {
    expect(core.SOMAXCONN).toBe(4096);
  },
  async S36(place) {
    await using socket = await connected(place);
    await expect(socket.connect(place.echo)).rejects.toEqual(code("EISCONN"));
    const failed = await place
      .socket()
      .connect(place.nobody)
      .catch((error) => error);
    expect(failed).toBeInstanceOf(core.SocketError);
    expect([failed.code, failed.errno]).toContain(place.refused);
  },
  async S37(place) {
    await using socket = place.socket();
    expect(await socket.connectEx(place.nobody)).toBe(place.refused);
    expect(await socket.connectEx(place.echo)).toBe(0);
  },
  async S39(place) {
    await using socket = await connected(place);
    expect(await socket.send(GREETING)).toBe(32);
    expect(await socket.send(new TextEncoder().encode(GREETING))).toBe(32);
    expect(await socket.send("é")).toBe(2);
    expect(text(await socket.recv(66, MSG_WAITALL))).toBe(`${GREETING}${GREETING}é`);
  },
  async S41(place) {
    await using socket = await connected(place);
    const much = new Uint8Array(1_000_000).map((_, i) => i);
    const [, back] = await Promise.all([socket.sendall(much), socket.recv(much.length, MSG_WAITALL)]);
    expect(back?.every((byte, i) => byte === (i & 255))).toBe(true);
  },
  async S42(place) {
    await using socket = await connected(place);
    await socket.sendall("abcdef");
    expect(text(await socket.recv(2))).toMatch(/^ab?$/);
    const buffer = new Uint8Array(16);
    expect(await socket.recvInto(buffer)).toBeGreaterThan(0);
    await socket.shutdown(SHUT_WR);
    let rest = 0;
    for await (const piece of socket) rest += piece.length;
    expect(rest).toBeLessThan(5);
    expect(await socket.recv()).toBeNull();
    expect(await socket.recv()).toBeNull();
  },
  async S45(place) {
    await using socket = await connected(place);
    await socket.sendall("Hello");
    expect(text(await socket.recv(5, MSG_PEEK | MSG_WAITALL))).toBe("Hello");
    expect(text(await socket.recv(5, MSG_PEEK))).toBe("Hello");
    expect(text(await socket.recv(5))).toBe("Hello");
    await expect(socket.recv(5, MSG_PEEK | MSG_DONTWAIT)).rejects.toEqual(code("EWOULDBLOCK"));
  },
  async S46b(place) {
    await using socket = await connected(place);
    await expect(socket.recv(1, MSG_DONTWAIT)).rejects.toEqual(code("EWOULDBLOCK"));
    expect(await socket.send("abc", MSG_NOSIGNAL)).toBe(3);
    expect(text(await socket.recv(3, MSG_WAITALL))).toBe("abc");
    await expect(socket.recv(1, MSG_TRUNC)).rejects.toEqual(code("ERR_UNSUPPORTED"));
  },
  async S47(place) {
    await using socket = await connected(place);
    expect(socket.makefile("rb")).toBe(socket.rfile);
    expect(socket.makefile("wb")).toBe(socket.wfile);
    const file = socket.makefile("rw", { newline: "\r\n" });
    await file.write("first\nzwölf\n");
    await file.flush();
    expect(await file.readline()).toBe("first\r\n");
    expect(await file.readline()).toBe("zwölf\r\n");
    await file.close();
    expect(await socket.send("still open")).toBe(10);
    expect(() => socket.makefile("zz" as "r")).toThrow(RangeError);
  },
  async S48(place) {
    await using socket = place.socket();
    expect(() => socket.getpeername()).toThrow(code("ENOTCONN"));
    await socket.connect(place.echo);
    expect(socket.getpeername()).toMatchObject({ hostname: place.echo.hostname, port: place.echo.port });
  },
  async S49(place) {
    await using socket = await connected(place);
    socket.setblocking(false);
    await expect(socket.recv()).rejects.toEqual(code("EWOULDBLOCK"));
    expect(await select([socket], [socket], [], 0)).toEqual([[], [socket], []]);
    await socket.send("x");
    expect(await select([socket], [], [])).toEqual([[socket], [], []]);
    expect(text(await socket.recv())).toBe("x");
    socket.settimeout(1);
    await expect(socket.recv()).rejects.toEqual(code("ETIMEDOUT"));
    expect([socket.gettimeout(), socket.getblocking()]).toEqual([1, true]);
    const watched = core.poll();
    watched.register(socket, core.POLLIN | core.POLLOUT);
    expect(await watched.poll()).toEqual([[socket, core.POLLOUT]]);
  },
  S54() {
    expect([core.SOL_SOCKET, core.SOL_TCP, core.SOL_IP, core.SOL_UDP]).toEqual([1, 6, 0, 17]);
  },
};
