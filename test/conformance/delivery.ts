/**
 * The output of a handler in the tests of delivery: the pattern of pattern.ts, in steps. No test framework,
 * since it also runs inside a Worker; test/emulator/deliveries.ts draws the steps and checks what arrives.
 */

import type { StreamSocket } from "socklet";
import { patternAt } from "./pattern.ts";

/** One write: its number of bytes, and how the handler writes them. `turn` writes, and waits for the event loop's next turn. */
export interface Step {
  readonly bytes: number;
  readonly how: "write" | "flush" | "sendall" | "turn";
}

/** How many bytes the steps write in all. */
export const sizeOf = (steps: readonly Step[]): number => steps.reduce((sum, { bytes }) => sum + bytes, 0);

/** Writes according to the steps, and relies on the end of the handler to deliver it. */
export const writeSteps = async (request: StreamSocket, steps: readonly Step[]): Promise<void> => {
  let at = 0;
  for (const { bytes, how } of steps) {
    const piece = patternAt(at, bytes);
    at += bytes;
    if (how === "sendall") await request.sendall(piece);
    else request.wfile.write(piece);
    if (how === "flush") await request.wfile.flush();
    if (how === "turn") await new Promise((resolve) => setTimeout(resolve, 0));
  }
};
