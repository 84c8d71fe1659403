/** The body of the matrix: in the place it is given, one test for each example, whether it works there or cannot. */

import type { DatagramPeer } from "socklet/testing";
import { describe, expect, test } from "vitest";
import {
  byBytes,
  bytesName,
  cellOf,
  type DatagramExample,
  type Example,
  examples,
  type Held,
  holdDatagrams,
  holdStream,
  isDatagrams,
  type PlaceId,
  places,
  type StreamDoor,
  type StreamExample,
  sameAsInMemory,
  type Way,
  waysOf,
} from "./matrix-table.ts";

/** A place of the table, running. */
export interface MatrixPlace {
  /** Serves `served(example)`, until it is disposed; where all `servings` are up all the time, gives the way to that of this name. */
  streams?(example: StreamExample, name: string): Promise<StreamDoor & Partial<AsyncDisposable>>;
  datagrams?(example: DatagramExample, name: string): Promise<DatagramPeer & Partial<AsyncDisposable>>;
  /** Runs the conversation in ways that only this place has. */
  check?(example: StreamExample): Promise<void>;
  /** Tries what the platform cannot do, and returns its error. */
  asked?(example: Example): unknown;
  /** The ways that a conversation cannot be held here, and why. */
  readonly without?: Readonly<Partial<Record<Way, string>>>;
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

/** Disposes of `place` when `hold` has ended. An error from that becomes the cause of an earlier one. */
const within = async <P extends Partial<AsyncDisposable>>(place: P, hold: (place: P) => Promise<Held>) => {
  const result = await hold(place).catch(async (error: Error) => {
    error.cause ??= await place[Symbol.asyncDispose]?.().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    throw error;
  });
  await place[Symbol.asyncDispose]?.();
  return result;
};

const held = async (place: MatrixPlace, example: Example, name: string, way: Way): Promise<Held> => {
  if (isDatagrams(example)) {
    if (place.datagrams === undefined) throw new Error("the place is said to carry datagrams, and has none");
    return within(await place.datagrams(example, name), (peer) => holdDatagrams(example, peer));
  }
  if (place.streams === undefined) throw new Error("the place is said to carry streams, and has none");
  const cut = way === "byte by byte" && example.dials === undefined;
  const door = await place.streams(cut ? byBytes(example) : example, cut ? bytesName(name) : name);
  return within(door, () => holdStream(example, door, way));
};

/** Throws if the example does not work in the place, in any of its ways. */
export const checkCell = async (place: MatrixPlace, example: Example, name: string): Promise<void> => {
  for (const way of waysOf(example)) {
    if (place.without?.[way] !== undefined) continue;
    try {
      const { transcript, result } = await held(place, example, name, way);
      await sameAsInMemory(example, { transcript, result }, way);
      expect(result).toEqual(isDatagrams(example) ? undefined : example.dials?.result);
    } catch (error) {
      if (error instanceof Error) error.message = `${name}, ${way}: ${error.message}`;
      throw error;
    }
    if (way === "as it stands" && !isDatagrams(example)) await place.check?.(example); // says more than the others
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
      test.skipIf(place.missing != null)(`${name}${place.missing ? `: SKIPPED, ${place.missing}` : ""}`, () =>
        checkCell(place, example, name),
      );
    }
  });
