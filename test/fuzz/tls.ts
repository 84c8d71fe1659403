/** Starts of TLS, spoiled and cut: read by the inspector's decoder, and sent to a listener, which tells each of them once and lives. */

import { once } from "node:events";
import net from "node:net";
import { join } from "node:path";
import tls from "node:tls";
import fc from "fast-check";
import { decodeClientHello } from "../../core/decode/beginnings.ts";
import { SocketError } from "../../core/errors.ts";
import type { SockletEvent } from "../../core/handlers/events.ts";
import { BaseRequestHandler } from "../../core/handlers/handler.ts";
import { ThreadingUnixStreamServer } from "../../emulator/servers/unix.ts";
import { ownCertificates, trustOwnAuthority } from "../peers/certificates.ts";
import { temporaryFolder } from "../peers/children.ts";
import { same, type Target, target } from "./target.ts";

const SIDE = 64; // connections at once

/** What OpenSSL's client begins with. */
const helloOf = async (options: tls.ConnectionOptions): Promise<Uint8Array> => {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as net.AddressInfo;
  const client = tls.connect({ port, host: "127.0.0.1", rejectUnauthorized: false, ...options });
  client.on("error", () => {}); // it gets no answer
  const [socket] = (await once(server, "connection")) as [net.Socket];
  const [bytes] = (await once(socket, "data")) as [Uint8Array];
  client.destroy();
  socket.destroy();
  server.close();
  return bytes;
};

const HELLOS = await Promise.all([
  helloOf({}),
  helloOf({ servername: "example.org", ALPNProtocols: ["h2", "smtp"] }),
  helloOf({ servername: "a.example", maxVersion: "TLSv1.2" }),
]);

/** One thing that goes wrong with bytes; numbers are parts of their length. */
const upTo = (max: number) => fc.double({ min: 0, max, noNaN: true });
const spoilingOf = (how: "flip" | "cut" | "more", at: fc.Arbitrary<number>, to: fc.Arbitrary<number>) =>
  fc.record({ how: fc.constant(how), at, to });
const spoiling = fc.oneof(
  spoilingOf("flip", upTo(0.9999), fc.nat(255)),
  spoilingOf("flip", upTo(0.05), fc.nat(255)),
  spoilingOf("cut", upTo(0.9999), fc.constant(0)),
  spoilingOf("more", upTo(0.9999), fc.nat(255)),
);
const spoiled = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .tuple(fc.constantFrom(...HELLOS), fc.array(spoiling, { minLength: 1, maxLength: 4 }))
      .map(([hello, steps]) => {
        let bytes = [...hello];
        for (const { how, at, to } of steps) {
          const i = Math.floor(at * bytes.length);
          if (how === "flip") bytes[i] = to;
          else if (how === "cut") bytes = bytes.slice(0, i);
          else bytes.splice(i, 0, ...Array.from({ length: to }, (_, n) => (n * to) % 256));
        }
        return new Uint8Array(bytes);
      }),
  },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 64 }) },
  {
    weight: 1,
    arbitrary: fc
      .uint8Array({ maxLength: 64 })
      .map((bytes) => new Uint8Array([22, 3, 1, 0, bytes.length, ...bytes])),
  },
);

// ---- The decoder ----

const wrong = /^(byte \d+: .+|the ClientHello is cut off: \d+ bytes are to follow, and \d+ do)$/;

/** The messages of `bytes`, as text; or what is wrong. Any other error is a failure. */
const said = (bytes: Uint8Array): string => {
  try {
    const messages = [...decodeClientHello(bytes, "client")];
    for (const { start, end } of messages)
      same("what a message covers", start === 0 && end > 5 && end <= bytes.length, true);
    return messages.map(({ text }) => text).join("\n");
  } catch (error) {
    if (error instanceof Error && wrong.test(error.message)) return error.message;
    throw error;
  }
};

const clientHello = target("client hello", "inputs", spoiled, (bytes) => {
  for (const hello of HELLOS)
    same("a client's own", said(hello).startsWith("TLS ClientHello; versions 1."), true);
  const text = said(bytes);
  same("the same bytes again", said(bytes.slice()), text);
  // What follows the first record changes nothing.
  if (text.startsWith("TLS")) same("with more behind it", said(new Uint8Array([...bytes, 1, 2, 3])), text);
  return 1;
});

// ---- A listener ----

const { path: folder } = temporaryFolder("fuzz-tls");
trustOwnAuthority();
const own = ownCertificates();
let sockets = 0;

class Never extends BaseRequestHandler {
  override handle(): void {
    throw new Error("a handler began");
  }
}

/** Sends `bytes` to the listener, in two pieces, and resolves when it has let go of the connection. */
const begin = async (path: string, bytes: Uint8Array): Promise<void> => {
  const socket = net.connect(path);
  socket.on("error", () => {}); // a reset
  socket.resume(); // an alert
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  const half = bytes.length >> 1;
  socket.write(bytes.subarray(0, half));
  socket.end(bytes.subarray(half));
  await closed;
};

const tlsStart: Target = {
  slow: true,
  ...target(
    "tls start",
    "inputs",
    fc.array(spoiled, { minLength: SIDE, maxLength: SIDE, size: "max" }),
    async (starts) => {
      const path = join(folder, String(sockets++));
      const events: SockletEvent[] = [];
      const server = new ThreadingUnixStreamServer({ path }, Never, {
        tls: { cert: own?.cert ?? "", key: own?.key ?? "" },
        onEvent: (event) => void events.push(event),
      });
      await server.listen();
      const serving = server.serveForever();
      try {
        await Promise.all(starts.map((bytes) => begin(path, bytes)));
      } finally {
        await server.close();
        await serving;
      }
      const told = events.filter((event) => event.type === "handshake");
      same("handshakes that were told", told.length, starts.length);
      for (const { error } of told)
        same("why it failed", error instanceof SocketError && error.code === "ERR_TLS", true);
      same("requests that began", events.filter(({ type }) => type === "begin").length, 0);
      return starts.length;
    },
  ),
};

/** Without openssl there is no certificate, and the listener is left out. */
export const tlsStarts: readonly Target[] = own === null ? [clientHello] : [clientHello, tlsStart];
