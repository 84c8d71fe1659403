/**
 * A name server (RFC 1035) with authority over one small zone, over UDP and TCP (RFC 7766). Of EDNS (RFC 6891) it knows
 * how large a UDP reply the client takes.
 *
 * `answer` does all the work: the bytes of a query in, the bytes of the reply out. The two handlers only carry them.
 */

import { BaseRequestHandler, type Datagram, packAddress, SocketError, StreamRequestHandler } from "socklet";

const UDP_PLAIN = 512; // bytes of a UDP reply, if the client does not say that it takes more (RFC 1035, 4.2.1)
const UDP_MOST = 1232; // bytes of a UDP reply, if it does: this size passes any network (DNS flag day 2020)
const TCP_MOST = 65_535; // bytes: the length in front of each message has two bytes
const MAX_NAME = 255; // bytes of a name (RFC 1035, 2.3.4)

const HEADER = 12; // bytes
const IN = 1;
const ANY = 255;
const TYPES = { A: 1, NS: 2, CNAME: 5, SOA: 6, MX: 15, TXT: 16, AAAA: 28, OPT: 41 } as const;
const NOERROR = 0;
const FORMERR = 1;
const NXDOMAIN = 3;
const NOTIMP = 4;
const REFUSED = 5;
const BADVERS = 16;

// ---- The zone ----

const ORIGIN = "example.test";
const TTL = 3600; // seconds
const TTL_ABSENT = 300; // seconds for which "there is no such name" may be cached (RFC 2308)

type Entry =
  | readonly [name: string, type: "A" | "AAAA" | "NS" | "CNAME" | "TXT", value: string]
  | readonly [name: string, type: "MX", preference: number, exchange: string]
  | readonly [name: string, type: "SOA", mname: string, rname: string, ...times: number[]];

/** "@" is the zone itself; a name without a final dot is within the zone. */
const ENTRIES: readonly Entry[] = [
  ["@", "SOA", "ns1", "hostmaster", 1, 7200, 900, 1_209_600, TTL_ABSENT],
  ["@", "NS", "ns1"],
  ["@", "NS", "ns2"],
  ["@", "A", "192.0.2.1"],
  ["@", "MX", 10, "mail"],
  ["@", "MX", 20, "mail.example.net."],
  ["@", "TXT", "v=spf1 mx -all"],
  ["ns1", "A", "192.0.2.53"],
  ["ns2", "A", "198.51.100.53"],
  ["mail", "A", "192.0.2.25"],
  ["mail", "AAAA", "2001:db8::25"],
  ["www", "A", "192.0.2.80"],
  ["www", "AAAA", "2001:db8::80"],
  ["web", "CNAME", "www"],
  ["away", "CNAME", "www.example.net."],
  ["astray", "CNAME", "nowhere"],
  ["loop", "CNAME", "loop"],
  ["a.deep", "A", "192.0.2.9"], // so "deep" exists, too, without records
  ["text", "TXT", "long ".repeat(60)],
  // Too much for a UDP reply of 512 bytes, and of 1 232: `dig many.example.test` is told that the answer is cut short
  // (TC), and asks again over TCP, at the same port.
  ...Array.from({ length: 100 }, (_, i): Entry => ["many", "A", `203.0.113.${i + 1}`]),
];

interface RR {
  readonly type: number;
  readonly data: Uint8Array;
}

const encoder = new TextEncoder();

const absolute = (name: string): string =>
  name === "@" ? ORIGIN : name.endsWith(".") ? name.slice(0, -1) : `${name}.${ORIGIN}`;

/** A name in wire format: each label after its length, and an empty label at the end. */
const packName = (name: string): number[] => [
  ...name.split(".").flatMap((label) => [label.length, ...encoder.encode(label)]),
  0,
];

const pack16 = (value: number): number[] => [(value >> 8) & 255, value & 255];
const pack32 = (value: number): number[] => [...pack16(value >>> 16), ...pack16(value)];

const packData = (entry: Entry): number[] => {
  switch (entry[1]) {
    case "A":
    case "AAAA":
      return [...(packAddress(entry[2]) ?? [])];
    case "NS":
    case "CNAME":
      return packName(absolute(entry[2]));
    case "MX":
      return [...pack16(entry[2]), ...packName(absolute(entry[3]))];
    case "TXT": {
      const pieces = entry[2].match(/.{1,255}/gs) ?? [""]; // a length is one byte
      return pieces.flatMap((piece) => [piece.length, ...encoder.encode(piece)]);
    }
    case "SOA": {
      const [, , mname, rname, ...times] = entry;
      return [...packName(absolute(mname)), ...packName(absolute(rname)), ...times.flatMap(pack32)];
    }
  }
};

