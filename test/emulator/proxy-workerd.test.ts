/** The PROXY protocol in real workerd, behind real ports: inbound connections and datagrams. */

import dgram from "node:dgram";
import { once } from "node:events";
import net from "node:net";
import { proxyHeader } from "socklet";
import { controlClient } from "socklet/control";
import { afterAll, beforeAll, expect, test } from "vitest";
import { reservePorts, reserveUdpPorts } from "../peers/ports.ts";
import { type RunningWorker, runWorker } from "./workerd.ts";

const TOKEN = "a-token-for-the-tests";
const ports = await reservePorts(4);
const [trusts = 0, hurries = 0, refuses = 0, direct = 0] = ports;
const udpPorts = await reserveUdpPorts(1);
let worker: RunningWorker;

beforeAll(async () => {
  const vars = { TCP: ports, UDP: udpPorts, SOCKLET_TOKENS: TOKEN };
  worker = await runWorker({ main: "test/worker/proxied.ts", ports, udpPorts, classes: {}, vars });
});
afterAll(() => worker.close());

const SPEAKS = { source: "192.0.2.1:56324", destination: "198.51.100.2:443" } as const;
const LINE = "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
const said = (
  version: unknown,
  clientAddress: unknown = { family: "IPv4", hostname: "192.0.2.1", port: 56_324 },
) => JSON.stringify({ clientAddress, proxy: version === null ? null : { version, command: "PROXY" } });

/** What a connection receives until its end; `pieces` are sent one after the other. */
const talk = async (port: number, ...pieces: readonly (string | Uint8Array)[]): Promise<string> => {
  const socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true }).setNoDelay();
  let text = "";
  socket.setEncoding("latin1").on("data", (more) => {
    text += more;
  });
  socket.on("error", () => {}); // it may be reported as a reset
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.once("end", () => socket.end());
  await once(socket, "connect");
  for (const piece of pieces) {
    if (socket.writable) await new Promise((resolve) => socket.write(piece, resolve));
  }
  if (pieces.length > 0 && socket.writable) socket.end();
  await closed;
  return text;
};

test("a connection of version 1 and of version 2, whole and byte by byte", async () => {
  const two = proxyHeader({ ...SPEAKS, checksum: true });
  expect(await talk(trusts, `${LINE}one\ntwo\n`)).toBe(`${said(1)}\none\ntwo\n`);
  expect(await talk(trusts, two, "one\n")).toBe(`${said(2)}\none\n`);
  const bytes = [...two, ...Buffer.from("one\n")].map((byte) => Uint8Array.of(byte));
  expect(await talk(trusts, ...bytes)).toBe(`${said(2)}\none\n`);
});

test("what is wrong, missing or of nobody that is trusted starts no handler; LOCAL neither", async () => {
  expect(await talk(trusts, "EHLO client\r\n")).toBe("");
  expect(await talk(trusts, proxyHeader(2))).toBe("");
  expect(await talk(hurries)).toBe(""); // by its time
  expect(await talk(refuses, LINE)).toBe("");
  expect(await talk(direct, `${LINE}one\n`)).toMatch(/"proxy":null\}\nPROXY TCP4 .* 443\none\n$/);
  const control = controlClient(worker.url, { token: TOKEN });
  let listeners = await control.listeners();
  while (listeners.some(({ running }) => running > 0)) listeners = await control.listeners();
  const of = (name: string) => listeners.find((listener) => listener.name === name);
  expect(of("trusts")).toMatchObject({ served: 3, refused: 1, failed: 0 });
  expect(of("hurries")).toMatchObject({ served: 0, refused: 1 });
  expect(of("refuses")).toMatchObject({ served: 0, refused: 1 });
  expect(of("direct")).toMatchObject({ served: 1, refused: 0 });
});

test("datagrams of version 2 and of the Simple Proxy Protocol", async () => {
  const socket = dgram.createSocket("udp4");
  await new Promise<void>((resolve) => socket.connect(udpPorts[0] as number, "127.0.0.1", resolve));
  const ask = async (header: Uint8Array): Promise<Buffer> => {
    const reply = once(socket, "message") as Promise<[Buffer]>;
    socket.send(Buffer.concat([header, Buffer.from("hello")]));
    return (await reply)[0];
  };
  expect(String(await ask(proxyHeader({ ...SPEAKS, carries: "datagram" })))).toBe(`${said(2)}hello`);
  const simple = proxyHeader({ ...SPEAKS, version: "simple" });
  const reply = await ask(simple);
  expect(new Uint8Array(reply.subarray(0, 38))).toEqual(simple);
  expect(String(reply.subarray(38))).toBe(`${said("simple")}hello`);
  socket.close();
});
