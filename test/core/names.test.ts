/** What names mean before anybody is asked, and what is made of the answers. The resolver is the test's own. */

import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  AF_UNSPEC,
  AI_ADDRCONFIG,
  AI_CANONNAME,
  AI_NUMERICHOST,
  AI_NUMERICSERV,
  AI_PASSIVE,
  AI_V4MAPPED,
  inetAton,
  inetNtoa,
  NI_DGRAM,
  NI_NAMEREQD,
  NI_NOFQDN,
  NI_NUMERICHOST,
  NI_NUMERICSERV,
  SOCK_DGRAM,
  SOCK_RAW,
  SOCK_STREAM,
  SocketError,
} from "socklet";
import { describe, expect, test } from "vitest";
import * as names from "../../core/net/names.ts";
import { type AddressInfoOptions, nameError, type Resolver } from "../../core/net/names.ts";
import { builtInServices } from "../../core/net/services.ts";
import { fc } from "../conformance/properties.ts";

/** Knows `host.corp.example` (this machine), `short` and `far.example.net`; keeps what it was asked. */
class Book implements Resolver {
  readonly asked: string[] = [];
  readonly hostname = (): string => "host";
  readonly services = builtInServices;
  own: Record<string, string[]> | null = { lo: ["127.0.0.1", "::1"], eth0: ["192.0.2.1", "fe80::1"] };
  readonly interfaces = () => this.own;

  async lookup(name: string) {
    this.asked.push(name);
    if (!name.startsWith("host")) throw nameError("EAI_NONAME", name);
    return { canonname: "host.corp.example", addresses: ["2001:db8::1", "192.0.2.1"] };
  }

  async host(name: string): Promise<names.Host> {
    this.asked.push(name);
    if (!name.startsWith("host")) throw nameError("EAI_NONAME", name);
    return ["host.corp.example", ["host"], ["192.0.2.1"]];
  }

  async reverse(address: string) {
    this.asked.push(address);
    if (address === "192.0.2.66") throw nameError("EAI_AGAIN", address);
    const known: Record<string, readonly [string, readonly string[]]> = {
      "192.0.2.1": ["host.corp.example", ["host"]],
      "192.0.2.2": ["other.corp.example", []],
      "192.0.2.3": ["short", ["alias", "short.example.net", "later.example.net"]],
      "192.0.2.4": ["far.example.net", []],
      "192.0.2.5": ["corp.example", []],
      "192.0.2.6": ["xcorp.example", []],
      "fe80::1": ["link", []],
    };
    return known[address] ?? null;
  }
}

/** What a call came to: a value, or the reason or name of what went wrong. */
const outcome = async (call: Promise<unknown>): Promise<unknown> => {
  try {
    return await call;
  } catch (error) {
    if (!(error instanceof SocketError)) return (error as Error).name;
    expect(error.code).toBe("ERR_NAME");
    return /\((EAI_[A-Z]+)\)$/.exec(error.message)?.[1];
  }
};

