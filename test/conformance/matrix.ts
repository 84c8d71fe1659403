/** The body of the matrix: in the place it is given, one test for each example, whether it works there or cannot. */

import type { DatagramPeer } from "socklet/testing";
import { describe, expect, test } from "vitest";
import {
  cellOf,
  type DatagramExample,
  type Example,
  examples,
  holdDatagrams,
  holdStream,
  isDatagrams,
  type PlaceId,
  places,
  type StreamDoor,
  type StreamExample,
  sameAsInMemory,
} from "./matrix-table.ts";

/** A place of the table, running. */
export interface MatrixPlace {
  /** Serves `served(example)`, until it is disposed; where it is served all the time, gives the way there. */
  streams?(example: StreamExample, name: string): Promise<StreamDoor & Partial<AsyncDisposable>>;
  datagrams?(example: DatagramExample, name: string): Promise<DatagramPeer & Partial<AsyncDisposable>>;
  /** Asks for what the platform cannot, and gives what it says. */
  asked?(example: Example): unknown;
  /** Why it cannot be run on this machine. */
  readonly missing?: string | null;
}

const saidBy = async (ask: () => unknown): Promise<string> => {
  try {
    return String(await ask());
  } catch (error) {
    return String(error);
  }
};

const held = async (place: MatrixPlace, example: Example, name: string) => {
  if (isDatagrams(example)) {
    if (place.datagrams === undefined) throw new Error("the place is said to carry datagrams, and has none");
    const peer = await place.datagrams(example, name);
    try {
      return await holdDatagrams(example, peer);
    } finally {
      await peer[Symbol.asyncDispose]?.();
    }
  }
  if (place.streams === undefined) throw new Error("the place is said to carry streams, and has none");
  const door = await place.streams(example, name);
  try {
    return await holdStream(example, door);
  } finally {
    await door[Symbol.asyncDispose]?.();
  }
};

/** One test a cell of the place's column. */
export const matrixOf = (id: PlaceId, place: MatrixPlace | undefined): unknown =>
  describe(`every example: ${places[id].name}`, () => {
    if (place === undefined) {
      test("it is run", () => {
        throw new Error(
          `${id} is declared in test/conformance/matrix-table.ts, and ${places[id].file} does not run it`,
        );
      });
      return;
    }
    for (const [name, example] of Object.entries(examples)) {
      const cell = cellOf(example, id);
      if ("cannot" in cell) {
        test(`${name}: cannot`, async () => {
          const said = await saidBy(() => place.asked?.(example));
          expect({ [`what ${places[id].name} says`]: said }).toEqual({
            [`what ${places[id].name} says`]: cell.says,
          });
        });
        continue;
      }
      test.skipIf(place.missing != null)(
        `${name}${place.missing ? `: SKIPPED, ${place.missing}` : ""}`,
        async () => {
          const { transcript, result } = await held(place, example, name);
          await sameAsInMemory(example, { transcript, result });
          expect(result).toEqual(isDatagrams(example) ? undefined : example.dials?.result);
        },
      );
    }
  });
