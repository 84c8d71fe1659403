/** Options that mean nothing are refused where they are given. */

import { type Datagram, DatagramRequestHandler, streamHandler } from "socklet";
import { createConnection, TCPConnector, ThreadingTCPServer, UDPServer } from "socklet/emulator";
import { MemoryServer, memoryPair } from "socklet/testing";
import { expect, test } from "vitest";

const Nothing = streamHandler(() => {});
class Packet extends DatagramRequestHandler {}
const wrong = [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 32];

test.each(["timeout", "closeTimeout", "handshakeTimeout"])("stream.%s", (name) => {
  for (const value of wrong) {
    const stream = { [name]: value };
    expect(() => new ThreadingTCPServer("127.0.0.1:0", Nothing, { stream })).toThrow(RangeError);
    expect(() => new TCPConnector("127.0.0.1:1", Nothing, { stream })).toThrow(
      new RegExp(`stream\\.${name} must be 1 to .* ms`),
    );
    expect(() => memoryPair(stream)).toThrow(RangeError);
  }
  expect(() => memoryPair({ [name]: "5" })).toThrow(new TypeError(`${name} must be a number, not "5"`));
});

test.each(["access.allow", "access.deny"])("%s is a list of strings", (path) => {
  const made = (value: unknown) => () =>
    new ThreadingTCPServer("127.0.0.1:0", Nothing, { access: { [path.slice("access.".length)]: value } });
  expect(made("127.0.0.1")).toThrow(
    new TypeError(`${path} of ThreadingTCPServer is a list of strings, not "127.0.0.1"`),
  );
  expect(made(["::1", 5])).toThrow(new TypeError(`${path}[1] of ThreadingTCPServer is a string, not 5`));
});

test("stream.timeout is named with its path where it is one option of several", () => {
  const says = new TypeError('stream.timeout must be a number, not "1"');
  const options = { stream: { timeout: "1" } } as never;
  expect(() => new ThreadingTCPServer("127.0.0.1:0", Nothing, options)).toThrow(says);
  expect(() => new TCPConnector("127.0.0.1:1", Nothing, options)).toThrow(says);
});

test.each(["maxLine", "maxRead", "maxPending", "minWriteRate"])("stream.%s", (name) => {
  for (const value of [-5, 1.5, Number.NaN]) expect(() => memoryPair({ [name]: value })).toThrow(RangeError);
  expect(() => new ThreadingTCPServer("127.0.0.1:0", Nothing, { stream: { [name]: "5" } })).toThrow(
    TypeError,
  );
});

test("stream.whenSlow", () => {
  for (const value of ["drop", "", true, null]) {
    expect(() => memoryPair({ whenSlow: value as never })).toThrow(/whenSlow must be "cut" or "throw", not/);
  }
});

test("an option that a stream does not have is named, and the one that is meant", () => {
  expect(() => memoryPair({ maxLin: 5 } as never)).toThrow(/no option maxLin; did you mean maxLine\?/);
  const [socket] = memoryPair({ maxLine: undefined, timeout: null } as never);
  expect([socket.rfile.maxLine, socket.gettimeout()]).toEqual([65_536, null]);
});

test.each([
  ["drainTimeout", -1],
  ["requestQueueSize", -1],
  ["requestQueueSize", 1.5],
  ["maxRequests", 0],
  ["timeout", 0],
  ["timeout", Number.NaN],
])("server option %s: %s", (name, value) => {
  expect(() => new ThreadingTCPServer("127.0.0.1:0", Nothing, { [name]: value })).toThrow(RangeError);
  expect(() => new MemoryServer(Nothing, { [name]: value })).toThrow(new RegExp(name));
});

test("maxPacketSize, connectTimeout", async () => {
  const handler = Packet as new (...args: never[]) => DatagramRequestHandler & { request: Datagram };
  expect(() => new UDPServer("127.0.0.1:0", handler as never, { maxPacketSize: -1 })).toThrow(RangeError);
  await expect(createConnection("127.0.0.1:1", { connectTimeout: 0 })).rejects.toThrow(RangeError);
});

test.each(["yes", "On", "tls", true, ""])(
  "secureTransport %j dials nothing, least of all in plain text",
  async (secureTransport) => {
    const options = { secureTransport } as never;
    await expect(createConnection("127.0.0.1:1", options)).rejects.toThrow(
      /secureTransport must be "off" or "on" or "starttls", not/,
    );
    expect(() => new TCPConnector("127.0.0.1:1", Nothing, options)).toThrow(TypeError);
  },
);
