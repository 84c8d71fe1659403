/**
 * A TLS server that is measured: `tls.ts bare | socklet`, with a certificate in the folder TLS_FOLDER. To a line on its
 * input it answers how much CPU it has used, in microseconds.
 *
 * It echoes; `bare` is what the documentation of node:tls would write.
 */

import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:tls";
import { BaseRequestHandler, type StreamSocket } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { announce } from "./announce.ts";

const [kind] = process.argv.slice(2);
const folder = process.env.TLS_FOLDER ?? "";
const pair = {
  cert: readFileSync(`${folder}/cert.pem`, "utf8"),
  key: readFileSync(`${folder}/key.pem`, "utf8"),
};

class Echo extends BaseRequestHandler<StreamSocket> {
  override async handle() {
    for (let bytes = await this.request.recv(); bytes !== null; bytes = await this.request.recv()) {
      await this.request.sendall(bytes);
    }
  }
}

if (kind === "bare") {
  const server = createServer({ ...pair, noDelay: true }, (socket) => {
    socket.on("data", (bytes) => socket.write(bytes)).on("error", () => {});
  });
  server.listen(0, "127.0.0.1", () => announce((server.address() as AddressInfo).port));
} else {
  const server = new ThreadingTCPServer("127.0.0.1:0", Echo, { tls: pair });
  const address = await server.listen();
  if (address === null || !("port" in address)) throw new Error("the server has no port");
  announce(address.port);
  void server.serveForever();
}

process.stdin.on("data", () => {
  const { user, system } = process.cpuUsage();
  console.log(`cpu ${user + system}`);
});
