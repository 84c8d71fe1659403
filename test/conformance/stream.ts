/** The conformance body of stream sockets: one test a scenario, in the place it is given. */

import type { StreamSocket } from "socklet";
import { describe, expect, test } from "vitest";
import { asideOf, remoteBoard, sawAt } from "./handler.ts";
import { streamScenarios } from "./stream-scenarios.ts";

/** A place where `Conformance` is served. */
export interface StreamPlace {
  readonly name: string;
  /** Opens one more connection to it. */
  dial(): Promise<StreamSocket>;
  /** Whether an end that is dialled here hears a reset as an error, and not as the end; or neither end does. Default true. */
  readonly hearsReset?: boolean | "neither";
  /** The scenarios that cannot be run here, and why, by their names. */
  readonly without?: Readonly<Record<string, string>>;
}

let runs = 0;

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value ?? null));

/** `here`: which end of each scenario the dialled socket is; the other is the place's. */
export const streamConformance = (place: StreamPlace, here: "peer" | "served" = "peer"): unknown =>
  describe(`stream socket: ${place.name}`, () => {
    for (const [index, scenario] of streamScenarios.entries()) {
      test(scenario.name, async (context) => {
        const id = `${place.name.replaceAll(" ", "-")}-${++runs}`;
        const there = here === "peer" ? "served" : "peer";
        const why = place.without?.[scenario.name];
        if (why !== undefined) context.skip(`${place.name} cannot do this: ${why}`);
        const deaf = place.hearsReset === "neither" || (here === "served" && place.hearsReset === false);
        if (scenario.needs !== undefined && deaf) {
          context.skip(`${place.name} cannot do this: it takes a reset for the end`);
        }
        const board = remoteBoard(() => place.dial());
        const socket = await place.dial();
        if (here === "peer" && scenario.needs !== undefined && !scenario.needs(socket)) {
          socket.abort();
          context.skip(`${place.name} cannot do this: its peer has no such capability`);
        }
        await socket.sendall(`${there} ${id} ${index}\n`);
        const sawHere = await sawAt(() => scenario[here](socket, asideOf(board, id)));
        await socket.close().catch(() => {}); // the scenario has seen what it lost
        const sawThere = JSON.parse(await board.take(`${id}/outcome`)).value;
        expect({ [here]: plain(sawHere), [there]: sawThere }).toEqual(plain(scenario.sees));
      });
    }
  });
