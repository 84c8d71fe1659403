/** A Worker's metrics: `/v1/metrics` from what its objects know, and its events in Workers Analytics Engine. */

import { env } from "cloudflare:workers";
import { defineApp, SHUT_WR, streamHandler } from "socklet";
import { analyticsEvents, lasting, metrics, streamSocket, workerFor } from "socklet/worker";
import { describe, expect, inject, test } from "vitest";
import { app } from "./sessions-main.ts";

const headers = { authorization: "Bearer abcdefghijklmnop0123" };
const context = { waitUntil() {}, passThroughOnException() {} } as unknown as ExecutionContext;

describe("GET /v1/metrics", () => {
  const worker = workerFor(app, { lasting, metrics });
  const ask = (bindings: object = env, of = worker): Promise<Response> =>
    of.fetch(new Request("http://x/v1/metrics", { headers }), bindings, context);

  test("has how many sessions run and how many are kept, as the registry knows", async () => {
    const value = async (sample: string): Promise<number> => {
      const answer = await ask();
      expect(answer.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
      const line = (await answer.text()).split("\n").find((text) => text.startsWith(`${sample} `));
      return Number(line?.slice(sample.length + 1));
    };
    const samples = ["socklet_dialled_sessions", 'socklet_kept_sessions{state="cut"}'] as const;
    const values = async () => [await value(samples[0]), await value(samples[1])];
    const before = await values();
    const plane = worker.plane(env);
    const address = `127.0.0.1:${inject("echoPort")}`;
    const { id } = await plane.start({ handler: "lines", address });
    expect(await values()).toEqual([(before[0] ?? 0) + 1, before[1]]);
    expect(await plane.end(id)).toMatchObject({ state: "cut" });
    await expect.poll(values).toEqual([before[0], (before[1] ?? 0) + 1]); // when its object has told the registry
  });

  test("has nothing of what is not known: no session where there is no registry, and no listener", async () => {
    const answer = await ask({ SOCKLET_TOKENS: "read:abcdefghijklmnop0123" });
    expect([answer.status, await answer.text()]).toEqual([200, ""]);
    expect(await (await ask()).text()).not.toMatch(/listener|pool|process/);
  });

  test("is 501 in a Worker that has not asked for it, and says how to", async () => {
    const answer = await ask(env, workerFor(app, { lasting }));
    expect([answer.status, await answer.json()]).toMatchObject([
      501,
      { code: "ERR_UNSUPPORTED", detail: expect.stringContaining("workerFor(app, { metrics })") },
    ]);
  });
});

describe("Workers Analytics Engine", () => {
  const talk = async (door: string, say: string): Promise<string> => {
    const socket = await streamSocket(env.SELF.connect(door));
    if (say !== "") await socket.sendall(say);
    await socket.shutdown(SHUT_WR);
    const heard = await socket.rfile.read();
    await socket.close();
    return new TextDecoder().decode(heard ?? undefined);
  };

  test("has a point of each request, with its reason, its duration and its bytes, and of each that was refused", async () => {
    expect(await talk("counted-echo:99", "hello\n")).toBe("hello\n");
    expect(await talk("counted-fails:99", "x\n")).toBe("x\n");
    expect(await talk("counted-none:99", "")).toBe("");
    let points: { readonly indexes: readonly string[] }[] = [];
    while (points.length < 3) {
      const all: typeof points = JSON.parse(await talk("counted-points:99", ""));
      points = all.filter(({ indexes }) => indexes[0] !== "counted-points");
    }
    expect(points).toEqual(
      expect.arrayContaining([
        { indexes: ["counted-echo"], blobs: ["end", "ok"], doubles: [expect.any(Number), 6, 6] },
        { indexes: ["counted-fails"], blobs: ["end", "ENOENT"], doubles: [expect.any(Number), 2, 2] },
        { indexes: ["worker"], blobs: ["refused", "no listener"], doubles: [] },
      ]),
    );
    expect(points).toHaveLength(3);
  });

  test("a binding that is none is refused at once, with what to do", () => {
    expect(() => analyticsEvents(undefined as never)).toThrow(
      /^analyticsEvents\(\) takes a dataset of Workers Analytics Engine: .*analytics_engine_datasets/,
    );
  });

  test("a name that is longer than an index may be is cut between characters", () => {
    const indexes: (string[] | undefined)[] = [];
    const tell = analyticsEvents({ writeDataPoint: ({ indexes: own }) => void indexes.push(own) });
    tell({ type: "refused", server: `${"x".repeat(95)}ö`, address: null, reason: "rate" });
    expect(indexes).toEqual([["x".repeat(95)]]);
  });
});

test("an app without pools or sessions can have them", () => {
  const small = defineApp({ handlers: { nothing: streamHandler(() => {}) } });
  expect(workerFor(small, { metrics })).toHaveProperty("connect");
});
