/** `socklet serve --record`: what an app's listeners and dials say, as transcripts that can be replayed. */

import { once } from "node:events";
import { mkdirSync, readFileSync } from "node:fs";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseTranscript } from "socklet/testing";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { PATIENT } from "../conformance/matrix-table.ts";
import { reservePort } from "../peers/ports.ts";
import { askOnce, Program } from "./dev-program.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
let folder: string; // in the package, whose name the app imports

beforeEach(async () => {
  mkdirSync(join(root, ".wrangler"), { recursive: true });
  folder = await mkdtemp(join(root, ".wrangler", "record-"));
  onTestFinished(() => rm(folder, { recursive: true }));
});

const app = (port: number): string => `
  import { defineApp, streamHandler } from "socklet";
  const Say = streamHandler(async ({ rfile, wfile }) => {
    for await (const line of rfile.lines()) wfile.write("said " + line + "\\n");
  });
  const Ask = streamHandler(async ({ rfile, wfile }) => { wfile.write("question\\n"); return rfile.line(); });
  export const app = defineApp({
    handlers: { Say, Ask },
    listen: [{ handler: "Say", address: "tcp://127.0.0.1:${port}" }],
    dial: { ask: { handler: "Ask", address: "127.0.0.1:${port}" } },
  });`;

test("each listener, and each server that is dialled, has a transcript, which socklet replay takes", async () => {
  const port = await reservePort();
  await writeFile(join(folder, "app.ts"), app(port));
  const serve = new Program(folder, ["serve", "app.ts", "--record", "said", "--control-port", "0"]);
  await serve.line(/^control /);
  expect([await askOnce(port, "one"), await askOnce(port, "two")]).toEqual(["said one", "said two"]);
  const run = new Program(folder, ["sessions", "run", "ask"]);
  expect([await run.exit, run.lines]).toEqual([0, ['"said question"']]);
  serve.process.kill("SIGINT");
  expect(await serve.exit).toBe(0);

  const [dialled = "", listened = ""] = (await readdir(join(folder, "said"))).sort();
  expect([dialled, listened]).toEqual([`dialled-127.0.0.1-${port}.jsonl`, `tcp-127.0.0.1-${port}.jsonl`]);
  const said = (name: string): string[] =>
    parseTranscript(readFileSync(join(folder, "said", name), "utf8")).events.flatMap((event) =>
      "data" in event ? [`${event.peer ?? 1} ${event.from}: ${Buffer.from(event.data)}`] : [],
    );
  expect(said(listened)).toEqual([
    "1 client: one\n",
    "1 server: said one\n",
    "2 client: two\n",
    "2 server: said two\n",
    "3 client: question\n",
    "3 server: said question\n",
  ]);
  expect(said(dialled)).toEqual(["1 client: question\n", "1 server: said question\n"]);

  const again = new Program(folder, ["serve", "app.ts", "--control-port", "0"]);
  await again.line(/^control /);
  const replay = new Program(folder, [
    "replay",
    join("said", listened),
    ...["--to", `tcp://127.0.0.1:${port}`, "--timeout", String(PATIENT.timeout)],
  ]);
  expect([await replay.exit, replay.lines]).toEqual([0, ["3 connections: as recorded"]]);

  const other = net.createServer((socket) => {
    socket.on("error", () => {}); // the replay ends it
    socket.on("data", () => socket.write("said no\n"));
  });
  await once(other.listen(0, "127.0.0.1"), "listening");
  onTestFinished(() => void other.close());
  const to = `tcp://127.0.0.1:${(other.address() as net.AddressInfo).port}`;
  const differing = new Program(folder, ["replay", join("said", listened), "--to", to]);
  expect(await differing.exit).toBe(1);
  expect(differing.lines.slice(0, 4)).toEqual([
    'connection 1: step 2, expect("said one\\n"): something else came',
    'differs at byte 5: expected 6f "o", got 6e "n"',
    '- "said one\\n"',
    '+ "said no\\n"',
  ]);
});

