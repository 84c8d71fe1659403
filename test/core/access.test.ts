import { execFileSync } from "node:child_process";
import { describe, expect, test, vi } from "vitest";
import { SocketError } from "../../core/errors.ts";
import {
  AllowList,
  connectHint,
  Gate,
  PeerList,
  parseAllowRule,
  parseNetwork,
  platformRefusal,
  ReplyBudget,
} from "../../core/net/access.ts";
import {
  type Address,
  type AddressLike,
  formatAddress,
  inetNtop,
  inetPton,
  isLoopback,
  isPrivate,
  isReserved,
  parseAddress,
} from "../../core/net/address.ts";
import { AF_INET, AF_INET6 } from "../../core/net/constants.ts";
import { fc } from "../conformance/properties.ts";
import { peer } from "../peers/peer.ts";

/** What an app in earnest would allow; the two widest rules are there to be abused. */
const ALLOW = [
  "10.20.0.0/16:6379",
  "93.184.215.14:25,465,587",
  "redis.example.com:6379",
  "*.mail.example.org:25,587",
  "bücher.example:443",
  "localhost:7007",
  "[2001:db8:1::]/48:443",
  "[fd00:1234::1]:8000-8100",
  "0.0.0.0/0:443",
  "[::]/0:443",
];
const allow = new AllowList(ALLOW);

/** The endpoint as text, or the code or name of the error and what it says. */
function verdict(list: AllowList, target: unknown): string {
  try {
    return formatAddress(list.check(target as AddressLike));
  } catch (error) {
    if (error instanceof SocketError) return `${error.code} ${error.message}`;
    if (error instanceof RangeError || error instanceof TypeError) return `${error.name} ${error.message}`;
    throw error;
  }
}

/** A name of 216 characters below the wildcard. */
const LONG = `${`${"b".repeat(39)}.`.repeat(5)}mail.example.org`;

const thrown = (call: () => unknown): SocketError => {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(SocketError);
    return error as SocketError;
  }
  throw new Error("it threw nothing");
};

