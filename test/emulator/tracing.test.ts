/** The tracing channels of the emulator: what they tell, in which order, and that a store holds in the handler. */

import { AsyncLocalStorage } from "node:async_hooks";
import { type TracingChannelSubscribers, tracingChannel } from "node:diagnostics_channel";
import {
  type Address,
  DatagramRequestHandler,
  type InternetAddress,
  StreamRequestHandler,
  streamHandler,
} from "socklet";
import {
  createConnection,
  createDatagramConnection,
  ForkingTCPServer,
  handlerFrom,
  TCPConnector,
  ThreadingTCPServer,
  ThreadingUDPServer,
  type TracedConnect,
  type TracedHandshake,
  type TracedRequest,
} from "socklet/emulator";
import { expect, onTestFinished, test } from "vitest";
import { ownCertificates } from "../peers/certificates.ts";
import { ownAddress, reservePort } from "../peers/ports.ts";

const PHASES = ["start", "end", "asyncStart", "asyncEnd", "error"] as const;

/** Everything that a channel reports from now on, and a promise that `count` operations are over. */
const watch = <Context extends object>(name: string) => {
  const told: { readonly phase: (typeof PHASES)[number]; readonly context: Context }[] = [];
  let look = (): void => {};
  const subscribers = Object.fromEntries(
    PHASES.map((phase) => [
      phase,
      (context: Context) => {
        told.push({ phase, context });
        look();
      },
    ]),
  ) as unknown as TracingChannelSubscribers<Context>;
  const channel = tracingChannel<object, Context>(name);
  channel.subscribe(subscribers);
  onTestFinished(() => void channel.unsubscribe(subscribers));
  const over = async (count: number): Promise<readonly Context[]> => {
    for (;;) {
      const ended = told.filter(({ phase }) => phase === "asyncEnd").map(({ context }) => context);
      if (ended.length >= count) return ended;
      await new Promise<void>((resolve) => {
        look = resolve;
      });
    }
  };
  const of = (context: Context): string[] =>
    told.filter((one) => one.context === context).map(({ phase }) => phase);
  return { channel, over, of };
};

const serving = async (server: {
  listen(): Promise<Address | null>;
  serveForever(): Promise<void>;
  serverClose(): Promise<void>;
}) => {
  onTestFinished(() => server.serverClose());
  const at = (await server.listen()) as InternetAddress;
  void server.serveForever();
  return at;
};

test("socklet.request: both sides, streams and datagrams, well and failed; a store holds in the handler", async () => {
  const { channel, over, of } = watch<TracedRequest>("socklet.request");
  const store = new AsyncLocalStorage<{ readonly as: string }>();
  channel.start.bindStore(store, (context) => ({
    as: `${(context as TracedRequest).server} ${(context as TracedRequest).id}`,
  }));
  onTestFinished(() => void channel.start.unbindStore(store));
  class Says extends StreamRequestHandler {
    override async handle() {
      const line = await this.rfile.line();
      if (line === "fail") throw new RangeError("as it was asked");
      await new Promise((resolve) => setImmediate(resolve));
      this.wfile.write(`${store.getStore()?.as}\n`);
      return "done";
    }
  }
  class Packet extends DatagramRequestHandler {
    override handle() {
      this.request.reply(String(store.getStore()?.as));
    }
  }
  const at = await serving(new ThreadingTCPServer("127.0.0.1:0", Says, { name: "says" }));
  const Asks = streamHandler(async ({ rfile, wfile, params }) => {
    wfile.write(`${params}\n`);
    return [await rfile.line(), store.getStore()?.as];
  });
  const connector = new TCPConnector(at, Asks, { name: "asks" });
  expect(await connector.run({ params: "well" })).toEqual(["says 1", "asks 1"]);
  await connector.run({ params: "fail" });
  const udp = await serving(new ThreadingUDPServer("udp://127.0.0.1:0", Packet, { name: "packet" }));
  await using client = await createDatagramConnection(`127.0.0.1:${udp.port}`, { timeout: null });
  await client.send("x");
  expect(new TextDecoder().decode(await client.recv())).toBe("packet 1");
  const ended = await over(5);
  const shown = ended.map(({ server, role, id, result, error }) => [server, role, id, result, String(error)]);
  expect(shown.sort()).toEqual([
    ["asks", "client", 1, ["says 1", "asks 1"], "undefined"],
    ["asks", "client", 2, [null, "asks 2"], "undefined"],
    ["packet", "server", 1, undefined, "undefined"],
    ["says", "server", 1, "done", "undefined"],
    ["says", "server", 2, undefined, "RangeError: as it was asked"],
  ]);
  for (const context of ended) {
    const failed = context.error === undefined ? [] : ["error"];
    expect(of(context)).toEqual(["start", "end", ...failed, "asyncStart", "asyncEnd"]);
    expect(context.address).toMatchObject({ hostname: "127.0.0.1" });
  }
});

