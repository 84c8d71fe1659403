// The tutorial's programs in repaired Python 3 against ours, and ours against CPython's `socketserver`: rows
// S80 to S86 of the socket table.

import { formatAddress } from "socklet";
import { createConnection, TCPConnector } from "socklet/emulator";
import { describe, expect, test } from "vitest";
import {
  Greeting,
  GreetingClient,
  StreamGreeting,
  Transcript,
  TranscriptClient,
} from "../../examples/tutorial.ts";
import { reservePort } from "./ports.ts";
import { describeWith, listen, python, serve, start } from "./program.ts";

/** The tutorial's client: sends each of its arguments, and prints what it sent and received, and both addresses. */
const CLIENT = `
import json, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.settimeout(120)
s.connect(("127.0.0.1", int(sys.argv[1])))
said = []
for message in sys.argv[2:]:
    sent = s.send(message.encode())
    said.append([sent, s.recv(1024).decode()])
print(json.dumps({"said": said, "own": "%s:%d" % s.getsockname(), "peer": "%s:%d" % s.getpeername()}))
s.close()
`;

const ask = async (port: number, ...messages: string[]) =>
  JSON.parse(await python(CLIENT, [port, ...messages])) as { said: unknown; own: string; peer: string };

/** Its greeted client. */
const GREETED = `
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=120)
print(s.recv(1024), s.recv(1024))
s.close()
`;

/** Its servers: print the port, then the output of the handlers. */
const SERVER = `
import socketserver, sys

def say(*words): print(*words, flush=True)

class EchoRequestHandler(socketserver.BaseRequestHandler):
    def handle(self):
        say("Got new connection!")
        while msg := self.request.recv(1024):
            say("Received:", msg.decode())
            self.request.send(msg)
        say("Done with connection")

class GreetingHandler(socketserver.BaseRequestHandler):
    def handle(self):
        say("Got connection from %s:%d" % self.client_address)
        self.request.sendall(b"Thank you for connecting")

class StreamGreetingHandler(socketserver.StreamRequestHandler):
    def handle(self):
        say("Got connection from %s:%d" % self.request.getpeername())
        self.wfile.write(b"Thank you for connecting")

Server, Handler = getattr(socketserver, sys.argv[1]), globals()[sys.argv[2]]
Server.allow_reuse_address = True
with Server(("127.0.0.1", int(sys.argv[4])), Handler) as server:
    say(server.server_address[1])
    getattr(server, sys.argv[3])()
say("closed")
`;

const cpython = async (
  Server: string,
  Handler: string,
  way: "serve_forever" | "handle_request",
  port = 0, // the kernel chooses one
) => {
  const program = start("python3", ["-c", SERVER, Server, Handler, way, port]);
  return { program, at: `127.0.0.1:${await program.line()}` };
};

describeWith(["python3"], "the tutorial's clients and our servers", () => {
  test("S80: send gives 32, and the ends name each other", async () => {
    class Mirror extends Transcript {
      override handle(): Promise<void> {
        this.emit([formatAddress(this.request.getsockname()), formatAddress(this.request.getpeername())]);
        return super.handle();
      }
    }
    await using place = await serve(Mirror);
    const { said, own, peer } = await ask(place.port, "Hello, I come from pythontik.com");
    expect(said).toEqual([[32, "Hello, I come from pythontik.com"]]);
    expect(place.told()[0]).toEqual([peer, own]);
    expect(peer).toBe(`127.0.0.1:${place.port}`);
  });

  test("S82: the transcript of two messages", async () => {
    await using place = await serve(Transcript);
    const { said } = await ask(place.port, "Hello!", "I like Tuesdays!");
    expect(said).toEqual([
      [6, "Hello!"],
      [16, "I like Tuesdays!"],
    ]);
    await place.server.serverClose();
    expect(place.told()).toEqual([
      "Got new connection!",
      "Received: Hello!",
      "Received: I like Tuesdays!",
      "Done with connection",
    ]);
    expect(place.errors()).toEqual([]);
  });

  test.each([
    ["BaseRequestHandler", Greeting],
    ["StreamRequestHandler", StreamGreeting],
  ])("S84, S85: is greeted by a %s", async (_, Handler) => {
    await using place = await serve(Handler, undefined, "serial");
    expect(await python(GREETED, [place.port])).toBe("b'Thank you for connecting' b''\n");
    expect(place.told()).toEqual([expect.stringMatching(/^Got connection from 127\.0\.0\.1:\d+$/)]);
  });

  test("S83, S86: handleRequest serves one connection, and no second one", async () => {
    await using place = await listen(Greeting, undefined, "serial");
    const handled = place.server.handleRequest();
    expect(await python(GREETED, [place.port])).toBe("b'Thank you for connecting' b''\n");
    await handled;
    const script = `
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=120)
print("connected", flush=True)
try: print(s.recv(1024))
except ConnectionResetError: print("reset")
`;
    await using second = start("python3", ["-c", script, place.port]);
    expect(await second.line()).toBe("connected");
    expect(place.server.info()).toMatchObject({ served: 1, running: 0 });
    await place.server.serverClose();
    expect(await second.line()).toBe("reset");
    expect(place.server.info().served).toBe(1);
  });

  test("a serial server is deaf to the second client until the first has gone", async () => {
    await using place = await serve(Transcript, undefined, "serial");
    await using first = await createConnection(`127.0.0.1:${place.port}`);
    await first.sendall("first");
    await first.rfile.readexactly(5);
    const script = `
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=120)
s.sendall(b"second")
print("said", flush=True)
print(s.recv(1024).decode(), flush=True)
`;
    await using second = start("python3", ["-c", script, place.port]);
    expect(await second.line()).toBe("said");
    await first.sendall("again");
    await first.rfile.readexactly(5);
    expect(place.told()).toEqual(["Got new connection!", "Received: first", "Received: again"]);
    await first.close();
    expect(await second.line()).toBe("second");
    expect(place.told().slice(3, 6)).toEqual([
      "Done with connection",
      "Got new connection!",
      "Received: second",
    ]);
  });
});

