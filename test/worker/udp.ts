/** Datagram handlers as a Worker, on the UDP ports that a test chose. */

import { DatagramRequestHandler, defineApp } from "socklet";
import { workerFor } from "socklet/worker";
import { DnsDatagram } from "../../examples/dns.ts";
import { EchoDatagram } from "../../examples/echo.ts";

/** Says what it was given; throws where it is asked to. */
class Tell extends DatagramRequestHandler {
  override handle(): void {
    const line = this.rfile.tryLine();
    if (line === "crash") throw new Error("as asked");
    if (line !== "hush") this.wfile.write(`${line} from ${this.clientAddress}`);
  }
}

interface Bindings {
  readonly UDP: Readonly<Record<"echo" | "dns" | "tell", number>>;
}

let worker: ReturnType<typeof workerFor> | undefined;

export default {
  async fetch(): Promise<Response> {
    return new Response("ok");
  },
  connect(socket: Socket, env: Bindings, ctx: ExecutionContext): Promise<void> {
    worker ??= workerFor(
      defineApp({
        handlers: { echo: EchoDatagram, dns: DnsDatagram, tell: Tell },
        listen: Object.entries(env.UDP).map(([handler, port]) => ({
          handler,
          address: `udp://127.0.0.1:${port}`,
        })),
      }),
    );
    return worker.connect(socket, env, ctx);
  },
};
