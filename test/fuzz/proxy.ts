/** Headers of the PROXY protocol: written and read again, spoiled, and cut; what is no header is refused, never misread. */

import fc from "fast-check";
import { SocketError } from "../../core/errors.ts";
import { inetNtop } from "../../core/net/address.ts";
import { AF_INET, AF_INET6 } from "../../core/net/constants.ts";
import type { ParsedProxyHeader } from "../../core/net/proxy/header.ts";
import { parseProxyDatagram, parseProxyHeader } from "../../core/net/proxy/reader.ts";
import { type ProxyHeaderOptions, proxyHeader } from "../../core/net/proxy/writer.ts";
import { alike, latin1, same, type Target, target } from "./target.ts";

const LIMIT = 4096;

/** What the reader says of `bytes`: its header and size as text, "more", or "refused". Any other error is a failure. */
const said = (bytes: Uint8Array): string => {
  try {
    const parsed = parseProxyHeader(bytes, LIMIT);
    return parsed === null ? "more" : shown(parsed);
  } catch (error) {
    if (error instanceof SocketError && error.code === "ERR_PROXY") return "refused";
    throw error;
  }
};

const shown = ({ header, size }: ParsedProxyHeader): string =>
  `${size} ${JSON.stringify(header, (_, value) => (value instanceof Uint8Array ? latin1(value) : value))}`;

const port = fc.nat(0xffff);
const addressOf = (length: 4 | 16) =>
  fc.tuple(fc.uint8Array({ minLength: length, maxLength: length }), port).map(([packed, port]) => ({
    hostname: inetNtop(length === 4 ? AF_INET : AF_INET6, packed),
    port,
  }));
const path = fc
  .string({ unit: "grapheme-ascii", minLength: 1, maxLength: 60 })
  .filter((path) => !path.includes("\0"))
  .map((path) => ({ path }));
const addresses = fc
  .oneof(
    fc.tuple(addressOf(4), addressOf(4)),
    fc.tuple(addressOf(16), addressOf(16)),
    fc.tuple(path, path),
    fc.constant([null, null] as const),
  )
  .map(([source, destination]) => ({ source, destination }) as ProxyHeaderOptions);
const word = fc.string({ unit: "grapheme", maxLength: 20 });
const some = fc.uint8Array({ maxLength: 40 });

/** All that a version 2 header can say. */
const binary: fc.Arbitrary<ProxyHeaderOptions> = fc
  .tuple(
    addresses,
    fc.record(
      {
        carries: fc.constantFrom("stream", "datagram"),
        alpn: word,
        authority: word,
        netns: word,
        uniqueId: some,
        ssl: fc.record(
          {
            tls: fc.boolean(),
            certificate: fc.constantFrom("connection", "session", "none"),
            verify: fc.nat(),
            version: word,
            commonName: word,
            clientCertificate: some,
          },
          { requiredKeys: [] },
        ),
        tlvs: fc.array(fc.record({ type: fc.integer({ min: 0xe0, max: 0xff }), value: some }), {
          maxLength: 3,
        }),
        checksum: fc.boolean(),
      },
      { requiredKeys: [] },
    ),
  )
  .map(([addresses, rest]) => ({ ...addresses, ...rest }) as ProxyHeaderOptions);

const header: fc.Arbitrary<ProxyHeaderOptions> = fc.oneof(
  binary,
  fc.constant({ version: 2 } as const),
  addresses.map((given) => ({ version: 1, ...given }) as ProxyHeaderOptions),
);

/** Headers, headers that are spoiled in a few places, and bytes that only begin as one. */
const bytes = fc.oneof(
  header.map((given) => proxyHeader(given)),
  fc
    .tuple(header, fc.array(fc.tuple(fc.nat(300), fc.nat(0xff)), { minLength: 1, maxLength: 4 }))
    .map(([given, changes]) => {
      const spoiled = proxyHeader(given);
      for (const [at, byte] of changes) spoiled[at % spoiled.length] = byte;
      return spoiled;
    }),
  fc
    .tuple(
      fc.constantFrom("PROXY ", "PROXY TCP4 ", "PROXY TCP6 ", "PROXY UNKNOWN"),
      fc.string({ unit: fc.constantFrom(..."0123456789abcdef.: \r\nTCPUNKOW"), maxLength: 120 }),
    )
    .map(([start, rest]) => new TextEncoder().encode(start + rest)),
  fc.tuple(fc.uint8Array({ maxLength: 60 }), fc.nat(1), fc.nat(0x33)).map(([rest, command, family]) => {
    const signature = proxyHeader(2).subarray(0, 12);
    return new Uint8Array([...signature, 0x20 | command, family, 0, rest.length, ...rest]);
  }),
  fc.uint8Array({ maxLength: 80 }),
);

