/** Programs at a terminal, and a user who types there. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished } from "vitest";

const program = fileURLToPath(new URL("./fixtures/terminal.py", import.meta.url));

/** ms until a command is ended: less than the limit of a test, so that the failure shows what was printed and what was still awaited. */
const LIMIT = 240_000;

/** The awaited output, and the text to type when it has come; nothing is typed for an empty text. */
export type Turn = readonly [waitFor: string, answer: string];

/**
 * Runs a command on a terminal of its own until it ends, takes each turn in its order, and returns everything that was printed: in the
 * end `ended` and its exit status. It ends with its test.
 */
export const typed = async (
  command: readonly string[],
  options: { readonly cwd: string; readonly env: NodeJS.ProcessEnv },
  turns: readonly Turn[],
): Promise<string> => {
  const child = spawn("python3", [program, ...command], { ...options, stdio: ["pipe", "pipe", "inherit"] });
  const closed = once(child, "close");
  const end = (): void => void child.kill("SIGKILL");
  const late = setTimeout(end, LIMIT);
  onTestFinished(async () => {
    clearTimeout(late);
    end();
    await closed;
  });
  child.stdin.on("error", () => {}); // it has ended: its output shows why
  let said = "";
  let from = 0;
  const left = [...turns];
  for await (const bytes of child.stdout) {
    said += bytes;
    for (let [next] = left; next !== undefined; [next] = left) {
      const at = said.indexOf(next[0], from);
      if (at < 0) break;
      from = at + next[0].length;
      child.stdin.write(next[1]);
      left.shift();
    }
  }
  expect({ said, left }).toEqual({ said, left: [] });
  return said;
};