/** Each name of the zone and its records, including names that exist only because a name below them does. */
const ZONE: ReadonlyMap<string, readonly RR[]> = (() => {
  const zone = new Map<string, RR[]>();
  for (const entry of ENTRIES) {
    const name = absolute(entry[0]);
    for (let above = name; above !== ORIGIN; above = above.slice(above.indexOf(".") + 1)) {
      if (!zone.has(above)) zone.set(above, []);
    }
    const records = zone.get(name) ?? [];
    records.push({ type: TYPES[entry[1]], data: Uint8Array.from(packData(entry)) });
    zone.set(name, records);
  }
  return zone;
})();

const SOA = ZONE.get(ORIGIN)?.find(({ type }) => type === TYPES.SOA) as RR;

// ---- Reading a query ----

/** Thrown by the parser; the answer is FORMERR. */
class FormatError extends Error {}

interface Query {
  /** The name in lower case, its labels joined by dots; a dot within a label is `\046` (RFC 1035, 5.1). */
  readonly name: string;
  readonly type: number;
  readonly class: number;
  /** The question's bytes: the reply repeats them exactly. */
  readonly question: Uint8Array;
  readonly edns: { readonly size: number; readonly version: number; readonly flags: number } | null;
}

class Parser {
  readonly #bytes: Uint8Array;
  at = HEADER;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  byte(): number {
    const byte = this.#bytes[this.at++];
    if (byte === undefined) throw new FormatError("the message ends too early");
    return byte;
  }

  word(): number {
    return this.byte() * 256 + this.byte();
  }

