import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { SocketError } from "../../core/errors.ts";
import {
  type AddressLike,
  formatAddress,
  inetAton,
  inetNtoa,
  inetNtop,
  inetPton,
  inNetwork,
  isLoopback,
  isPrivate,
  isReserved,
  packAddress,
  parseAddress,
} from "../../core/net/address.ts";
import { AF_INET, AF_INET6, AF_UNIX } from "../../core/net/constants.ts";
import { fc } from "../conformance/properties.ts";
import { peer } from "../peers/peer.ts";

/** What a call gave, or the code or name of its error, so that both are compared the same way. */
function outcome<T>(call: () => T): T | string {
  try {
    return call();
  } catch (error) {
    return error instanceof SocketError ? error.code : (error as Error).name;
  }
}

describe("parseAddress and formatAddress", () => {
  test.each([
    ["tcp://localhost:80", { scheme: "tcp", hostname: "localhost", port: 80 }],
    ["udp://127.0.0.1:53", { scheme: "udp", hostname: "127.0.0.1", port: 53 }],
    ["tcp://[::1]:0", { scheme: "tcp", hostname: "::1", port: 0 }],
    ["tcp://:65535", { scheme: "tcp", hostname: "", port: 65535 }],
    ["tcp://unix:80", { scheme: "tcp", hostname: "unix", port: 80 }],
    ["example.com:25", { scheme: undefined, hostname: "example.com", port: 25 }],
    ["<broadcast>:9", { scheme: undefined, hostname: "<broadcast>", port: 9 }],
    ["_dmarc.bücher.example:9", { scheme: undefined, hostname: "_dmarc.bücher.example", port: 9 }],
    ["0x7f.1:80", { scheme: undefined, hostname: "0x7f.1", port: 80 }],
    [":80", { scheme: undefined, hostname: "", port: 80 }],
    ["[::1]:80", { scheme: undefined, hostname: "::1", port: 80 }],
    ["[::ffff:1.2.3.4]:80", { scheme: undefined, hostname: "::ffff:1.2.3.4", port: 80 }],
    ["[fe80::1%lo]:80", { scheme: undefined, hostname: "fe80::1%lo", port: 80 }],
    ["unix:/run/app.sock", { scheme: "unix", path: "/run/app.sock" }],
    ["unix:./a b:80?#@.sock", { scheme: "unix", path: "./a b:80?#@.sock" }],
    ["unix:\0name", { scheme: "unix", path: "\0name" }],
    ["unix:\0a\0b", { scheme: "unix", path: "\0a\0b" }],
  ] as const)("%j, there and back", (text, endpoint) => {
    expect(parseAddress(text)).toEqual(endpoint);
    expect(formatAddress(endpoint)).toBe(text);
    expect(parseAddress(endpoint)).toEqual(endpoint);
  });

  test.each([
    [{ hostname: "localhost", port: 80 }, "localhost:80"],
    [{ hostname: "::1", port: 80 }, "[::1]:80"],
    [{ hostname: "[::1]", port: 80 }, "[::1]:80"],
    [{ hostname: "fe80::1%lo", port: 80 }, "[fe80::1%lo]:80"],
    [{ family: "IPv4", hostname: "127.0.0.1", port: 25 }, "127.0.0.1:25"],
    [{ family: "IPv6", hostname: "fe80::1", port: 80, scopeId: "lo" }, "[fe80::1%lo]:80"],
    [{ hostname: "", port: -0 }, ":0"],
    [{ path: "/run/x" }, "unix:/run/x"],
    [{ path: "x" }, "unix:x"],
    [{ path: "\0x" }, "unix:\0x"],
    [{ family: "unix", path: "/run/x" }, "unix:/run/x"],
  ] satisfies [AddressLike, string][])("%j is %j", (like, text) => {
    expect(formatAddress(parseAddress(like))).toBe(text);
    expect(parseAddress(text)).toEqual(parseAddress(like));
  });

  test.each([
    [{ family: "IPv4", hostname: "127.0.0.1", port: 25 }, "127.0.0.1:25"],
    [{ family: "IPv6", hostname: "::1", port: 25 }, "[::1]:25"],
    [{ family: "IPv6", hostname: "fe80::1", port: 25, scopeId: "lo" }, "[fe80::1%lo]:25"],
    [{ family: "unix", path: "/run/x" }, "unix:/run/x"],
    [null, "unknown"],
  ] as const)("formatAddress(%j) is %j", (address, text) => {
    expect(formatAddress(address)).toBe(text);
  });

  test.each([
    ["", "has no port"],
    ["localhost", "has no port"],
    ["localhost:", "has no port"],
    ["[::1]", "has no port"],
    ["[::1]80", "has no port"],
    ["tcp://", "has no port"],
    ["::1", `write IPv6 as "[::1]:80"`],
    ["tcp://::1:80", `write IPv6 as "[::1]:80"`],
    ["[1.2.3.4]:80", "brackets around something that is not an IPv6 address"],
    ["[]:80", "brackets around something that is not an IPv6 address"],
    ["[::1%]:80", "brackets around something that is not an IPv6 address"],
    ["[::1%a]b]:80", "has no port"],
    ["a[::1]:80", "too many colons"],
    ["http://localhost:80", `unknown scheme "http"; write "tcp://", "tls://", "udp://" or "unix:"`],
    ["TCP://localhost:80", `unknown scheme "TCP"`],
    ["://localhost:80", `unknown scheme ""`],
    ["tcp://me@localhost:80", "user name"],
    ["me:secret@localhost:80", "user name"],
    ["tcp://localhost:80/", "path after its host"],
    ["localhost:80?x", "path after its host"],
    ["localhost:80#x", "path after its host"],
    ["localhost/x:80", "path after its host"],
    [" localhost:80", "white space"],
    ["localhost:80\n", "white space"],
    ["local host:80", "white space"],
    ["local\0host:80", "control character"],
    ["local%20host:80", "neither a name nor"],
    ["local\\host:80", "neither a name nor"],
    ["unix:", `write "unix:/path"`],
    ["unix:\0", `write "unix:/path"`],
    ["unix:/a\0b", "NUL"],
    [{ hostname: "a:b", port: 1 }, "neither a name nor"],
    [{ hostname: "a b", port: 1 }, "neither a name nor"],
    [{ hostname: "a/b", port: 1 }, "neither a name nor"],
    [{ hostname: "[localhost]", port: 1 }, "neither a name nor"],
    [{ family: "IPv4", hostname: "1.2.3.4", port: 1, scopeId: "lo" }, "neither a name nor"],
    [{ hostname: "unix", port: 80 }, `write "tcp://unix:80"`],
    [{ path: "" }, "no path"],
    [{ path: "/a\0b" }, "NUL"],
    [{ scheme: "http", hostname: "a", port: 1 } as unknown as AddressLike, "unknown scheme"],
  ] satisfies [AddressLike, string][])("%j is ERR_INVALID_ADDRESS: %s", (like, message) => {
    const error = thrownBy(() => parseAddress(like));
    expect(error).toBeInstanceOf(SocketError);
    expect(error).toMatchObject({ code: "ERR_INVALID_ADDRESS", message: expect.stringContaining(message) });
    if (typeof like === "string") expect(error).toHaveProperty("address", like);
  });

  test.each([
    ["localhost:65536", "65536"],
    ["localhost:-1", "-1"],
    ["localhost:http", "http"],
    ["localhost:0x50", "0x50"],
    ["localhost:8e1", "8e1"],
    ["[::1]:99999", "99999"],
    [{ hostname: "localhost", port: 70000 }, "70000"],
    [{ hostname: "localhost", port: 1.5 }, "1.5"],
    [{ hostname: "localhost", port: Number.NaN }, "NaN"],
  ] satisfies [AddressLike, string][])("%j is a RangeError that names the port", (like, port) => {
    expect(() => parseAddress(like)).toThrow(
      new RangeError(`the port of an address is an integer from 0 to 65535, not ${port}`),
    );
  });

  test.each([
    undefined,
    null,
    80,
    {},
    [],
    { port: 80 },
    { hostname: "localhost" },
    { hostname: "localhost", port: "80" },
    { hostname: 1, port: 80 },
    { hostname: "::1", port: 80, scopeId: 1 },
    { hostname: "a", port: 80, scheme: 1 },
    { path: 1 },
    { hostname: "localhost", port: 80, path: "/x" },
  ])("%j is a TypeError", (like) => {
    expect(() => parseAddress(like as unknown as AddressLike)).toThrow(TypeError);
  });

  const oddText = fc.oneof(
    fc.string({ unit: "binary" }),
    fc
      .array(
        fc.constantFrom(
          ..."tcp:// udp:// unix: unix [ ] : :: % @ / # \0 . 80 65536 ::1 1.2.3.4 a lo fe80".split(" "),
        ),
      )
      .map((parts) => parts.join("")),
  );
  const oddPort = fc.oneof(fc.nat(65535), fc.double(), fc.constantFrom("80", undefined, null));
  const oddLike = fc.oneof(
    oddText,
    fc.record({ hostname: oddText, port: oddPort }),
    fc.record({ hostname: oddText, port: oddPort, scopeId: oddText }),
    fc.record({ scheme: fc.constantFrom("tcp", "udp", "x", 1), hostname: oddText, port: fc.nat(65535) }),
    fc.record({ path: oddText }),
    fc.anything(),
  );

  test("nothing is thrown but what is promised, and what is parsed comes back as it went", () => {
    let parsed = 0;
    fc.assert(
      fc.property(oddLike, (like) => {
        const endpoint = outcome(() => parseAddress(like as AddressLike));
        if (typeof endpoint === "string") {
          return ["ERR_INVALID_ADDRESS", "RangeError", "TypeError"].includes(endpoint);
        }
        parsed++;
        expect(parseAddress(formatAddress(endpoint))).toEqual(endpoint);
        expect(parseAddress(endpoint)).toEqual(endpoint);
        return true;
      }),
      { numRuns: 5000 },
    );
    expect(parsed).toBeGreaterThan(100); // else the property says little
  });
});

