/** Names in Node. The oracle is CPython on the same machine: it is asked the same, and must answer the same. */

import { execFileSync } from "node:child_process";
import dns from "node:dns";
import fs from "node:fs";
import os from "node:os";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  AF_UNSPEC,
  AI_ADDRCONFIG,
  AI_ALL,
  AI_CANONNAME,
  AI_NUMERICHOST,
  AI_NUMERICSERV,
  AI_PASSIVE,
  AI_V4MAPPED,
  type InternetAddress,
  NI_DGRAM,
  NI_NAMEREQD,
  NI_NOFQDN,
  NI_NUMERICHOST,
  NI_NUMERICSERV,
  SOCK_STREAM,
  SocketError,
} from "socklet";
import { ThreadingUDPServer } from "socklet/emulator";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { AddressInfoOptions } from "../../core/net/names.ts";
import {
  getaddrinfo,
  getfqdn,
  gethostbyaddr,
  gethostbyname,
  gethostbynameEx,
  gethostname,
  getnameinfo,
  getprotobyname,
  getservbyname,
  getservbyport,
  Hosts,
} from "../../emulator/sockets/names/names.ts";
import { DnsDatagram } from "../../examples/dns.ts";
import { peer } from "../peers/peer.ts";

const CALLS = {
  getaddrinfo,
  getfqdn,
  gethostbyaddr,
  gethostbyname,
  gethostbynameEx,
  gethostname,
  getnameinfo,
  getprotobyname,
  getservbyname,
  getservbyport,
};

type Question = readonly [name: keyof typeof CALLS, ...args: unknown[]];

/** The outcome of a call: a value, or the name of the error. */
const ask = async ([name, ...args]: Question): Promise<unknown> => {
  try {
    return await (CALLS[name] as (...args: unknown[]) => unknown)(...args);
  } catch (error) {
    if (!(error instanceof SocketError)) return (error as Error).name;
    return /\((EAI_[A-Z]+)\)$/.exec(error.message)?.[1] ?? error.code;
  }
};

// Answers a list of questions with the list of what Python's calls came to, in the shapes that ours have.
const ORACLE = `
import json, socket, sys

def info(family, type, proto, canonname, address):
    shaped = {'family': 'IPv4' if family == socket.AF_INET else 'IPv6', 'hostname': address[0], 'port': address[1]}
    if len(address) == 4 and address[3]: shaped['scopeId'] = address[3]
    return dict(family=int(family), type=int(type), proto=proto, canonname=canonname, address=shaped)

def sockaddr(hostname, port):
    host, _, scope = hostname.partition('%')
    return (host, port, 0, socket.if_nametoindex(scope)) if scope else (host, port)

CALLS = {
    'gethostbynameEx': socket.gethostbyname_ex,
    'getaddrinfo': lambda host, port, options={}: [info(*each) for each in socket.getaddrinfo(host, port, **options)],
    'getnameinfo': lambda address, flags: socket.getnameinfo(sockaddr(**address), flags),
}
GAI = {value: name for name, value in vars(socket).items() if name.startswith('EAI_')}

def answer(name, *args):
    try: return CALLS.get(name, getattr(socket, name, None))(*args)
    except socket.gaierror as error: return GAI[error.errno]
    except OSError: return 'OSError'
    except (OverflowError, ValueError): return 'RangeError'
    except TypeError: return 'TypeError'

print(json.dumps([answer(*question) for question in json.load(sys.stdin)]))
`;

/** Asks both. `OSError` is an error without a reason of getaddrinfo(3), and stands for any of ours. */
const compare = async (python: string, questions: readonly Question[]): Promise<void> => {
  expect(questions).not.toEqual([]);
  const input = JSON.stringify(questions);
  const theirs = JSON.parse(
    execFileSync(python, ["-c", ORACLE], { input, encoding: "utf8", maxBuffer: 2 ** 28 }),
  );
  const differing: string[] = [];
  for (const [i, question] of questions.entries()) {
    const ours = comparable(await ask(question));
    const wanted = comparable(theirs[i]);
    const same = wanted === '"OSError"' ? /^"(EAI_|ERR_NAME)/.test(ours) : ours === wanted;
    if (!same) differing.push(`${JSON.stringify(question)}: ours ${ours}, theirs ${wanted}`);
  }
  expect(differing).toEqual([]);
};