describe("gethostbyname and its kin", () => {
  test.each([
    ["", "0.0.0.0"],
    ["<broadcast>", "255.255.255.255"],
    ["127.1", "127.0.0.1"],
    ["0x7f.1", "127.0.0.1"],
    ["010.0.0.1", "8.0.0.1"],
    ["１２７.０.０.１", "127.0.0.1"],
    ["127。0。0。1", "127.0.0.1"],
    ["::ffff:7f00:1", "127.0.0.1"],
    ["::1", "EAI_ADDRFAMILY"],
    ["fe80::1%eth0", "EAI_ADDRFAMILY"],
    ["*", "EAI_NONAME"],
    ["a".repeat(64), "RangeError"],
    ["a..b", "RangeError"],
    [".", "RangeError"],
    ["ü".repeat(60), "RangeError"],
    ["bücher%41", "RangeError"],
    ["bücher:80", "RangeError"],
    ["bücher/x", "RangeError"],
    ["b\u00adü\ud800", "RangeError"],
    ["localhost\0.example", "TypeError"],
    [127, "TypeError"],
    [undefined, "TypeError"],
    [`${"a.".repeat(128)}a`, "EAI_NONAME"],
  ])("%j is %s, and nobody is asked", async (name, expected) => {
    const book = new Book();
    expect(await outcome(names.gethostbyname(book, name as string))).toBe(expected);
    expect(book.asked).toEqual([]);
  });

  test.each([
    ["host", "host"],
    ["1.2.3.4 x", "1.2.3.4 x"], // inet_aton(3) would take it
    ["1.2.3.4.", "1.2.3.4."],
    ["256.1.1.1", "256.1.1.1"],
    ["bücher.example", "xn--bcher-kva.example"],
    ["host.", "host."],
    ["_x-1.example", "_x-1.example"],
    ["constructor", "constructor"],
  ])("%j is a name, and asked for as %j", async (name, asked) => {
    const book = new Book();
    await outcome(names.gethostbyname(book, name));
    expect(book.asked).toEqual([asked]);
  });

  test("an address in any spelling is itself, as inetAton() says", async () => {
    const number = (bits: number) =>
      fc.tuple(fc.nat(2 ** bits - 1), fc.constantFrom(10, 8, 16)).map(([value, base]) => {
        const digits = value.toString(base);
        return base === 10 ? digits : base === 8 ? `0${digits}` : `0x${digits}`;
      });
    const spelled = fc.oneof(
      number(31),
      fc.tuple(number(8), number(24)).map((parts) => parts.join(".")),
      fc.tuple(number(8), number(8), number(16)).map((parts) => parts.join(".")),
      fc.tuple(number(8), number(8), number(8), number(8)).map((parts) => parts.join(".")),
    );
    const book = new Book();
    await fc.assert(
      fc.asyncProperty(spelled, async (text) => {
        expect(await names.gethostbyname(book, text)).toBe(inetNtoa(inetAton(text)));
      }),
    );
    expect(book.asked).toEqual([]);
  });

  test("whatever the text is, it is an answer, an ERR_NAME, or an argument that is wrong", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "binary" }), async (text) => {
        const came = await outcome(names.gethostbyname(new Book(), text));
        expect(came).toMatch(/^([\d.]+|EAI_(NONAME|ADDRFAMILY)|RangeError|TypeError)$/);
        expect(typeof (await names.getfqdn(new Book(), text))).toBe("string");
      }),
    );
  });

  test.each([
    ["host", ["host.corp.example", ["host"], ["192.0.2.1"]]],
    ["127.1", ["127.1", [], ["127.0.0.1"]]],
    ["010.0.0.1", ["010.0.0.1", [], ["8.0.0.1"]]],
    ["0x7f.1", "EAI_NONAME"],
    ["::ffff:1.2.3.4", "EAI_NONAME"],
    ["::1", "EAI_ADDRFAMILY"],
    ["", "EAI_NONAME"],
    ["<broadcast>", "EAI_NONAME"],
    ["nosuch", "EAI_NONAME"],
  ])("gethostbynameEx(%j)", async (name, expected) => {
    expect(await outcome(names.gethostbynameEx(new Book(), name))).toEqual(expected);
  });

  test.each([
    ["192.0.2.3", ["short", ["alias", "short.example.net", "later.example.net"], ["192.0.2.3"]]],
    ["0xc0.0.2.3", ["short", ["alias", "short.example.net", "later.example.net"], ["192.0.2.3"]]],
    ["fe80::1%eth0", ["link", [], ["fe80::1"]]],
    ["fe80::1%nope", "EAI_NONAME"],
    ["host", "EAI_NONAME"], // its best address has no name
    ["192.0.2.66", "EAI_AGAIN"],
    ["<broadcast>", "EAI_NONAME"],
    ["", "EAI_NONAME"],
  ])("gethostbyaddr(%j)", async (name, expected) => {
    expect(await outcome(names.gethostbyaddr(new Book(), name))).toEqual(expected);
  });

  test.each([
    ["192.0.2.1", "host.corp.example"],
    ["192.0.2.3", "short.example.net"], // the first with a dot
    ["fe80::1", "link"],
    [" 192.0.2.2\n", "other.corp.example"],
    ["", "host"], // this machine's, whose best address has no name
    ["0.0.0.0", "host"],
    ["::", "host"],
    ["nosuch", "nosuch"],
    ["192.0.2.66", "192.0.2.66"],
    ["a..b", "a..b"],
    ["x\0y", "x\0y"],
  ])("getfqdn(%j)", async (name, expected) => {
    expect(await names.getfqdn(new Book(), name)).toBe(expected);
  });

  test("an error says what was asked for, and why there is no answer", async () => {
    await expect(names.gethostbyname(new Book(), "nosuch")).rejects.toMatchObject({
      code: "ERR_NAME",
      message: 'ERR_NAME: "nosuch": no such name is known (EAI_NONAME)',
      address: "nosuch",
    });
  });
});

