import { execFileSync } from "node:child_process";
import { afterEach, describe, expect, test, vi } from "vitest";
import { htonl, htons, ntohl, ntohs } from "../../core/bytes/byte-order.ts";
import { fc } from "../conformance/properties.ts";
import { peer } from "../peers/peer.ts";

const CONVERT = { htons, ntohs, htonl, ntohl };
const NAMES = Object.keys(CONVERT) as (keyof typeof CONVERT)[];

describe("on a little-endian host", () => {
  test.each([
    [htons, 20000, 8270],
    [ntohs, 8270, 20000],
    [htonl, 20000, 541982720],
    [ntohl, 541982720, 20000],
    [htons, 0, 0],
    [htons, 1, 256],
    [htons, 65535, 65535],
    [htonl, 1, 16777216],
    [htonl, 128, 2147483648], // unsigned, where a bare JavaScript shift is negative
    [htonl, 4294967295, 4294967295],
  ])("%o(%i) is %i", (convert, given, expected) => {
    expect(convert(given)).toBe(expected);
  });

  test("each is its own inverse", () => {
    fc.assert(fc.property(fc.nat(0xffff), (n) => ntohs(htons(n)) === n && htons(htons(n)) === n));
    fc.assert(fc.property(fc.nat(0xffff_ffff), (n) => ntohl(htonl(n)) === n && htonl(htonl(n)) === n));
  });
});

describe("on a big-endian host", () => {
  afterEach(() => {
    vi.unstubAllGlobals();
    vi.resetModules();
  });

  test("each is the identity, and still checks what it is given", async () => {
    class BigEndian {
      readonly buffer = Uint8Array.of(0, 1).buffer;
    }
    vi.stubGlobal("Uint16Array", BigEndian);
    vi.resetModules();
    const there = await import("../../core/bytes/byte-order.ts");
    for (const name of NAMES) {
      expect(there[name](20000)).toBe(20000);
      expect(() => there[name](-1)).toThrow(RangeError);
    }
    expect(there.htonl(4294967295)).toBe(4294967295);
  });
});

describe("what is refused", () => {
  test.each([
    [htons, 65536, "htons() takes 0 to 65535 (16 bits), not 65536"],
    [ntohs, -1, "ntohs() takes 0 to 65535 (16 bits), not -1"],
    [htonl, 2 ** 32, "htonl() takes 0 to 4294967295 (32 bits), not 4294967296"],
    [ntohl, 2 ** 50, "ntohl() takes 0 to 4294967295 (32 bits), not 1125899906842624"],
  ])("%o(%d) is a RangeError", (convert, given, message) => {
    expect(() => convert(given)).toThrow(new RangeError(message));
  });

  test.each([
    [1.5, "htons() takes an integer of type number, not 1.5"],
    [Number.NaN, "htons() takes an integer of type number, not NaN"],
    [Number.POSITIVE_INFINITY, "htons() takes an integer of type number, not Infinity"],
    [1n, "htons() takes an integer of type number, not bigint"],
    ["1", "htons() takes an integer of type number, not string"],
    [true, "htons() takes an integer of type number, not boolean"],
    [null, "htons() takes an integer of type number, not null"],
    [undefined, "htons() takes an integer of type number, not undefined"],
    [[1], "htons() takes an integer of type number, not object"],
  ])("%o is a TypeError", (given, message) => {
    expect(() => htons(given as number)).toThrow(new TypeError(message));
    for (const name of NAMES) expect(() => CONVERT[name](given as number)).toThrow(TypeError);
  });
});

const python3 = peer("python3");
const ASK = `
import json, socket, sys
def answer(name, value):
    try:
        return getattr(socket, name)(value)
    except (OverflowError, TypeError) as error:
        return {"OverflowError": "RangeError", "TypeError": "TypeError"}[type(error).__name__]
print(json.dumps([sys.byteorder, [answer(name, value) for name, value in json.load(sys.stdin)]]))
`;

describe.skipIf(python3 === null)(
  python3
    ? "as CPython answers"
    : "SKIPPED, python3 is not on PATH: byte order was NOT compared with CPython",
  () => {
    test("answer for answer, error for error", () => {
      const edges = [0, 1, 127, 128, 255, 256, 20000, 8270, 32767, 32768, 65535, 65536, 2 ** 24, 2 ** 31 - 1];
      edges.push(2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1, -1, -65536, -(2 ** 31), -(2 ** 53) + 1);
      const odd = [1.5, -0.5, "1", "", null, [], {}];
      const random = fc.sample(fc.oneof(fc.nat(0xffff), fc.nat(0xffff_ffff)), 300);
      const cases = NAMES.flatMap((name) =>
        [...edges, ...odd, ...random].map((value) => [name, value] as const),
      );
      const asked = execFileSync(python3!, ["-c", ASK], { input: JSON.stringify(cases), encoding: "utf8" });
      const [order, answers] = JSON.parse(asked) as [string, unknown[]];
      expect(order).toBe("little"); // what the first tests take for granted
      expect(cases.map(([name, value]) => [name, value, ours(name, value)])).toEqual(
        cases.map(([name, value], i) => [name, value, answers[i]]),
      );
    });
  },
);

function ours(name: keyof typeof CONVERT, value: unknown): unknown {
  try {
    return CONVERT[name](value as number);
  } catch (error) {
    return (error as Error).name;
  }
}
