/** Names in a Worker: what is known without asking, and what a server in Node is asked for over HTTP. */

import {
  AF_INET,
  AF_INET6,
  AI_ADDRCONFIG,
  AI_ALL,
  AI_CANONNAME,
  AI_NUMERICHOST,
  AI_PASSIVE,
  AI_V4MAPPED,
  NI_NAMEREQD,
  NI_NOFQDN,
  NI_NUMERICHOST,
  NI_NUMERICSERV,
  SOCK_STREAM,
  SocketError,
} from "socklet";
import { describe, expect, inject, test } from "vitest";
import { MalformedAnswer, parseAnswer, query } from "../../worker/names/dns-message.ts";
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
  type NameOptions,
} from "../../worker/names/names.ts";
import { fc } from "../conformance/properties.ts";

const origin = inject("dohOrigin");
const PATIENT = { timeout: 120_000 }; // the server is in Vitest's main process, which may stand still for longer than the default's 5 s
const at = (path: string): NameOptions => ({ endpoint: `${origin}${path}`, ...PATIENT });
const asked = at("/dns-query");

/** Options whose `fetch` must not be called: a lookup that calls it gets an error that no name causes. */
const nobody: NameOptions = {
  fetch: () => {
    throw new RangeError("somebody was asked");
  },
};

/** The message of the error that a call rejects with. */
const failure = (call: Promise<unknown>): Promise<string> =>
  call.then(
    (value) => expect.unreachable(JSON.stringify(value)) as never,
    (error) => {
      expect(error).toBeInstanceOf(SocketError);
      expect(error.code).toBe("ERR_NAME");
      return error.message;
    },
  );

/** An honest server's answers, with these changes to them. */
const tampered = (change: (answer: Uint8Array) => Uint8Array | undefined): NameOptions => ({
  ...asked,
  fetch: async (...args) => {
    const answer = new Uint8Array(await (await fetch(...args)).arrayBuffer());
    return new Response(change(answer) ?? answer, { headers: { "content-type": "application/dns-message" } });
  },
});

describe("nobody is asked", () => {
  test("for this machine, services and protocols", () => {
    expect(gethostname()).toBe("localhost");
    expect(getservbyname("http", "tcp")).toBe(80);
    expect(getservbyname("telnet", "tcp")).toBe(23);
    expect(getservbyport(25)).toBe("smtp");
    expect(getprotobyname("tcp")).toBe(6);
  });

  test.each([
    ["", "0.0.0.0"],
    ["<broadcast>", "255.255.255.255"],
    ["127.1", "127.0.0.1"],
    ["0x7f.1", "127.0.0.1"],
    ["::ffff:1.2.3.4", "1.2.3.4"],
    ["localhost", "127.0.0.1"],
    ["LocalHost.", "127.0.0.1"],
    ["app.localhost", "127.0.0.1"],
  ])("for the address of %j", async (name, address) => {
    expect(await gethostbyname(name, nobody)).toBe(address);
  });

  test("for localhost and addresses by the other functions", async () => {
    expect(await gethostbynameEx("localhost", nobody)).toEqual(["localhost", [], ["127.0.0.1"]]);
    expect(await gethostbynameEx("127.1", nobody)).toEqual(["127.1", [], ["127.0.0.1"]]);
    expect(await gethostbyaddr("localhost", nobody)).toEqual(["localhost", [], ["::1"]]);
    expect(await gethostbyaddr("127.0.0.1", nobody)).toEqual(["localhost", [], ["127.0.0.1"]]);
    expect(await gethostbyaddr("::1", nobody)).toEqual(["localhost", [], ["::1"]]);
    expect(await getfqdn(undefined, nobody)).toBe("localhost");
    expect(await getfqdn("0.0.0.0", nobody)).toBe("localhost");
    expect(await getnameinfo({ hostname: "127.0.0.1", port: 80 }, NI_NOFQDN, nobody)).toEqual([
      "localhost",
      "http",
    ]);
    const numeric = NI_NUMERICHOST | NI_NUMERICSERV;
    expect(await getnameinfo("[2001:db8::1]:80", numeric, nobody)).toEqual(["2001:db8::1", "80"]);
    const hosts = async (host: string | null, flags: number): Promise<string[]> =>
      (await getaddrinfo(host, 80, { type: SOCK_STREAM, flags, ...nobody })).map(
        ({ address }) => address.hostname,
      );
    expect(await hosts(null, 0)).toEqual(["::1", "127.0.0.1"]);
    expect(await hosts(null, AI_PASSIVE)).toEqual(["0.0.0.0", "::"]);
    expect(await hosts("localhost", AI_ADDRCONFIG)).toEqual(["::1", "127.0.0.1"]);
    expect(await hosts("1.2.3.4", AI_NUMERICHOST)).toEqual(["1.2.3.4"]);
  });

  test.each([
    "a b",
    "a..b",
    "ex_ample.<>",
    `${"a.".repeat(126)}test`,
    "a".repeat(64),
    "256.1.1.1:80",
    "fe80::1%eth0",
  ])("for %j, which is no name", async (name) => {
    await expect(gethostbyname(name, nobody)).rejects.not.toThrow("somebody was asked");
  });

  test("by who gives up first", async () => {
    const reason = new Error("enough");
    await expect(
      gethostbyname("www.example.test", { ...nobody, signal: AbortSignal.abort(reason) }),
    ).rejects.toBe(reason);
  });
});