/** As text, with the members in order, and scopes by their number, as Python has them. */
const comparable = (answer: unknown): string =>
  JSON.stringify(answer, (key, value) => {
    if (key === "scopeId") return scopeNumber(value);
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  });

const scopeNumber = (scope: string): number => {
  const file = `/sys/class/net/${scope}/ifindex`;
  return Number(fs.existsSync(file) ? fs.readFileSync(file, "utf8") : scope);
};

const product = <T extends readonly unknown[]>(...lists: { [K in keyof T]: readonly T[K][] }): T[] =>
  lists.reduce<unknown[][]>(
    (made, list) => made.flatMap((one) => (list as unknown[]).map((each) => [...one, each])),
    [[]],
  ) as unknown as T[];

/** Every sum of some of these flags. */
const sums = (...flags: number[]): number[] =>
  flags.reduce((made, flag) => made.concat(made.map((sum) => sum | flag)), [0]);

const options = (families: readonly number[], flags: readonly number[]): AddressInfoOptions[] =>
  product<[number, number]>(families, flags).map(([family, flag]) => ({
    family,
    flags: flag,
    type: SOCK_STREAM,
  }));

/** The fields of each line of a file that has two of them, without its comment. */
const linesOf = (path: string): string[][] =>
  (fs.existsSync(path) ? fs.readFileSync(path, "utf8") : "")
    .split("\n")
    .map((line) => line.replace(/#.*/, "").split(/\s+/).filter(Boolean))
    .filter(({ length }) => length > 1);

// Every spelling, of an address or nearly of one.
const LITERALS = [
  ...[
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "1",
    "0",
    "0x7f.1",
    "0X7F.0.0.1",
    "0x7f000001",
    "010.0.0.1",
    "00.0.0.1",
  ],
  ...[
    "1.2.3.4",
    "255.255.255.255",
    "4294967295",
    "1.65536",
    "1.16777215",
    "0.0.0.0",
    "１２７.０.0.1",
    "127。0。0。1",
  ],
  ...[
    "::1",
    "::",
    "::ffff:1.2.3.4",
    "::FFFF:7f00:1",
    "::1.2.3.4",
    "2001:DB8:0:0:1::1",
    "fe80::1",
    "1:2:3:4:5:6:7:8",
  ],
  ...[
    "fe80::1%lo",
    "fe80::1%1",
    "fe80::1%01",
    "fe80::1%0",
    "::1%1",
    "::1%0",
    "ff02::1%lo",
    "::ffff:1.2.3.4%1",
  ],
];
const NEARLY = [
  ...[
    "",
    "*",
    "256.1.1.1",
    "1.2.3.4.5",
    "1.2.3.",
    ".1.2.3.4",
    "4294967296",
    "1.16777216",
    "0x",
    "08",
    "1.2.3.4 x",
  ],
  ...[
    " 1.2.3.4",
    "1.2.3.4 ",
    "1.2.3.4.",
    "1.2.3.4%lo",
    "-1",
    "+1",
    "1e3",
    "0x1g",
    "1..2",
    "<broadcast>",
    "localhost",
  ],
  ...[
    ":",
    ":::",
    "1::2::3",
    "::g",
    "::1.2.3",
    "::01.2.3.4",
    "12345::",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "[::1]",
  ],
  ...[
    "fe80::1%nope",
    "fe80::1%",
    "fe80::1%lo%lo",
    "::1%lo",
    "fe80::1%4294967296",
    "fe80::1% 1",
    "fe80::1%-1",
    "%lo",
  ],
];
const HOST = ["gethostbyname", "gethostbynameEx", "gethostbyaddr", "getfqdn"] as const;

const python3 = peer("python3");
// Another system's Python asks another C library.
const oracle = process.platform === "linux" ? python3 : null;

describe.skipIf(oracle === null)(
  oracle ? "as CPython answers here" : "SKIPPED, no python3 on Linux: names were NOT compared",
  () => {
    const same = (questions: readonly Question[]) => compare(oracle as string, questions);

    test("every service of /etc/services, and others", async () => {
      const services = linesOf("/etc/services");
      const called = services.flatMap(([name = "", , ...aliases]) => [name, ...aliases]);
      const ports = services.map(([, place = ""]) => Number.parseInt(place, 10));
      const odd = ["HTTP", "nosuch", "", " http", "http ", "80", "tcp", "http/tcp", "#", "ssh\t", "é"];
      await same([
        ...product<Question>(["getservbyname"], [...called, ...odd]),
        ...product<Question>(
          ["getservbyname"],
          [...called, ...odd],
          ["tcp", "udp", "sctp", "ddp", "TCP", "", "x"],
        ),
        ...product<Question>(
          ["getservbyport"],
          [...ports, 0, 1, 2, 3, 65_535, 40_000, -1, 65_536, 70_000, 1.5, "80", null],
        ),
        ...product<Question>(["getservbyport"], ports, ["tcp", "udp", "sctp", "TCP", ""]),
        ["getservbyname", 80],
        ["getservbyname", "http", 6],
        ["getservbyport", 80, 6],
      ]);
    });

    test("every protocol of /etc/protocols, and others", async () => {
      const called = linesOf("/etc/protocols").flatMap(([name = "", , ...aliases]) => [name, ...aliases]);
      await same(
        product<Question>(["getprotobyname"], [...called, "Tcp", "nosuch", "", " tcp", "6", "#", 6, null]),
      );
    });

    test("this machine", async () => {
      await same([
        ["gethostname"],
        ["getfqdn"],
        ...product<Question>(["getfqdn"], ["", " ", "0.0.0.0", "::", os.hostname()]),
        ["gethostbyname", os.hostname()],
      ]);
    });

    // If another source comes before the file, the file's further names are not reported.
    const filesFirst = /^hosts:\s+files\b/m.test(
      linesOf("/etc/nsswitch.conf")
        .map((line) => line.join(" "))
        .join("\n"),
    );
    const listed = "every name and address of /etc/hosts";
    test.skipIf(!filesFirst)(filesFirst ? listed : `SKIPPED, it is not asked first: ${listed}`, async () => {
      const lines = linesOf("/etc/hosts");
      const namesOf = (family: RegExp): string[] =>
        lines.flatMap(([address = "", ...called]) => (family.test(address) ? called : []));
      const addresses = lines.map(([address = ""]) => address);
      // Only what the file answers: a name is not asked for in a family that it has no address of.
      const ipv4 = [...new Set(namesOf(/^[0-9.]+$/))].flatMap((name) => [name, name.toUpperCase()]);
      const ipv6 = [...new Set(namesOf(/^[0-9a-f:]+$/i))];
      const flags = [0, AI_CANONNAME, AI_ALL | AI_V4MAPPED | AI_CANONNAME];
      await same([
        ...product<Question>(["getfqdn"], [" localhost ", "127.0.0.1"]),
        ...product<Question>(["gethostbyname", "gethostbynameEx", "gethostbyaddr", "getfqdn"], ipv4),
        ...product<Question>(["gethostbyaddr", "getfqdn"], [...ipv6, ...addresses]),
        ...product<Question>(["getaddrinfo"], ipv4, [80], options([AF_UNSPEC, AF_INET], flags)),
        ...product<Question>(["getaddrinfo"], ipv6, [80], options([AF_UNSPEC, AF_INET6], [0, AI_CANONNAME])),
      ]);
    });

    test("addresses in every spelling, and what is nearly one", async () => {
      await same([
        ...product<Question>(["gethostbyname"], [...LITERALS, "", "<broadcast>"]),
        // Of some it asks the DNS, which is not for a test.
        ...product<Question>(["gethostbynameEx"], [...LITERALS.filter((name) => !/x/i.test(name)), ""]),
        ...product<Question>(["gethostbyaddr"], ["", "127.1", "0x7f.1", "127.0.1"]),
        ...product<Question>(
          ["getaddrinfo"],
          [...LITERALS, ...NEARLY],
          [80],
          options(
            [AF_UNSPEC, AF_INET, AF_INET6],
            [AI_NUMERICHOST, AI_NUMERICHOST | AI_CANONNAME, AI_NUMERICHOST | AI_V4MAPPED],
          ),
        ),
      ]);
    });

    test("names that nobody has", async () => {
      const long = `${"a.".repeat(125)}invalid`;
      await same([
        ...product<Question>(HOST, ["nosuch.invalid"]),
        ["gethostbyname", "bücher.invalid"],
        ...product<Question>(HOST, [long]),
        ...product<Question>(
          ["getaddrinfo"],
          ["nosuch.invalid"],
          [80],
          options([AF_UNSPEC, AF_INET, AF_INET6], [0, AI_CANONNAME]),
        ),
        ...product<Question>(
          ["gethostbyname", "getaddrinfo"],
          ["a..b", ".a", "a".repeat(64), `${"ü".repeat(64)}`],
          [80],
        ).map(([name, host, port]): Question => (name === "getaddrinfo" ? [name, host, port] : [name, host])),
        ["gethostbyname", "localhost\0.example"],
        ["gethostbyname", 5],
        ["gethostbyname", null],
      ]);
    });

    test("getaddrinfo: every kind of socket, and every service there", async () => {
      const ports = [
        null,
        0,
        80,
        "80",
        "+80",
        " 80",
        "-1",
        "http",
        "domain",
        "syslog",
        "amqp",
        "",
        "*",
        " ",
        "nosuch",
        "0x50",
        "80x",
      ];
      const kinds = product<[number, number]>(
        [0, 1, 2, 3, 4, 5, 6, 9, 10, -1],
        [0, 1, 2, 6, 17, 33, 132, 136, 255, -1],
      ).map(([type, proto]) => ({ type, proto }));
      await same(product<Question>(["getaddrinfo"], ["127.0.0.1"], ports, kinds));
    });

    test("getaddrinfo: every family and flag", async () => {
      const flags = sums(
        AI_PASSIVE,
        AI_CANONNAME,
        AI_NUMERICHOST,
        AI_V4MAPPED,
        AI_ALL,
        AI_ADDRCONFIG,
        AI_NUMERICSERV,
      );
      const families = [AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX, 99, -1];
      await same([
        ...product<Question>(
          ["getaddrinfo"],
          [null, "127.1", "::1", "::ffff:1.2.3.4"],
          [80],
          options(families, flags),
        ),
        ...product<Question>(
          ["getaddrinfo"],
          [null, "*", "localhost", ""],
          [null, "", "*", "http"],
          options([AF_UNSPEC], [...flags, 0x8000, -1]),
        ),
      ]);
    });

    test("getnameinfo: every flag", async () => {
      const flags = sums(NI_NUMERICHOST, NI_NUMERICSERV, NI_NOFQDN, NI_NAMEREQD, NI_DGRAM);
      const known = linesOf("/etc/hosts").flatMap(([address = ""]) => address);
      const at = (hosts: readonly string[], ports: readonly number[]) =>
        product<[string, number]>(hosts, ports).map(([hostname, port]) => ({ hostname, port }));
      const numeric = flags.filter((flag) => (flag & NI_NUMERICHOST) !== 0);
      await same([
        ...product<Question>(
          ["getnameinfo"],
          at([...new Set(["127.0.0.1", ...known])], [0, 53, 80, 514, 40_000]),
          [...flags, 0x8000],
        ),
        ...product<Question>(
          ["getnameinfo"],
          at(["192.0.2.1", "::ffff:1.2.3.4", "2001:db8::1", "127.1", "fe80::1%lo", "localhost"], [80]),
          numeric,
        ),
      ]);
    });
  },
);

describe("/etc/hosts, as glibc's `files` reads it", () => {
  // What gethostbyname_ex() and gethostbyaddr() of CPython 3.11 gave on glibc 2.36 for this file.
  const hosts = new Hosts(`127.0.0.1	localhost
::1     ip6-localhost ip6-loopback localhost
10.0.0.1 a.example a alias # and not this
10.0.0.2	b a A.EXAMPLE
10.0.0.1 a.example a another\r
::ffff:10.0.0.3 mapped a
2001:DB8::1 six a
2001:db8:0::2 six
10.0.0.300 bad a
127.1 bad
fe80::1%eth0 bad
10.0.0.4
#10.0.0.5 commented
  10.0.0.6 Upper#x upper`);
  const a = ["a", "alias", "a", "A.EXAMPLE", "b", "a", "another"];

  test.each([
    ["localhost", ["localhost", ["ip6-loopback", "localhost", "ip6-localhost"], ["127.0.0.1", "127.0.0.1"]]],
    ["ip6-localhost", ["ip6-localhost", ["ip6-loopback", "localhost"], ["127.0.0.1"]]],
    ["a", ["a.example", [...a, "a", "mapped"], ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"]]],
    ["A.Example", ["a.example", a, ["10.0.0.1", "10.0.0.2", "10.0.0.1"]]],
    ["alias", ["a.example", ["a", "alias"], ["10.0.0.1"]]],
    ["mapped", ["mapped", ["a"], ["10.0.0.3"]]],
    ["UPPER", ["Upper", [], ["10.0.0.6"]]],
    ["six", undefined],
    ["bad", undefined],
    ["commented", undefined],
    ["and", undefined],
    ["", undefined],
  ])("the host %j", (name, host) => {
    expect(hosts.host(name, AF_INET)).toEqual(host);
  });

  test.each([
    ["127.0.0.1", ["localhost", []]],
    ["::1", ["ip6-localhost", ["ip6-loopback", "localhost"]]],
    ["10.0.0.1", ["a.example", ["a", "alias"]]],
    ["10.0.0.3", ["mapped", ["a"]]],
    ["::ffff:10.0.0.3", ["mapped", ["a"]]],
    ["::ffff:10.0.0.1", undefined],
    ["2001:db8::2", ["six", []]],
    ["10.0.0.5", undefined],
  ])("the host at %s", (address, named) => {
    expect(hosts.reverse(address)).toEqual(named);
  });

  test("the host of a name by family", () => {
    expect(hosts.host("a", AF_UNSPEC)?.[0]).toBe("a.example");
    expect(hosts.host("a", AF_INET6)).toEqual([
      "mapped",
      ["a", "a", "six"],
      ["::ffff:10.0.0.3", "2001:db8::1"],
    ]);
    expect(hosts.host("six", AF_UNSPEC)).toEqual(["six", ["a"], ["2001:db8::1", "2001:db8::2"]]);
  });
});

describe("what the system's resolver says", () => {
  afterEach(() => {
    vi.restoreAllMocks();
  });

  test("names that the DNS gives to others", async () => {
    // getaddrinfo(3) would ask the machine's name server; this one asks ours. What else is asked, asks it by itself.
    vi.spyOn(dns.promises, "lookup").mockImplementation((async (name: string) =>
      (await dns.promises.resolve4(name)).map((address) => ({ address, family: 4 }))) as never);
    const servers = dns.getServers();
    const server = new ThreadingUDPServer("127.0.0.1:0", DnsDatagram);
    const { port } = (await server.listen()) as InternetAddress;
    const serving = server.serveForever();
    try {
      dns.setServers([`127.0.0.1:${port}`]);
      expect(await gethostbynameEx("web.example.test")).toEqual([
        "www.example.test",
        ["web.example.test"],
        ["192.0.2.80"],
      ]);
      expect(await gethostbynameEx("www.example.test.")).toEqual(["www.example.test", [], ["192.0.2.80"]]);
      const [info] = await getaddrinfo("web.example.test", 80, { flags: AI_CANONNAME });
      expect(info?.canonname).toBe("www.example.test");
      expect((await getaddrinfo("web.example.test", 80))[0]?.canonname).toBe("");
      expect(await gethostbyname("web.example.test")).toBe("192.0.2.80");
    } finally {
      dns.setServers(servers);
      await server.serverClose();
      await serving;
    }
  });

  test("CNAME records that lead round and round", async () => {
    const next = { "a.test": "b.test", "b.test": "c.test", "c.test": "a.test" } as Record<string, string>;
    vi.spyOn(dns.promises, "lookup").mockResolvedValue([{ address: "192.0.2.1", family: 4 }] as never);
    vi.spyOn(dns.promises, "resolveCname").mockImplementation(async (name) => [next[name] ?? `x.${name}`]);
    expect(await gethostbynameEx("a.test")).toEqual(["c.test", ["a.test", "b.test"], ["192.0.2.1"]]);
    expect((await gethostbynameEx("endless.test"))[1]).toHaveLength(16);
  });

  const failure = (code: string, errno?: number) => Object.assign(new Error(code), { code, errno });

  test.each([
    ["ENOTFOUND", -3008, "EAI_NONAME"],
    ["ENOTFOUND", -3007, "EAI_NODATA"],
    ["EAI_AGAIN", -3001, "EAI_AGAIN"],
    ["EAI_MEMORY", -3006, "EAI_FAIL"],
    ["ECANCELLED", undefined, "EAI_FAIL"],
  ])("%s (%j)", async (code, errno, reason) => {
    const cause = failure(code, errno);
    vi.spyOn(dns.promises, "lookup").mockRejectedValue(cause);
    await expect(gethostbyname("host.test")).rejects.toMatchObject({
      code: "ERR_NAME",
      message: expect.stringContaining(`(${reason})`),
      cause,
    });
  });

  test("an address without a name, and one that nobody could be asked of", async () => {
    const service = vi.spyOn(dns.promises, "lookupService").mockRejectedValue(failure("ENOTFOUND", -3008));
    expect(await getnameinfo("192.0.2.1:80")).toEqual(["192.0.2.1", "http"]);
    expect(await ask(["gethostbyaddr", "192.0.2.1"])).toBe("EAI_NONAME");
    service.mockRejectedValue(failure("EAI_AGAIN", -3001));
    expect(await ask(["getnameinfo", "192.0.2.1:80"])).toBe("EAI_AGAIN");
    expect(await getfqdn("192.0.2.1")).toBe("192.0.2.1");
    service.mockResolvedValue({ hostname: "host.test", service: "http" });
    expect(await gethostbyaddr("192.0.2.1")).toEqual(["host.test", [], ["192.0.2.1"]]);
  });

  test("files that are not there, and files that change", async () => {
    const files: Record<string, string | undefined> = {};
    const read = fs.readFileSync;
    vi.spyOn(fs, "readFileSync").mockImplementation(((path: string, ...rest: []) => {
      if (!/^\/etc\/(hosts|services|protocols)$/.test(path)) return read(path, ...rest);
      if (files[path] === undefined) throw failure("ENOENT");
      return files[path];
    }) as never);
    vi.spyOn(dns.promises, "lookupService").mockRejectedValue(failure("ENOTFOUND", -3008));
    expect(getservbyname("http")).toBe(80);
    expect(getprotobyname("tcp")).toBe(6);
    expect(await ask(["gethostbyaddr", "127.0.0.1"])).toBe("EAI_NONAME");
    files["/etc/services"] = "http 8080/tcp\n";
    files["/etc/protocols"] = "tcp 66\n";
    files["/etc/hosts"] = "127.0.0.1 me\n";
    expect(getservbyname("http")).toBe(8080);
    expect(getservbyport(8080)).toBe("http");
    expect(getprotobyname("tcp")).toBe(66);
    expect(await gethostbyaddr("127.0.0.1")).toEqual(["me", [], ["127.0.0.1"]]);
    expect((await getaddrinfo("127.1", "http"))[0]?.address.port).toBe(8080);
    files["/etc/hosts"] = "127.0.0.1 myself\n";
    expect((await gethostbyaddr("127.0.0.1"))[0]).toBe("myself");
  });
});