describe("getaddrinfo", () => {
  const ask = (
    host: string | null,
    port: string | number | null,
    options?: AddressInfoOptions,
    own?: Book["own"],
  ): Promise<unknown> => {
    const book = new Book();
    if (own !== undefined) book.own = own;
    return outcome(names.getaddrinfo(book, host, port, options));
  };
  const hostnames = async (...args: Parameters<typeof ask>): Promise<unknown> => {
    const found = await ask(...args);
    return Array.isArray(found) ? [...new Set(found.map(({ address }) => address.hostname))] : found;
  };

  test("all kinds of socket, for all addresses", async () => {
    const ipv6 = { family: "IPv6", hostname: "2001:db8::1", port: 80 };
    const ipv4 = { family: "IPv4", hostname: "192.0.2.1", port: 80 };
    expect(await ask("host", 80, { flags: AI_CANONNAME })).toEqual([
      { family: AF_INET6, type: SOCK_STREAM, proto: 6, canonname: "host.corp.example", address: ipv6 },
      { family: AF_INET6, type: SOCK_DGRAM, proto: 17, canonname: "", address: ipv6 },
      { family: AF_INET6, type: SOCK_RAW, proto: 0, canonname: "", address: ipv6 },
      { family: AF_INET, type: SOCK_STREAM, proto: 6, canonname: "", address: ipv4 },
      { family: AF_INET, type: SOCK_DGRAM, proto: 17, canonname: "", address: ipv4 },
      { family: AF_INET, type: SOCK_RAW, proto: 0, canonname: "", address: ipv4 },
    ]);
  });

  test.each([
    [80, {}, ["1/6/80", "2/17/80", "3/0/80"]],
    ["http", {}, ["1/6/80"]],
    ["domain", {}, ["1/6/53", "2/17/53"]],
    ["amqp", {}, ["1/6/5672", "1/132/5672", "5/132/5672"]],
    ["syslog", { type: SOCK_DGRAM }, ["2/17/514"]],
    ["http", { type: SOCK_DGRAM }, "EAI_SERVICE"],
    [80, { type: SOCK_STREAM }, ["1/6/80"]],
    [80, { proto: 132 }, ["1/132/80"]],
    [null, { type: SOCK_RAW, proto: 1 }, ["3/1/0"]],
    [null, { proto: 1 }, ["3/1/0"]],
    ["", { type: SOCK_RAW }, ["3/0/0"]],
    [0, { type: SOCK_RAW }, "EAI_SERVICE"],
    [80, { type: SOCK_STREAM, proto: 17 }, "EAI_SOCKTYPE"],
    [80, { type: 9 }, "EAI_SOCKTYPE"],
    [" +80", { type: SOCK_STREAM }, ["1/6/80"]],
    ["-0", { type: SOCK_STREAM }, ["1/6/0"]],
    ["-80", { type: SOCK_STREAM }, "EAI_SERVICE"],
    ["80x", { type: SOCK_STREAM }, "EAI_SERVICE"],
    ["nosuch", {}, "EAI_SERVICE"],
    ["http", { flags: AI_NUMERICSERV }, "EAI_NONAME"],
    [65_536, {}, "RangeError"],
    ["65536", {}, "RangeError"],
    [-1, {}, "RangeError"],
    [1.5, {}, "TypeError"],
    [undefined, {}, "TypeError"],
    [80, { type: 1.5 }, "TypeError"],
    [80, { flags: "1" }, "TypeError"],
    [80, { family: AF_UNIX }, "EAI_FAMILY"],
    [80, { flags: 0x8000 }, "EAI_BADFLAGS"],
    [80, { flags: -1 }, "EAI_BADFLAGS"],
  ])("port %j with %j", async (port, options, expected) => {
    const found = await ask("1.2.3.4", port as never, options as never);
    const said = Array.isArray(found)
      ? found.map(({ type, proto, address }) => `${type}/${proto}/${address.port}`)
      : found;
    expect(said).toEqual(expected);
  });

  test.each<[string | null, AddressInfoOptions, unknown]>([
    [null, {}, ["::1", "127.0.0.1"]],
    ["*", {}, ["::1", "127.0.0.1"]],
    [null, { family: AF_INET }, ["127.0.0.1"]],
    [null, { family: AF_INET6, flags: AI_PASSIVE }, ["::"]],
    [null, { flags: AI_PASSIVE }, ["0.0.0.0", "::"]],
    [null, { flags: AI_CANONNAME }, "EAI_BADFLAGS"],
    ["", {}, "EAI_NONAME"],
    ["<broadcast>", { flags: AI_NUMERICHOST }, "EAI_NONAME"],
    ["host", { flags: AI_NUMERICHOST }, "EAI_NONAME"],
    ["127.1", { family: AF_INET6 }, "EAI_ADDRFAMILY"],
    ["127.1", { family: AF_INET6, flags: AI_V4MAPPED }, ["::ffff:127.0.0.1"]],
    ["::ffff:127.0.0.1", { family: AF_INET }, ["127.0.0.1"]],
    ["::FFFF:7F00:1", {}, ["::ffff:127.0.0.1"]],
    ["2001:DB8:0::1", { family: AF_INET }, "EAI_ADDRFAMILY"],
    ["2001:DB8:0::1", {}, ["2001:db8::1"]],
    ["1.2.3.4 x", { flags: AI_NUMERICHOST }, "EAI_NONAME"],
    ["::1 x", { flags: AI_NUMERICHOST }, "EAI_NONAME"],
  ])("host %j with %j", async (host, options, expected) => {
    expect(await hostnames(host, 80, options)).toEqual(expected);
  });

  test("the name of an address is as it was given", async () => {
    const [first] = (await ask("127.1", 80, { flags: AI_CANONNAME })) as names.AddressInfo[];
    expect(first?.canonname).toBe("127.1");
  });

  test.each([
    ["fe80::1%eth0", "eth0"],
    ["fe80::1%4", "4"],
    ["fe80::1%0", undefined],
    ["ff02::1%lo", "lo"],
    ["::1%1", "1"],
    ["fe80::1%nope", "EAI_NONAME"],
    ["fe80::1%toString", "EAI_NONAME"],
    ["fe80::1%", "EAI_NONAME"],
    ["fe80::1%4294967296", "EAI_NONAME"],
    ["::1%eth0", "EAI_NONAME"], // an interface is for link-local addresses
  ])("the scope of %s", async (host, expected) => {
    const found = await ask(host, 80);
    expect(Array.isArray(found) ? found[0].address.scopeId : found).toBe(expected);
  });

  test("AI_ADDRCONFIG leaves out what this machine has no address of", async () => {
    const flags = AI_ADDRCONFIG;
    const only4 = { lo: ["127.0.0.1", "::1"], eth0: ["192.0.2.1"] };
    const only6 = { lo: ["127.0.0.1", "::1"], eth0: ["fe80::1"] };
    const none = { lo: ["127.0.0.1", "::1"] };
    expect(await hostnames(null, 80, { flags })).toEqual(["::1", "127.0.0.1"]);
    expect(await hostnames(null, 80, { flags }, only4)).toEqual(["127.0.0.1"]);
    expect(await hostnames(null, 80, { flags }, only6)).toEqual(["::1"]);
    expect(await hostnames(null, 80, { flags }, none)).toEqual(["::1", "127.0.0.1"]);
    expect(await hostnames(null, 80, { flags }, null)).toEqual(["::1", "127.0.0.1"]);
    expect(await hostnames("::1", 80, { flags }, only4)).toBe("EAI_ADDRFAMILY");
    expect(await hostnames("127.1", 80, { flags, family: AF_INET }, only6)).toBe("EAI_NONAME");
    expect(await hostnames("127.1", 80, { flags, family: AF_INET }, null)).toEqual(["127.0.0.1"]);
  });

  test("the loopback is IPv4's first where IPv6 has none", async () => {
    expect(await hostnames(null, 80, {}, { lo: ["127.0.0.1"] })).toEqual(["127.0.0.1", "::1"]);
  });

  test("neither a host nor a port", async () => {
    expect(await ask(null, null)).toBe("EAI_NONAME");
    expect(await ask("*", "*")).toBe("EAI_NONAME");
    expect(await hostnames(null, "")).toEqual(["::1", "127.0.0.1"]);
    expect(await ask(undefined as never, 80)).toBe("TypeError");
  });

  test("a number is IPv4, whatever the family", async () => {
    expect(await hostnames("0", 80, { family: AF_UNSPEC })).toEqual(["0.0.0.0"]);
  });
});

