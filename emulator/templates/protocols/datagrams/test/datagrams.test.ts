import { MemoryDatagramServer } from "socklet/testing";
import { expect, test } from "vitest";
import { Datagrams } from "../src/datagrams.ts";

test("it answers each datagram", async () => {
  const server = new MemoryDatagramServer(Datagrams);
  void server.serveForever();
  const socket = server.network.socket();
  await socket.sendto("hello", server.serverAddress);
  const { data } = await socket.recvfrom();
  expect(new TextDecoder().decode(data)).toBe("HELLO");
  await socket.close();
  await server.serverClose();
});
