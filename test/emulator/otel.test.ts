/** `socklet/otel` with OpenTelemetry's own SDK: spans, their parents and attributes, and metrics. */

import { context, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import {
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
  TracerProvider,
} from "@opentelemetry/sdk-trace";
import { DatagramRequestHandler, type InternetAddress, StreamRequestHandler, streamHandler } from "socklet";
import {
  createDatagramConnection,
  TCPConnector,
  ThreadingTCPServer,
  ThreadingUDPServer,
} from "socklet/emulator";
import { startTelemetry } from "socklet/otel";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { Told } from "../core/told.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { ownAddress, reservePort } from "../peers/ports.ts";

beforeAll(() => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
});
afterAll(() => context.disable());

/** Telemetry into memory, for one test. */
const telemetry = () => {
  const exporter = new InMemorySpanExporter();
  const tracerProvider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] });
  const metricExporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  const reader = new PeriodicExportingMetricReader({
    exporter: metricExporter,
    exportIntervalMillis: 3_600_000,
  });
  const meterProvider = new MeterProvider({ readers: [reader] });
  const stop = startTelemetry({ tracerProvider, meterProvider });
  onTestFinished(async () => {
    stop();
    await meterProvider.shutdown();
    await tracerProvider.shutdown();
  });
  const spans = async (name: string, count: number): Promise<readonly ReadableSpan[]> => {
    for (;;) {
      const found = exporter.getFinishedSpans().filter((span) => span.name === name);
      if (found.length >= count) return found;
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const points = async (name: string) => {
    await reader.forceFlush();
    const all =
      metricExporter
        .getMetrics()
        .at(-1)
        ?.scopeMetrics.flatMap(({ metrics }) => metrics) ?? [];
    return all.find(({ descriptor }) => descriptor.name === name)?.dataPoints ?? [];
  };
  return { exporter, tracer: tracerProvider.getTracer("of the test"), stop, spans, points };
};

class Asks extends StreamRequestHandler {
  override async handle() {
    const line = await this.rfile.line();
    trace.getActiveSpan()?.setAttribute("asked", String(line));
    if (line === "fail") throw new RangeError("as it was asked");
    this.wfile.write(`${line}\n`);
  }
}

const Talks = streamHandler(async ({ rfile, wfile, params }) => {
  wfile.write(`${params}\n`);
  return rfile.line();
});

test("a connection is a span of either side, with what the handler adds, bytes, and its error", async () => {
  const { spans, points, tracer } = telemetry();
  const told = new Told();
  await using server = new ThreadingTCPServer("127.0.0.1:0", Asks, { onEvent: told.on });
  const { port } = (await tracer.startActiveSpan("opens the server", () =>
    server.listen(),
  )) as InternetAddress;
  void server.serveForever();
  const connector = new TCPConnector(`127.0.0.1:${port}`, Talks, { name: "talks" });
  const outer = tracer.startSpan("outer");
  const within = trace.setSpan(context.active(), outer);
  await context.with(within, () => connector.run({ params: "hello" }));
  await connector.run({ params: "fail" });
  outer.end();
  const all = await spans("connection", 4);
  const of = (kind: SpanKind) => all.filter((span) => span.kind === kind);
  const [well, failed] = of(SpanKind.SERVER) as [ReadableSpan, ReadableSpan];
  const [dialled] = of(SpanKind.CLIENT) as [ReadableSpan];
  const [connect] = (await spans("connect", 2)) as [ReadableSpan];
  expect(well.attributes).toMatchObject({
    "network.transport": "tcp",
    "network.type": "ipv4",
    "network.peer.address": "127.0.0.1",
    "network.peer.port": connect.attributes["network.local.port"],
    "client.address": "127.0.0.1",
    "server.address": "127.0.0.1",
    "server.port": port,
    "socklet.server": "Asks",
    "socklet.received": 6,
    "socklet.sent": 6,
    asked: "hello",
  });
  expect(well.parentSpanContext).toBeUndefined(); // not of the span that opened the server
  expect(failed.attributes).toMatchObject({ "error.type": "RangeError", asked: "fail" });
  expect(failed.status).toEqual({ code: SpanStatusCode.ERROR, message: "as it was asked" });
  expect(failed.events).toMatchObject([{ name: "exception" }]);
  for (const span of [dialled, connect]) {
    expect(span.parentSpanContext?.spanId).toBe(outer.spanContext().spanId);
    expect(span.attributes).toMatchObject({ "server.address": "127.0.0.1", "server.port": port });
  }
  await told.next("end", 2);
  const durations = await points("network.connection.duration");
  const ofServer = durations.filter(({ attributes }) => attributes["socklet.role"] === "server");
  const labels = {
    "network.transport": "tcp",
    "socklet.server": "Asks",
    "socklet.role": "server",
    "server.port": port,
  };
  expect(ofServer).toMatchObject([
    { attributes: labels, value: { count: 1 } },
    { attributes: { ...labels, "error.type": "RangeError" }, value: { count: 1 } },
  ]);
  expect((await points("network.connection.count")).map(({ value }) => value)).toEqual([0, 0]);
  const received = (await points("network.connection.io")).find(
    ({ attributes }) =>
      attributes["socklet.role"] === "server" && attributes["network.io.direction"] === "receive",
  );
  expect(received).toMatchObject({ value: 6 + 5 });
  expect(await points("network.connect.duration")).toMatchObject([{ value: { count: 2 } }]);
});

test("what is dialled in a handler is a child of its span; a dial that failed says why", async () => {
  const { spans } = telemetry();
  const nobody = await reservePort();
  const Dials = streamHandler(async () => {
    await new TCPConnector(`127.0.0.1:${nobody}`, Talks).run().catch(() => {});
  });
  await using server = new ThreadingTCPServer("127.0.0.1:0", Dials);
  const at = (await server.listen()) as InternetAddress;
  void server.serveForever();
  await new TCPConnector(at, Talks).run({ params: "x" }).catch(() => {});
  const inner = (await spans("connect", 2)).find((span) => span.attributes["server.port"] === nobody);
  const outer = (await spans("connection", 2)).find((span) => span.kind === SpanKind.SERVER);
  expect(inner?.parentSpanContext?.spanId).toBe(outer?.spanContext().spanId);
  expect(inner?.attributes).toMatchObject({ "error.type": "ECONNREFUSED" });
});

test("datagrams, refusals, and nothing once it was stopped", async () => {
  const { spans, points, stop, exporter } = telemetry();
  class Packet extends DatagramRequestHandler {
    override handle() {
      this.request.reply("pong");
    }
  }
  await using udp = new ThreadingUDPServer("udp://127.0.0.1:0", Packet);
  const { port } = (await udp.listen()) as InternetAddress;
  void udp.serveForever();
  await using client = await createDatagramConnection(`127.0.0.1:${port}`, { timeout: null });
  await client.send("ping!");
  await client.recv();
  expect((await spans("datagram", 1))[0]?.attributes).toMatchObject({
    "network.transport": "udp",
    "server.port": port,
    "socklet.received": 5,
    "socklet.sent": 4,
  });
  const told = new Told();
  await using denied = new ThreadingTCPServer("127.0.0.1:0", Asks, {
    access: { deny: ["127.0.0.0/8"] },
    onEvent: told.on,
  });
  const at = (await denied.listen()) as InternetAddress;
  void denied.serveForever();
  await new TCPConnector(at, Talks).run({ params: "x" }).catch(() => {});
  await told.next("refused");
  expect(await points("network.connection.refused")).toMatchObject([
    { attributes: { "socklet.server": "Asks", "socklet.reason": "access" }, value: 1 },
  ]);
  const before = exporter.getFinishedSpans().length;
  stop();
  await client.send("ping!");
  await client.recv();
  expect(exporter.getFinishedSpans()).toHaveLength(before);
});

const certificates = ownCertificates();
test.skipIf(certificates === null)(
  "TLS: its version on the connection, and a span for each handshake",
  async () => {
    const { spans, points } = telemetry();
    const { ca, cert, key } = certificates as NonNullable<typeof certificates>;
    await using server = new ThreadingTCPServer(`tls://${await ownAddress()}`, Asks, { tls: { cert, key } });
    const { port } = (await server.listen()) as InternetAddress;
    void server.serveForever();
    await new TCPConnector(`tls://localhost:${port}`, Talks, { tls: { ca } }).run({ params: "x" });
    const tls = { "tls.protocol.name": "tls", "tls.protocol.version": "1.3" };
    for (const span of await spans("connection", 2)) expect(span.attributes).toMatchObject(tls);
    const [connect] = await spans("connect", 1);
    const both = await spans("TLS handshake", 2);
    for (const span of both) expect(span.attributes).toMatchObject(tls);
    const parents = both.map((span) => span.parentSpanContext?.spanId);
    expect(parents.filter((id) => id !== undefined)).toEqual([connect?.spanContext().spanId]);
    expect(await points("tls.handshake.duration")).toHaveLength(2);
  },
);

test("an option that is none is refused", () => {
  expect(() => startTelemetry({ tracer: 1 } as never)).toThrow(/startTelemetry\(\) has no option tracer;/);
});