/** Bytes, and where they are cut. */
const cuts = fc.tuple(bytes, fc.uint8Array({ maxLength: 30 }), fc.array(fc.nat(400), { maxLength: 6 }));

const whole = target("proxy header, whole and cut", "inputs", cuts, ([bytes, rest, at]) => {
  const first = said(bytes);
  const places = [...new Set(at.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  // A reader that is given more at each cut decides once, and as one that is given all of it.
  let decided: string | undefined;
  for (const place of places) {
    const now = said(bytes.subarray(0, place));
    if (decided === undefined && now !== "more") decided = now;
    if (decided !== undefined) same(`what is said of ${place} bytes, once it was decided`, now, decided);
  }
  if (decided !== undefined) same("what is said of all", first, decided);
  // What follows a header is not of it.
  if (first !== "more") {
    const followed = said(new Uint8Array([...bytes, ...rest]));
    same("what is said of it with more behind it", followed, first);
  }
  return 1;
});

const roundTrip = target("proxy header, written and read", "inputs", header, (given) => {
  const written = proxyHeader(given);
  const parsed = parseProxyHeader(written);
  if (parsed === null) throw new Error("a header that was written is not whole");
  const { header, size } = parsed;
  same("its size", size, written.length);
  same("its version", header.version, given.version ?? 2);
  same("its command", header.command, given.version !== 1 && given.source === undefined ? "LOCAL" : "PROXY");
  const has = (address: unknown): unknown =>
    address == null ? null : "path" in (address as object) ? address : { ...(address as object) };
  const unknown = given.version === 1 && given.source != null && "path" in (given.source as object);
  const strip = (address: typeof header.source): unknown => {
    if (address === null) return null;
    const { family: _, ...rest } = address;
    return rest;
  };
  alike("its source", strip(header.source), unknown ? null : has(given.source));
  alike("its destination", strip(header.destination), unknown ? null : has(given.destination));
  for (const name of ["alpn", "authority", "netns"] as const) same(`its ${name}`, header[name], given[name]);
  same("its checksum", header.checksum, given.checksum === true);
  same("whether it has TLS", header.ssl !== undefined, given.ssl !== undefined);
  if (given.ssl !== undefined) {
    same("the client's name", header.ssl?.commonName, given.ssl.commonName);
    same(
      "whether it is verified",
      header.ssl?.verified,
      header.ssl?.verify === 0 && header.ssl.certificate !== "none",
    );
  }
  if (given.checksum === true) {
    const spoiled = written.slice();
    const at = 16 + (written.length % (written.length - 16));
    spoiled[at] = (spoiled[at] as number) ^ 0x10;
    same("a byte of it changed", said(spoiled) === shown(parsed), false);
  }
  return 1;
});

const datagram = target(
  "proxy header of a datagram",
  "inputs",
  fc.tuple(
    fc.oneof(
      bytes,
      fc.uint8Array({ maxLength: 60 }).map((rest) => new Uint8Array([0x56, 0xec, ...rest])),
    ),
    some,
  ),
  ([bytes, rest]) => {
    const read = (datagram: Uint8Array): string => {
      try {
        return shown(parseProxyDatagram(datagram, LIMIT));
      } catch (error) {
        if (error instanceof SocketError && error.code === "ERR_PROXY") return "refused";
        throw error;
      }
    };
    const alone = read(bytes);
    if (alone !== "refused") same("with a payload", read(new Uint8Array([...bytes, ...rest])), alone);
    return 1;
  },
);

export const proxyHeaders: readonly Target[] = [whole, roundTrip, datagram];
