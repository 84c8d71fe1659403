/** The socket object inside workerd: what `connect()` carries, and what the platform has not, by name. */

import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  MSG_OOB,
  MSG_PEEK,
  MSG_WAITALL,
  SHUT_WR,
  SO_ERROR,
  SOCK_DGRAM,
  SOCK_RAW,
  SOCK_STREAM,
  SOL_SOCKET,
  select,
} from "socklet";
import { socket } from "socklet/worker";
import { expect, inject, test } from "vitest";

const echo = { hostname: "127.0.0.1", port: inject("echoPort") };
const nobody = `127.0.0.1:${inject("nobodysPort")}`;
const text = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);
const code = (expected: string) => expect.objectContaining({ code: expected });

test("connect, send, recv with MSG_PEEK, shutdown, close", async () => {
  await using s = socket();
  expect([s.family, s.type, s.proto, s.gettimeout()]).toEqual([AF_INET, SOCK_STREAM, 0, null]);
  await expect(s.recv()).rejects.toEqual(code("ENOTCONN"));
  expect(() => s.getpeername()).toThrow(code("ENOTCONN"));
  await s.connect(echo);
  await expect(s.connect(echo)).rejects.toEqual(code("EISCONN"));
  expect(s.getpeername()).toMatchObject({ hostname: "127.0.0.1", port: echo.port });
  expect(await s.send("Hello, I come from pythontik.com")).toBe(32);
  expect(text(await s.recv(5, MSG_PEEK | MSG_WAITALL))).toBe("Hello");
  expect(text(await s.recv(32, MSG_WAITALL))).toBe("Hello, I come from pythontik.com");
  await s.sendall("bye");
  await s.shutdown(SHUT_WR);
  const buffer = new Uint8Array(8);
  expect(await s.recvInto(buffer, MSG_WAITALL)).toBe(3);
  expect(await s.recv()).toBeNull();
  await s.close();
  await expect(s.connect(echo)).rejects.toEqual(code("EBADF"));
  expect(s.fileno()).toBe(-1);
});

test("connectEx gives 0, or a code and never 0; connect may be tried again", async () => {
  const s = socket(AF_INET6);
  expect(await s.connectEx(nobody)).toBe("ERR_CONNECT_FAILED");
  expect(await s.connectEx(echo)).toBe(0);
  expect(await s.connectEx(echo)).toBe(106); // EISCONN
  await s.close();
});

test("not blocking, connect goes on after EINPROGRESS, and select() says when it is done", async () => {
  const s = socket();
  s.setblocking(false);
  await expect(s.connect(echo)).rejects.toEqual(code("EINPROGRESS"));
  await expect(s.connect(echo)).rejects.toEqual(code("EALREADY"));
  expect(await select([], [s], [])).toEqual([[], [s], []]);
  await s.send("ping");
  expect(await select([s], [], [])).toEqual([[s], [], []]);
  await s.close();

  const refused = socket();
  refused.setblocking(false);
  expect(await refused.connectEx(nobody)).toBe(115); // EINPROGRESS
  expect(await select([refused], [refused], [])).toEqual([[refused], [refused], []]);
  await expect(refused.connect(nobody)).rejects.toEqual(code("ERR_CONNECT_FAILED"));
  await refused.close();
});

test("sendto and recvfrom are send and recv, for a stream has one peer", async () => {
  await using s = socket();
  await expect(s.sendto("x", echo)).rejects.toEqual(code("EPIPE"));
  await s.connect(echo);
  expect(await s.sendto("to whom?", "192.0.2.1:9")).toBe(8);
  expect(await s.sendto("!", 0, nobody)).toBe(1);
  await expect(s.sendto("x", "no address")).rejects.toEqual(code("ERR_INVALID_ADDRESS"));
  const [bytes, from] = await s.recvfrom(9, MSG_WAITALL);
  expect([text(bytes), from]).toEqual(["to whom?!", null]);
});

test("a time-out governs recv", async () => {
  await using s = socket();
  await s.connect(echo);
  s.settimeout(1);
  await expect(s.recv()).rejects.toEqual(code("ETIMEDOUT"));
});

test("what the platform has not says so, with what does it instead", async () => {
  await using s = socket();
  const said: Record<string, unknown> = {};
  for (const [name, call] of Object.entries({
    bind: () => s.bind("127.0.0.1:0"),
    listen: () => s.listen(),
    accept: () => s.accept(),
    fileno: () => s.fileno(),
    detach: () => s.detach(),
    getsockopt: () => s.getsockopt(SOL_SOCKET, SO_ERROR),
    setsockopt: () => s.setsockopt(SOL_SOCKET, SO_ERROR, 1),
    oob: () => s.send("!", MSG_OOB),
    unix: () => socket(AF_UNIX),
    datagram: () => socket(AF_INET, SOCK_DGRAM),
    raw: () => socket(AF_INET, SOCK_RAW),
  })) {
    said[name] = await (async () => call())().then(
      () => "nothing",
      (error) => `${error.code}: ${error.message}`,
    );
  }
  expect(said).toEqual({
    bind: expect.stringMatching(/^ERR_UNSUPPORTED.*WorkerServer/),
    listen: expect.stringMatching(/^ERR_UNSUPPORTED.*WorkerServer/),
    accept: expect.stringMatching(/^ERR_UNSUPPORTED.*WorkerServer/),
    fileno: expect.stringMatching(/^ERR_UNSUPPORTED.*socklet\/emulator/),
    detach: expect.stringMatching(/^ERR_UNSUPPORTED.*socklet\/emulator/),
    getsockopt: expect.stringMatching(/^ERR_UNSUPPORTED.*socklet\/emulator/),
    setsockopt: expect.stringMatching(/^ERR_UNSUPPORTED.*socklet\/emulator/),
    oob: expect.stringMatching(/^ERR_UNSUPPORTED.*socklet\/emulator/),
    unix: expect.stringMatching(/^ERR_UNSUPPORTED.*tcp:\/\//),
    datagram: expect.stringMatching(/^ERR_UNSUPPORTED.*relay/),
    raw: expect.stringMatching(/^ERR_UNSUPPORTED.*SOCK_STREAM/),
  });
  expect(() => socket(99)).toThrow(code("EAFNOSUPPORT"));
  expect(() => socket(AF_INET, SOCK_STREAM, 17)).toThrow(code("EPROTONOSUPPORT"));
});
