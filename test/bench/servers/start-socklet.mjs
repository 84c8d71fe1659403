// The same with the built package: `socklet` here is dist/, as its users have it.
import { BaseRequestHandler } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";

class Echo extends BaseRequestHandler {
  async handle() {
    for (let bytes = await this.request.recv(); bytes !== null; bytes = await this.request.recv()) {
      await this.request.sendall(bytes);
    }
  }
}

const server = new ThreadingTCPServer("tcp://127.0.0.1:0", Echo);
const { port } = await server.listen();
console.log(JSON.stringify({ port, pid: process.pid, cpuUs: total(process.cpuUsage()) }));
await server.serveForever();

function total({ user, system }) {
  return user + system;
}