/** 16 bytes with many zero groups, since those are what is written in more than one way. */
const packedIPv6 = fc
  .array(fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.constant(0xffff), fc.nat(0xffff)), {
    minLength: 8,
    maxLength: 8,
  })
  .map((groups) => Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff])));

describe("inetAton and inetNtoa", () => {
  test.each([
    ["222.76.216.16", "222.76.216.16"],
    ["127.1", "127.0.0.1"],
    ["1", "0.0.0.1"],
    ["0x7f.1", "127.0.0.1"],
    ["010.0.0.1", "8.0.0.1"],
    ["017700000001", "127.0.0.1"],
    ["2130706433", "127.0.0.1"],
    ["4294967295", "255.255.255.255"],
    ["1.65536", "1.1.0.0"],
    ["1.2.3.4 x", "1.2.3.4"],
    ["1.2.3.4\n", "1.2.3.4"],
  ])("%j is %s", (text, expected) => {
    expect(inetNtoa(inetAton(text))).toBe(expected);
  });

  test.each([
    "256.1.1.1",
    "1.2.3.4.5",
    "",
    " 1.2.3.4",
    "1.2.3.",
    "4294967296",
    "1.16777216",
    "08",
    "0x",
    "1.2.3.4\0",
    "1.2.3.4\u00a0",
    "1.2.3.4x",
    "+1",
    "１.2.3.4",
    "192. 168.1.4",
  ])("%j is refused", (text) => {
    expect(thrownBy(() => inetAton(text))).toMatchObject({ code: "ERR_INVALID_ADDRESS", address: text });
  });

  test("strict takes the dotted quad alone", () => {
    expect(inetAton("127.0.0.1", { strict: true })).toEqual(Uint8Array.of(127, 0, 0, 1));
    for (const text of ["127.1", "010.0.0.1", "0x7f.0.0.1", "127.0.0.1 x", "1"]) {
      expect(outcome(() => inetAton(text, { strict: true }))).toBe("ERR_INVALID_ADDRESS");
    }
  });

  test("wrong lengths and types", () => {
    expect(outcome(() => inetNtoa(new Uint8Array(3)))).toBe("ERR_INVALID_ADDRESS");
    expect(outcome(() => inetNtoa(new Uint8Array(16)))).toBe("ERR_INVALID_ADDRESS");
    expect(outcome(() => inetNtoa("abcd" as unknown as Uint8Array))).toBe("TypeError");
    expect(outcome(() => inetNtoa([1, 2, 3, 4] as unknown as Uint8Array))).toBe("TypeError");
    expect(outcome(() => inetAton(1 as unknown as string))).toBe("TypeError");
    expect(outcome(() => inetAton(null as unknown as string, { strict: true }))).toBe("TypeError");
  });
});