describe("hostile targets are refused", () => {
  const HOSTILE: readonly (readonly [target: unknown, why: string])[] = [
    // This machine, by every spelling, at a port that 0.0.0.0/0 and ::/0 allow.
    ["127.0.0.1:443", "loopback: a wide rule must not reach it"],
    ["127.255.255.254:443", "loopback is all of 127.0.0.0/8"],
    ["127.1:443", "the short form of inet_aton"],
    ["0x7f.1:443", "hexadecimal"],
    ["0X7F000001:443", "hexadecimal as one number"],
    ["017700000001:443", "octal as one number"],
    ["0177.0.0.1:443", "octal, which others read as 177"],
    ["00000000177.1:443", "octal with leading zeros"],
    ["2130706433:443", "decimal as one number"],
    ["127.0.0.1.:443", "a dot at the end: a name to some, an address to others"],
    ["0x7f.1.:443", "both at once"],
    ["１２７.0.0.1:443", "fullwidth digits that IDNA maps to digits"],
    ["①②⑦.⓪.⓪.①:443", "enclosed digits that IDNA maps to digits"],
    ["127。0。0。1:443", "ideographic full stops that IDNA maps to dots"],
    ["０ｘ７ｆ．１:443", "fullwidth hexadecimal"],
    ["[::ffff:127.0.0.1]:443", "IPv4-mapped"],
    ["[::ffff:7f00:1]:443", "IPv4-mapped, in groups"],
    ["[0:0:0:0:0:FFFF:7F00:0001]:443", "IPv4-mapped, uncompressed"],
    [{ hostname: "[::ffff:127.0.0.1]", port: 443 }, "IPv4-mapped, in brackets within an object"],
    ["[::127.0.0.1]:443", "IPv4-compatible"],
    ["[::ffff:0:127.0.0.1]:443", "IPv4-translated (SIIT)"],
    ["[64:ff9b::127.0.0.1]:443", "NAT64"],
    ["[64:ff9b:1::127.0.0.1]:443", "NAT64 of a local prefix"],
    ["[2002:7f00:1::]:443", "6to4"],
    ["[2001:0:7f00:1::80ff:fffe]:443", "Teredo"],
    ["[::1]:443", "loopback"],
    ["[0:0:0:0:0:0:0:1]:443", "loopback, uncompressed"],
    ["[::]:443", "the unspecified address, which dials this machine"],
    ["0:443", "0.0.0.0, which dials this machine"],
    ["0.0.0.0:443", "the same"],
    [":443", "an empty host is this machine"],
    [".:443", "nothing but the dot at the end"],
    ["localhost:443", "a name of this machine, at a port that no rule names"],
    ["LOCALHOST.:7006", "the same by case and dot, one port beside the rule"],
    ["app.localhost:7007", "a name below localhost is this machine too, and has no rule"],
    // Networks that are not public.
    ["169.254.169.254:443", "the metadata service of clouds"],
    ["0xa9fea9fe:443", "the same in hexadecimal"],
    ["[::ffff:a9fe:a9fe]:443", "the same, mapped"],
    ["[64:ff9b::a9fe:a9fe]:443", "the same, through NAT64"],
    ["[fd00:ec2::254]:443", "the same by IPv6"],
    ["100.100.100.200:443", "a metadata service in the shared space 100.64.0.0/10"],
    ["10.0.0.1:443", "private"],
    ["172.16.0.1:443", "private"],
    ["192.168.0.1:443", "private"],
    ["198.18.0.1:443", "for benchmarks"],
    ["224.0.0.1:443", "multicast"],
    ["255.255.255.255:443", "broadcast"],
    ["240.0.0.1:443", "reserved"],
    ["[fe80::1]:443", "link-local"],
    ["[fe80::1%eth0]:443", "a scope, by which an interface is chosen"],
    ["[2606:4700::1%443]:443", "a scope on an address that is allowed without it"],
    ["[fec0::1]:443", "site-local, deprecated"],
    ["[ff02::1]:443", "multicast"],
    ["[4000::1]:443", "not allotted"],
    // Beside an address rule.
    ["10.21.0.1:6379", "one network further"],
    ["10.20.0.1:6380", "one port further"],
    ["10.20.0.1:0", "port 0"],
    ["10.024.0.1:6379.", "a dot behind the port"],
    ["8.8.8.8:6379", "an address that is allowed at another port"],
    ["[2001:db8:2::1]:443", "one network further"],
    ["[fd00:1234::1]:8101", "one port beyond the range"],
    ["[fd00:1234::2]:8000", "one address further"],
    // Beside a name rule.
    ["evil.redis.example.com:6379", "below a name that has no wildcard"],
    ["redis.example.com.evil.com:6379", "the allowed name as a prefix"],
    ["evilredis.example.com:6379", "the allowed name as a suffix, with no dot before it"],
    ["redis.example.com..:6379", "two dots at the end"],
    ["redis..example.com:6379", "an empty label"],
    [".redis.example.com:6379", "an empty first label"],
    ["mail.example.org:25", "the wildcard's own name"],
    ["xmail.example.org:25", "no dot before the wildcard's name"],
    ["*.mail.example.org:25", "the wildcard itself as a target"],
    [".mail.example.org:25", "an empty label below the wildcard"],
    ["a.mail.example.org:26", "one port further"],
    [`${"a".repeat(64)}.mail.example.org:25`, "a label of 64"],
    [`${"a".repeat(37)}.${LONG}:25`, "a name of 254"],
    [`${"\u00ad".repeat(254)}a.mail.example.org:25`, "more than a name's length, all of which IDNA drops"],
    [`${"ß".repeat(60)}.mail.example.org:25`, "a label that punycode makes longer than 63"],
    ["a b.mail.example.org:25", "white space"],
    ["a\0.mail.example.org:25", "a NUL, where C ends a string"],
    [{ hostname: "evil.com\0.mail.example.org", port: 25 }, "a NUL within an object"],
    ["a\n.mail.example.org:25", "a line feed, which a URL drops"],
    ["evil.com%2f.mail.example.org:25", "percent-encoding"],
    ["evil.com／.mail.example.org:25", "a fullwidth slash that IDNA maps to a slash"],
    ["evil.com℀.mail.example.org:25", "a character that IDNA maps to a/c"],
    ["evil.com＠a.mail.example.org:25", "a fullwidth at sign"],
    ["a\u200d.mail.example.org:25", "a zero-width joiner where none may be"],
    ["\ud800.mail.example.org:25", "half a surrogate pair"],
    ["rеdis.example.com:6379", "a Cyrillic letter that looks like a Latin one"],
    ["xn--rdis-sdd.example.com:6379", "the same in punycode"],
    ["bucher.example:443", "without the diaeresis, it is another name"],
    // Numbers that are no address: some resolver may take them for one.
    ["1.2.3.4.5:443", "five numbers"],
    ["256.256.256.256:443", "numbers too large"],
    ["08.8.8.8:443", "an octal number with an 8"],
    ["a.0x7f:443", "a name that ends in a number"],
    ["4294967296:443", "2 ** 32"],
    ["8.8.8.0x:443", "8.8.8.0 to a URL, and no address to inet_aton"],
    ["8.8.8.０ｘ:443", "the same, fullwidth: a URL must not read it for us"],
    // Another host than the one that a reader sees, or none.
    ["redis.example.com:6379@evil.com:6379", "credentials"],
    ["user@redis.example.com:6379", "credentials"],
    ["user:pw@10.20.0.1:6379", "credentials"],
    [{ hostname: "user@10.20.0.1", port: 6379 }, "credentials within an object"],
    ["redis.example.com:6379/x", "a path"],
    ["evil.com/redis.example.com:6379", "a path"],
    ["evil.com?redis.example.com:6379", "a query"],
    ["evil.com#redis.example.com:6379", "a fragment"],
    ["evil.com\\redis.example.com:6379", "a backslash, which a URL reads as a slash"],
    ["https://redis.example.com:6379", "another scheme"],
    ["redis.example.com", "no port"],
    ["redis.example.com:", "no port"],
    ["redis.example.com:+6379", "a port with a sign"],
    ["redis.example.com:0x18eb", "a port in hexadecimal"],
    ["redis.example.com:71915", "a port that is 6379 in 16 bits"],
    [{ hostname: "redis.example.com", port: 6379.5 }, "half a port"],
    [{ hostname: "redis.example.com", port: "6379" }, "a port that is text"],
    [{ hostname: ["redis.example.com"], port: 6379 }, "a host that is no text"],
    [{ hostname: "redis.example.com", port: 6379, path: "/run/x" }, "a host and a path"],
    ["unix:/run/redis.sock", "a path"],
    [{ path: "\0redis" }, "an abstract path"],
    ["UNIX:443", "a name that would come back as a path"],
    [null, "nothing"],
  ];

  test("there are enough of them", () => expect(HOSTILE.length).toBeGreaterThan(100));

  test.each(HOSTILE)("%j: %s", (target) => {
    expect(verdict(allow, target)).toMatch(/^(ERR_REFUSED|ERR_INVALID_ADDRESS|RangeError|TypeError) /);
  });

  test.each(["127.0.0.1:443", "a.example:1", "[::1]:1", "redis.example.com:1", "8.8.8.8:1"])(
    "%s: a stranger learns what kind of rule it takes, and no rule",
    (target) => {
      const { code, message, address } = thrown(() => allow.check(target));
      expect([code, address]).toEqual(["ERR_REFUSED", target]);
      expect(message).toContain(`such as "${target}"`.slice(target.startsWith("8") ? 8 : 0));
      for (const rule of ALLOW) expect(message).not.toContain(rule);
    },
  );

  test("the message has the one spelling, and the network that a rule has to name", () => {
    expect(thrown(() => allow.check("0x7f.1:443")).message).toBe(
      `ERR_REFUSED: "127.0.0.1:443" is not allowed by any rule; 127.0.0.0/8 is not public, so it needs a rule for that network or a part of it, such as "127.0.0.1:443"`,
    );
    expect(thrown(() => allow.check("tcp://A.B.Example.NET.:443")).message).toBe(
      `ERR_REFUSED: "tcp://a.b.example.net:443" is not allowed by any rule; it needs a rule by name, such as "a.b.example.net:443" or "*.b.example.net:443"`,
    );
    expect(thrown(() => allow.check("example.com:1")).message).not.toContain("*.com");
    expect(thrown(() => allow.check("redis.example.com:0")).message).toContain("has port 0");
    expect(thrown(() => allow.check("unix:/run/x")).message).toContain("is a path");
  });

  test("no rules allow nothing", () => {
    const none = new AllowList([]);
    for (const target of ["8.8.8.8:443", "example.com:443", "localhost:1", "[::1]:1"]) {
      expect(thrown(() => none.check(target)).code).toBe("ERR_REFUSED");
    }
  });
});

