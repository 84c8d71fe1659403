/** docs/observing.md: its Worker, in real workerd. */

import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { expect, onTestFinished, test } from "vitest";
import { reservePort } from "../peers/ports.ts";
import { workerScript } from "./worker-script.ts";

const page = readFileSync("docs/observing.md", "utf8");
const [, worker = ""] = /^```ts\n(\/\/ shout-worker\.ts\n.*?)^```$/ms.exec(page) ?? [];
const TOKEN = "abcdefghijklmnop0123";

test("the page's Worker serves, writes to its dataset, and has the metrics that the page names", async () => {
  const folder = mkdtempSync(join(tmpdir(), "socklet-observing-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "shout-worker.ts");
  const port = await reservePort();
  writeFileSync(file, worker.replace(":7007", `:${port}`));
  const [, binding = "", dataset = ""] = /^binding = "(\w+)"\ndataset = "(\w+)"$/m.exec(page) ?? [];
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script: await workerScript(file),
      compatibilityDate: "2026-10-01",
      analyticsEngineDatasets: { [binding]: { dataset } },
      durableObjects: {
        SOCKLET_SESSIONS: { className: "SockletSession", useSQLite: true },
        SOCKLET_REGISTRY: { className: "SockletRegistry", useSQLite: true },
      },
      bindings: { SOCKLET_TOKENS: TOKEN },
      connectHandlers: [{ protocol: "tcp", port }],
    }),
  );
  onTestFinished(() => miniflare.dispose());
  const socket = await miniflare.dispatchConnect();
  socket.end("hello\n");
  const heard: Buffer[] = [];
  socket.on("data", (bytes: Buffer) => heard.push(bytes));
  await once(socket, "end");
  expect(String(Buffer.concat(heard))).toBe("HELLO\n");
  const headers = { authorization: `Bearer ${TOKEN}` };
  const answer = await miniflare.dispatchFetch("http://x/v1/metrics", { headers });
  const samples = (await answer.text()).split("\n").filter((line) => /^[^#]/.test(line));
  expect(samples).toEqual([
    "socklet_dialled_sessions 0",
    'socklet_kept_sessions{state="ended"} 0',
    'socklet_kept_sessions{state="failed"} 0',
    'socklet_kept_sessions{state="cut"} 0',
  ]);
});