describe("inetPton and inetNtop", () => {
  test.each([
    ["::", "::"],
    ["::1", "::1"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
    ["2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"],
    ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
    ["::ffff:102:304", "::ffff:1.2.3.4"],
    ["::102:304", "::1.2.3.4"],
    ["::1.2.3.4", "::1.2.3.4"],
    ["64:ff9b::1.2.3.4", "64:ff9b::102:304"],
  ])("%s is written %s", (text, expected) => {
    expect(inetNtop(AF_INET6, inetPton(AF_INET6, text))).toBe(expected);
  });

  test.each([
    [AF_INET, "127.1"],
    [AF_INET, "010.0.0.1"],
    [AF_INET, "1.2.3.4 "],
    [AF_INET, "::1"],
    [AF_INET6, "fe80::1%lo"],
    [AF_INET6, "[::1]"],
    [AF_INET6, "1::2::3"],
    [AF_INET6, "1:2:3:4:5:6:7:8::"],
    [AF_INET6, "1.2.3.4::"],
    [AF_INET6, "1.2.3.4"],
    [AF_INET6, ""],
  ])("inetPton(%i, %j) is refused", (family, text) => {
    expect(thrownBy(() => inetPton(family, text))).toMatchObject({
      code: "ERR_INVALID_ADDRESS",
      address: text,
    });
  });

  test("other families, wrong lengths and types", () => {
    expect(outcome(() => inetPton(AF_UNIX, "1.2.3.4"))).toBe("EAFNOSUPPORT");
    expect(outcome(() => inetNtop(99, new Uint8Array(4)))).toBe("EAFNOSUPPORT");
    expect(outcome(() => inetNtop(AF_INET, new Uint8Array(16)))).toBe("RangeError");
    expect(outcome(() => inetNtop(AF_INET6, new Uint8Array(4)))).toBe("RangeError");
    expect(outcome(() => inetNtop(AF_INET, "abcd" as unknown as Uint8Array))).toBe("TypeError");
    expect(outcome(() => inetPton("2" as unknown as number, "1.2.3.4"))).toBe("TypeError");
    expect(outcome(() => inetPton(2.5, "1.2.3.4"))).toBe("TypeError");
    expect(outcome(() => inetPton(AF_INET, 1 as unknown as string))).toBe("TypeError");
  });

  test("they invert each other, also from inside a larger buffer", () => {
    fc.assert(
      fc.property(packedIPv6, fc.nat(20), (packed, offset) => {
        const buffer = new Uint8Array(64);
        buffer.set(packed, offset);
        const text = inetNtop(AF_INET6, buffer.subarray(offset, offset + 16));
        expect(inetPton(AF_INET6, text)).toEqual(packed);
      }),
      { numRuns: 2000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4, maxLength: 4 }), (packed) => {
        const text = inetNtop(AF_INET, packed);
        expect(inetPton(AF_INET, text)).toEqual(packed);
        expect(inetAton(text)).toEqual(packed);
        expect(inetNtoa(packed)).toBe(text);
      }),
    );
  });
});

