/** Flags, blocking, `select()` and `poll()` over streams in memory: what is the same in every place. */

import { expect, test } from "vitest";
import { SocketError } from "../../core/errors.ts";
import {
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_OOB,
  MSG_PEEK,
  MSG_TRUNC,
  MSG_WAITALL,
  POLLHUP,
  POLLIN,
  POLLNVAL,
  POLLOUT,
  POLLPRI,
  SHUT_RDWR,
  SHUT_WR,
} from "../../core/net/constants.ts";
import { poll, select } from "../../core/sockets/select.ts";
import { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { memoryPair } from "../../core/testing/memory-streams.ts";

const text = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);
const code = (expected: string) => expect.objectContaining({ code: expected });

test("MSG_PEEK gives the same bytes twice, then they are gone", async () => {
  const [near, far] = memoryPair();
  await far.sendall("Hello");
  expect(text(await near.recv(100, MSG_PEEK))).toBe("Hello");
  expect(text(await near.recv(2, MSG_PEEK))).toBe("He");
  expect(text(await near.recv())).toBe("Hello");
  await far.close();
  expect(await near.recv(1, MSG_PEEK)).toBeNull();
});

test("MSG_PEEK looks across pieces, and what it gave is a copy", async () => {
  const [near, far] = memoryPair();
  await far.sendall("ab");
  await near.recv(1, MSG_PEEK);
  await far.sendall("x".repeat(600)); // a piece of its own
  await far.sendall("yz");
  const seen = (await near.recv(604, MSG_PEEK | MSG_WAITALL)) as Uint8Array;
  expect(text(seen)).toBe(`ab${"x".repeat(600)}yz`);
  seen.fill(0);
  expect(text(await near.rfile.readexactly(604))).toBe(`ab${"x".repeat(600)}yz`);
});

test("MSG_WAITALL waits for all, and gives fewer only at the end", async () => {
  const [near, far] = memoryPair();
  const whole = near.recv(6, MSG_WAITALL);
  await far.sendall("abc");
  await far.sendall("defgh");
  expect(text(await whole)).toBe("abcdef");
  const rest = near.recv(6, MSG_WAITALL);
  await far.close();
  expect(text(await rest)).toBe("gh");
  expect(await near.recv(6, MSG_WAITALL)).toBeNull();
});

test("recvInto takes flags, too", async () => {
  const [near, far] = memoryPair();
  await far.sendall("abc");
  const buffer = new Uint8Array(8);
  expect(await near.recvInto(buffer, MSG_PEEK)).toBe(3);
  expect(await near.recvInto(buffer.subarray(3, 5), MSG_WAITALL)).toBe(2);
  expect(text(buffer)).toBe("abcab\0\0\0");
});

test("MSG_DONTWAIT throws EWOULDBLOCK where it would wait, and only then", async () => {
  const [near, far] = memoryPair();
  await expect(near.recv(1, MSG_DONTWAIT)).rejects.toEqual(code("EWOULDBLOCK"));
  await far.sendall("a");
  expect(text(await near.recv(1, MSG_DONTWAIT))).toBe("a");
  expect(await near.send("b", MSG_DONTWAIT | MSG_NOSIGNAL)).toBe(1);
  expect(near.getblocking()).toBe(true);
});

test("setblocking(false): what would wait throws EWOULDBLOCK, and loses nothing", async () => {
  const [near, far] = memoryPair();
  near.setblocking(false);
  expect([near.gettimeout(), near.getblocking()]).toEqual([0, false]);
  await expect(near.recv()).rejects.toEqual(code("EWOULDBLOCK"));
  await far.sendall("half");
  await expect(near.rfile.readexactly(8)).rejects.toEqual(code("EWOULDBLOCK"));
  await far.sendall("half");
  expect(text(await near.rfile.readexactly(8))).toBe("halfhalf");
  near.setblocking(true);
  expect([near.gettimeout(), near.getblocking()]).toEqual([null, true]);
});

test("a non-blocking send takes all or nothing, and says so", async () => {
  const [near, far] = memoryPair();
  near.setblocking(false);
  const piece = new Uint8Array(40_000).fill(1);
  let sent = 0;
  const fill = async (): Promise<void> => {
    for (;;) sent += await near.send(piece);
  };
  await expect(fill()).rejects.toEqual(code("EWOULDBLOCK"));
  expect(sent).toBeGreaterThan(0);
  near.setblocking(true);
  const [, received] = await Promise.all([near.shutdown(SHUT_WR), far.rfile.read()]);
  expect(received?.length).toBe(sent);
});

test("settimeout(0) is non-blocking, and a time-out gives ETIMEDOUT", async () => {
  const [near] = memoryPair();
  near.settimeout(0);
  expect(near.getblocking()).toBe(false);
  near.settimeout(1);
  await expect(near.recv()).rejects.toEqual(code("ETIMEDOUT"));
  expect(() => near.settimeout(-1)).toThrow(RangeError);
});

test("flags that mean nothing here are refused by name", async () => {
  const [near] = memoryPair();
  await expect(near.recv(1, MSG_TRUNC)).rejects.toThrow(
    /recv\(\) does not know the flags 0x20; it takes MSG_OOB/,
  );
  await expect(near.send("x", MSG_PEEK)).rejects.toEqual(code("ERR_UNSUPPORTED"));
  await expect(near.recv(1, 1.5)).rejects.toThrow(TypeError);
  await expect(near.send("x", MSG_OOB)).rejects.toThrow(/has no kernel behind it.*socklet\/emulator/);
  await expect(near.recv(1, MSG_OOB)).rejects.toEqual(code("ERR_UNSUPPORTED"));
});

