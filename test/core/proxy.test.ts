/** Servers in memory behind proxies: the same door as everywhere, and no port. */

import { type InternetAddress, proxyHeader } from "socklet";
import { MemoryDatagramServer, MemoryServer, ThreadingMemoryServer } from "socklet/testing";
import { expect, test } from "vitest";
import { Says, SaysDatagram } from "../conformance/proxied.ts";
import { Told } from "./told.ts";

const SPEAKS = { source: "192.0.2.1:56324", destination: "198.51.100.2:443" } as const;
const said = (version: unknown): string =>
  JSON.stringify({
    clientAddress: { family: "IPv4", hostname: "192.0.2.1", port: 56_324 },
    proxy: { version, command: "PROXY" },
  });

test.each([MemoryServer, ThreadingMemoryServer])("$name: whole, byte by byte, and wrong", async (Server) => {
  const told = new Told();
  await using server = new Server(Says, { onEvent: told.on, proxyProtocol: { from: ["127.0.0.0/8"] } });
  void server.serveForever();
  const header = proxyHeader(SPEAKS);
  const one = server.connect();
  await one.sendall(header);
  await one.sendall("one\n");
  expect([await one.rfile.line(), await one.rfile.line()]).toEqual([said(2), "one"]);
  await one.close();
  const two = server.connect();
  for (const byte of header) await two.sendall(Uint8Array.of(byte));
  await two.sendall("two\n");
  expect([await two.rfile.line(), await two.rfile.line()]).toEqual([said(2), "two"]);
  await two.close();
  const three = server.connect();
  await three.sendall("EHLO client\r\n");
  expect(await told.next("refused")).toMatchObject({ reason: "proxy", error: { code: "ERR_PROXY" } });
  await expect(three.recv()).rejects.toMatchObject({ code: "ECONNRESET" });
  const four = server.connect();
  await four.sendall(proxyHeader(2));
  await told.next("checked");
  expect(await four.recv()).toBe(null);
  expect(told.of("begin").length).toBe(2);
});

test("datagrams in memory", async () => {
  const told = new Told();
  await using server = new MemoryDatagramServer(SaysDatagram, {
    onEvent: told.on,
    proxyProtocol: { from: ["127.0.0.1"] },
  });
  void server.serveForever();
  await server.listen();
  const proxy = server.network.socket();
  const ask = async (header: Uint8Array): Promise<string> => {
    await proxy.sendto(new Uint8Array([...header, 0x78]), server.serverAddress as InternetAddress);
    return new TextDecoder("latin1").decode((await proxy.recvfrom()).data);
  };
  expect(await ask(proxyHeader({ ...SPEAKS, carries: "datagram" }))).toBe(`${said(2)}x`);
  const simple = proxyHeader({ ...SPEAKS, version: "simple" });
  expect(await ask(simple)).toBe(`${new TextDecoder("latin1").decode(simple)}${said("simple")}x`);
  await proxy.sendto("x", server.serverAddress as InternetAddress);
  expect(await told.next("refused")).toMatchObject({ reason: "proxy" });
});
