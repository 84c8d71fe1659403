/** The conformance body of servers: the hooks of each scenario, twice in a row, in the place it is given. */

import type { StreamSocket } from "socklet";
import { describe, expect, test } from "vitest";
import type { Board } from "./handler.ts";
import { serverScenarios } from "./server-scenarios.ts";

/** A place where each scenario's server is up. */
export interface ServerPlace {
  readonly name: string;
  /** The platform accepts: no `getRequest()` is called. */
  readonly accepts: boolean;
  /** Where traces are put: under `KEY/1` and `KEY/2`. */
  readonly board: Board;
  key(index: number): string;
  /** Opens a connection to the server of scenario `index`. */
  dial(index: number): Promise<StreamSocket>;
  /** Opens a connection to the server of `Life`, where this body is to test that, too; `drains`: in one process with all of its requests. */
  readonly life?: { readonly drains: boolean; dial(): Promise<StreamSocket> };
}

export const serverConformance = (place: ServerPlace): unknown =>
  describe(`server: ${place.name}`, () => {
    const { life } = place;
    if (life?.drains) {
      test("drain: what runs is aborted at its deadline", async () => {
        const held = await life.dial();
        await held.sendall("hold\n");
        expect(await held.rfile.line()).toBe("holding");
        const other = await life.dial();
        await other.sendall("drain\n");
        expect(await other.rfile.line()).toBe("draining");
        expect(await place.board.take("life/held")).toBe("ECONNABORTED");
        expect(await place.board.take("life/drained")).toBe("0 running");
        await Promise.all([held.close(), other.close()]);
      });
    }
    if (life !== undefined) {
      test("shutdown from inside a handler: it ends well, and the next is turned away", async () => {
        const last = await life.dial();
        await last.sendall("shutdown\n");
        expect(await last.rfile.line()).toBe("and no more");
        expect(await last.rfile.line()).toBeNull();
        await last.close();
        const late = await life.dial();
        expect(await late.rfile.line()).toBeNull();
        await late.close();
      });
    }

    for (const [index, scenario] of serverScenarios.entries()) {
      test(`hooks: ${scenario.name}`, async () => {
        const trace = scenario.trace.filter((hook) => !place.accepts || hook !== "getRequest");
        for (const round of [1, 2]) {
          const socket = await place.dial(index);
          const read = new TextDecoder().decode((await socket.rfile.read()) ?? new Uint8Array(0));
          await socket.close();
          const recorded = JSON.parse(await place.board.take(`${place.key(index)}/${round}`));
          expect({ round, read, recorded }).toEqual({ round, read: scenario.client, recorded: trace });
        }
      });
    }
  });
