/** The control plane of the emulator: its connections as sessions, and its routes over HTTP. */

import { once } from "node:events";
import { request } from "node:http";
import net from "node:net";
import { defineApp, type SocketError, type SockletEvent, StreamRequestHandler, streamHandler } from "socklet";
import {
  type ControlClient,
  controlClient,
  isOver,
  type SessionEvent,
  type SessionInfo,
} from "socklet/control";
import { type AppServer, type ServeOptions, serveApp } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { describeWith, redis, start } from "../peers/program.ts";
import { type RunningWorker, runWorker } from "./workerd.ts";

const TOKEN = "a-token-for-the-tests";

/** Emits each line that comes, until the end; gives how many. */
class Lines extends StreamRequestHandler {
  override async handle(): Promise<number> {
    let count = 0;
    for await (const line of this.rfile.lines()) {
      count++;
      this.emit(line);
    }
    return count;
  }
}

/** Says "ready", then does as `Lines`; says why its signal aborted as an event, too. */
class Greets extends Lines {
  override setup(): Promise<void> {
    this.signal.addEventListener("abort", () =>
      this.emit({ aborted: (this.signal.reason as SocketError).code }),
    );
    return this.request.sendall("ready\n");
  }
}

const Throws = streamHandler(async ({ request }) => {
  await request.sendall("ready\n");
  throw new RangeError("thrown by the handler");
});

/** Says "ready" and never ends, also when it is aborted. */
const NeverEnds = streamHandler(async ({ request }) => {
  await request.sendall("ready\n");
  await new Promise(() => {});
});

const address = "tcp://127.0.0.1:0";

const app = defineApp({
  handlers: { lines: Lines, Greets, Throws, NeverEnds, respClient: RespClient, resp: RespServer },
  listen: [
    { handler: "Greets", address },
    { handler: "Throws", address },
    { handler: "NeverEnds", address },
    { handler: "resp", address, serve: "serial" },
    { handler: "lines", address: "udp://127.0.0.1:0" },
  ].filter(({ handler }) => handler !== "lines") as never,
  allow: ["127.0.0.0/8:*"],
  context: () => ({ keys: new KeyStore() }),
});
