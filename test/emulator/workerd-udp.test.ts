/** Datagram handlers in real workerd, behind real UDP ports, beside dig and Node's own sockets. */

import { spawnSync } from "node:child_process";
import dgram from "node:dgram";
import { once } from "node:events";
import { afterAll, beforeAll, expect, test } from "vitest";
import { peer } from "../peers/peer.ts";
import { reservePort, reserveUdpPorts } from "../peers/ports.ts";
import { type RunningWorker, runWorker } from "./workerd.ts";

const [echo = 0, dns = 0, tell = 0] = await reserveUdpPorts(3);
const tcp = await reservePort();
let worker: RunningWorker;

beforeAll(async () => {
  worker = await runWorker({
    main: "test/worker/udp.ts",
    ports: [tcp],
    udpPorts: [echo, dns, tell],
    classes: {},
    vars: { UDP: { echo, dns, tell } },
  });
});

afterAll(() => worker.close());

const client = async (port: number): Promise<dgram.Socket> => {
  const socket = dgram.createSocket("udp4");
  await new Promise<void>((resolve) => socket.connect(port, "127.0.0.1", resolve));
  return socket;
};

const ask = async (socket: dgram.Socket, data: Uint8Array | string): Promise<Uint8Array> => {
  const reply = once(socket, "message") as Promise<[Buffer]>;
  socket.send(data);
  return new Uint8Array((await reply)[0]);
};

test("datagrams of every size come back whole, one for one", async () => {
  const socket = await client(echo);
  for (const size of [0, 1, 512, 1472, 9000, 65_507]) {
    const data = Uint8Array.from({ length: size }, (_, i) => i * 7);
    expect(await ask(socket, data)).toEqual(data);
  }
  socket.close();
});

test("one handler a datagram: a crash costs its own, silence sends nothing, and the peer is not told", async () => {
  const [one, two] = [await client(tell), await client(tell)];
  one.send("crash\n");
  one.send("hush\n");
  const text = async (socket: dgram.Socket, line: string) =>
    new TextDecoder().decode(await ask(socket, line));
  expect([await text(one, "fine\n"), await text(two, "also\n")]).toEqual([
    "fine from null",
    "also from null",
  ]);
  one.close();
  two.close();
});

test("replies that have to wait are bounded: what is over 1 MiB is dropped and told", async () => {
  const [floods, asks] = [await client(tell), await client(tell)];
  const begun = once(floods, "message");
  floods.send("flood\n");
  await begun;
  const told = JSON.parse(new TextDecoder().decode(await ask(asks, "flooded?\n")));
  const most = Math.floor((1024 * 1024) / (1000 + 256));
  expect(told).toEqual({ written: most * 1000, dropped: 2000 - most });
  floods.close();
  asks.close();
});

const dig = peer("dig");
test.skipIf(dig === null)("dig resolves", () => {
  const args = ["@127.0.0.1", "-p", String(dns), "+short", "+tries=1", "+time=240", "www.example.test"];
  expect(spawnSync(dig as string, args, { encoding: "utf8" }).stdout).toMatch(/^192\.0\.2\.\d+\n$/);
});