describe("other spellings of what is allowed", () => {
  test.each([
    ["10.20.3.4:6379", "10.20.3.4:6379"],
    ["10.20.772:6379", "10.20.3.4:6379"],
    ["0xa.0x14.3.4:6379", "10.20.3.4:6379"],
    ["012.024.03.04:6379", "10.20.3.4:6379"],
    ["169083652:6379", "10.20.3.4:6379"],
    ["10.20.3.4.:6379", "10.20.3.4:6379"],
    ["１０.20。3．4:6379", "10.20.3.4:6379"],
    ["[::ffff:10.20.3.4]:6379", "10.20.3.4:6379"],
    ["[0:0::FFFF:a14:304]:6379", "10.20.3.4:6379"],
    ["tcp://10.20.3.4:6379", "tcp://10.20.3.4:6379"],
    ["udp://10.20.3.4:6379", "udp://10.20.3.4:6379"],
    [{ hostname: "10.20.3.4", port: 6379 }, "10.20.3.4:6379"],
    [{ family: "IPv4", hostname: "10.20.3.4", port: 6379 }, "10.20.3.4:6379"],
    ["93.184.215.14:587", "93.184.215.14:587"],
    ["8.8.8.8:443", "8.8.8.8:443"],
    ["134744072:443", "8.8.8.8:443"],
    ["redis.example.com:6379", "redis.example.com:6379"],
    ["Redis.EXAMPLE.com.:6379", "redis.example.com:6379"],
    ["redis。example．com｡:6379", "redis.example.com:6379"],
    ["ⓡedis.example.com:6379", "redis.example.com:6379"],
    ["a.mail.example.org:25", "a.mail.example.org:25"],
    ["a.b_c.-d.mail.example.org:587", "a.b_c.-d.mail.example.org:587"],
    ["127.0.0.1.mail.example.org:25", "127.0.0.1.mail.example.org:25"],
    [`${"a".repeat(63)}.mail.example.org:25`, `${"a".repeat(63)}.mail.example.org:25`],
    [`${"a".repeat(36)}.${LONG}.:25`, `${"a".repeat(36)}.${LONG}:25`],
    ["bücher.example:443", "xn--bcher-kva.example:443"],
    ["BU\u0308CHER.Example:443", "xn--bcher-kva.example:443"],
    ["XN--bcher-KVA.example.:443", "xn--bcher-kva.example:443"],
    ["localhost:7007", "localhost:7007"],
    ["LocalHost.:7007", "localhost:7007"],
    ["loc\u00adalhost:7007", "localhost:7007"],
    ["[2001:DB8:1:0::0001]:443", "[2001:db8:1::1]:443"],
    [{ hostname: "2001:db8:1::1", port: 443 }, "[2001:db8:1::1]:443"],
    [{ hostname: "[2001:db8:1::1]", port: 443 }, "[2001:db8:1::1]:443"],
    ["[fd00:1234:0::1]:8100", "[fd00:1234::1]:8100"],
    ["[2606:4700:4700::1111]:443", "[2606:4700:4700::1111]:443"],
  ] satisfies [AddressLike, string][])("%j is %s", (target, text) => {
    const endpoint = allow.check(target);
    expect(formatAddress(endpoint)).toBe(text);
    expect(parseAddress(text)).toEqual(endpoint);
    expect(allow.check(endpoint)).toEqual(endpoint);
  });

  test("a target's properties are read once: what was checked is what comes back", () => {
    let reads = 0;
    const shifty = {
      get hostname() {
        return reads++ === 0 ? "10.20.3.4" : "127.0.0.1";
      },
      port: 6379,
    };
    expect(allow.check(shifty)).toEqual({ scheme: undefined, hostname: "10.20.3.4", port: 6379 });
  });

  test("a host called unix needs its scheme, or its text would be a path", () => {
    const list = new AllowList(["unix:80"]);
    expect(list.check("tcp://UNIX:80")).toEqual({ scheme: "tcp", hostname: "unix", port: 80 });
    expect(thrown(() => list.check("UNIX:80")).code).toBe("ERR_INVALID_ADDRESS");
    expect(thrown(() => list.check("ｕnix.:80")).code).toBe("ERR_INVALID_ADDRESS");
  });

  test.each([
    ["127.0.0.0/8:80", "127.0.0.1:80"],
    ["127.0.0.1:80", "127.0.0.1:80"],
    ["0.0.0.0/8:80", "0.0.0.0:80"],
    ["240.0.0.0/4:80", "255.255.255.255:80"],
    ["169.254.169.254:80", "169.254.169.254:80"],
    ["[::1]:80", "[::1]:80"],
    ["[::]/96:80", "[::127.0.0.1]:80"],
    ["[64:ff9b::]/96:80", "[64:ff9b::7f00:1]:80"],
    ["[2002:7f00::]/24:80", "[2002:7f00:1::]:80"],
    ["[2001::]/32:80", "[2001:0:7f00:1::]:80"],
    ["[fc00::]/7:80", "[fd00::1]:80"],
    ["[fe80::]/10:80", "[fe80::1]:80"],
    ["[4000::]/2:80", "[5000::1]:80"],
  ])("a network that is not public is allowed where a rule names it: %s", (rule, target) => {
    expect(verdict(new AllowList([rule]), target)).toBe(target);
  });

  test.each([
    ["10.0.0.0/7:80", "10.0.0.1:80"],
    ["[::]/96:80", "[::1]:80"],
    ["[2000::]/3:80", "[2002:7f00:1::]:80"],
    ["[2001::]/23:80", "[2001::1]:80"],
    ["[8000::]/1:80", "[fd00::1]:80"],
    ["[::]/0:80", "10.0.0.1:80"],
    ["[::]/0:80", "8.8.8.8:80"],
    ["[::]/0:80", "[::ffff:8.8.8.8]:80"],
    ["0.0.0.0/0:80", "[::8.8.8.8]:80"],
    ["0.0.0.0/0:80", "example.com:80"],
    ["*.0.com:80", "0.0.0.0:80"],
  ])("%s does not reach %s", (rule, target) => {
    expect(verdict(new AllowList([rule]), target)).toMatch(/^ERR_REFUSED /);
  });
});

