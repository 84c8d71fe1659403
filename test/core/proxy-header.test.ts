/** Headers of the PROXY protocol: what each byte means, what is refused and when, and that what is written is read. */

import { type ProxyHeader, parseProxyDatagram, parseProxyHeader, proxyHeader } from "socklet";
import { describe, expect, test } from "vitest";

const text = (line: string): Uint8Array => new TextEncoder().encode(line);
const hex = (digits: string): Uint8Array =>
  Uint8Array.from(digits.replace(/\s+/g, "").match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));

const SIGNATURE = "0d0a0d0a 000d0a51 5549540a";
const IPV4 = { family: "IPv4", hostname: "192.0.2.1", port: 56_324 };
const TO_IPV4 = { family: "IPv4", hostname: "198.51.100.2", port: 443 };
const IPV6 = { family: "IPv6", hostname: "2001:db8::1", port: 1 };
const TO_IPV6 = { family: "IPv6", hostname: "::1", port: 65_535 };
const PLAIN = { checksum: false, tlvs: [] };

type Row = readonly [name: string, bytes: Uint8Array, header: object];

const RIGHT: readonly Row[] = [
  [
    "version 1, IPv4",
    text("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
    { version: 1, command: "PROXY", carries: "stream", source: IPV4, destination: TO_IPV4, ...PLAIN },
  ],
  [
    "version 1, the longest of IPv4",
    text("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
    { source: { family: "IPv4", hostname: "255.255.255.255", port: 65_535 } },
  ],
  [
    "version 1, IPv6",
    text("PROXY TCP6 2001:DB8::1 0:0:0:0:0:0:0:1 1 65535\r\n"),
    { version: 1, command: "PROXY", carries: "stream", source: IPV6, destination: TO_IPV6, ...PLAIN },
  ],
  [
    "version 1, the longest of IPv6",
    text(
      "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
    ),
    { source: { family: "IPv6", hostname: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", port: 65_535 } },
  ],
  [
    "version 1, UNKNOWN",
    text("PROXY UNKNOWN\r\n"),
    { version: 1, command: "PROXY", carries: null, source: null, destination: null, ...PLAIN },
  ],
  [
    "version 1, UNKNOWN with what is to be ignored, as long as it may be",
    text(`PROXY UNKNOWN ${"x".repeat(91)}\r\n`),
    { carries: null, source: null },
  ],
  [
    "version 2, TCP over IPv4",
    hex(`${SIGNATURE} 21 11 000c c0000201 c6336402 dc04 01bb`),
    { version: 2, command: "PROXY", carries: "stream", source: IPV4, destination: TO_IPV4, ...PLAIN },
  ],
  [
    "version 2, UDP over IPv4",
    hex(`${SIGNATURE} 21 12 000c c0000201 c6336402 dc04 01bb`),
    { carries: "datagram", source: IPV4, destination: TO_IPV4 },
  ],
  [
    "version 2, TCP over IPv6",
    hex(
      `${SIGNATURE} 21 21 0024 20010db8000000000000000000000001 00000000000000000000000000000001 0001 ffff`,
    ),
    { carries: "stream", source: IPV6, destination: TO_IPV6 },
  ],
  [
    "version 2, a Unix stream from no name to a path",
    hex(`${SIGNATURE} 21 31 00d8 ${"00".repeat(108)} ${"2f72756e2f73"}${"00".repeat(102)}`),
    { carries: "stream", source: null, destination: { family: "unix", path: "/run/s" } },
  ],
  [
    "version 2, a Unix datagram from an abstract name, and a path that fills its field",
    hex(`${SIGNATURE} 21 32 00d8 0061${"00".repeat(106)} ${"78".repeat(108)}`),
    {
      carries: "datagram",
      source: { family: "unix", path: "\0a" },
      destination: { family: "unix", path: "x".repeat(108) },
    },
  ],
  [
    "version 2, LOCAL",
    hex(`${SIGNATURE} 20 00 0000`),
    { version: 2, command: "LOCAL", carries: null, source: null, destination: null, ...PLAIN },
  ],
  [
    "version 2, LOCAL with a block, which says nothing",
    hex(`${SIGNATURE} 20 11 0003 ffffff`),
    { command: "LOCAL", carries: null, source: null, tlvs: [] },
  ],
  [
    "version 2, PROXY of an unspecified family",
    hex(`${SIGNATURE} 21 00 0000`),
    { command: "PROXY", carries: null, source: null, destination: null },
  ],
  [
    "version 2, an unspecified family with a block that is nothing known",
    hex(`${SIGNATURE} 21 00 0002 ffff`),
    { carries: null, source: null, tlvs: [] },
  ],
  [
    "version 2, an unspecified protocol",
    hex(`${SIGNATURE} 21 10 000c c0000201 c6336402 dc04 01bb`),
    { carries: null, source: null },
  ],
  [
    "version 2 with ALPN, authority, padding, unique id, namespace and one of an application",
    hex(
      `${SIGNATURE} 21 11 0038 c0000201 c6336402 dc04 01bb
       01 0002 6832  02 000b 6578616d706c652e6f7267  04 0003 000000  05 0002 00ff  30 0002 6e73  e0 0006 010203040506`,
    ),
    {
      source: IPV4,
      alpn: "h2",
      authority: "example.org",
      uniqueId: hex("00ff"),
      netns: "ns",
      checksum: false,
      tlvs: [
        { type: 0x01, value: hex("6832") },
        { type: 0x02, value: text("example.org") },
        { type: 0x04, value: hex("000000") },
        { type: 0x05, value: hex("00ff") },
        { type: 0x30, value: text("ns") },
        { type: 0xe0, value: hex("010203040506") },
      ],
    },
  ],
  [
    "version 2 with the client's TLS, its certificate verified",
    hex(
      `${SIGNATURE} 21 11 0034 c0000201 c6336402 dc04 01bb
       20 0025 07 00000000 21 0007 544c5376312e33 22 0003 626f62 23 0002 4141 25 0001 6b 26 0001 67 28 0000`,
    ),
    {
      ssl: {
        tls: true,
        certificate: "connection",
        verified: true,
        verify: 0,
        version: "TLSv1.3",
        commonName: "bob",
        cipher: "AA",
        keyAlgorithm: "k",
        group: "g",
        clientCertificate: hex(""),
      },
    },
  ],
  [
    "version 2: a result of 0 without a certificate verifies nobody",
    hex(`${SIGNATURE} 21 11 0014 c0000201 c6336402 dc04 01bb 20 0005 01 00000000`),
    { ssl: { tls: true, certificate: "none", verified: false, verify: 0 } },
  ],
  [
    "version 2: a certificate of the session that was not verified",
    hex(`${SIGNATURE} 21 11 0014 c0000201 c6336402 dc04 01bb 20 0005 05 00000012`),
    { ssl: { tls: true, certificate: "session", verified: false, verify: 18 } },
  ],
];

/** What begins with these bytes can be no header, and what is said of it. */
const WRONG: readonly (readonly [name: string, bytes: Uint8Array, why: RegExp])[] = [
  ["another protocol", text("E"), /"E" is not the start of a PROXY protocol header/],
  ["lower case", text("p"), /is not the start of/],
  ["TLS", hex("16"), /is not the start of/],
  ["no space", text("PROXYx"), /is not the start of/],
  ["LF alone", text("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n"), /CRLF, not in LF alone/],
  ["CR alone", text("PROXY UNKNOWN\rx"), /CRLF, not in CR alone/],
  ["no CRLF in 107 bytes", text(`PROXY UNKNOWN ${"x".repeat(92)}`), /at most 107 bytes/],
  ["another family", text("PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n"), /TCP4, TCP6 or UNKNOWN.* not "UDP4"/],
  ["UNKNOWN with more", text("PROXY UNKNOWNX\r\n"), /not "UNKNOWNX"/],
  ["nothing", text("PROXY \r\n"), /TCP4, TCP6 or UNKNOWN/],
  ["a part too few", text("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n"), /one space between two/],
  ["two spaces", text("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n"), /one space between two/],
  ["a space at the end", text("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n"), /one space between two/],
  [
    "a short address",
    text("PROXY TCP4 127.1 192.0.2.2 1 2\r\n"),
    /the address "127.1", which is not an IPv4/,
  ],
  ["an octal address", text("PROXY TCP4 0300.0.2.1 192.0.2.2 1 2\r\n"), /not an IPv4 address/],
  ["a zero before", text("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n"), /not an IPv4 address/],
  ["IPv6 as TCP4", text("PROXY TCP4 ::1 ::1 1 2\r\n"), /not an IPv4 address/],
  ["IPv4 as TCP6", text("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n"), /not an IPv6 address/],
  ["a scope", text("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n"), /not an IPv6 address/],
  ["a name", text("PROXY TCP4 localhost 192.0.2.2 1 2\r\n"), /not an IPv4 address/],
  ["port 65536", text("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n"), /the port "65536"/],
  ["port 01", text("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n"), /the port "01"/],
  ["port -1", text("PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n"), /the port "-1"/],
  ["no port", text("PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n"), /one space|the port ""/],
  ["a wrong signature", hex("0d0a0d0a00 0d0a5155495400"), /is not the start of/],
  ["version 1 in binary", hex(`${SIGNATURE} 11`), /of version 2, not 1/],
  ["version 3", hex(`${SIGNATURE} 31`), /of version 2, not 3/],
  ["command 2", hex(`${SIGNATURE} 22`), /LOCAL \(0\) or PROXY \(1\), not 2/],
  ["family 4", hex(`${SIGNATURE} 21 41`), /family from 0 to 3, not 4/],
  ["protocol 3", hex(`${SIGNATURE} 21 13`), /protocol from 0 to 2, not 3/],
  ["too short for IPv4", hex(`${SIGNATURE} 21 11 000b`), /11 bytes of addresses.* 12/],
  ["too short for IPv6", hex(`${SIGNATURE} 21 21 000c`), /12 bytes of addresses.* 36/],
  ["too short for Unix", hex(`${SIGNATURE} 21 31 00d7`), /215 bytes of addresses.* 216/],
  ["over the limit", hex(`${SIGNATURE} 21 11 fff0`), /65536 bytes is over the limit of 4096/],
  ["a LOCAL over the limit", hex(`${SIGNATURE} 20 00 ffff`), /over the limit/],
  ["half a vector", hex(`${SIGNATURE} 21 11 000e c0000201 c6336402 dc0401bb 0400`), /ends within a vector/],
  [
    "a vector that is longer than the header",
    hex(`${SIGNATURE} 21 11 000f c0000201 c6336402 dc0401bb 04 0001`),
    /vector 0x04 of 1 bytes, and only 0 are left/,
  ],
  [
    "a wrong checksum",
    hex(`${SIGNATURE} 21 11 0013 c0000201 c6336402 dc0401bb 03 0004 00000000`),
    /checksum is 0x00, and its bytes have 0x/,
  ],
  [
    "a checksum of 3 bytes",
    hex(`${SIGNATURE} 21 11 0012 c0000201 c6336402 dc0401bb 03 0003 000000`),
    /a checksum has 4 bytes, not 3/,
  ],
  [
    "two authorities",
    hex(`${SIGNATURE} 21 11 0014 c0000201 c6336402 dc0401bb 02 0001 61 02 0001 62`),
    /two vectors of the type 0x02/,
  ],
  [
    "a unique id of 129 bytes",
    hex(`${SIGNATURE} 21 11 0090 c0000201 c6336402 dc0401bb 05 0081 ${"61".repeat(129)}`),
    /at most 128 bytes, not 129/,
  ],
  [
    "a TLS vector of 4 bytes",
    hex(`${SIGNATURE} 21 11 0013 c0000201 c6336402 dc0401bb 20 0004 01000000`),
    /at least 5 bytes, not 4/,
  ],
  [
    "a TLS vector with half a vector in it",
    hex(`${SIGNATURE} 21 11 0016 c0000201 c6336402 dc0401bb 20 0007 0100000000 2100`),
    /the vector of TLS \(0x20\) ends within a vector/,
  ],
];

const LIMIT = 4096;

describe("a header of a stream", () => {
  test.each(RIGHT)("%s: read whole, at any cut, and with what follows it", (_, bytes, wanted) => {
    for (let cut = 0; cut < bytes.length; cut++) {
      expect(parseProxyHeader(bytes.subarray(0, cut), LIMIT), `${cut} bytes of it`).toBe(null);
    }
    const { header, size } = parseProxyHeader(bytes, LIMIT) as { header: ProxyHeader; size: number };
    expect(size).toBe(bytes.length);
    expect(header).toMatchObject(wanted);
    const longer = new Uint8Array([...bytes, 0x0d, 0x0a, 0x00, 0xff]);
    expect(parseProxyHeader(longer, LIMIT)).toEqual({ header, size });
  });

  test.each(WRONG)("%s: refused, and no earlier or later than it can be", (_, bytes, why) => {
    expect(() => parseProxyHeader(bytes, LIMIT)).toThrow(why);
    expect(() => parseProxyHeader(bytes, LIMIT)).toThrow(expect.objectContaining({ code: "ERR_PROXY" }));
    for (let cut = 0; cut < bytes.length; cut++) {
      const early = bytes.subarray(0, cut);
      let said: unknown = null;
      try {
        said = parseProxyHeader(early, LIMIT);
      } catch (error) {
        said = (error as { code: string }).code;
      }
      expect(said === null || said === "ERR_PROXY", `${cut} bytes of it`).toBe(true);
    }
  });
});

describe("a header of a datagram", () => {
  const SIMPLE = "56ec 00000000000000000000ffffc0000201 00000000000000000000ffffc6336402 dc04 01bb";

  test("Simple Proxy Protocol: IPv4 is spelled as IPv6", () => {
    expect(parseProxyDatagram(hex(`${SIMPLE} 6869`))).toEqual({
      header: {
        version: "simple",
        command: "PROXY",
        carries: "datagram",
        source: IPV4,
        destination: TO_IPV4,
        ...PLAIN,
      },
      size: 38,
    });
    const ipv6 = "56ec 20010db8000000000000000000000001 00000000000000000000000000000001 0001 ffff";
    expect(parseProxyDatagram(hex(ipv6)).header).toMatchObject({ source: IPV6, destination: TO_IPV6 });
  });

  test("version 2: whole, or refused", () => {
    const bytes = hex(`${SIGNATURE} 21 12 000c c0000201 c6336402 dc04 01bb 6869`);
    expect(parseProxyDatagram(bytes)).toMatchObject({ header: { source: IPV4 }, size: 28 });
    for (let cut = 0; cut < 28; cut++) {
      expect(() => parseProxyDatagram(bytes.subarray(0, cut))).toThrow(
        expect.objectContaining({ code: "ERR_PROXY" }),
      );
    }
    for (let cut = 0; cut < 38; cut++) {
      expect(() => parseProxyDatagram(hex(SIMPLE).subarray(0, cut))).toThrow(
        expect.objectContaining({ code: "ERR_PROXY" }),
      );
    }
  });

  test("version 1 is for streams, and the Simple Proxy Protocol for datagrams", () => {
    expect(() => parseProxyDatagram(text("PROXY UNKNOWN\r\n"))).toThrow(/version 1 .* is for streams/);
    expect(() => parseProxyHeader(hex(SIMPLE))).toThrow(/is not the start of a PROXY protocol header/);
  });
});

describe("a header that is written", () => {
  test("is the bytes of the specification", () => {
    const addresses = { source: "192.0.2.1:56324", destination: "198.51.100.2:443" };
    expect(proxyHeader({ version: 1, ...addresses })).toEqual(RIGHT[0]?.[1]);
    expect(proxyHeader(addresses)).toEqual(hex(`${SIGNATURE} 21 11 000c c0000201 c6336402 dc04 01bb`));
    expect(proxyHeader({ ...addresses, carries: "datagram" })[13]).toBe(0x12);
    expect(proxyHeader({ version: 1, source: "[2001:db8::1]:1", destination: "[::1]:65535" })).toEqual(
      text("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
    );
    expect(proxyHeader({ version: "simple", ...addresses })).toEqual(
      hex("56ec 00000000000000000000ffffc0000201 00000000000000000000ffffc6336402 dc04 01bb"),
    );
  });

  test("without a client it speaks for itself, or says that the client is not known", () => {
    expect(proxyHeader(1)).toEqual(text("PROXY UNKNOWN\r\n"));
    expect(proxyHeader(2)).toEqual(hex(`${SIGNATURE} 20 00 0000`));
    expect(proxyHeader({ source: null, destination: null })).toEqual(hex(`${SIGNATURE} 21 00 0000`));
  });

  test("is read as what was given, with every vector and a checksum", () => {
    const ssl = {
      tls: true,
      certificate: "connection",
      verified: true,
      verify: 0,
      version: "TLSv1.3",
      commonName: "bøb",
      cipher: "TLS_AES_256_GCM_SHA384",
      signatureAlgorithm: "RSA-SHA256",
      keyAlgorithm: "RSA2048",
      group: "x25519",
      signatureScheme: "rsa_pss_rsae_sha256",
      clientCertificate: hex("3000"),
    } as const;
    const given = { alpn: "h2", authority: "example.org", netns: "ns", ssl };
    const bytes = proxyHeader({
      source: { path: "/run/client" },
      destination: { path: "\0server" },
      ...given,
      uniqueId: "id-1",
      tlvs: [{ type: 0xe1, value: hex("01") }],
      checksum: true,
    });
    const { header } = parseProxyHeader(bytes) as { header: ProxyHeader };
    expect(header).toMatchObject({
      ...given,
      uniqueId: text("id-1"),
      checksum: true,
      source: { family: "unix", path: "/run/client" },
      destination: { family: "unix", path: "\0server" },
    });
    expect(header.tlvs.map(({ type }) => type)).toEqual([0x01, 0x02, 0x05, 0x30, 0x20, 0xe1, 0x03]);
    for (let at = 16; at < bytes.length; at++) {
      const spoiled = bytes.slice();
      spoiled[at] = (spoiled[at] as number) ^ 1;
      expect(() => parseProxyHeader(spoiled), `byte ${at}`).toThrow();
    }
  });

  test.each<readonly [string, Parameters<typeof proxyHeader>[0], RegExp]>([
    ["a name", { source: "example.org:1", destination: "192.0.2.2:1" }, /not the name "example.org"/],
    ["two families", { source: "192.0.2.1:1", destination: "[::1]:1" }, /a header has one family/],
    ["a source alone", { source: "192.0.2.1:1" }, /go together/],
    ["a vector in version 1", { version: 1, alpn: "h2" }, /alpn takes version 2/],
    ["a datagram in version 1", { version: 1, carries: "datagram" }, /only for streams/],
    ["vectors of nobody", { alpn: "h2" }, /describes no client/],
    ["version 3", { version: 3 as 2 }, /version is 1, 2 or "simple", not 3/],
    [
      "a checksum by hand",
      { source: null, destination: null, tlvs: [{ type: 3, value: hex("") }] },
      /checksum: true/,
    ],
    ["simple without addresses", { version: "simple" }, /give source and destination/],
    ["an unknown option", { sorce: "192.0.2.1:1" } as object, /did you mean source/],
  ])("%s: refused", (_, options, why) => {
    expect(() => proxyHeader(options)).toThrow(why);
  });
});