describe("what kind of address it is", () => {
  test.each([
    ["127.0.0.1", "loopback private"],
    ["127.255.255.255", "loopback private"],
    ["0x7f.1", "loopback private"],
    ["017700000001", "loopback private"],
    ["2130706433", "loopback private"],
    ["127.0.0.1 x", "loopback private"],
    ["::1", "loopback private reserved"],
    ["::ffff:127.0.0.1", "loopback private"],
    ["::ffff:7f00:1", "loopback private"],
    ["::1%lo", "loopback private reserved"],
    ["0.0.0.0", "private"],
    ["10.0.0.1", "private"],
    ["172.16.0.1", "private"],
    ["172.32.0.0", ""],
    ["192.168.0.1", "private"],
    ["169.254.169.254", "private"],
    ["100.64.0.1", ""],
    ["8.8.8.8", ""],
    ["::ffff:8.8.8.8", ""],
    ["224.0.0.1", ""],
    ["240.0.0.1", "private reserved"],
    ["::ffff:240.0.0.1", "private reserved"],
    ["255.255.255.255", "private reserved"],
    ["::", "private reserved"],
    ["::127.0.0.1", "reserved"],
    ["64:ff9b::127.0.0.1", "reserved"],
    ["fe80::1%eth0", "private"],
    ["fc00::1", "private"],
    ["fec0::1", ""],
    ["ff02::1", ""],
    ["2606:4700:4700::1111", ""],
    ["5f00::1", "reserved"],
    // What Python 3.11 answers otherwise: the IANA registries, as 3.13 has them.
    ["192.0.0.8", "private"],
    ["192.0.0.9", ""],
    ["192.0.0.10", ""],
    ["192.0.0.255", "private"],
    ["64:ff9b:1::1", "private reserved"],
    ["2001:1::1", ""],
    ["2001:1::3", "private"],
    ["2001:4:112::1", ""],
    ["2001:20::1", ""],
    ["2002::1", "private"],
    ["3fff::1", "private"], // RFC 9637
    ["3fff:1000::1", ""],
  ])("%s: %s", (text, kinds) => {
    const packed = text.includes(":") ? inetPton(AF_INET6, text.replace(/%.*/, "")) : inetAton(text);
    for (const address of [text, packed]) {
      const found = [
        isLoopback(address) && "loopback",
        isPrivate(address) && "private",
        isReserved(address) && "reserved",
      ];
      expect(found.filter(Boolean).join(" ")).toBe(kinds);
    }
  });

  test.each([isLoopback, isPrivate, isReserved])("%o refuses what is no address", (is) => {
    for (const text of ["localhost", "", "1.2.3.4.5", "[::1]"]) {
      expect(thrownBy(() => is(text))).toMatchObject({ code: "ERR_INVALID_ADDRESS", address: text });
    }
    expect(outcome(() => is(new Uint8Array(5)))).toBe("ERR_INVALID_ADDRESS");
    expect(outcome(() => is(2130706433 as unknown as string))).toBe("TypeError");
  });

  test.each([
    ["0x7f.1", [127, 0, 0, 1]],
    ["::ffff:127.0.0.1", [127, 0, 0, 1]],
    ["::1", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]],
    ["fe80::1%eth0", [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]],
    ["localhost", null],
    ["1.2.3.4.5", null],
    ["1.2.3.4%lo", null],
    ["", null],
  ])("packAddress(%j) is %j", (text, expected) => {
    expect(packAddress(text)).toEqual(expected && Uint8Array.from(expected));
  });

  test("inNetwork counts bits as arithmetic does, and never matches across families", () => {
    const quad = fc.uint8Array({ minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(quad, quad, fc.nat(32), fc.boolean(), (address, other, prefix, near) => {
        const packed = near ? Uint8Array.from([...address.slice(0, 3), other[3]!]) : other;
        const [a, b] = [address, packed].map(
          (quad) => new DataView(quad.buffer).getUint32(0) / 2 ** (32 - prefix),
        );
        expect(inNetwork(packed, { address, prefix })).toBe(Math.floor(a!) === Math.floor(b!));
      }),
      { numRuns: 1000 },
    );
    expect(inNetwork(new Uint8Array(16), { address: new Uint8Array(4), prefix: 0 })).toBe(false);
  });
});