describe("rules", () => {
  test.each([
    ["10.0.0.0/8:6379", { network: { address: bytes("10.0.0.0"), prefix: 8 }, ports: [[6379, 6379]] }],
    ["10.1.2.3:6379", { network: { address: bytes("10.1.2.3"), prefix: 32 }, ports: [[6379, 6379]] }],
    ["0.0.0.0/0:*", { network: { address: bytes("0.0.0.0"), prefix: 0 }, ports: [[1, 65535]] }],
    ["[2001:db8::]/32:443", { network: { address: bytes("2001:db8::"), prefix: 32 }, ports: [[443, 443]] }],
    ["[2001:DB8::1]:443", { network: { address: bytes("2001:db8::1"), prefix: 128 }, ports: [[443, 443]] }],
    ["[::]/0:1", { network: { address: bytes("::"), prefix: 0 }, ports: [[1, 1]] }],
    ["redis.example.com:6379", { name: "redis.example.com", below: false, ports: [[6379, 6379]] }],
    ["*.example.com:25", { name: "example.com", below: true, ports: [[25, 25]] }],
    ["*.Bücher.Example.:25", { name: "xn--bcher-kva.example", below: true, ports: [[25, 25]] }],
    ["REDIS:1000-2000", { name: "redis", below: false, ports: [[1000, 2000]] }],
    [
      "localhost:80,443,8000-8100",
      {
        name: "localhost",
        below: false,
        ports: [
          [80, 80],
          [443, 443],
          [8000, 8100],
        ],
      },
    ],
    ["a.localhost:65535", { name: "a.localhost", below: false, ports: [[65535, 65535]] }],
  ])("%s", (text, rule) => {
    expect(parseAllowRule(text)).toEqual({ text, ...rule });
  });

  test.each([
    ["", `of the form "host:port"`],
    [":6379", `of the form "host:port"`],
    ["redis.example.com", `write "redis.example.com:443", or "redis.example.com:*"`],
    ["10.0.0.0/8", `write "10.0.0.0/8:443"`],
    ["[::1]", `write "[::1]:443"`],
    ["*", `write "*:443"`],
    ["redis:", `has the port ""`],
    ["redis:0", `from 1 to 65535`],
    ["redis:65536", `from 1 to 65535`],
    ["redis:080", `has the port "080"`],
    ["redis:2000-1000", `has the port "2000-1000"`],
    ["redis:1-", `has the port "1-"`],
    ["redis:80,", `has the port ""`],
    ["redis:80, 443", `has the port " 443"`],
    ["redis:http", `has the port "http"`],
    ["redis:6379\n", `has the port "6379\\n"`],
    ["10.0.0.0:6379/8", `has the port "6379/8"`],
    ["10.1.2.3/8:6379", `that network is "10.0.0.0/8:6379"`],
    ["10.1.2.3/31:6379", `that network is "10.1.2.2/31:6379"`],
    ["10.1.2.3/0:6379", `that network is "0.0.0.0/0:6379"`],
    ["[2001:db8::1]/32:80-90", `that network is "[2001:db8::]/32:80-90"`],
    ["10.0.0.0/33:1", "from 0 to 32"],
    ["[::]/129:1", "from 0 to 128"],
    ["10.0.0.0/:1", `has the prefix ""`],
    ["10.0.0.0/08:1", `has the prefix "08"`],
    ["10.0.0.0/255.0.0.0:1", `has the prefix "255.0.0.0"`],
    ["10.1/16:1", `short or old form; write "10.0.0.0/16:1"`],
    ["010.0.0.0/8:1", `write "8.0.0.0/8:1"`],
    ["0x7f.1:1", `write "127.0.0.1:1"`],
    ["127.0.0.1.:1", `write "127.0.0.1:1"`],
    ["１２７.0.0.1:1", `write "127.0.0.1:1"`],
    ["[::ffff:10.0.0.0]/104:6379", `write "10.0.0.0/8:6379"`],
    ["[::ffff:10.1.2.3]:6379", `write "10.1.2.3:6379"`],
    ["[::ffff:0:0]/95:1", `write "0.0.0.0/0:1"`],
    ["2001:db8::/32:443", "IPv6 has brackets"],
    ["::1:443", "IPv6 has brackets"],
    ["[2001:db8::/32]:443", "before the prefix"],
    ["[fe80::1%eth0]:443", "write the address without it"],
    ["[redis]:443", "not a valid name"],
    ["[1.2.3.4]:443", "not a valid name"],
    ["redis/8:443", "prefix after a name"],
    ["tcp://redis:443", "has a scheme"],
    ["user@redis:443", "not a valid name"],
    ["bücher@redis:443", "not a valid international name"],
    ["bü\tcher:443", "not a valid international name"],
    ["bü/cher:443", "prefix after a name"],
    ["a b:443", "not a valid name"],
    ["a..b:443", "not a valid name"],
    ["a.*.b:443", "not a valid name"],
    ["*a.b:443", "not a valid name"],
    ["*.*.b:443", "not a valid name"],
    ["*.:443", "no host"],
    ["a.1:443", "ends in a number"],
    [`${"a".repeat(64)}:443`, "1 to 63 letters"],
    [`${"a.".repeat(200)}b:443`, "253"],
    ["*:443", `write "0.0.0.0/0:443" and "[::]/0:…"`],
    ["*:*", "names every host"],
    ["*.10.0.0.1:443", `"*." before an address`],
    ["*.0.0.1:443", `"*." before an address`],
    ["*.localhost:443", "name each in full"],
    ["*.app.LOCALHOST.:443", "name each in full"],
    [443, "is not a string"],
  ])("%j is none", (text, says) => {
    const { code, message } = thrown(() => new AllowList(["good:1", text as string]));
    expect(code).toBe("ERR_APP");
    expect(message).toContain(`the allow rule ${JSON.stringify(text)} `);
    expect(message).toContain(says);
  });

  test("every rule that a message proposes is a rule", () => {
    for (const bad of [
      "10.1.2.3/8:6379",
      "[2001:db8::1]/32:80",
      "[::ffff:10.0.0.0]/104:1",
      "0x7f.1:1",
      "x",
    ]) {
      const { message } = thrown(() => parseAllowRule(bad));
      expect(() => parseAllowRule(/.*(?:write|is) "([^"]+)"/.exec(message)![1]!)).not.toThrow();
    }
  });
});

