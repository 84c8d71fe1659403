/**
 * An echo as part of an app: without a control plane, with one, and with one that records what passes.
 *
 *     app.ts plain | control | recorded
 */
import { BaseRequestHandler, defineApp, type StreamSocket } from "socklet";
import { controlClient } from "socklet/control";
import { serveApp } from "socklet/emulator";
import { announce } from "./announce.ts";

const TOKEN = "a-token-for-the-bench";

class Echo extends BaseRequestHandler<StreamSocket> {
  override async handle() {
    for (let bytes = await this.request.recv(); bytes !== null; bytes = await this.request.recv()) {
      await this.request.sendall(bytes);
    }
  }
}

const work = process.argv[2] ?? "";
if (!["plain", "control", "recorded"].includes(work))
  throw new Error("usage: app.ts plain | control | recorded");
const app = defineApp({
  handlers: { echo: Echo },
  listen: [{ handler: "echo", address: "tcp://127.0.0.1:0" }],
});
const server = await serveApp(app, work === "plain" ? {} : { control: { port: 0, tokens: TOKEN } });
if (work === "recorded") await controlClient(server.control!.url, { token: TOKEN }).recording.start();
announce(Number(new URL(server.listeners[0]!.url).port));
