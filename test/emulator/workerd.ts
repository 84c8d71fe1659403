/** A Worker of this repository in real workerd, behind real ports of this machine. */

import net from "node:net";
import { fileURLToPath } from "node:url";
import { createTestHarness } from "wrangler";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** A port that was free a moment ago: wrangler takes no port 0. */
export const freePort = async (): Promise<number> => {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
};

/** One running Worker. */
export interface RunningWorker {
  fetch(path: string): Promise<Response>;
  close(): Promise<void>;
}

/** Runs the module `main` with TCP doors at `ports` and the Durable Objects `classes`, by binding. */
export const runWorker = async (
  main: string,
  ports: readonly number[],
  classes: Readonly<Record<string, string>>,
): Promise<RunningWorker> => {
  const harness = createTestHarness({
    root,
    workers: [
      {
        config: {
          name: "under-test",
          main,
          compatibility_date: "2026-10-01",
          compatibility_flags: ["no_nodejs_compat", "no_nodejs_compat_v2"],
          alias: { socklet: "./core/index.ts", "socklet/worker": "./worker/index.ts" },
          connect: ports.map((port) => ({ protocol: "tcp", port })),
          durable_objects: {
            bindings: Object.entries(classes).map(([name, class_name]) => ({ name, class_name })),
          },
          migrations: [{ tag: "v1", new_sqlite_classes: Object.values(classes) }],
        },
      },
    ],
  });
  await harness.listen();
  return {
    fetch: (path) => harness.fetch(path) as unknown as Promise<Response>,
    close: () => harness.close(),
  };
};