const python3 = peer("python3");
const ASK = `
import ipaddress, json, socket, sys

def code(name, error):
    if isinstance(error, TypeError):
        return "TypeError"
    if getattr(error, "errno", None) == 97 or "unknown address family" in str(error):
        return "EAFNOSUPPORT"
    # A NUL or half a surrogate pair in text is a ValueError; a wrong length of inet_ntop is one too.
    return "RangeError" if name == "inet_ntop" else "ERR_INVALID_ADDRESS"

def convert(name, *arguments):
    arguments = [bytes.fromhex(a["hex"]) if isinstance(a, dict) else a for a in arguments]
    try:
        answer = getattr(socket, name)(*arguments)
    except (OSError, ValueError, TypeError) as error:
        return code(name, error)
    return {"hex": answer.hex()} if isinstance(answer, bytes) else answer

# The blocks in which Python before the given version does not follow the IANA registries.
LATER = [(ipaddress.ip_network(net), since) for net, since in [
    ("192.0.0.0/24", (3, 13)), ("64:ff9b:1::/48", (3, 13)), ("2001::/23", (3, 13)), ("2002::/16", (3, 13)),
    ("3fff::/20", (3, 14))]]

def kind(packed):
    address = ipaddress.ip_address(bytes.fromhex(packed))
    address = getattr(address, "ipv4_mapped", None) or address  # is_reserved looks inside since 3.14 only
    if any(address in net and sys.version_info < since for net, since in LATER):
        return None
    return [address.is_loopback, address.is_private, address.is_reserved]

asked = json.load(sys.stdin)
print(json.dumps({
    "converted": [convert(*case) for case in asked["convert"]],
    "kinds": [kind(packed) for packed in asked["kinds"]],
}))
`;

