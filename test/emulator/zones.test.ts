/** IPv6 zones: one that no interface has is refused, by one code, in whatever takes an address, with koffi and without. */

import { AF_INET6, DatagramRequestHandler, SOCK_DGRAM, type SocketError, streamHandler } from "socklet";
import {
  createConnection,
  createDatagramConnection,
  createServer,
  serveApp,
  socket,
  TCPConnector,
  TCPServer,
  UDPServer,
} from "socklet/emulator";
import { describe, expect, test } from "vitest";
import { defineApp } from "../../core/app.ts";
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

describe.each([true, false])("with koffi: %s", (native) => {
  inNativeMode(native);

  describe.each(Object.entries(TAKERS))("%s", (_, take) => {
    // An address that needs a zone, one that needs none; names and numbers, and what is none of a file's either.
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
