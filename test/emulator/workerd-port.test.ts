/** The conformance body in workerd, dialled over kernel TCP by Node. */

import { createConnection } from "socklet/emulator";
import { afterAll, beforeAll } from "vitest";
import { streamConformance } from "../conformance/stream.ts";
import { freePort, type RunningWorker, runWorker } from "./workerd.ts";

const port = await freePort();
let worker: RunningWorker;

beforeAll(async () => {
  worker = await runWorker("test/worker/main.ts", [port], { BOARD: "BoardObject", DOOR: "DoorObject" });
}, 60_000);

afterAll(() => worker.close());

streamConformance({
  name: "workerd, by port",
  dial: () => createConnection({ hostname: "127.0.0.1", port }),
});