const octet = fc.nat({ max: 255 });
const quad = fc.uint8Array({ minLength: 4, maxLength: 4 });
/** IPv4 addresses, of which many are in some rule or some special network. */
const anyIPv4 = fc.oneof(
  quad,
  fc.tuple(fc.constantFrom(0, 10, 100, 127, 169, 172, 192, 198, 203, 224, 255), octet, octet, octet),
  fc.tuple(fc.constant(10), fc.constant(20), octet, octet),
  fc.constantFrom([169, 254, 169, 254], [93, 184, 215, 14], [127, 0, 0, 1], [0, 0, 0, 0]),
);
const port = fc.constantFrom(443, 6379, 25, 80);

/** A number in a base of inet_aton, with leading zeros and in either case. */
const spelledNumber = (value: number) =>
  fc
    .tuple(fc.constantFrom("", "0", "0x", "0X"), fc.nat({ max: 3 }), fc.boolean())
    .map(([prefix, zeros, upper]) => {
      if (prefix === "") return String(value);
      const digits = "0".repeat(zeros) + value.toString(prefix === "0" ? 8 : 16);
      return prefix + (upper ? digits.toUpperCase() : digits);
    });

/** IPv4 in any form of inet_aton. */
const spelledIPv4 = ([a, b, c, d]: Iterable<number>) =>
  fc
    .constantFrom(
      [a!, b!, c!, d!],
      [a!, b!, c! * 256 + d!],
      [a!, (b! * 256 + c!) * 256 + d!],
      [((a! * 256 + b!) * 256 + c!) * 256 + d!],
    )
    .chain((numbers) => fc.tuple(...numbers.map(spelledNumber)))
    .map((parts) => parts.join("."));

/** An IPv4-mapped address: any zeros compressed or none, as a quad or in groups, in either case. */
const spelledMapped = ([a, b, c, d]: Iterable<number>) => {
  const group = (high: number, low: number) => ((high << 8) | low).toString(16);
  const tails = [`${a}.${b}.${c}.${d}`, `${group(a!, b!)}:${group(c!, d!)}`];
  return fc
    .tuple(fc.nat({ max: 5 }), fc.nat({ max: 5 }), fc.constantFrom(...tails), fc.boolean(), fc.boolean())
    .map(([one, two, tail, upper, padded]) => {
      const zero = padded ? "0000" : "0";
      const [from, to] = [Math.min(one, two), Math.max(one, two)];
      const before = Array.from({ length: from }, () => zero).join(":");
      const after = [...Array.from({ length: 5 - to }, () => zero), "ffff"].join(":");
      const zeros = from === to ? [before, after].filter((x) => x !== "").join(":") : `${before}::${after}`;
      const text = `${zeros}:${tail}`;
      return `[${upper ? text.toUpperCase() : text}]`;
    });
};

/** The same text in letters, digits and dots that IDNA maps to ASCII's. */
const disguised = (text: string) =>
  fc.array(fc.nat({ max: 3 }), { minLength: text.length, maxLength: text.length }).map((choices) =>
    [...text]
      .map((char, i) => {
        if (choices[i] === 0) return char;
        if (char === ".") return ["。", "．", "｡"][choices[i]! - 1]!;
        if (/[1-9]/.test(char) && choices[i] === 2) return String.fromCodePoint(0x2460 + Number(char) - 1); // ①
        return String.fromCodePoint(char.codePointAt(0)! + 0xfee0); // fullwidth
      })
      .join(""),
  );