// The answers are glibc's: musl and macOS have others.
const oracle = process.platform === "linux" ? python3 : null;

describe.skipIf(oracle === null)(
  oracle ? "as CPython answers" : "SKIPPED, no python3 on Linux: addresses were NOT compared with CPython",
  () => {
    const asked = oracle === null ? null : ask(oracle);

    test("the four conversions, answer for answer, error for error", () => {
      const { cases, converted } = asked!;
      expect(cases.length).toBeGreaterThan(5000);
      expect(cases.map((given) => [given, ours(given)])).toEqual(
        cases.map((given, i) => [given, converted[i]]),
      );
      // Both sides of each must be there, or the comparison says little.
      for (const name of ["inet_aton", "inet_pton"]) {
        const answers = converted.filter((_, i) => cases[i]![0] === name);
        expect(answers.filter((answer) => typeof answer === "object").length).toBeGreaterThan(100);
        expect(answers.filter((answer) => answer === "ERR_INVALID_ADDRESS").length).toBeGreaterThan(100);
      }
    });

    test("the kinds of address, as ipaddress", () => {
      const { packed, kinds } = asked!;
      const told = packed.flatMap((hex, i) => (kinds[i] === null ? [] : [[hex, kinds[i]]]));
      expect(told.length).toBeGreaterThan(1000);
      const own = told.map(([hex]) => {
        const address = fromHex(hex as string);
        return [hex, [isLoopback(address), isPrivate(address), isReserved(address)]];
      });
      expect(own).toEqual(told);
    });
  },
);

type Case = readonly [name: string, ...args: (string | number | null | { readonly hex: string })[]];

