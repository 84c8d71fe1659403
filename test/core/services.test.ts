import { existsSync, readFileSync } from "node:fs";
import { SocketError } from "socklet";
import { describe, expect, test } from "vitest";
import {
  builtInServices,
  getprotobyname,
  getservbyname,
  getservbyport,
  Protocols,
  Services,
} from "../../core/net/services.ts";
import { fc } from "../conformance/properties.ts";

/** What a call gave, or the code or name of its error. */
const outcome = (call: () => unknown): unknown => {
  try {
    return call();
  } catch (error) {
    return error instanceof SocketError ? error.code : (error as Error).name;
  }
};

describe("the table that is built in", () => {
  test.each([
    [["http", "tcp"], 80],
    [["telnet", "tcp"], 23],
    [["http"], 80],
    [["www"], 80],
    [["domain", "udp"], 53],
    [["https", "udp"], 443],
    [["syslog"], 514],
    [["syslog", "udp"], 514],
    [["ntp"], 123],
    [["postgres"], 5432],
    [["HTTP"], "ERR_NAME"],
    [["http", "TCP"], "ERR_NAME"],
    [["http", "udp"], "ERR_NAME"],
    [["http", ""], "ERR_NAME"],
    [["nosuch"], "ERR_NAME"],
    [[""], "ERR_NAME"],
    [["toString"], "ERR_NAME"],
    [[80], "TypeError"],
    [["http", 6], "TypeError"],
    [["http", null], "TypeError"],
    [[], "TypeError"],
  ])("getservbyname(%j)", (args, expected) => {
    expect(outcome(() => getservbyname(...(args as [string])))).toBe(expected);
  });

  test.each([
    [[80], "http"],
    [[25, "tcp"], "smtp"],
    [[514], "shell"],
    [[514, "udp"], "syslog"],
    [[512, "udp"], "biff"],
    [[25, "udp"], "ERR_NAME"],
    [[0], "ERR_NAME"],
    [[65_535], "ERR_NAME"],
    [[65_536], "RangeError"],
    [[-1], "RangeError"],
    [[2 ** 40], "RangeError"],
    [[1.5], "TypeError"],
    [[Number.NaN], "TypeError"],
    [["80"], "TypeError"],
    [[80, 6], "TypeError"],
  ])("getservbyport(%j)", (args, expected) => {
    expect(outcome(() => getservbyport(...(args as [number])))).toBe(expected);
  });

  test.each([
    ["tcp", 6],
    ["TCP", 6],
    ["udp", 17],
    ["icmp", 1],
    ["ip", 0],
    ["ipv6-icmp", 58],
    ["sctp", 132],
    ["Tcp", "ERR_NAME"],
    ["nosuch", "ERR_NAME"],
    ["", "ERR_NAME"],
    ["constructor", "ERR_NAME"],
    [6, "TypeError"],
    [undefined, "TypeError"],
  ])("getprotobyname(%j)", (name, expected) => {
    expect(outcome(() => getprotobyname(name as string))).toBe(expected);
  });

  test("an error says what was asked for", () => {
    expect(() => getservbyname("nosuch")).toThrow('ERR_NAME: there is no service "nosuch"');
    expect(() => getservbyname("http", "udp")).toThrow('ERR_NAME: there is no service "http" over "udp"');
    expect(() => getservbyport(1, "udp")).toThrow('ERR_NAME: no service has the port 1 over "udp"');
    expect(() => getprotobyname("nosuch")).toThrow('ERR_NAME: there is no protocol "nosuch"');
  });

  const debian =
    existsSync("/etc/debian_version") && existsSync("/etc/services") && existsSync("/etc/protocols");
  test.skipIf(!debian)(
    debian ? "says nothing that Debian's files do not say" : "SKIPPED, no Debian: the table was NOT compared",
    () => {
      const fields = (path: string): string[][] =>
        readFileSync(path, "utf8")
          .split("\n")
          .map((line) => line.replace(/#.*/, "").split(/\s+/).filter(Boolean))
          .filter(({ length }) => length > 1);
      const table = builtInServices();
      const services = new Services(readFileSync("/etc/services", "utf8"));
      let known = 0;
      for (const [name = "", place = "", ...aliases] of fields("/etc/services")) {
        const [port, protocol] = place.split("/");
        if (table.name(Number(port), protocol) === undefined) continue;
        known++;
        expect(table.name(Number(port), protocol)).toBe(services.name(Number(port), protocol));
        for (const one of [name, ...aliases])
          expect(table.port(one, protocol), one).toBe(services.port(one, protocol));
      }
      expect(known).toBeGreaterThan(120);
      const protocols = fields("/etc/protocols").filter(
        ([name = ""]) => outcome(() => getprotobyname(name)) !== "ERR_NAME",
      );
      expect(protocols.length).toBeGreaterThan(30);
      for (const [name = "", number, ...aliases] of protocols) {
        for (const one of [name, ...aliases]) expect(getprotobyname(one)).toBe(Number(number));
      }
    },
  );
});

describe("a table of one's own", () => {
  test("comments, white space, and lines that are none", () => {
    const services = new Services(
      "# all\n\n\thttp\t80/tcp www#x\r\nbad\nbad http/tcp\nbad 80\nbad -1/tcp\nbad 70000/tcp\n  x 7/tcp\fa\vb\nlast 9/",
    );
    expect(services.getservbyname("http")).toBe(80);
    expect(services.getservbyname("www", "tcp")).toBe(80);
    expect(services.getservbyname("b")).toBe(7);
    expect(services.getservbyname("last", "")).toBe(9);
    expect(services.getservbyport(9)).toBe("last");
    expect(outcome(() => services.getservbyname("bad"))).toBe("ERR_NAME");
    const protocols = new Protocols("tcp 6 TCP # x\n# udp 17\nip 0\nbad x\nbad\ntcp 7 T");
    expect(protocols.getprotobyname("TCP")).toBe(6);
    expect(protocols.getprotobyname("tcp")).toBe(6);
    expect(protocols.getprotobyname("T")).toBe(7);
    expect(protocols.getprotobyname("ip")).toBe(0);
    expect(outcome(() => protocols.getprotobyname("udp"))).toBe("ERR_NAME");
    expect(outcome(() => protocols.getprotobyname("bad"))).toBe("ERR_NAME");
  });

  test("the first line that fits counts", () => {
    const word = fc.constantFrom("a", "b", "c", "A");
    const protocol = fc.constantFrom("tcp", "udp");
    const space = fc.constantFrom(" ", "\t", "  ", " \t\r");
    const line = fc.record({
      names: fc.array(word, { minLength: 1, maxLength: 3 }),
      port: fc.integer({ min: 0, max: 4 }),
      protocol,
      space,
      comment: fc.constantFrom("", "#", " # a 1/tcp"),
    });
    fc.assert(
      fc.property(
        fc.array(line),
        word,
        fc.nat(4),
        fc.option(protocol, { nil: undefined }),
        (lines, name, port, over) => {
          const table = new Services(
            lines
              .map(({ names: [first, ...rest], space, comment, ...place }) =>
                [first, `${place.port}/${place.protocol}`, ...rest].join(space).concat(comment),
              )
              .join("\n"),
          );
          const fit = lines.filter((one) => over === undefined || one.protocol === over);
          expect(table.port(name, over)).toBe(fit.find(({ names }) => names.includes(name))?.port);
          expect(table.name(port, over)).toBe(fit.find((one) => one.port === port)?.names[0]);
        },
      ),
    );
  });
});
