/** Listeners behind proxies as a Worker, on the ports that a test chose. */

import { behindProxies, defineApp } from "socklet";
import { workerFor } from "socklet/worker";
import { Says, SaysDatagram } from "../conformance/proxied.ts";

interface Bindings {
  readonly TCP: readonly [trusts: number, hurries: number, refuses: number, direct: number];
  readonly UDP: readonly [udp: number];
}

let worker: ReturnType<typeof workerFor> | undefined;

const workerOf = ({ TCP: [trusts, hurries, refuses, direct], UDP: [udp] }: Bindings) => {
  const at = (port: number) => ({ hostname: "127.0.0.1", port });
  const from = ["127.0.0.0/8", "unknown"];
  worker ??= workerFor(
    defineApp({
      handlers: { trusts: Says, hurries: Says, refuses: Says, direct: Says, udp: SaysDatagram },
      listen: [
        {
          handler: "trusts",
          address: at(trusts),
          options: { proxyProtocol: behindProxies({ from, timeout: 60_000 }) }, // its peers may stand still
        },
        {
          handler: "hurries",
          address: at(hurries),
          options: { proxyProtocol: behindProxies({ from, timeout: 100 }) },
        },
        {
          handler: "refuses",
          address: at(refuses),
          options: { proxyProtocol: behindProxies({ from: ["192.0.2.1"] }) },
        },
        {
          handler: "direct",
          address: at(direct),
          options: { proxyProtocol: behindProxies({ from: ["192.0.2.1"], others: "direct" }) },
        },
        {
          handler: "udp",
          address: `udp://127.0.0.1:${udp}`,
          options: { proxyProtocol: behindProxies({ from }) },
        },
      ],
    }),
  );
  return worker;
};

export default {
  fetch: (request: Request, env: Bindings, ctx: ExecutionContext) => workerOf(env).fetch(request, env, ctx),
  connect: (socket: Socket, env: Bindings, ctx: ExecutionContext) => workerOf(env).connect(socket, env, ctx),
};