describe("a server is asked", () => {
  test("for a host's addresses", async () => {
    expect(await gethostbyname("www.example.test", asked)).toBe("192.0.2.80");
    expect(await gethostbyname("WWW.Example.TEST.", asked)).toBe("192.0.2.80");
    const [, , addresses] = await gethostbynameEx("many.example.test", asked);
    expect(addresses).toEqual(Array.from({ length: 100 }, (_, i) => `203.0.113.${i + 1}`));
  });

  test("for the names that lead to a host", async () => {
    expect(await gethostbynameEx("web.example.test", asked)).toEqual([
      "www.example.test",
      ["web.example.test"],
      ["192.0.2.80"],
    ]);
    expect(await gethostbynameEx("www.example.test", asked)).toEqual([
      "www.example.test",
      [],
      ["192.0.2.80"],
    ]);
  });

  test("for the names of an address", async () => {
    expect(await gethostbyaddr("192.0.2.80", asked)).toEqual([
      "www.example.test",
      ["web.example.test"],
      ["192.0.2.80"],
    ]);
    expect(await gethostbyaddr("2001:db8::80", asked)).toEqual(["www.example.test", [], ["2001:db8::80"]]);
    // The best address of the name is asked for: IPv6's.
    expect(await gethostbyaddr("web.example.test", asked)).toEqual([
      "www.example.test",
      [],
      ["2001:db8::80"],
    ]);
    expect(await gethostbyaddr("::ffff:192.0.2.25", asked)).toEqual(["mail", [], ["::ffff:192.0.2.25"]]);
  });

  test("for the name of getfqdn(), which never fails", async () => {
    expect(await getfqdn("web.example.test", asked)).toBe("www.example.test");
    expect(await getfqdn("192.0.2.25", asked)).toBe("mail");
    expect(await getfqdn("nosuch.example.test", asked)).toBe("nosuch.example.test");
    expect(await getfqdn("192.0.2.9", asked)).toBe("192.0.2.9"); // its PTR record is not the name of a host
    expect(await getfqdn(" a..b ", asked)).toBe("a..b");
    expect(await getfqdn("www.example.test", at("/500"))).toBe("www.example.test");
  });

  test("for getnameinfo()", async () => {
    expect(await getnameinfo("192.0.2.80:443", 0, asked)).toEqual(["www.example.test", "https"]);
    expect(await getnameinfo("192.0.2.9:40000", 0, asked)).toEqual(["192.0.2.9", "40000"]);
    expect(await failure(getnameinfo("192.0.2.9:80", NI_NAMEREQD, asked))).toContain("(EAI_NONAME)");
    expect(await failure(getnameinfo("192.0.2.80:80", 0, at("/500")))).toContain("(EAI_AGAIN)");
    expect(await failure(getnameinfo("www.example.test:80", 0, nobody))).toContain("(EAI_NONAME)");
  });

  test("for getaddrinfo(): IPv6 first, and what is there of both", async () => {
    const hosts = async (host: string, family: number, flags = 0) =>
      (await getaddrinfo(host, "http", { family, flags, ...asked })).map(({ canonname, address }) => [
        address.hostname,
        address.port,
        canonname,
      ]);
    expect(await hosts("www.example.test", 0)).toEqual([
      ["2001:db8::80", 80, ""],
      ["192.0.2.80", 80, ""],
    ]);
    expect(await hosts("web.example.test", AF_INET, AI_CANONNAME)).toEqual([
      ["192.0.2.80", 80, "www.example.test"],
    ]);
    expect(await hosts("ns1.example.test", 0)).toEqual([["192.0.2.53", 80, ""]]); // it has no IPv6
    expect(await hosts("www.example.test", AF_INET6)).toEqual([["2001:db8::80", 80, ""]]);
    expect(await hosts("www.example.test", AF_INET6, AI_V4MAPPED)).toEqual([["2001:db8::80", 80, ""]]);
    expect(await hosts("ns1.example.test", AF_INET6, AI_V4MAPPED)).toEqual([["::ffff:192.0.2.53", 80, ""]]);
    expect(await hosts("www.example.test", AF_INET6, AI_V4MAPPED | AI_ALL)).toEqual([
      ["2001:db8::80", 80, ""],
      ["::ffff:192.0.2.80", 80, ""],
    ]);
    expect(await failure(hosts("ns1.example.test", AF_INET6))).toContain("(EAI_NODATA)");
  });

  test("one of two questions may fail", async () => {
    let count = 0;
    const first: NameOptions = {
      ...asked,
      fetch: (...args) => (count++ === 0 ? Promise.reject(new Error("no")) : fetch(...args)),
    };
    const found = await getaddrinfo("www.example.test", 80, { type: SOCK_STREAM, ...first });
    expect(found.map(({ address }) => address.hostname)).toEqual(["192.0.2.80"]);
    expect(count).toBe(2);
  });

  test("by an endpoint that is a URL", async () => {
    const options = { endpoint: new URL("/dns-query", origin), ...PATIENT };
    expect(await gethostbyname("www.example.test", options)).toBe("192.0.2.80");
  });
});

