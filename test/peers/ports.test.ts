/** A reserved port: the kernel chooses it for no other socket, nobody is there, and a program that names it may listen there. */

import {
  AF_INET,
  AF_INET6,
  type DatagramSocket,
  type InternetAddress,
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_IP,
  SOL_SOCKET,
  select,
} from "socklet";
import { createServer, type Socket, socket } from "socklet/emulator";
import { expect, onTestFinished, test } from "vitest";
import { codeOf } from "../core/outcome.ts";
import { reservePort, reservePorts, reserveUdpPort, reserveUdpPorts } from "./ports.ts";

/** A port range of one for this socket (ip(7), from Linux 6.3): what is rare otherwise is certain. */
const confine = <S extends Socket | DatagramSocket>(made: S, port: number): S => {
  const IP_LOCAL_PORT_RANGE = 51;
  onTestFinished(() => made.close());
  made.setsockopt(SOL_IP, IP_LOCAL_PORT_RANGE, (port << 16) | port);
  return made;
};

const HOSTS = [
  [AF_INET, "127.0.0.1"],
  [AF_INET, "0.0.0.0"],
  [AF_INET6, "[::1]"],
  [AF_INET6, "[::]"],
] as const;

test("a port for streams: the kernel chooses it for no listener and for no dial", async () => {
  const port = await reservePort();
  for (const [family, host] of HOSTS) {
    for (const reuse of [0, 1]) {
      const made = confine(socket(family, SOCK_STREAM), port);
      made.setsockopt(SOL_SOCKET, SO_REUSEADDR, reuse);
      expect([host, reuse, await codeOf(made.bind(`${host}:0`))]).toEqual([host, reuse, "EADDRINUSE"]);
    }
  }
  await using listener = await createServer("127.0.0.1:0");
  const dials = confine(socket(AF_INET, SOCK_STREAM), port);
  expect(await codeOf(dials.connect(listener.getsockname() as InternetAddress))).toBe("EADDRNOTAVAIL");
});

test("a port for streams refuses, until a program listens there", async () => {
  const port = await reservePort();
  const asks = async (host: string, family: number): Promise<unknown> => {
    await using dials = socket(family, SOCK_STREAM);
    return await codeOf(dials.connect(`${host}:${port}`));
  };
  for (const [family, host] of HOSTS) {
    expect(await asks(host, family)).toBe("ECONNREFUSED");
    const listener = await createServer(`${host}:${port}`);
    expect(await asks(host, family)).toEqual(["no error", undefined]);
    await listener.close();
    expect(await asks(host, family)).toBe("ECONNREFUSED");
  }
});

test("a port for datagrams: the kernel chooses it for no socket, and refuses what is sent there", async () => {
  const port = await reserveUdpPort();
  for (const host of ["127.0.0.1", "0.0.0.0"]) {
    const made = confine(socket(AF_INET, SOCK_DGRAM), port);
    expect([host, await codeOf(made.bind(`${host}:0`))]).toEqual([host, "EADDRINUSE"]);
  }
  await using teller = socket(AF_INET, SOCK_DGRAM);
  await teller.connect(`127.0.0.1:${port}`);
  await teller.send("anybody?");
  await select([teller], [], []);
  expect(await codeOf(teller.recv())).toBe("ECONNREFUSED");

  await using hearer = socket(AF_INET, SOCK_DGRAM);
  hearer.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
  await hearer.bind(`127.0.0.1:${port}`);
  await teller.send("you?");
  expect(String.fromCharCode(...((await hearer.recv()) as Uint8Array))).toBe("you?");
});

test("ports that are reserved together are all different", async () => {
  for (const ports of [await reservePorts(50), await reserveUdpPorts(50)])
    expect(new Set(ports).size).toBe(50);
});
