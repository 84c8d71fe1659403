// The Socklet twin of bare-echo.ts: the handler as a newcomer writes it.
import { BaseRequestHandler, type StreamSocket } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { announce } from "./announce.ts";

class Echo extends BaseRequestHandler<StreamSocket> {
  override async handle() {
    for (let bytes = await this.request.recv(); bytes !== null; bytes = await this.request.recv()) {
      await this.request.sendall(bytes);
    }
  }
}

const server = new ThreadingTCPServer("tcp://127.0.0.1:0", Echo);
const address = await server.listen();
if (!address || !("port" in address)) throw new Error("the server has no port");
announce(address.port);
await server.serveForever();
