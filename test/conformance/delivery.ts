/**
 * What a handler writes where delivery is tested: bytes that differ with their place, in steps. Without a test framework,
 * since it runs inside a Worker, too; test/emulator/deliveries.ts draws the steps and checks what arrives.
 */

import type { StreamSocket } from "socklet";

/** One write: so many bytes, and what the handler does with them. `turn` writes, and waits for the event loop's next turn. */
export interface Step {
  readonly bytes: number;
  readonly how: "write" | "flush" | "sendall" | "turn";
}

/** The bytes from place `from` on of what is written. */
export const writtenAt = (from: number, size: number): Uint8Array => {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) {
    const at = from + i;
    bytes[i] = (at * 31 + (at >> 8) * 7 + (at >> 16)) & 255;
  }
  return bytes;
};

/** How many bytes the steps write in all. */
export const sizeOf = (steps: readonly Step[]): number => steps.reduce((sum, { bytes }) => sum + bytes, 0);

/** Writes what the steps say, and leaves it to the end of the handler to see that it arrives. */
export const writeSteps = async (request: StreamSocket, steps: readonly Step[]): Promise<void> => {
  let at = 0;
  for (const { bytes, how } of steps) {
    const piece = writtenAt(at, bytes);
    at += bytes;
    if (how === "sendall") await request.sendall(piece);
    else request.wfile.write(piece);
    if (how === "flush") await request.wfile.flush();
    if (how === "turn") await new Promise((resolve) => setTimeout(resolve, 0));
  }
};