describe("properties", () => {
  test("every spelling of an IPv4 address has the verdict of its canonical one", () => {
    let allowed = 0;
    let all = 0;
    const spelled = anyIPv4.chain((address) =>
      fc.tuple(
        fc.constant(Array.from(address).join(".")),
        fc.oneof(
          spelledIPv4(address),
          spelledIPv4(address).map((text) => `${text}.`),
          spelledIPv4(address).chain(disguised),
          spelledMapped(address),
        ),
        port,
      ),
    );
    fc.assert(
      fc.property(spelled, ([canonical, spelling, at]) => {
        const expected = verdict(allow, `${canonical}:${at}`);
        expect(verdict(allow, `${spelling}:${at}`)).toBe(expected);
        const bare = spelling.replace(/^\[(.*)\]$/, "$1");
        expect(verdict(allow, { hostname: bare, port: at })).toBe(expected);
        all++;
        if (!expected.startsWith("ERR_")) allowed++;
      }),
      { numRuns: 3000 },
    );
    // Both verdicts must be there, or the comparison says little.
    expect(allowed).toBeGreaterThan(all / 20);
    expect(allowed).toBeLessThan(all - all / 20);
  });

  test("no address that is loopback, private or reserved is reached by the widest rules", () => {
    const packed = fc.oneof(
      anyIPv4.map((address) => Uint8Array.from(address)),
      fc.uint8Array({ minLength: 16, maxLength: 16 }),
      fc
        .tuple(
          fc.constantFrom(0x20, 0x3f, 0xfc, 0xfd, 0xfe, 0),
          fc.uint8Array({ minLength: 15, maxLength: 15 }),
        )
        .map(([first, rest]) => Uint8Array.of(first, ...rest)),
    );
    fc.assert(
      fc.property(packed, (address) => {
        fc.pre(isLoopback(address) || isPrivate(address) || isReserved(address));
        const text = inetNtop(address.length === 4 ? AF_INET : AF_INET6, address);
        expect(verdict(allow, { hostname: text, port: 443 })).toMatch(/^ERR_REFUSED /);
      }),
      { numRuns: 2000 },
    );
  });

  test("check throws nothing but SocketError, RangeError and TypeError", () => {
    const host = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.string({ unit: "grapheme" }),
      fc.string({ unit: fc.constantFrom(..."01xaf.:[]%@/\\*-_ \t。ß①\u00ad") }),
    );
    const target = fc.oneof(
      fc.anything(),
      host,
      host.map((text) => `${text}:443`),
      fc.record({ hostname: fc.oneof(host, fc.anything()), port: fc.oneof(port, fc.anything()) }),
      fc.record({ path: fc.oneof(host, fc.anything()) }),
    );
    fc.assert(
      fc.property(target, (given) => {
        verdict(allow, given);
      }),
      { numRuns: 3000 },
    );
  });

  test("what check gives passes check again as it is, and its text is read as it", () => {
    const label = fc.string({ unit: fc.constantFrom(..."abzAZ09-_ßüⓡ①ａ１"), minLength: 1, maxLength: 8 });
    const name = fc
      .tuple(fc.array(label, { maxLength: 4 }), fc.constantFrom("", "."))
      .map(([labels, dot]) => [...labels, "mail", "EXAMPLE", "org"].join(".") + dot);
    const wide = new AllowList([...ALLOW, "unix:443", "*.org:443", "*.mail:443"]);
    let allowed = 0;
    fc.assert(
      fc.property(fc.oneof(name, anyIPv4.chain(spelledIPv4), fc.constant("UNIX")), port, (hostname, at) => {
        let endpoint: ReturnType<AllowList["check"]>;
        try {
          endpoint = wide.check({ scheme: "tcp", hostname, port: at });
        } catch {
          return;
        }
        allowed++;
        expect(wide.check(endpoint)).toEqual(endpoint);
        expect(parseAddress(endpoint)).toEqual(endpoint);
        expect(parseAddress(formatAddress(endpoint))).toEqual(endpoint);
        expect(wide.check(formatAddress(endpoint))).toEqual(endpoint);
      }),
      { numRuns: 3000 },
    );
    expect(allowed).toBeGreaterThan(500);
  });
});

const python3 = peer("python3");
const ASK = `
import ipaddress, json, sys

SPECIAL = [ipaddress.ip_network(n) for n in """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
::/127 ::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 ::/3 2001::/32 2001::/23 2001:db8::/32
2002::/16 3fff::/20 4000::/2 fc00::/7 fe80::/10 fec0::/10 ff00::/8 8000::/1""".split()]

def verdict(text, prefix, target):
    given, address = ipaddress.ip_address(text), ipaddress.ip_address(target)
    network = ipaddress.ip_network((given, prefix), strict=False)
    around = [n for n in SPECIAL if n.version == address.version and address in n]
    return {
        "network": str(network),
        "strict": network.network_address == given,
        "inside": address in network and all(network.subnet_of(n) for n in around),
        "member": address in network,
    }

print(json.dumps([verdict(*case) for case in json.load(sys.stdin)]))
`;