describe("getnameinfo", () => {
  test.each([
    ["192.0.2.1:80", 0, ["host.corp.example", "http"]],
    ["192.0.2.1:80", NI_NUMERICHOST, ["192.0.2.1", "http"]],
    ["192.0.2.1:80", NI_NUMERICSERV, ["host.corp.example", "80"]],
    ["192.0.2.1:514", 0, ["host.corp.example", "shell"]],
    ["192.0.2.1:514", NI_DGRAM, ["host.corp.example", "syslog"]],
    ["192.0.2.1:40000", 0, ["host.corp.example", "40000"]],
    ["192.0.2.1:80", NI_NOFQDN, ["host", "http"]],
    ["192.0.2.2:80", NI_NOFQDN, ["other", "http"]],
    ["192.0.2.4:80", NI_NOFQDN, ["far.example.net", "http"]],
    ["192.0.2.5:80", NI_NOFQDN, ["corp.example", "http"]],
    ["192.0.2.6:80", NI_NOFQDN, ["xcorp.example", "http"]],
    ["198.51.100.1:80", 0, ["198.51.100.1", "http"]],
    ["198.51.100.1:80", NI_NAMEREQD, "EAI_NONAME"],
    ["192.0.2.1:80", NI_NAMEREQD | NI_NUMERICHOST, "EAI_NONAME"],
    ["192.0.2.66:80", 0, "EAI_AGAIN"],
    ["[::ffff:198.51.100.1]:80", 0, ["::ffff:198.51.100.1", "http"]],
    ["0xc6336401:80", 0, ["198.51.100.1", "http"]],
    ["[fe80::1%eth0]:80", 0, ["link", "http"]],
    ["[fe80::1%eth0]:80", NI_NUMERICHOST, ["fe80::1%eth0", "http"]],
    ["host:80", 0, "EAI_NONAME"],
    ["192.0.2.1:80", 0x8000, "EAI_BADFLAGS"],
    ["192.0.2.1:80", 1.5, "TypeError"],
    ["192.0.2.1:65536", 0, "RangeError"],
    ["unix:/run/x", 0, "TypeError"],
  ])("%s with %i", async (address, flags, expected) => {
    expect(await outcome(names.getnameinfo(new Book(), address, flags))).toEqual(expected);
  });

  test("an address that another call gave", async () => {
    const address = { family: "IPv6", hostname: "fe80::1", port: 53, scopeId: "eth0" } as const;
    expect(await names.getnameinfo(new Book(), address, NI_NUMERICHOST)).toEqual(["fe80::1%eth0", "domain"]);
  });
});