test("what needs a descriptor says that memory has none", async () => {
  const [near] = memoryPair();
  for (const call of [() => near.fileno(), () => near.getsockopt(1, 7), () => near.setsockopt(1, 7, 1)]) {
    expect(call).toThrow(SocketError);
  }
  await expect(near.detach()).rejects.toEqual(code("ERR_UNSUPPORTED"));
  near.abort();
  expect(near.fileno()).toBe(-1);
});

test("a socket that is not connected says so", async () => {
  const socket = new StreamSocket(null);
  await expect(socket.recv()).rejects.toEqual(code("ENOTCONN"));
  await expect(socket.send("x")).rejects.toEqual(code("EPIPE"));
  expect([socket.getpeername(), socket.getsockname()]).toEqual([null, null]);
  await socket.close();
  await expect(socket.recv()).rejects.toEqual(code("EBADF"));
});

test("select() gives those that are ready, in the order given", async () => {
  const [a, peerOfA] = memoryPair();
  const [b, peerOfB] = memoryPair();
  expect(await select([a, b], [], [], 0)).toEqual([[], [], []]);
  expect(await select([a], [a, b], [], null)).toEqual([[], [a, b], []]);
  const waiting = select([a, b], [], []);
  await peerOfB.sendall("b");
  expect(await waiting).toEqual([[b], [], []]);
  await peerOfA.close();
  expect(await select([b, a], [], [])).toEqual([[b, a], [], []]);
  expect(await a.recv()).toBeNull();
  expect(text(await b.recv())).toBe("b");
  expect(await select([b], [], [], 1)).toEqual([[], [], []]);
});

test("select() waits for room to write", async () => {
  const [near, far] = memoryPair();
  near.setblocking(false);
  await (async () => {
    for (;;) await near.send(new Uint8Array(40_000));
  })().catch(() => {});
  expect(await select([], [near], [], 0)).toEqual([[], [], []]);
  const room = select([], [near], []);
  while (near.wfile.blocked) await far.recv();
  expect(await room).toEqual([[], [near], []]);
});

test("select() refuses a closed socket, and one that is closed meanwhile", async () => {
  const [near, far] = memoryPair();
  const waiting = select([near], [], []);
  near.abort();
  await expect(waiting).rejects.toEqual(code("EBADF"));
  await expect(select([near], [], [])).rejects.toEqual(code("EBADF"));
  await expect(select([], [], [far])).rejects.toThrow(/third list of select\(\), which may be left empty/);
  await expect(select([far], [], [], -1)).rejects.toThrow(RangeError);
});

test("poll() gives each socket with its events", async () => {
  const [near, far] = memoryPair();
  const watched = poll();
  watched.register(near, POLLIN);
  expect(await watched.poll(0)).toEqual([]);
  watched.modify(near, POLLIN | POLLOUT);
  expect(await watched.poll()).toEqual([[near, POLLOUT]]);
  await far.sendall("x");
  expect(await watched.poll()).toEqual([[near, POLLIN | POLLOUT]]);
  await near.recv();
  await near.shutdown(SHUT_RDWR);
  await far.shutdown(SHUT_WR);
  expect(await watched.poll()).toEqual([[near, POLLIN | POLLOUT | POLLHUP]]);
  await near.close();
  expect(await watched.poll()).toEqual([[near, POLLNVAL]]);
  watched.unregister(near);
  expect(await watched.poll(0)).toEqual([]);
  expect(() => watched.unregister(near)).toThrow(code("ENOENT"));
  expect(() => watched.modify(near, POLLIN)).toThrow(code("ENOENT"));
  expect(() => watched.register(far, 0x1000)).toThrow(RangeError);
  expect(() => watched.register(far, POLLPRI)).not.toThrow();
  await expect(watched.poll(0)).rejects.toEqual(code("ERR_UNSUPPORTED"));
});

test("what is no socket is said to be none", async () => {
  await expect(select([3 as never], [], [])).rejects.toThrow(/^select\(\) takes sockets, .*, not 3$/);
  expect(() => poll().register(null as never)).toThrow(/^register\(\) takes sockets, .*, not null$/);
});

test("a binary file is iterated by lines, and readlines() stops at its hint", async () => {
  const [near, far] = memoryPair();
  await far.sendall("one\ntwo\nthree\nfour");
  await far.close();
  expect((await near.rfile.readlines(5)).map(text)).toEqual(["one\n", "two\n"]);
  const rest: (string | null)[] = [];
  for await (const line of near.rfile) rest.push(text(line));
  expect(rest).toEqual(["three\n", "four"]);
  await near.rfile.close();
  expect(await near.rfile.readlines()).toEqual([]);
});

test("closing a file flushes it, and closes neither the socket nor another file of it", async () => {
  const [near, far] = memoryPair();
  near.wfile.write("one");
  await near.wfile.close();
  expect(text(await far.recv())).toBe("one");
  await near.sendall("two");
  expect(text(await far.recv())).toBe("two");
});