describeWith(["python3"], "our clients and CPython's servers", () => {
  describe.each(["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])("%s", (Server) => {
    test("S82: the transcript of two messages", async () => {
      const { program, at } = await cpython(Server, "EchoRequestHandler", "serve_forever");
      await using _ = program;
      expect(await new TCPConnector(at, TranscriptClient).run()).toEqual([
        { sent: 6, received: "Hello!" },
        { sent: 16, received: "I like Tuesdays!" },
      ]);
      const words = [
        "Got new connection!",
        "Received: Hello!",
        "Received: I like Tuesdays!",
        "Done with connection",
      ];
      for (const said of words) expect(await program.line()).toBe(said);
    });

    test.each(["GreetingHandler", "StreamGreetingHandler"])("S84, S85: is greeted by %s", async (Handler) => {
      const { program, at } = await cpython(Server, Handler, "serve_forever");
      await using _ = program;
      expect(await new TCPConnector(at, GreetingClient).run()).toBe("Thank you for connecting");
      expect(await program.line()).toMatch(/^Got connection from 127\.0\.0\.1:\d+$/);
    });
  });

  test("S80: send gives 32, and the ends name each other", async () => {
    const { program, at } = await cpython("TCPServer", "GreetingHandler", "serve_forever");
    await using _ = program;
    await using socket = await createConnection(at);
    expect(await program.line()).toBe(`Got connection from ${formatAddress(socket.getsockname())}`);
    expect(formatAddress(socket.getpeername())).toBe(at);
    expect(await socket.send("Hello, I come from pythontik.com")).toBe(32);
  });

  test("S83: handle_request serves one connection, and no second one", async () => {
    const port = await reservePort();
    const { program, at } = await cpython("TCPServer", "GreetingHandler", "handle_request", port);
    await using _ = program;
    expect(await new TCPConnector(at, GreetingClient).run()).toBe("Thank you for connecting");
    await program.line(/closed/);
    await expect(new TCPConnector(at, GreetingClient).run()).rejects.toMatchObject({ code: "ECONNREFUSED" });
  });

  test("a serial server is deaf to the second client until the first has gone", async () => {
    const { program, at } = await cpython("TCPServer", "EchoRequestHandler", "serve_forever");
    await using _ = program;
    await using first = await createConnection(at);
    await first.sendall("first");
    await first.rfile.readexactly(5);
    let heard = false;
    const second = new TCPConnector(at, TranscriptClient).run({ params: ["second"] }).then((said) => {
      heard = true;
      return said;
    });
    await first.sendall("again");
    await first.rfile.readexactly(5);
    expect(heard).toBe(false);
    await first.close();
    expect(await second).toEqual([{ sent: 6, received: "second" }]);
    const words = ["Got new connection!", "Received: first", "Received: again", "Done with connection"];
    for (const said of [...words, "Got new connection!", "Received: second"]) {
      expect(await program.line()).toBe(said);
    }
  });
});