/** Asks one python3 everything. */
function ask(python: string) {
  const texts = [...new Set([...SPELLED, ...generated()])];
  const cases: Case[] = [
    ...texts.map((text) => ["inet_aton", text] as const),
    ...texts.flatMap((text) => [AF_INET, AF_INET6].map((family) => ["inet_pton", family, text] as const)),
    ...[0, AF_UNIX, 99, -1].map((family) => ["inet_pton", family, "1.2.3.4"] as const),
    ...[1, null].flatMap((text): Case[] => [
      ["inet_aton", text],
      ["inet_pton", AF_INET6, text],
    ]),
    ["inet_pton", "2", "1.2.3.4"],
    ["inet_pton", 2.5, "1.2.3.4"],
    ["inet_ntop", "2", { hex: "01020304" }],
    ["inet_ntop", AF_INET, "abcd"],
    ["inet_ntoa", "abcd"],
    ["inet_ntoa", null],
  ];
  const packed = [
    ...fc.sample(packedIPv6, { numRuns: 1000, seed: 1 }),
    ...fc.sample(fc.uint8Array({ minLength: 4, maxLength: 4 }), { numRuns: 1000, seed: 1 }),
    ...fc.sample(fc.uint8Array({ maxLength: 20 }), { numRuns: 100, seed: 1 }),
    ...EDGES.flatMap((edge) => [edge, neighbour(edge, -1), neighbour(edge, 1)]),
  ].map((address) => ({ hex: toHex(address) }));
  cases.push(...packed.map((address) => ["inet_ntoa", address] as const));
  cases.push(
    ...[AF_INET, AF_INET6, 99].flatMap((f) => packed.map((address) => ["inet_ntop", f, address] as const)),
  );
  const judged = packed.map(({ hex }) => hex).filter(({ length }) => length === 8 || length === 32);
  const input = JSON.stringify({ convert: cases, kinds: judged });
  const answered = execFileSync(python, ["-c", ASK], { input, encoding: "utf8", maxBuffer: 2 ** 26 });
  const { converted, kinds } = JSON.parse(answered) as { converted: unknown[]; kinds: (boolean[] | null)[] };
  return { cases, converted, packed: judged, kinds };
}

/** What we answer to the same case, in the same form. */
function ours([name, ...args]: Case): unknown {
  const [first, second] = args.map((arg) =>
    arg !== null && typeof arg === "object" ? fromHex(arg.hex) : arg,
  ) as [never, never];
  const answer = outcome<unknown>(() => {
    if (name === "inet_aton") return inetAton(first);
    if (name === "inet_ntoa") return inetNtoa(first);
    return name === "inet_pton" ? inetPton(first, second) : inetNtop(first, second);
  });
  return answer instanceof Uint8Array ? { hex: toHex(answer) } : answer;
}

// Each spelled for a reason: a form, a limit, or a way in which parsers are known to differ.
const SPELLED = `
  0 00 1 08 09 0x 0X1 0xg 0xFfFfFfFf 0x100000000 037777777777 040000000000 4294967295 4294967296
  99999999999999999999999 0x00000000000000000001 0000000000000000001 +1 -1 1e3 0b1 0o7 1_0 1. .1 . .. 1..2
  1.2 1.2.3 1.2.3.4 1.2.3.4. 1.2.3.4.5 1.16777215 1.16777216 1.2.65535 1.2.65536 1.2.3.255 1.2.3.256
  255.255.255.255 256.1.1.1 1.256.1 1.2.256.4 255.255.255.256 0377.0377.0377.0377 0400.1 01.02.03.04
  0x1.0x2.0x3.0x4 0x7f.1 127.1 010.0.0.1 1.2.3.04 1.2.3.4x 1.2.3.4/8 <broadcast> localhost １.2.3.4 ١
  :: ::: : ::1 1:: :1 1: 1::2::3 ::1: :1:: ::00001 ::0001 ::12345 ::g ::G ::FFFF 1:2:3:4:5:6:7:8
  1:2:3:4:5:6:7 1:2:3:4:5:6:7:8:9 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1::3:4:5:6:7:8 1:2:3:4::5:6:7:8
  1:2:3:4:5:6:7:8:: ::1:2:3:4:5:6:7:8 1:2:3:4:5:6:7: ::1.2.3.4 ::ffff:1.2.3.4 ::1.2.3 ::1.2.3.04
  ::1.2.3.4.5 ::1.2.3.256 ::1.2.3.4: ::1.2.3.4:5 1.2.3.4:: 1.2.3.4::1 1:2:3:4:5:6:1.2.3.4
  1:2:3:4:5:6:7:1.2.3.4 1:2:3:4:5:1.2.3.4 1:2:3:4:5::1.2.3.4 1:2:3:4:5:6::1.2.3.4 ::0x1.2.3.4 ::1%lo
  fe80::1%1 [::1] ::1/128 ::abc.1.1.1 ::1234.1.1.1 ::12345.1.1.1 ::.1.2.3 :1.2.3.4 ::ffff:127.1
`
  .trim()
  .split(/\s+/)
  .concat(
    [" ", "\t", "\n", "\v", "\f", "\r", "\0", "\x1c", "\x85", "\u00a0", "\u3000", "é", "\ud800"].flatMap(
      (junk) =>
        ["127.1", "1.2.3.4", "::1", ""].flatMap((text) => [text + junk, junk + text, `${text} ${junk}x`]),
    ),
  );

