/**
 * 10 GB through `socklet proxy`: what comes out is what went in, and the proxy's memory stays flat.
 *
 *     npm run soak -- --wire [--bytes 10e9]
 *
 * Said at the end: the rate, and the proxy's resident memory after the first tenth, at its most, and at the end. Exit status 1 where
 * bytes differ, or memory grew by more than 32 MiB behind the first tenth.
 */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import net from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { tied } from "../peers/children.ts";

const MIB = 1024 * 1024;
const MAY_GROW = 32; // MiB: the collector takes its time
const { values } = parseArgs({
  options: { wire: { type: "boolean" }, bytes: { type: "string", default: "10e9" } },
});
const pieces = Math.ceil(Number(values.bytes) / MIB);

const came = createHash("sha1");
const server = net.createServer({ allowHalfOpen: true }, async (socket) => {
  for await (const bytes of socket) came.update(bytes);
  socket.end("whole");
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
const target = `tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`;

const cli = fileURLToPath(new URL("../../emulator/command/cli.ts", import.meta.url));
const args = ["--conditions=socklet:source", cli, "proxy", target, "--listen", "127.0.0.1:0", "--quiet"];
const proxy = tied(spawn(process.execPath, args, { stdio: ["ignore", "inherit", "pipe"] }));
const { value: line } = await createInterface(proxy.stderr)[Symbol.asyncIterator]().next();
const port = Number(/:(\d+) passes/.exec(String(line))?.[1]);

/** MiB that the proxy holds now. */
const memory = (): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${proxy.pid}/status`, "utf8"))?.[1]) / 1024;

const client = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
await once(client, "connect");
const answered = once(client, "data");
const sent = createHash("sha1");
let settled = 0;
let most = 0;
const began = performance.now();
for (let i = 0; i < pieces; i++) {
  const piece = Buffer.alloc(MIB, i & 0xff);
  piece.writeUInt32LE(i, (i * 4) % (MIB - 4));
  sent.update(piece);
  if (!client.write(piece)) await once(client, "drain");
  if (i % 64 !== 0 || i < pieces / 10) continue;
  const now = memory();
  settled ||= now;
  most = Math.max(most, now);
}
client.end();
await answered;
const seconds = (performance.now() - began) / 1000;
const last = memory();
const same = came.digest("hex") === sent.digest("hex");
console.log(
  `${((pieces * MIB) / 1e9).toFixed(1)} GB, ${same ? "the same bytes" : "OTHER BYTES"}, ${((pieces * MIB) / 1e6 / seconds).toFixed(0)} MB/s; the proxy held ${settled.toFixed(0)} MiB after a tenth, ${most.toFixed(0)} at most, ${last.toFixed(0)} at the end`,
);
proxy.kill("SIGINT");
await once(proxy, "exit");
server.close();
process.exitCode = same && most - settled <= MAY_GROW ? 0 : 1;