  skip(size: number): void {
    this.at += size;
    if (this.at > this.#bytes.length) throw new FormatError("the message ends too early");
  }

  /** A name without compression. A question's name has none: there is nothing before it to point to. */
  name(): string {
    const from = this.at;
    const labels: string[] = [];
    for (let length = this.byte(); length > 0; length = this.byte()) {
      if (length > 63) throw new FormatError("not a label");
      const label = Array.from({ length }, () => String.fromCharCode(this.byte())).join("");
      labels.push(label.replace(/[A-Z]/g, (letter) => letter.toLowerCase()).replaceAll(".", "\\046"));
    }
    if (this.at - from > MAX_NAME) throw new FormatError("the name is too long");
    return labels.join(".");
  }

  /** Skips a name, which may end in a pointer to another. */
  skipName(): void {
    let length = this.byte();
    for (; length > 0 && length < 0xc0; length = this.byte()) {
      if (length > 63) throw new FormatError("not a label");
      this.skip(length);
    }
    if (length > 0) this.skip(1); // the pointer's other half
  }
}

const parse = (query: Uint8Array): Query => {
  const count = (at: number): number => query[at] * 256 + query[at + 1];
  if (count(4) !== 1) throw new FormatError("one question at a time (RFC 9619)");
  const parser = new Parser(query);
  const name = parser.name();
  const type = parser.word();
  const asked = parser.word();
  const question = query.subarray(HEADER, parser.at);
  let edns: Query["edns"] = null;
  const additional = count(6) + count(8); // where the additional records begin
  for (let i = 0; i < additional + count(10); i++) {
    const isRoot = query[parser.at] === 0;
    parser.skipName();
    const recordType = parser.word();
    const size = parser.word(); // the class; in OPT the size of a UDP reply that the client takes
    const version = parser.word() & 255; // the TTL; in OPT a part of the code, the version, then flags
    const flags = parser.word();
    parser.skip(parser.word());
    if (recordType !== TYPES.OPT) continue;
    if (!isRoot || i < additional || edns !== null) throw new FormatError("OPT is once, and of the root");
    edns = { size, version, flags };
  }
  return { name, type, class: asked, question, edns };
};

// ---- Answering it ----

interface Found {
  readonly code: number;
  /** Records, and the names that they belong to. */
  readonly answers: readonly (readonly [name: string, record: RR])[];
  /** Whether the zone's SOA is added, which says how long "there is none" may be cached. */
  readonly absent: boolean;
}

const inZone = (name: string): boolean => name === ORIGIN || name.endsWith(`.${ORIGIN}`);

const look = ({ name, type, class: asked }: Query): Found => {
  // Zone transfers and the like (128 to 254) are not for everyone.
  if ((asked !== IN && asked !== ANY) || (type >= 128 && type < ANY) || !inZone(name)) {
    return { code: REFUSED, answers: [], absent: false };
  }
  const answers: [string, RR][] = [];
  const followed = new Set<string>();
  for (let at = name; inZone(at) && !followed.has(at); ) {
    followed.add(at);
    const records = ZONE.get(at);
    if (records === undefined) return { code: NXDOMAIN, answers, absent: true };
    // ANY gets one type, not all: small questions must not make large replies (RFC 8482).
    const wanted = type === ANY ? records[0]?.type : type;
    const found = records.filter((record) => record.type === wanted);
    for (const record of found) answers.push([at, record]);
    if (found.length > 0) break;
    const alias = records.find((record) => record.type === TYPES.CNAME);
    if (alias === undefined) return { code: NOERROR, answers, absent: true };
    answers.push([at, alias]);
    at = unpackName(alias.data); // if that is not in the zone, the client asks elsewhere
  }
  return { code: NOERROR, answers, absent: false };
};

const unpackName = (data: Uint8Array): string => {
  const parser = new Parser(data);
  parser.at = 0;
  return parser.name();
};

const record = (owner: readonly number[], { type, data }: RR, ttl: number): number[] => [
  ...owner,
  ...pack16(type),
  ...pack16(IN),
  ...pack32(ttl),
  ...pack16(data.length),
  ...data,
];

/**
 * The reply to a query, or `null` if the bytes are not a query. `limit` is how large a reply every client of this
 * transport takes, in bytes: 512 over UDP (a client may raise that to 1 232), 65 535 over TCP. A larger reply has no
 * records and says so (TC), so that the client asks again over TCP.
 */
export const answer = (query: Uint8Array, limit: number): Uint8Array | null => {
  if (query.length < HEADER || (query[2] & 0x80) !== 0) return null; // answering a reply could go on for ever
  const reply = (code: number, flags: number, sections: number[][][], question?: Uint8Array): Uint8Array =>
    Uint8Array.from([
      query[0],
      query[1],
      0x80 | (query[2] & 0x79) | flags, // QR, and the client's opcode and RD
      code & 15, // RA is 0: this server asks no other
      ...pack16(question === undefined ? 0 : 1),
      ...sections.flatMap((records) => pack16(records.length)),
      ...(question ?? []),
      ...sections.flat(2),
    ]);
  const none = [[], [], []];
  if ((query[2] & 0x78) !== 0) return reply(NOTIMP, 0, none);
  let parsed: Query;
  try {
    parsed = parse(query);
  } catch (error) {
    if (error instanceof FormatError) return reply(FORMERR, 0, none);
    throw error;
  }
  const { edns, question, name } = parsed;
  const { code, answers, absent } =
    edns !== null && edns.version > 0 ? { code: BADVERS, answers: [], absent: false } : look(parsed);
  // The upper eight bits of the code, our version of EDNS, and the client's DO bit (RFC 3225).
  const opt =
    edns === null
      ? []
      : [[0, ...pack16(TYPES.OPT), ...pack16(UDP_MOST), code >> 4, 0, ...pack16(edns.flags & 0x8000), 0, 0]];
  const POINTER = [0xc0, HEADER]; // "as in the question"
  const records = answers.map(([of, rr]) => record(of === name ? POINTER : packName(of), rr, TTL));
  const authority = absent ? [record(packName(ORIGIN), SOA, TTL_ABSENT)] : [];
  const authoritative = code === NOERROR || code === NXDOMAIN ? AA : 0;
  const whole = reply(code, authoritative, [records, authority, opt], question);
  const most = Math.max(limit, Math.min(edns?.size ?? 0, UDP_MOST));
  return whole.length <= most ? whole : reply(code, authoritative | TC, [[], [], opt], question);
};

const AA = 0x04;
const TC = 0x02;

// ---- The handlers ----

/** Answers one query in one datagram. */
export class DnsDatagram extends BaseRequestHandler<Datagram> {
  override handle(): void {
    const reply = answer(this.request.data, UDP_PLAIN);
    if (reply !== null) this.request.reply(reply);
  }
}

/** Answers any number of queries, each after its length in two bytes. */
export class DnsStream extends StreamRequestHandler {
  override readonly timeout = 10_000; // ms for which a client may be silent: "a few seconds" (RFC 7766, 6.2.3)

  override async handle(): Promise<void> {
    try {
      for (;;) {
        const length = await this.rfile.read(2);
        if (length === null || length.length < 2) return;
        const reply = answer(await this.rfile.readexactly(length[0] * 256 + length[1]), TCP_MOST);
        if (reply === null) return; // not a DNS client
        this.wfile.write(Uint8Array.from(pack16(reply.length)));
        this.wfile.write(reply);
      }
    } catch (error) {
      // A client that leaves, even in the middle of a query, or stays silent, is not an error.
      const code = error instanceof SocketError ? error.code : undefined;
      if (code !== "ERR_INCOMPLETE_READ" && code !== "ETIMEDOUT") throw error;
    }
  }
}