/** Texts that are nearly addresses: a walk through the parts of which right and wrong ones are made. */
function generated(): string[] {
  const part = fc.constantFrom(
    ..."0 1 9 255 256 0x7f 0XfF 010 08 0377 0400 65535 65536 16777215 16777216 4294967295 4294967296".split(
      " ",
    ),
  );
  const group = fc.constantFrom(..."0 0 1 ffff FFFF 00a1 10000 g 1.2.3.4 01.2.3.4 1.2.3".split(" "), "");
  const rare = fc.constantFrom("", "", "", "", " ", " x", "\t", ".", ":", "::", "%lo", "x", "\0");
  const sample = <T>(arbitrary: fc.Arbitrary<T>) => fc.sample(arbitrary, { numRuns: 1500, seed: 1 });
  return [
    ...sample(fc.tuple(fc.array(part, { minLength: 1, maxLength: 5 }), rare)).map(
      ([p, end]) => p.join(".") + end,
    ),
    ...sample(fc.tuple(fc.array(group, { minLength: 1, maxLength: 9 }), rare)).map(
      ([g, end]) => g.join(":") + end,
    ),
    ...sample(fc.string({ unit: fc.constantFrom(..."01289afxX.:: ") })),
    ...sample(fc.ipV4Extended()),
    ...sample(fc.ipV6()),
  ];
}

// Both ends of every block that a kind of address has, and their neighbours outside.
const EDGES = `
  0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.255.255.255
  169.254.0.0 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.9 192.0.0.10
  192.0.0.170 192.0.0.255 192.0.2.0 192.0.2.255 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255
  198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.0 240.0.0.0 255.255.255.255
  :: ::1 ::ffff:0.0.0.0 ::ffff:127.0.0.1 ::ffff:255.255.255.255 ::127.0.0.1 64:ff9b:: 64:ff9b:1::
  64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100:: 100::ffff:ffff:ffff:ffff 2000:: 2001:: 2001:1::1 2001:1::2
  2001:2:: 2001:3:: 2001:3:ffff:ffff:ffff:ffff:ffff:ffff 2001:4:112:: 2001:4:112:ffff:ffff:ffff:ffff:ffff
  2001:10:: 2001:20:: 2001:2f:ffff:ffff:ffff:ffff:ffff:ffff 2001:30:: 2001:40:: 2001:200:: 2001:db8::
  2001:db9:: 2002:: 2003:: 3fff:: 3fff:1000:: 4000:: 5f00:: 8000:: c000:: e000:: f000:: f800:: fc00::
  fe00:: fe80:: fec0:: ff00:: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
`
  .trim()
  .split(/\s+/)
  .map((text) => inetPton(text.includes(":") ? AF_INET6 : AF_INET, text));

/** The address before or after, around the ends. */
function neighbour(packed: Uint8Array, step: 1 | -1): Uint8Array {
  const next = packed.slice();
  const carried = step === 1 ? 0xff : 0;
  for (let i = next.length - 1; i >= 0; i--) {
    const byte = next[i]!;
    next[i] = byte + step;
    if (byte !== carried) break;
  }
  return next;
}

function toHex(packed: Uint8Array): string {
  return Buffer.from(packed).toString("hex");
}

function fromHex(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex, "hex"));
}

function thrownBy(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  return undefined;
}
