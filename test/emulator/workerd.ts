/** A Worker of this repository in real workerd, behind real ports of this machine. */

import { fileURLToPath } from "node:url";
import { createTestHarness } from "wrangler";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** One running Worker. */
export interface RunningWorker {
  /** `http://127.0.0.1:8787`, without a path. */
  readonly url: string;
  fetch(path: string, init?: RequestInit): Promise<Response>;
  close(): Promise<void>;
}

/** Options for running a Worker. */
export interface WorkerSetup {
  /** The main module, from the repository's root. */
  readonly main: string;
  /** Its TCP ports, from `reservePorts()`: wrangler takes no port 0. */
  readonly ports: readonly number[];
  /** Its UDP ports, from `reserveUdpPorts()`; the runtime has them with the flag `experimental` alone. */
  readonly udpPorts?: readonly number[];
  /** Its Durable Objects' classes, by binding. */
  readonly classes: Readonly<Record<string, string>>;
  readonly vars?: Readonly<Record<string, unknown>>;
}

export const runWorker = async ({
  main,
  ports,
  classes,
  vars = {},
  udpPorts = [],
}: WorkerSetup): Promise<RunningWorker> => {
  const harness = createTestHarness({
    root,
    workers: [
      {
        config: {
          name: "under-test",
          main,
          compatibility_date: "2026-10-01",
          compatibility_flags: [
            "no_nodejs_compat",
            "no_nodejs_compat_v2",
            ...(udpPorts.length > 0 ? ["experimental"] : []),
          ],
          alias: { socklet: "./core/index.ts", "socklet/worker": "./worker/index.ts" },
          vars,
          connect: [
            ...ports.map((port) => ({ protocol: "tcp" as const, port })),
            ...udpPorts.map((port) => ({ protocol: "udp" as const, port })),
          ],
          durable_objects: {
            bindings: Object.entries(classes).map(([name, class_name]) => ({ name, class_name })),
          },
          migrations: [{ tag: "v1", new_sqlite_classes: Object.values(classes) }],
        },
      },
    ],
  });
  const { url } = await harness.listen();
  return {
    url: url.origin,
    fetch: (path, init) => harness.fetch(path, init as never) as unknown as Promise<Response>,
    close: () => harness.close(),
  };
};
