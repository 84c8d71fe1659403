/** A handler's state as text, and back. */

import { StreamRequestHandler } from "socklet";
import { MemoryServer } from "socklet/testing";
import { describe, expect, test } from "vitest";
import { decodeState, encodeState, MAX_STATE } from "../../core/control/sessions/state.ts";
import { fc } from "../conformance/properties.ts";

const leaf = fc.oneof(
  fc.jsonValue(),
  fc.uint8Array(),
  fc.date({ noInvalidDate: false }),
  fc.bigInt(),
  fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0, undefined),
);
const key = fc.oneof(fc.string(), fc.constantFrom("$bytes", "$map", "$object", "$value", "__proto__", "$"));
const { value } = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    leaf,
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(key, tie("value"), { maxKeys: 4, noNullPrototype: true }),
    fc.array(fc.tuple(tie("value"), tie("value")), { maxLength: 3 }).map((entries) => new Map(entries)),
    fc.array(tie("value"), { maxLength: 3 }).map((items) => new Set(items)),
  ),
}));

describe("what is saved", () => {
  test("comes back equal", () => {
    fc.assert(
      fc.property(
        value.filter((state) => state !== undefined),
        (state) => {
          const back = decodeState(encodeState(state));
          expect(back).toStrictEqual(state);
          expect(encodeState(back)).toBe(encodeState(state));
        },
      ),
    );
  });

  test("is plain JSON where that is enough", () => {
    const state = { last: "1-0", seen: [1, null, true, { deep: "er" }] };
    expect(encodeState(state)).toBe(JSON.stringify(state));
    expect(encodeState({ at: new Date(5), raw: Uint8Array.of(1, 2) })).toBe(
      '{"at":{"$date":5},"raw":{"$bytes":"AQI="}}',
    );
  });

  test("shares nothing with what was given", () => {
    const state = { seen: new Map([["a", Uint8Array.of(1)]]) };
    const back = decodeState(encodeState(state)) as typeof state;
    (state.seen.get("a") as Uint8Array)[0] = 9;
    expect(back.seen.get("a")).toEqual(Uint8Array.of(1));
  });

  class Point {
    x = 1;
  }
  const cycle: { self?: unknown } = {};
  cycle.self = [cycle];
  test.each([
    ["undefined", undefined, "was given undefined"],
    ["a function", { call: () => {} }, ".state.call is a function"],
    ["a symbol", [Symbol("s")], ".state[0] is a symbol"],
    ["an instance of a class", { at: [new Point()] }, ".state.at[0] is a Point, whose class would be lost"],
    ["an error", new Error("x"), "this is a Error"],
    ["itself", cycle, ".state.self[0] is within itself"],
  ])("throws a TypeError for %s, and says where it is", (_, state, says) => {
    expect(() => encodeState(state)).toThrow(TypeError);
    expect(() => encodeState(state)).toThrow(says);
  });

  test("throws ERR_LIMIT over 1 MiB", () => {
    expect(() => encodeState("x".repeat(MAX_STATE - 2))).not.toThrow();
    expect(() => encodeState("x".repeat(MAX_STATE - 1))).toThrow(/ERR_LIMIT.*1048577 bytes/);
  });
});

test("a handler whose state nobody keeps has it to itself", async () => {
  class Counts extends StreamRequestHandler<unknown, unknown, { n: number; at: Date }> {
    override readonly initialState = { n: 0, at: new Date(0) };
    override async handle() {
      const { state } = this;
      state.n = 99; // a copy, once it is saved
      await this.save({ n: 1, at: new Date(7) });
      this.state.n = 98;
      return this.done(this.state);
    }
  }
  let result: unknown;
  class Watched extends Counts {
    override async handle() {
      result = await super.handle();
      return result as { n: number; at: Date };
    }
  }
  const server = new MemoryServer(Watched);
  void server.serveForever();
  const client = server.connect();
  expect(await client.rfile.line()).toBeNull();
  await client.close();
  expect(result).toEqual({ n: 1, at: new Date(7) });
  await server.serverClose();
});