test("socklet.request of a forking server is told by the parent", async () => {
  const { over } = watch<TracedRequest>("socklet.request");
  const Handler = handlerFrom(new URL("fixtures/served.ts", import.meta.url).href, "WaitsForALine");
  const at = await serving(new ForkingTCPServer("127.0.0.1:0", Handler));
  const socket = await createConnection(at);
  await socket.sendall("done\n");
  await socket.close();
  expect(await over(1)).toMatchObject([{ server: "WaitsForALine", role: "server", id: 1 }]);
});

test("socklet.connect: what was dialled, and why it failed", async () => {
  const { over } = watch<TracedConnect>("socklet.connect");
  const port = await reservePort();
  const server = new ThreadingTCPServer(
    `127.0.0.1:${port}`,
    streamHandler(() => {}),
  );
  await serving(server);
  await (await createConnection(`127.0.0.1:${port}`)).close();
  await server.serverClose();
  await expect(createConnection(`127.0.0.1:${port}`)).rejects.toMatchObject({ code: "ECONNREFUSED" });
  const address = `tcp://127.0.0.1:${port}`;
  expect(await over(2)).toMatchObject([
    { address, result: { remoteAddress: { port } } },
    { address, error: { code: "ECONNREFUSED" } },
  ]);
});

const certificates = ownCertificates();
test.skipIf(certificates === null)(
  "socklet.handshake: of a forking server's children, told by the parent",
  async () => {
    const { over } = watch<TracedHandshake>("socklet.handshake");
    const { ca, cert, key } = certificates as NonNullable<typeof certificates>;
    const handler = handlerFrom(new URL("fixtures/tls-handlers.ts", import.meta.url), "Tell");
    const server = new ForkingTCPServer(`tls://${await ownAddress()}`, handler, {
      tls: { cert, key, alpn: ["tell"] },
    });
    const { port } = await serving(server);
    const options = { tls: { ca, alpn: ["tell"] } };
    const socket = await createConnection(`tls://localhost:${port}`, options);
    await socket.close();
    const served = (await over(2)).find(({ role }) => role === "server");
    expect(served).toMatchObject({
      address: { family: "IPv4" },
      result: {
        version: "TLSv1.3",
        cipher: expect.stringMatching(/^TLS_/),
        alpn: "tell",
        serverName: "localhost",
      },
    });
    const plain = await createConnection(`127.0.0.1:${port}`);
    await plain.sendall("GET / HTTP/1.0\r\n\r\n");
    expect((await over(3))[2]).toMatchObject({ role: "server", error: { code: "ERR_TLS" } });
    plain.abort();
  },
);

test.skipIf(certificates === null)("socklet.handshake: both sides, and one that failed", async () => {
  const { over } = watch<TracedHandshake>("socklet.handshake");
  const { ca, cert, key } = certificates as NonNullable<typeof certificates>;
  const server = new ThreadingTCPServer(
    `tls://${await ownAddress()}`,
    streamHandler(() => {}),
    { tls: { cert, key } },
  );
  const { port } = await serving(server);
  const socket = await createConnection(`tls://localhost:${port}`, { tls: { ca } });
  await socket.close();
  const both = (await over(2)).map(({ role, address, result }) => [role, address?.family, result?.version]);
  expect(both.sort()).toEqual([
    ["client", "IPv4", "TLSv1.3"],
    ["server", "IPv4", "TLSv1.3"],
  ]);
  const plain = await createConnection(`127.0.0.1:${port}`);
  await plain.sendall("GET / HTTP/1.0\r\n\r\n");
  const failed = (await over(3))[2];
  expect(failed).toMatchObject({ role: "server", error: { code: "ERR_TLS" } });
  plain.abort();
});
