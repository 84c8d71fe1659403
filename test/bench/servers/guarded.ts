/** The app that guard.ts measures, with `guardConnections` where it is started with "on". */

import { defineApp, StreamRequestHandler } from "socklet";
import { createConnection, serveApp } from "socklet/emulator";

let upstream = "";

class Echo extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const line of this.rfile.lines()) this.wfile.write(`${line}\n`);
  }
}

/** Passes each line to a server that it dials, and returns its answer. */
class Asks extends StreamRequestHandler {
  override async handle(): Promise<void> {
    const server = await createConnection(upstream);
    for await (const line of this.rfile.lines()) {
      server.wfile.write(`${line}\n`);
      this.wfile.write(`${await server.rfile.line()}\n`);
    }
    await server.close();
  }
}

const app = defineApp({
  handlers: { echo: Echo, asks: Asks },
  listen: [
    { handler: "echo", address: "tcp://127.0.0.1:0", serve: "threading" },
    { handler: "asks", address: "tcp://127.0.0.1:0", serve: "threading" },
  ],
});
const server = await serveApp(app, { guardConnections: process.argv[2] === "on" });
const ports = Object.fromEntries(server.listeners.map(({ name, url }) => [name, Number(new URL(url).port)]));
upstream = `tcp://127.0.0.1:${ports.echo}`;
process.on("message", () => {
  const { user, system } = process.cpuUsage();
  process.send?.(user + system);
});
process.on("disconnect", () => process.exit());
process.send?.(ports);
