/** The limits and rules of an app's listeners hold in workerd, too, and its routes show what they did. */

import { controlClient } from "socklet/control";
import { createConnection } from "socklet/emulator";
import { afterAll, beforeAll, expect, test } from "vitest";
import { reservePorts } from "../peers/ports.ts";
import { type RunningWorker, runWorker } from "./workerd.ts";

const TOKEN = "a-token-for-the-tests";
const ports = await reservePorts(3);
const [one = 0, denied = 0, short = 0] = ports;
let worker: RunningWorker;

beforeAll(async () => {
  const vars = { PORTS: ports, SOCKLET_TOKENS: TOKEN };
  worker = await runWorker({ main: "test/worker/limits.ts", ports, classes: {}, vars });
});
afterAll(() => worker.close());

const dial = (port: number) => createConnection({ hostname: "127.0.0.1", port });

/** How an unserved connection ends: workerd has no reset, so with its end, or with an error that the peer is gone. */
const turnedAway = async (port: number): Promise<boolean> => {
  const client = await dial(port);
  try {
    return (await client.recv()) === null;
  } catch (error) {
    return (error as { code?: string }).code === "ECONNRESET";
  } finally {
    client.abort();
  }
};

test("limits and rules hold; /v1/listeners shows who was refused", async () => {
  const first = await dial(one);
  await first.sendall("hello\n");
  expect(await first.rfile.line()).toBe("HELLO");
  expect(await turnedAway(one)).toBe(true);
  await first.sendall("still\n");
  expect(await first.rfile.line()).toBe("STILL");
  await first.close();
  expect(await turnedAway(denied)).toBe(true);
  const long = await dial(short);
  await long.sendall("longer than eight\n");
  expect(await long.recv().catch((error) => error.code)).toSatisfy(
    (ended) => ended === null || ended === "ECONNRESET",
  );
  await long.close();
  expect(await turnedAway(short)).toBe(true); // by its time-out, since nothing was sent

  const control = controlClient(worker.url, { token: TOKEN });
  let listeners = await control.listeners();
  // A request counts when its connection is released, which its peer sees earlier.
  while (listeners.some(({ running }) => running > 0)) listeners = await control.listeners();
  const of = (name: string) => listeners.find((listener) => listener.name === name);
  expect(of("one")).toMatchObject({ serve: "threading", state: "serving", refused: 1, bytesRead: 12 });
  expect(of("denied")).toMatchObject({ refused: 1, served: 0 });
  expect(of("short")).toMatchObject({ refused: 0, failed: 2 });
  expect(of("path")).toMatchObject({ address: "unix:/run/nowhere", state: "new", children: null });

  const told: string[] = [];
  for await (const { type, server, reason } of control.listenerEvents())
    told.push(`${server} ${reason ?? type}`);
  expect(told).toEqual(
    expect.arrayContaining([
      "one begin",
      "one full",
      "one end",
      "denied access",
      "short timeout",
      "short error",
    ]),
  );
});