describe.skipIf(python3 === null)(
  python3 ? "as Python's ipaddress" : "SKIPPED, no python3: networks were NOT compared with ipaddress",
  () => {
    test("which addresses a network allows, and which network it is", () => {
      const base = (size: 4 | 16) =>
        fc.oneof(
          fc.uint8Array({ minLength: size, maxLength: size }),
          fc
            .constantFrom(...(size === 4 ? SPECIAL_IPV4 : SPECIAL_IPV6))
            .chain((text) => fc.nat({ max: 3 }).map((last) => bytes(text).with(size - 1, last))),
        );
      const cases = ([4, 16] as const).flatMap((size) =>
        fc
          .sample(
            fc.tuple(
              base(size),
              fc.nat({ max: 8 * size }),
              fc.boolean(), // without bits beyond the prefix
              fc.oneof(base(size), fc.constant(null)),
              fc.nat({ max: 8 * size - 1 }),
            ),
            { numRuns: 3000, seed: 1 },
          )
          .map(([address, prefix, strict, other, flipped]) => {
            const own = strict ? address.map((byte, i) => byte & ~(0xff >> bits(prefix, i))) : address;
            // Most targets differ from the network's address in one bit, on either side of the prefix.
            const target =
              other ?? own.map((byte, i) => byte ^ (i === flipped >> 3 ? 0x80 >> (flipped & 7) : 0));
            const family = size === 4 ? AF_INET : AF_INET6;
            return [inetNtop(family, own), prefix, inetNtop(family, target)] as const;
          }),
      );
      const answered = execFileSync(python3!, ["-c", ASK], {
        input: JSON.stringify(cases),
        encoding: "utf8",
        maxBuffer: 2 ** 26,
      });
      const answers = JSON.parse(answered) as {
        network: string;
        strict: boolean;
        inside: boolean;
        member: boolean;
      }[];
      const counted = { inside: 0, outside: 0, loose: 0 };
      for (const [i, [address, prefix, target]] of cases.entries()) {
        const { network, strict, inside, member } = answers[i]!;
        const rule = `${address.includes(":") ? `[${address}]` : address}/${prefix}:443`;
        if (!strict) {
          counted.loose++;
          const said = /that network is "\[?([^\]"/]+)\]?(?:\/(\d+))?:443"/.exec(
            thrown(() => parseAllowRule(rule)).message,
          )!;
          const [theirs, length] = network.split("/");
          expect([rule, [...bytes(said[1]!)], prefix]).toEqual([rule, [...bytes(theirs!)], Number(length)]);
          continue;
        }
        counted[inside ? "inside" : "outside"]++;
        const ours = !verdict(new AllowList([rule]), { hostname: target, port: 443 }).startsWith("ERR_");
        expect([rule, target, ours]).toEqual([rule, target, inside]);
        const cidr = `${address}/${prefix}`;
        const comes = new PeerList({ allow: [cidr] }).permits(peerAt(target));
        const stays = new PeerList({ deny: [cidr] }).permits(peerAt(target));
        expect([cidr, target, comes, stays]).toEqual([cidr, target, member, !member]);
      }
      for (const count of Object.values(counted)) expect(count).toBeGreaterThan(300);
    });
  },
);

const SPECIAL_IPV4 = [
  "0.0.0.0",
  "10.0.0.0",
  "100.64.0.0",
  "127.0.0.0",
  "169.254.0.0",
  "172.16.0.0",
  "192.168.0.0",
];
const SPECIAL_IPV6 = ["::", "64:ff9b::", "2001::", "2001:db8::", "2002::", "fc00::", "fe80::", "ff00::"];

/** How many bits of byte `i` a prefix counts. */
function bits(prefix: number, i: number): number {
  return Math.min(8, Math.max(0, prefix - 8 * i));
}

function bytes(text: string): Uint8Array {
  return inetPton(text.includes(":") ? AF_INET6 : AF_INET, text);
}

const peerAt = (hostname: string): Address => ({
  family: hostname.includes(":") ? "IPv6" : "IPv4",
  hostname,
  port: 1,
});

