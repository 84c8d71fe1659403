/** Addresses that cannot be are refused by one code in whatever takes one, with koffi and without: IPv6 zones that no interface has, paths that are too long. */

import {
  AF_INET6,
  AF_UNIX,
  DatagramRequestHandler,
  SOCK_DGRAM,
  type SocketError,
  streamHandler,
} from "socklet";
import {
  createConnection,
  createDatagramConnection,
  createServer,
  serveApp,
  socket,
  TCPConnector,
  TCPServer,
  UDPServer,
  UnixDatagramServer,
  UnixStreamConnector,
  UnixStreamServer,
} from "socklet/emulator";
import { describe, expect, test } from "vitest";
import { defineApp } from "../../core/app/app.ts";
import { inNativeMode } from "./native-mode.ts";

const Nothing = streamHandler(() => {});
class Packet extends DatagramRequestHandler {}

const TAKERS: Readonly<Record<string, (at: string) => Promise<unknown>>> = {
  createConnection: (at) => createConnection(`${at}:1`),
  TCPConnector: (at) => new TCPConnector(`${at}:1`, Nothing).run(),
  "connect()": async (at) => {
    await using client = socket(AF_INET6);
    await client.connect(`${at}:1`);
  },
  createDatagramConnection: async (at) => (await createDatagramConnection(`udp://${at}:1`)).close(),
  "sendto()": async (at) => {
    await using client = socket(AF_INET6, SOCK_DGRAM);
    await client.sendto("x", `${at}:1`);
  },
  TCPServer: async (at) => {
    await using server = new TCPServer(`${at}:0`, Nothing);
    await server.listen();
  },
  UDPServer: async (at) => {
    await using server = new UDPServer(`udp://${at}:0`, Packet);
    await server.listen();
  },
  createServer: async (at) => (await createServer(`${at}:0`)).close(),
  "bind()": async (at) => {
    await using stream = socket(AF_INET6);
    await stream.bind(`${at}:0`);
  },
  "bind() of datagrams": async (at) => {
    await using datagrams = socket(AF_INET6, SOCK_DGRAM);
    await datagrams.bind(`${at}:0`);
  },
  serveApp: async (at) => {
    const listen = [{ handler: "x", address: `${at}:0` }];
    await (await serveApp(defineApp({ handlers: { x: Nothing }, listen }))).close();
  },
};

const outcome = async (taken: Promise<unknown>): Promise<{ code?: string; message: string }> =>
  taken.then(
    () => ({ message: "taken" }),
    ({ code, message }: SocketError) => ({ code, message }),
  );

const PATH_TAKERS: Readonly<Record<string, (path: string) => Promise<unknown>>> = {
  createConnection: (path) => createConnection({ path }),
  UnixStreamConnector: (path) => new UnixStreamConnector({ path }, Nothing).run(),
  "connect()": async (path) => {
    await using client = socket(AF_UNIX);
    await client.connect({ path });
  },
  "bind()": async (path) => {
    await using listener = socket(AF_UNIX);
    await listener.bind({ path });
  },
  createServer: async (path) => (await createServer({ path })).close(),
  UnixStreamServer: async (path) => {
    await using server = new UnixStreamServer({ path }, Nothing);
    await server.listen();
  },
  UnixDatagramServer: async (path) => {
    new UnixDatagramServer({ path }, Packet);
  },
};

describe.each([true, false])("with koffi: %s", (native) => {
  inNativeMode(native);

  describe.each(Object.entries(PATH_TAKERS))("%s", (name, take) => {
    const most = process.platform === "linux" ? 107 : 103;

    test.each([
      [
        "a path",
        `/nowhere/${"x".repeat(most + 1 - 9)}`,
        `a socket's path has at most ${most} bytes, not ${most + 1}`,
      ],
      ["a path of few letters", `/nowhere/${"é".repeat(60)}`, `at most ${most} bytes, not 129`],
      [
        "an abstract name",
        `\0${"x".repeat(most + 1)}`,
        `an abstract name, after its \\0, has at most ${most} bytes`,
      ],
    ])("%s that is too long", async (_, path, says) => {
      const { code, message } = await outcome(take(path));
      expect([code, message]).toEqual(["EINVAL", expect.stringContaining(says)]);
    });

    test("the longest", async () => {
      const longest = `/nowhere/${"x".repeat(most - 9)}`;
      const { code } = await outcome(take(longest));
      expect(code).toBe(name === "UnixDatagramServer" ? undefined : "ENOENT");
    });
  });

  describe.each(Object.entries(TAKERS))("%s", (_, take) => {
    // An address that needs a zone, and one that does not; names and numbers, also ones that are in no file.
    test.each(["::1%nosuch", "fe80::1%nosuch", "::1%4294967", "fe80::1%4294967", "::1%..", "::1%."])(
      "[%s]",
      async (host) => {
        const { code, message } = await outcome(take(`[${host}]`));
        expect([code, message]).toEqual(["EADDRNOTAVAIL", expect.stringContaining(`[${host}]`)]);
        expect(message).toMatch(/this machine has no network interface/);
      },
    );

    test.each(["::1%lo", "::1%1"])("[%s]", async (host) => {
      const { message } = await outcome(take(`[${host}]`));
      expect(message).toMatch(/taken|nothing listens there/);
    });
  });
});
