/** The conformance bodies in workerd, dialled over kernel TCP by Node. */

import type { StreamSocket } from "socklet";
import { createConnection } from "socklet/emulator";
import { afterAll, beforeAll } from "vitest";
import { remoteBoard } from "../conformance/handler.ts";
import { serverConformance } from "../conformance/server.ts";
import { serverScenarios } from "../conformance/server-scenarios.ts";
import { streamConformance } from "../conformance/stream.ts";
import { reservePorts } from "../peers/ports.ts";
import { type RunningWorker, runWorker } from "./workerd.ts";

const [port = 0, lifePort = 0, ...tracePorts] = await reservePorts(2 + serverScenarios.length);
let worker: RunningWorker;

beforeAll(async () => {
  worker = await runWorker({
    main: "test/worker/main.ts",
    ports: [port, lifePort, ...tracePorts],
    classes: { BOARD: "BoardObject", DOOR: "DoorObject" },
    vars: {
      DOORS: {
        [lifePort]: "life-port",
        ...Object.fromEntries(tracePorts.map((at, index) => [at, `trace-port-${index}`])),
      },
    },
  });
});

afterAll(() => worker.close());

const dial = (at: number): Promise<StreamSocket> => createConnection({ hostname: "127.0.0.1", port: at });

streamConformance({ name: "workerd, by port", dial: () => dial(port) });
serverConformance({
  name: "workerd, by port",
  accepts: true,
  board: remoteBoard(() => dial(port)),
  key: (index) => `port/${index}`,
  dial: (index) => dial(tracePorts[index] as number),
  life: { drains: false, dial: () => dial(lifePort) },
});
