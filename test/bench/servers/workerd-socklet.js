// The same on Socklet, as a newcomer writes it. WORK chooses: echo | resp-lines | resp-try | download | download-into.
import { BaseRequestHandler, streamHandler } from "socklet";
import { createConnection, WorkerServer } from "socklet/worker";
import { RespSession } from "./resp.ts";
import { parseOrder } from "./source.ts";

const store = new Map();

class Echo extends BaseRequestHandler {
  async handle() {
    for (let bytes = await this.request.recv(); bytes !== null; bytes = await this.request.recv()) {
      await this.request.sendall(bytes);
    }
  }
}

const handlers = {
  echo: Echo,

  "resp-lines": streamHandler(async ({ rfile, wfile }) => {
    const session = new RespSession(store);
    for await (const line of rfile.lines()) {
      const reply = session.take(line);
      if (reply !== undefined) wfile.write(reply);
    }
  }),

  "resp-try": streamHandler(async ({ rfile, wfile }) => {
    const session = new RespSession(store);
    for (;;) {
      const line = rfile.tryLine() ?? (await rfile.line());
      if (line === null) return;
      const reply = session.take(line);
      if (reply !== undefined) wfile.write(reply);
    }
  }),

  download: streamHandler(async ({ rfile, wfile }) => {
    const { address, check } = parseOrder(await rfile.line());
    await using source = await createConnection(address);
    for (let bytes = await source.recv(); bytes !== null; bytes = await source.recv()) check.take(bytes);
    wfile.write(`${check}\n`);
  }),

  "download-into": streamHandler(async ({ rfile, wfile }) => {
    const { address, check } = parseOrder(await rfile.line());
    await using source = await createConnection(address);
    const buffer = new Uint8Array(1024 * 1024);
    for (let size = await source.recvInto(buffer); size !== null; size = await source.recvInto(buffer)) {
      check.take(buffer.subarray(0, size));
    }
    wfile.write(`${check}\n`);
  }),
};

let server;

export default {
  connect(socket, { WORK }, ctx) {
    server ??= new WorkerServer(handlers[WORK]);
    return server.connect(socket, ctx);
  },
};
