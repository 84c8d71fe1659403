/** Datagram handlers as a Worker, on the UDP ports that a test chose. */

import { DatagramRequestHandler, defineApp, type SockletEvent } from "socklet";
import { workerFor } from "socklet/worker";
import { DnsDatagram } from "../../examples/dns.ts";
import { EchoDatagram } from "../../examples/echo.ts";

// The events of datagrams.
let dropped = 0;
let written = 0;
const onEvent = (event: SockletEvent): void => {
  if (event.type === "dropped" && event.reason === "full" && event.bytes === 1000) dropped++;
  else if (event.type === "end") written = Math.max(written, event.bytesWritten);
};

/** Echoes what it receives; throws, or sends too much at once, on request. */
class Tell extends DatagramRequestHandler {
  override handle(): void {
    const line = this.rfile.tryLine();
    if (line === "crash") throw new Error("as asked");
    if (line === "flood") {
      for (let i = 0; i < 2000; i++) this.request.reply(new Uint8Array(1000));
    } else if (line === "flooded?") this.wfile.write(JSON.stringify({ written, dropped }));
    else if (line !== "hush") this.wfile.write(`${line} from ${this.clientAddress}`);
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
      { onEvent },
    );
    return worker.connect(socket, env, ctx);
  },
};
