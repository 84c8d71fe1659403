/** `/v1/metrics`, read by Prometheus' own parser, and counted right. */

import net from "node:net";
import { ClientHandler, defineApp, type InternetAddress, type PoolClient, streamHandler } from "socklet";
import { serveApp, ThreadingTCPServer } from "socklet/emulator";
import { expect, onTestFinished, test } from "vitest";
import { Told } from "../core/told.ts";
import { python, pythonWith } from "./program.ts";

const Echo = streamHandler(async ({ rfile, wfile }) => {
  for await (const line of rfile.lines()) {
    if (line === "fail") throw new Error('a text with "quotes"\nand lines, that is no label');
    wfile.write(`${line}\n`);
  }
});

const TOKEN = "a-token-for-the-tests";

const READS = `
import json, sys
from prometheus_client.parser import text_string_to_metric_families
samples = []
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    for sample in family.samples:
        samples.append([family.type, sample.name, sample.labels, sample.value])
print(json.dumps(samples))
`;

type Sample = readonly [type: string, name: string, labels: Readonly<Record<string, string>>, value: number];

pythonWith("prometheus_client", "python3-prometheus-client")("Prometheus' own parser", (command) => {
  test("reads the metrics of an app, which are right", async () => {
    const told = new Told();
    const app = defineApp({
      handlers: { echo: Echo, denied: Echo, idle: Echo },
      listen: [
        { handler: "echo", address: "127.0.0.1:0" },
        { handler: "denied", address: "127.0.0.1:0", options: { access: { deny: ["127.0.0.0/8"] } } },
        { handler: "idle", address: "127.0.0.1:0", options: { idleTimeout: 20 } },
      ],
    });
    const server = await serveApp(app, {
      onEvent: told.on,
      control: { port: 0, tokens: TOKEN },
    });
    onTestFinished(() => server.close());
    const [echo, denied, idle] = server.listeners.map(({ url }) => Number(new URL(url).port));
    const talk = async (port: number, text: string): Promise<void> => {
      const socket = net.connect(port, "127.0.0.1").on("error", () => {});
      socket.end(text);
      socket.resume();
      await new Promise((resolve) => socket.once("close", resolve)); // a denied one is reported as reset
    };
    await talk(echo as number, "hello\n");
    await talk(echo as number, `${"x".repeat(2000)}\n`);
    await talk(echo as number, "fail\n");
    await talk(denied as number, "hello\n");
    const silent = net.connect(idle as number, "127.0.0.1").on("error", () => {});
    onTestFinished(() => void silent.destroy());
    await told.next("end", 4); // its limit ends the silent one
    const open = net.connect(echo as number, "127.0.0.1");
    onTestFinished(() => void open.destroy());
    await told.next("begin", 5);
    const { url } = server.control as { readonly url: string };
    const answer = await fetch(`${url}/v1/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } });
    expect([answer.status, answer.headers.get("content-type")]).toEqual([
      200,
      "text/plain; version=0.0.4; charset=utf-8",
    ]);
    const text = await answer.text();
    const samples: Sample[] = JSON.parse(await python(READS, [], text, undefined, command));
    const value = (name: string, labels: object = { listener: "echo" }): number | undefined =>
      samples.find(([, of, has]) => of === name && JSON.stringify(has) === JSON.stringify(labels))?.[3];
    const of = (reason: string) => ({ listener: "echo", reason });
    expect({
      begun: value("socklet_requests_total"),
      active: value("socklet_active_requests"),
      ok: value("socklet_ended_total", of("ok")),
      failed: value("socklet_ended_total", of("error")),
      idle: value("socklet_ended_total", { listener: "idle", reason: "idleTimeout" }),
      refused: value("socklet_refused_total", { listener: "denied", reason: "access" }),
      durations: value("socklet_duration_seconds_count"),
      received: value("socklet_received_bytes_sum"),
      sent: value("socklet_sent_bytes_sum"),
      upTo64: value("socklet_received_bytes_bucket", { listener: "echo", le: "64" }),
      upTo1024: value("socklet_received_bytes_bucket", { listener: "echo", le: "1024" }),
      upTo16384: value("socklet_received_bytes_bucket", { listener: "echo", le: "16384" }),
      all: value("socklet_received_bytes_bucket", { listener: "echo", le: "+Inf" }),
    }).toEqual({
      begun: 4,
      active: 1,
      ok: 2,
      failed: 1,
      idle: 1,
      refused: 1,
      durations: 3,
      received: 6 + 2001 + 5,
      sent: 6 + 2001,
      upTo64: 2,
      upTo1024: 2,
      upTo16384: 3,
      all: 3,
    });
    expect(value("process_resident_memory_bytes", {})).toBeGreaterThan(1_000_000);
    expect(samples.map(([, name]) => name)).toContain("socklet_event_loop_delay_seconds_count");
    expect(text).not.toContain("quotes");
    const shut = await fetch(`${url}/v1/metrics`);
    expect(shut.status).toBe(401);
  });
});

test("and those of an app's pools", async () => {
  class Calls extends ClientHandler<string, string | null> {
    override async call(call: string): Promise<string | null> {
      await this.request.sendall(`${call}\n`);
      return this.rfile.line();
    }
  }
  await using peer = new ThreadingTCPServer("127.0.0.1:0", Echo);
  const at = (await peer.listen()) as InternetAddress;
  void peer.serveForever();
  let pool: PoolClient<string, string | null> | undefined;
  const app = defineApp({
    handlers: { echo: Echo, calls: Calls },
    listen: [{ handler: "echo", address: "127.0.0.1:0" }],
    pools: { theirs: { handler: "calls", address: `127.0.0.1:${at.port}`, max: 3 } },
    context: (platform) => {
      pool = platform.pool("theirs", Calls);
    },
  });
  await using server = await serveApp(app, { control: { port: 0, tokens: TOKEN } });
  for (const call of ["a", "b"]) expect(await pool?.call(call)).toBe(call);
  const headers = { authorization: `Bearer ${TOKEN}` };
  const text = await (await fetch(`${server.control?.url}/v1/metrics`, { headers })).text();
  const samples = text.split("\n").filter((line) => line.startsWith("socklet_pool_"));
  expect(samples).toEqual([
    'socklet_pool_connections{pool="theirs",state="idle"} 1',
    'socklet_pool_connections{pool="theirs",state="leased"} 0',
    'socklet_pool_connections{pool="theirs",state="busy"} 0',
    'socklet_pool_connections{pool="theirs",state="opening"} 0',
    'socklet_pool_connections_limit{pool="theirs"} 3',
    'socklet_pool_running_calls{pool="theirs"} 0',
    'socklet_pool_waiting_calls{pool="theirs"} 0',
    'socklet_pool_calls_total{pool="theirs",result="answered"} 2',
    'socklet_pool_calls_total{pool="theirs",result="lost"} 0',
    'socklet_pool_calls_total{pool="theirs",result="abandoned"} 0',
    'socklet_pool_dials_total{pool="theirs",result="opened"} 1',
    'socklet_pool_dials_total{pool="theirs",result="failed"} 0',
  ]);
});