describe("who may come", () => {
  test.each([
    ["10.0.0.0/8", "10.0.0.0", 8],
    ["192.0.2.1", "192.0.2.1", 32],
    ["0.0.0.0/0", "0.0.0.0", 0],
    ["2001:DB8::/32", "2001:db8::", 32],
    ["::1", "::1", 128],
    ["::/0", "::", 0],
  ])("the network %s", (text, address, prefix) => {
    expect(parseNetwork(text)).toEqual({ address: bytes(address), prefix });
  });

  test.each([
    ["", "10.0.0.0/8"],
    ["example.com", "neither a network nor an address"],
    ["10.0.0.0/8:80", "a number of bits from 0 to 32"],
    ["10.0.0.0/33", "from 0 to 32"],
    ["10.0.0.0/08", "from 0 to 32"],
    ["10.0.0.0/", "from 0 to 32"],
    ["2001:db8::/129", "from 0 to 128"],
    ["[2001:db8::]/32", "neither a network nor an address"],
    ["fe80::1%eth0/64", "neither a network nor an address"],
    ["10.0.0.1/8", `that network is "10.0.0.0/8"`],
    ["2001:db8::1/32", `that network is "2001:db8::/32"`],
    ["10.1", `write "10.0.0.1"`],
    ["010.0.0.0/8", `write "8.0.0.0/8"`],
    ["10.0.0.0 x", `write "10.0.0.0"`],
    ["::ffff:10.0.0.0/104", `write "10.0.0.0/8"`],
  ])("no network: %j", (text, says) => {
    const error = thrown(() => parseNetwork(text));
    expect([error.code, error.message]).toEqual(["ERR_INVALID_ADDRESS", expect.stringContaining(says)]);
  });

  test("what is denied stays denied, whatever is allowed; each family by its own rules", () => {
    const list = new PeerList({ allow: ["10.0.0.0/8", "::1"], deny: ["10.1.0.0/16", "10.2.3.4"] });
    const may = (host: string): boolean => list.permits(peerAt(host));
    expect(["10.0.0.1", "::ffff:10.0.0.1", "::1"].map(may)).toEqual([true, true, true]);
    const out = ["10.1.0.1", "::ffff:10.1.0.1", "10.2.3.4", "11.0.0.1", "::2", "::10.0.0.1", "fe80::1"];
    expect(out.map(may)).toEqual(out.map(() => false));
  });

  test("no rules let all come that have an address; an empty allow lets nobody", () => {
    const path: Address = { family: "unix", path: "/tmp/x" };
    for (const nobody of [null, path]) {
      expect(new PeerList({}).permits(nobody)).toBe(false);
      expect(new PeerList({ deny: ["10.0.0.0/8"] }).permits(nobody)).toBe(false);
    }
    expect(new PeerList({}).permits(peerAt("192.0.2.1"))).toBe(true);
    expect(new PeerList({ allow: [] }).permits(peerAt("192.0.2.1"))).toBe(false);
  });

  test("a wrong rule is said when it is given", () => {
    expect(() => new PeerList({ allow: [10 as never] })).toThrow(TypeError);
    expect(() => new PeerList({ deny: ["nowhere"] })).toThrow(SocketError);
  });

  test("a server that asks for nothing has no gate", () => {
    expect(Gate.of({})).toBe(null);
    expect(Gate.of({ access: {} })).not.toBe(null);
  });

  test("a whole burst may come at once, whatever the clock shows", () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    try {
      for (const perSecond of [0.3, 1, 3, 7, 1000]) {
        for (const burst of [1, 2, 5, 100]) {
          for (let host = 1; host <= 200; host++) {
            const gate = Gate.of({ rate: { perSecond, burst } });
            const peer = peerAt(`192.0.2.${host}`);
            const answers = Array.from({ length: burst + 1 }, () => gate?.enter(peer));
            expect(answers, `${perSecond} a second at ${performance.now()} ms`).toEqual([
              ...Array.from({ length: burst }, () => null),
              "rate",
            ]);
            vi.advanceTimersByTime(host * host * 37); // to weeks in all: the later, the coarser the sums
          }
        }
      }
    } finally {
      vi.useRealTimers();
    }
  });

  test("the rate is a token bucket's, whoever comes when", () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    try {
      const step = fc.tuple(fc.constantFrom("192.0.2.1", "192.0.2.2"), fc.nat({ max: 900 }));
      fc.assert(
        fc.property(
          fc.array(step, { maxLength: 60 }),
          fc.integer({ min: 1, max: 5 }),
          fc.integer({ min: 1, max: 4 }),
          (steps, perSecond, burst) => {
            const gate = Gate.of({ rate: { perSecond, burst } });
            const buckets = new Map<string, { tokens: number; at: number }>();
            for (const [host, wait] of steps) {
              vi.advanceTimersByTime(wait);
              const now = performance.now();
              const { tokens, at } = buckets.get(host) ?? { tokens: burst, at: now };
              const filled = Math.min(burst, tokens + ((now - at) * perSecond) / 1000);
              const enough = filled >= 1 - 1e-9;
              buckets.set(host, { tokens: filled - Number(enough), at: now });
              expect(gate?.enter(peerAt(host))).toBe(enough ? null : "rate");
            }
          },
        ),
      );
    } finally {
      vi.useRealTimers();
    }
  });

  test("an address is never sent more than its share of what came from it", () => {
    const host = fc.constantFrom("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:1::1");
    const step = fc.tuple(host, fc.boolean(), fc.nat({ max: 1500 }));
    fc.assert(
      fc.property(fc.array(step), fc.integer({ min: 1, max: 5 }), (steps, ratio) => {
        const budget = new ReplyBudget(ratio);
        const left = new Map<string, number>();
        for (const [host, coming, size] of steps) {
          const key = host.replace(/^2001:db8::.$/, "2001:db8::/64"); // one of 64 bits is one
          const before = left.get(key) ?? 0;
          if (coming) {
            budget.received(size, peerAt(host));
            left.set(key, before + ratio * size);
          } else {
            const may = size <= before;
            expect(budget.spend(size, peerAt(host))).toBe(may);
            if (may) left.set(key, before - size);
          }
        }
      }),
    );
    expect(() => new ReplyBudget(0)).toThrow(RangeError);
    expect(() => new ReplyBudget("3" as never)).toThrow(TypeError);
  });
});

describe("Cloudflare's edge", () => {
  test.each([
    ["smtp.example.com:25", "port 25"],
    ["8.8.8.8:25", "465 or 587"],
    ["127.0.0.1:6379", "127.0.0.1 is not one"],
    ["0x7f.1:6379", "only public addresses"],
    ["[::1]:6379", "only public addresses"],
    ["[::ffff:10.0.0.1]:6379", "only public addresses"],
    ["10.0.0.1:6379", "Cloudflare Tunnel"],
    ["169.254.169.254:80", "only public addresses"],
    ["100.64.0.1:80", "only public addresses"],
    ["240.0.0.1:80", "only public addresses"],
    ["[fe80::1]:80", "only public addresses"],
    ["localhost:80", "only public addresses"],
    ["a.localhost:80", "only public addresses"],
    ["example.com:0", "Port 0"],
    ["udp://example.com:53", "no outbound UDP"],
    ["unix:/run/x", "not a Unix path"],
  ])("%s: %s", (text, says) => {
    const endpoint = parseAddress(text);
    expect(platformRefusal(endpoint)).toContain(says);
    expect(connectHint(endpoint)).toBe(platformRefusal(endpoint));
  });

  test.each([
    "example.com:6379",
    "tcp://8.8.8.8:53",
    "[2606:4700::1]:587",
    "example.com:443",
    "example.com:80",
  ])("%s: nothing is known against it; a hint says what may be", (text) => {
    const endpoint = parseAddress(text);
    expect(platformRefusal(endpoint)).toBe(null);
    expect(connectHint(endpoint)).toContain("Cloudflare's own network");
    expect(connectHint(endpoint).includes("fetch()")).toBe(/:(80|443)$/.test(text));
  });
});
