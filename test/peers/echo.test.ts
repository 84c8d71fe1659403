import { ThreadingUDPServer } from "socklet/emulator";
import { expect, test } from "vitest";
import { Echo, EchoDatagram } from "../../examples/echo.ts";
import { FingerServer } from "../../examples/finger.ts";
import { describeWith, python, run, serve, start } from "./program.ts";

const datagrams = async () => {
  const errors: unknown[] = [];
  const server = new ThreadingUDPServer("127.0.0.1:0", EchoDatagram, {
    onEvent: (event) => event.type === "error" && errors.push(event.error),
  });
  const at = await server.listen();
  void server.serveForever();
  const port = at !== null && at.family !== "unix" ? at.port : 0;
  return { port, errors, [Symbol.asyncDispose]: () => server.serverClose() };
};

const MEGABYTE = Uint8Array.from({ length: 1_000_000 }, (_, i) => (i * 31 + (i >> 8)) % 256);
const same = (bytes: Uint8Array): boolean => Buffer.from(bytes).equals(MEGABYTE);

describeWith(["python3"], "Python's socket", () => {
  test("gets back each datagram, from nothing to the largest", async () => {
    await using place = await datagrams();
    const script = `
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(120)
for size in 0, 1, 512, 1472, 65507:
    sent = os.urandom(size)
    s.sendto(sent, ("127.0.0.1", int(sys.argv[1])))
    got, peer = s.recvfrom(65536)
    print(size, got == sent, peer[1] == int(sys.argv[1]))
`;
    const sizes = [0, 1, 512, 1472, 65_507];
    expect(await python(script, [place.port])).toBe(sizes.map((size) => `${size} True True\n`).join(""));
    expect(place.errors).toEqual([]);
  });

  test("sends and reads at once, and ends its half first", async () => {
    await using place = await serve(Echo);
    const script = `
import os, socket, sys, threading
sent = os.urandom(5_000_000)
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=120)
def send():
    s.sendall(sent)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = bytearray()
while data := s.recv(65536): got += data
print(got == sent)
`;
    expect(await python(script, [place.port])).toBe("True\n");
    expect(place.errors()).toEqual([]);
  });

  test("a client that resets its connection harms nobody", async () => {
    await using place = await serve(Echo);
    const script = `
import socket, struct, sys
at = "127.0.0.1", int(sys.argv[1])
rude = socket.create_connection(at, timeout=120)
rude.sendall(b"x"); rude.recv(1)
rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
rude.close()
s = socket.create_connection(at, timeout=120)
s.sendall(b"hello"); print(s.recv(5))
`;
    expect(await python(script, [place.port])).toBe("b'hello'\n");
    await place.server.serverClose();
    expect(place.errors()).toEqual([expect.objectContaining({ code: "ECONNRESET" })]);
    expect(place.server.info()).toMatchObject({ served: 2, failed: 1 });
  });
});

describeWith(["nc"], "nc", () => {
  test("gets 1 MB back over TCP", async () => {
    await using place = await serve(Echo);
    const { code, stdout } = await run("nc", ["-N", place.host, place.port], MEGABYTE);
    expect(same(stdout)).toBe(true);
    expect(code).toBe(0);
  });

  test("gets a datagram back", async () => {
    await using place = await datagrams();
    const { stdout } = await run("nc", ["-u", "-W", 1, "127.0.0.1", place.port], "hello");
    expect(stdout.toString()).toBe("hello");
  });

  test("asks who is there", async () => {
    await using place = await serve(FingerServer);
    const { stdout } = await run("nc", [place.host, place.port], "alice\r\n");
    expect(stdout.toString()).toBe(
      "Login: alice\r\nName: Alice Liddell\r\nPlan:\r\nSix impossible things before breakfast.\r\n",
    );
  });
});

describeWith(["socat"], "socat", () => {
  test("gets 1 MB back over TCP", async () => {
    await using place = await serve(Echo);
    const { code, stdout } = await run("socat", ["-t", 120, "-", `TCP:127.0.0.1:${place.port}`], MEGABYTE);
    expect(same(stdout)).toBe(true);
    expect(code).toBe(0);
  });

  test("gets a datagram back", async () => {
    await using place = await datagrams();
    await using client = start("socat", ["-", `UDP:127.0.0.1:${place.port}`]);
    client.write("hello\n");
    expect(await client.line()).toBe("hello");
  });
});
