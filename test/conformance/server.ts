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
}

export const serverConformance = (place: ServerPlace): unknown =>
  describe(`server: ${place.name}`, () => {
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