test("what is said while it drains is in the transcript, and so is what a pool says", async () => {
  const answers = net.createServer((socket) => {
    socket.on("error", () => {}); // the pool ends it with its process
    socket.setEncoding("utf8").on("data", (text) => socket.write(`said ${text}`));
  });
  await once(answers.listen(0, "127.0.0.1"), "listening");
  onTestFinished(() => void answers.close());
  const { port } = answers.address() as net.AddressInfo;
  const other = await reservePort();
  await writeFile(
    join(folder, "app.ts"),
    `import { ClientHandler, defineApp, streamHandler } from "socklet";
     class Ask extends ClientHandler {
       send(line) { this.wfile.write(line + "\\n"); }
       receive() { return this.rfile.line(); }
     }
     const Passes = streamHandler(async ({ rfile, wfile, context }) => {
       for await (const line of rfile.lines()) wfile.write((await context.ask.call(line)) + "\\n");
     });
     export const app = defineApp({
       handlers: { Ask, Passes },
       listen: [{ handler: "Passes", address: "tcp://127.0.0.1:${other}" }],
       pools: { ask: { handler: "Ask", address: "tcp://127.0.0.1:${port}" } },
       context: ({ pool }) => ({ ask: pool("ask", Ask) }),
     });`,
  );
  const serve = new Program(folder, [
    "serve",
    "app.ts",
    "--record",
    "said",
    "--control-port",
    "0",
    "--drain",
    String(PATIENT.timeout),
  ]);
  await serve.line(/^control /);
  const socket = net.connect(other, "127.0.0.1").setEncoding("utf8");
  socket.write("before\n");
  expect(await once(socket, "data")).toEqual(["said before\n"]);
  serve.process.kill("SIGINT");
  await serve.line(/draining 1 running/);
  socket.write("while it drains\n");
  expect(await once(socket, "data")).toEqual(["said while it drains\n"]);
  socket.end();
  expect(await serve.exit).toBe(0);
  for (const name of [`dialled-tcp-127.0.0.1-${port}`, `tcp-127.0.0.1-${other}`]) {
    const { events } = parseTranscript(readFileSync(join(folder, "said", `${name}.jsonl`), "utf8"));
    const said = events.flatMap((event) => ("data" in event ? [String(Buffer.from(event.data))] : []));
    expect(said, name).toEqual(["before\n", "said before\n", "while it drains\n", "said while it drains\n"]);
  }
});

test("a process that a handler ends has recorded all that was said until then", async () => {
  const port = await reservePort();
  await writeFile(
    join(folder, "app.ts"),
    `import { defineApp, streamHandler } from "socklet";
     const Ends = streamHandler(async ({ rfile }) => { await rfile.line(); process.exit(7); });
     export const app = defineApp({
       handlers: { Ends },
       listen: [{ handler: "Ends", address: "tcp://127.0.0.1:${port}" }],
     });`,
  );
  const serve = new Program(folder, ["serve", "app.ts", "--record", "said", "--control-port", "0"]);
  await serve.line(/^control /);
  const socket = net.connect(port, "127.0.0.1").on("error", () => {});
  socket.write("the last words\n");
  expect(await serve.exit).toBe(7);
  const { events } = parseTranscript(
    readFileSync(join(folder, "said", `tcp-127.0.0.1-${port}.jsonl`), "utf8"),
  );
  const said = events.flatMap((event) => ("data" in event ? [String(Buffer.from(event.data))] : []));
  expect(said).toEqual(["the last words\n"]);
});

test.each([
  [["--no-control"], "leave out --no-control"],
  [["--workers", "2"], "leave out --workers"],
])("--record with %s is an error that says what would be right", async (more, right) => {
  await writeFile(join(folder, "app.ts"), app(await reservePort()));
  const serve = new Program(folder, ["serve", "app.ts", "--record", "said", ...more]);
  expect(await serve.exit).toBe(2);
  expect(serve.lines.join("\n")).toContain(right);
});
