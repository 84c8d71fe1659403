/** The conformance body of stream sockets: one test a scenario, in the place it is given. */

import type { StreamSocket } from "socklet";
import { describe, expect, test } from "vitest";
import { asideOf, remoteBoard } from "./handler.ts";
import { streamScenarios } from "./stream-scenarios.ts";

/** A place where `Conformance` is served. */
export interface StreamPlace {
  readonly name: string;
  /** Opens one more connection to it. */
  dial(): Promise<StreamSocket>;
}

let runs = 0;

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value ?? null));

export const streamConformance = (place: StreamPlace): unknown =>
  describe(`stream socket: ${place.name}`, () => {
    for (const [index, scenario] of streamScenarios.entries()) {
      test(scenario.name, async (context) => {
        const id = `${place.name.replaceAll(" ", "-")}-${++runs}`;
        const board = remoteBoard(() => place.dial());
        const socket = await place.dial();
        if (scenario.needs !== undefined && !scenario.needs(socket)) {
          socket.abort();
          context.skip(`${place.name} cannot do this: its peer has no such capability`);
        }
        await socket.sendall(`run ${id} ${index}\n`);
        const peer = await scenario.peer(socket, asideOf(board, id));
        await socket.close();
        const served = JSON.parse(await board.take(`${id}/outcome`)).value;
        const sees =
          typeof scenario.sees === "function" ? scenario.sees(socket.capabilities.reset) : scenario.sees;
        expect({ served, peer: plain(peer) }).toEqual({ served: plain(sees.served), peer: plain(sees.peer) });
      });
    }
  });