describe("what goes wrong has a reason", () => {
  test.each([
    ["nosuch.example.test", /^ERR_NAME: "nosuch.example.test": .*\(EAI_NONAME\)$/],
    ["astray.example.test", /\(EAI_NONAME\)$/], // it leads to a name that is not there
    ["text.example.test", /has no address.*\(EAI_NODATA\)$/],
    ["deep.example.test", /\(EAI_NODATA\)$/],
    ["away.example.test", /\(EAI_NODATA\)$/], // it leads to another zone; a recursive server would have followed it there
    ["loop.example.test", /\(EAI_NODATA\)$/],
    ["www.example.net", /refused the question \(code 5\) \(EAI_FAIL\)$/],
  ])("%s", async (name, message) => {
    expect(await failure(gethostbyname(name, asked))).toMatch(message);
    expect(await failure(gethostbynameEx(name, asked))).toMatch(message);
    expect(await failure(getaddrinfo(name, 80, asked))).toMatch(message);
  });

  test.each([
    ["/404", /\/404 answered with HTTP status 404 \(EAI_FAIL\)$/],
    ["/429", /HTTP status 429 \(EAI_AGAIN\)$/],
    ["/500", /HTTP status 500 \(EAI_AGAIN\)$/],
    ["/elsewhere", /HTTP status 307 \(EAI_FAIL\)$/],
    ["/page", /answered with text\/html, not with application\/dns-message \(EAI_FAIL\)$/],
    ["/large", /answered with more than 65535 bytes \(EAI_FAIL\)$/],
  ])("a server at %s", async (path, message) => {
    expect(await failure(gethostbyname("www.example.test", at(path)))).toMatch(message);
  });

  test("a server that cannot be reached", async () => {
    const cause = new Error("Network connection lost.");
    const options: NameOptions = { endpoint: "https://dns.test/ask", fetch: () => Promise.reject(cause) };
    const error = await gethostbyname("www.example.test", options).catch((thrown) => thrown);
    expect(error.message).toMatch(/https:\/\/dns.test\/ask could not be asked \(EAI_AGAIN\)$/);
    expect(error.cause).toBe(cause);
  });

  test.each(["/silent", "/stalls"])("a server at %s, which takes too long", async (path) => {
    const options = { ...at(path), timeout: 50 };
    expect(await failure(gethostbyname("www.example.test", options))).toMatch(
      /did not answer within 50 ms \(EAI_AGAIN\)$/,
    );
  });

  test.each(["/silent", "/stalls"])("who gives up on a server at %s", async (path) => {
    const reason = new Error("enough");
    const giveUp = new AbortController();
    const options: NameOptions = {
      ...at(path),
      signal: giveUp.signal,
      fetch: (...args) => {
        queueMicrotask(() => giveUp.abort(reason));
        return fetch(...args);
      },
    };
    await expect(gethostbyname("www.example.test", options)).rejects.toBe(reason);
  });

  const word = (answer: Uint8Array, at: number, value: number): undefined => {
    new DataView(answer.buffer).setUint16(at, value);
  };
  test.each<[string, (answer: Uint8Array) => Uint8Array | undefined, RegExp]>([
    ["another id", (answer) => word(answer, 0, 7), /malformed answer: it has another id \(EAI_FAIL\)/],
    ["a question", (answer) => word(answer, 2, 0x0100), /it is a question/],
    ["an answer to an update", (answer) => word(answer, 2, 0xa800), /does not answer a standard query/],
    ["an answer that is cut short", (answer) => word(answer, 2, 0x8200), /it is cut short/],
    ["no question", (answer) => word(answer, 4, 0), /answers another question/],
    ["another question", (answer) => word(answer, 13, 0x7878), /answers another question/],
    ["too few records", (answer) => word(answer, 6, 9), /it ends too early/],
    ["half a header", (answer) => answer.slice(0, 7), /it ends too early/],
    ["nothing", (answer) => answer.slice(0, 0), /it ends too early/],
    ["SERVFAIL", (answer) => word(answer, 2, 0x8182), /could not resolve it \(SERVFAIL\) \(EAI_AGAIN\)/],
    [
      "SERVFAIL and nothing else",
      (answer) => Uint8Array.of(0, 0, 0x81, 0x82, ...answer.fill(0, 4, 12).subarray(4, 12)),
      /\(SERVFAIL\) \(EAI_AGAIN\)/,
    ],
    ["FORMERR", (answer) => word(answer, 2, 0x8181), /refused the question \(code 1\) \(EAI_FAIL\)/],
    ["a name that leads to itself", (answer) => word(answer, 34, 0xc000 | 34), /points to itself/],
    ["an address of three bytes", (answer) => word(answer, 44, 3), /an A record has 4 bytes/],
  ])("a server that answers with %s", async (_, change, message) => {
    expect(await failure(gethostbyname("www.example.test", tampered(change)))).toMatch(message);
  });

  test("options that cannot be", async () => {
    await expect(gethostbyname("localhost", { endpoint: "dns-query" })).rejects.toThrow(TypeError);
    await expect(gethostbyname("localhost", { timeout: 0 })).rejects.toThrow(RangeError);
    await expect(gethostbyname(7 as never)).rejects.toThrow(TypeError);
    await expect(getaddrinfo("localhost", 65_536)).rejects.toThrow(RangeError);
    expect(() => getservbyport(65_536)).toThrow(RangeError);
    expect(() => getprotobyname("nosuch")).toThrow(SocketError);
  });
});

describe("messages", () => {
  const question = query("www.example.test", "A") as Uint8Array;

  test("a query, byte for byte (RFC 1035, 4.1; RFC 8484, 4.2.1)", () => {
    expect([...question]).toEqual([
      ...[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
      ...[3, ...new TextEncoder().encode("www"), 7, ...new TextEncoder().encode("example")],
      ...[4, ...new TextEncoder().encode("test"), 0, 0, 1, 0, 1],
    ]);
    expect(query("www.example.test.", "A")).toEqual(question);
  });

  test.each(["", ".", "a..b", "a b", "a\\b", "ü", "a".repeat(64), `${"a.".repeat(127)}b`])(
    "none for %j",
    (name) => {
      expect(query(name, "A")).toBeNull();
    },
  );

  test("the longest name", () => {
    expect(query(`${"a.".repeat(126)}b`, "A")?.length).toBe(12 + 255 + 4);
  });

  /** The answer to `question`, with these records. */
  const answered = (count: number, ...records: number[]): Uint8Array => {
    const bytes = Uint8Array.of(...question, ...records);
    bytes.set([0x81, 0x80], 2);
    bytes[7] = count;
    return bytes;
  };
  const POINTER = [0xc0, 12];

  test("records of other types and classes are passed over, and bytes that no host has are written out", () => {
    const records = parseAnswer(
      answered(
        4,
        ...[...POINTER, 0, 16, 0, 1, 0, 0, 0, 9, 0, 2, 1, 97], // TXT "a"
        ...[...POINTER, 0, 1, 0, 3, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4], // an A record of Chaosnet
        ...[...POINTER, 0, 5, 0, 1, 0, 0, 0, 9, 0, 6, 3, 97, 46, 10, 0xc0, 24], // CNAME "a.\n" within test
        ...[...POINTER, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4],
      ),
      question,
    ).records;
    expect(records).toEqual([
      { name: "www.example.test", type: "CNAME", data: "a\\046\\010.test" },
      { name: "www.example.test", type: "A", data: "1.2.3.4" },
    ]);
  });

  test("bytes that are nobody's answer are refused, and never more than that", () => {
    const honest = answered(1, ...POINTER, 0, 5, 0, 1, 0, 0, 0, 9, 0, 6, 3, 97, 98, 99, ...POINTER);
    expect(parseAnswer(honest, question).records).toEqual([
      { name: "www.example.test", type: "CNAME", data: "abc.www.example.test" },
    ]);
    const changes = fc.array(fc.tuple(fc.nat(honest.length - 1), fc.nat(255)), { maxLength: 4 });
    fc.assert(
      fc.property(changes, fc.nat(honest.length), fc.uint8Array({ maxLength: 40 }), (changed, kept, more) => {
        const bytes = Uint8Array.of(...honest.subarray(0, kept), ...more);
        for (const [at, value] of changed) if (at < bytes.length) bytes[at] = value;
        try {
          const { code, records } = parseAnswer(bytes, question);
          expect(code).toBeLessThan(16);
          for (const { name, data } of records) expect(name + data).toMatch(/^[\w\\/.:-]*$/);
        } catch (error) {
          expect(error).toBeInstanceOf(MalformedAnswer);
        }
      }),
      { numRuns: 5_000 },
    );
  });
});

test("npm dns2, as the server that is asked", async () => {
  const byDns2: NameOptions = { endpoint: `${inject("dns2Origin")}/dns-query`, ...PATIENT };
  const found = await getaddrinfo("www.example.test", 80, { type: SOCK_STREAM, ...byDns2 });
  expect(found.map(({ address }) => address.hostname).sort()).toEqual(["192.0.2.80", "2001:db8::80"]);
  expect(await failure(gethostbyname("none.example.test", byDns2))).toContain("none.example.test");
  expect(await failure(gethostbyname("away.example.test", byDns2))).toContain("away.example.test");
});
