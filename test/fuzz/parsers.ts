/** The parsers: each beside another answer, Node's own or one that is known because the input was made of it. */

import net from "node:net";
import fc from "fast-check";
import { eventStream, readEvents } from "../../core/control/http/sse.ts";
import { printable, printableJson, toJson } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import { parseAllowRule, parseNetwork } from "../../core/net/access.ts";
import {
  formatAddress,
  inetAton,
  inetNtop,
  inetPton,
  inNetwork,
  packAddress,
  parseAddress,
} from "../../core/net/address.ts";
import { AF_INET, AF_INET6 } from "../../core/net/constants.ts";
import { Services } from "../../core/net/services.ts";
import {
  formatTranscript,
  parseTranscript,
  type Transcript,
  type TranscriptEvent,
} from "../../core/testing/transcript/form.ts";
import { Hosts } from "../../emulator/sockets/names/names.ts";
import { answer } from "../../examples/dns.ts";
import { latin1 as respText } from "../../examples/resp/bytes.ts";
import { inlineWords, numberIn, ProtocolError } from "../../examples/resp/request.ts";
import { MalformedAnswer, parseAnswer, query } from "../../worker/names/dns-message.ts";
import { alike, latin1, same, type Target, target } from "./target.ts";

/** What `call` gives; where it throws one of `errors`, `undefined`. Any other error is a failure. */
const tried = <T>(call: () => T, ...errors: (new (...args: never[]) => Error)[]): T | undefined => {
  try {
    return call();
  } catch (error) {
    if (errors.some((known) => error instanceof known)) return undefined;
    throw error;
  }
};

/** Text of these characters, mostly; else any. */
const madeOf = (characters: string, maxLength = 24): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: 9, arbitrary: fc.string({ unit: fc.constantFrom(...characters), maxLength }) },
    { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength }) },
  );

// ---- Addresses ----

const packed = fc.oneof(
  fc.uint8Array({ minLength: 4, maxLength: 4 }),
  fc
    .array(fc.oneof(fc.constant(0), fc.constant(0xff), fc.nat(255)), { minLength: 16, maxLength: 16 })
    .map((bytes) => new Uint8Array(bytes)),
);
const familyOf = (bytes: Uint8Array): number => (bytes.length === 4 ? AF_INET : AF_INET6);
const textOf = (bytes: Uint8Array): string => inetNtop(familyOf(bytes), bytes);

const address = target(
  "address",
  "inputs",
  fc.oneof(
    madeOf("01:.[]%/tcpunix-é"),
    packed.map((bytes) => `[${textOf(bytes)}]:80`),
    fc
      .tuple(packed, fc.nat(70_000))
      .map(([bytes, port]) => `tcp://${bytes.length === 4 ? textOf(bytes) : `[${textOf(bytes)}]`}:${port}`),
  ),
  (text) => {
    const endpoint = tried(() => parseAddress(text), SocketError, RangeError);
    if (endpoint === undefined) return 1;
    const said = formatAddress(endpoint);
    alike(`the address that ${JSON.stringify(said)} is`, parseAddress(said), endpoint);
    alike("an endpoint of itself", parseAddress(endpoint), endpoint);
    return 1;
  },
);

const inet = target(
  "inet",
  "inputs",
  fc.oneof(
    madeOf("0123456789abcdefx.:"),
    fc.ipV4(),
    fc.ipV6(),
    packed.map(textOf),
    fc.tuple(fc.ipV6(), madeOf("0:.1f", 3)).map(([one, more]) => one + more),
  ),
  (text) => {
    const four = tried(() => inetPton(AF_INET, text), SocketError);
    const six = tried(() => inetPton(AF_INET6, text), SocketError);
    same(`whether ${JSON.stringify(text)} is IPv4`, four !== undefined, net.isIPv4(text));
    same(
      `whether ${JSON.stringify(text)} is IPv6`,
      six !== undefined,
      net.isIPv6(text) && !text.includes("%"),
    );
    for (const bytes of [four, six]) {
      if (bytes === undefined) continue;
      const canonical = textOf(bytes);
      same("the bytes of its text", latin1(inetPton(familyOf(bytes), canonical)), latin1(bytes));
      if (bytes === six && !canonical.includes("."))
        same("IPv6 as a URL has it", canonical, new URL(`http://[${text}]/`).hostname.slice(1, -1));
    }
    return 1;
  },
);

/** Numbers of IPv4 in any base, one to four of them: what inet_aton and a URL's host read alike. */
const spelled = fc
  .array(fc.tuple(fc.oneof(fc.nat(255), fc.nat(70_000), fc.nat(0xffff_ffff)), fc.constantFrom(10, 8, 16)), {
    minLength: 1,
    maxLength: 4,
  })
  .map((parts) =>
    parts
      .map(([value, base]) =>
        base === 10 ? `${value}` : base === 8 ? `0${value.toString(8)}` : `0x${value.toString(16)}`,
      )
      .join("."),
  );
const aton = target(
  "aton",
  "inputs",
  fc.oneof(
    spelled,
    madeOf("0178x.f", 12).filter(
      (text) =>
        /^[^.]+(\.[^.]+)*$/.test(text) &&
        !/(^|\.)0x(\.|$)/i.test(text) &&
        /^[0-9a-fx.]+$/i.test(text) &&
        /(^|\.)[0-9][^.]*$/.test(text),
    ),
  ),
  (text) => {
    const bytes = tried(() => inetAton(text), SocketError);
    const url = tried(() => new URL(`http://${text}/`), TypeError);
    same(
      `${text} as a URL's host`,
      bytes === undefined ? "none" : textOf(bytes),
      url !== undefined && net.isIPv4(url.hostname) ? url.hostname : "none",
    );
    if (bytes !== undefined) same("packAddress()", latin1(packAddress(text) as Uint8Array), latin1(bytes));
    return 1;
  },
);

const network = target(
  "network",
  "inputs",
  fc.tuple(packed, fc.nat(140), packed, fc.boolean()),
  ([base, bits, other, near]) => {
    const family = base.length === 4 ? "ipv4" : "ipv6";
    const text = `${textOf(base)}/${bits}`;
    const found = tried(() => parseNetwork(text), SocketError);
    const most = 8 * base.length;
    const clean =
      bits <= most &&
      base.every((byte, i) => (byte & (0xff >> Math.min(8, Math.max(0, bits - 8 * i)))) === 0);
    const mapped = family === "ipv6" && packAddress(textOf(base))?.length === 4; // has another spelling
    same(`whether ${text} is a network`, found !== undefined, clean && !mapped);
    if (found === undefined) return 1;
    const list = new net.BlockList();
    list.addSubnet(textOf(base), bits, family);
    const probe =
      near || other.length !== base.length
        ? base.map((byte, i) => (i === base.length - 1 ? byte ^ (other[0] as number) : byte))
        : other;
    same(
      `whether ${textOf(probe)} is in ${text}`,
      inNetwork(probe, found),
      list.check(textOf(probe), family),
    );
    return 1;
  },
);

const allow = target(
  "allow",
  "inputs",
  fc.oneof(
    madeOf("01.:/*[]-,%aexampl"),
    fc
      .tuple(packed, fc.nat(128), fc.nat(70_000))
      .map(
        ([bytes, bits, port]) =>
          `${bytes.length === 4 ? textOf(bytes) : `[${textOf(bytes)}]`}/${bits}:${port}`,
      ),
    fc.tuple(fc.domain(), fc.nat(70_000)).map(([name, port]) => `*.${name}:${port}`),
  ),
  (text) => {
    const rule = tried(() => parseAllowRule(text), SocketError);
    if (rule !== undefined) alike("a rule of its own text", parseAllowRule(rule.text), rule);
    return 1;
  },
);

// ---- Files of names ----

const field = fc.oneof(
  fc.constantFrom("http", "www", "a", "#", "80/tcp", "99999/tcp", "7/", "/udp", "é"),
  fc.string({ unit: fc.constantFrom(..."ab1/.#:"), minLength: 1, maxLength: 6 }),
);
const entry = fc.record({
  name: fc.constantFrom("http", "echo", "a", "b"),
  port: fc.nat(70_000),
  protocol: fc.constantFrom("tcp", "udp"),
  aliases: fc.array(fc.constantFrom("www", "x", "y"), { maxLength: 2 }),
});
const space = fc.constantFrom(" ", "\t", "  \t", "\v", "\f");
const services = target(
  "services",
  "inputs",
  fc.tuple(
    fc.array(fc.oneof(entry, fc.array(field, { maxLength: 4 })), { maxLength: 8 }),
    space,
    fc.constantFrom("", " # more", "#"),
  ),
  ([entries, blank, comment]) => {
    const lines = entries.map((one) =>
      Array.isArray(one)
        ? `#${one.join(blank)}`
        : [one.name, `${one.port}/${one.protocol}`, ...one.aliases].join(blank) + comment,
    );
    const table = new Services(lines.join("\n"));
    const known = entries.filter((one) => !Array.isArray(one) && one.port <= 65_535) as Extract<
      (typeof entries)[number],
      { name: string }
    >[];
    for (const protocol of [undefined, "tcp", "udp"]) {
      const of = known.filter((one) => protocol === undefined || one.protocol === protocol);
      for (const name of ["http", "www", "x", "none"])
        same(
          name,
          table.port(name, protocol),
          of.find((one) => one.name === name || one.aliases.includes(name as "www"))?.port,
        );
      for (const { port } of known)
        same(`${port}`, table.name(port, protocol), of.find((one) => one.port === port)?.name);
    }
    new Services(lines.join("\n").replaceAll("#", "")); // whatever there is
    return 1;
  },
);

const hosts = target(
  "hosts",
  "inputs",
  fc.tuple(
    fc.array(
      fc.record({
        bytes: packed,
        names: fc.array(fc.constantFrom("a", "B", "b", "c"), { minLength: 1, maxLength: 3 }),
      }),
      { maxLength: 6 },
    ),
    space,
    madeOf("#1:. \tab\n", 30),
  ),
  ([lines, blank, noise]) => {
    const table = new Hosts(
      lines.map(({ bytes, names }) => [textOf(bytes), ...names].join(blank)).join("\r\n"),
    );
    for (const name of ["a", "B", "none"]) {
      const wanted = lines.filter(({ names }) =>
        names.some((one) => one.toLowerCase() === name.toLowerCase()),
      );
      const found = table.host(name, 0);
      same(`whether ${name} is known`, found !== undefined, wanted.length > 0);
      if (found !== undefined)
        alike(
          `the addresses of ${name}`,
          found[2],
          wanted.map(({ bytes }) => textOf(bytes)),
        );
    }
    new Hosts(noise).host("a", AF_INET6);
    return 1;
  },
);

// ---- DNS ----

/** Bytes with some changed, the end cut off, others put behind. */
const changes = fc.tuple(
  fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 4 }),
  fc.option(fc.nat(200), { freq: 3 }),
  fc.uint8Array({ maxLength: 8 }),
);
const changed = (
  bytes: readonly number[],
  [at, cut, more]: readonly [readonly (readonly [number, number])[], number | null, Uint8Array],
): Uint8Array => {
  const copy = Uint8Array.from(bytes);
  for (const [i, byte] of at) if (copy.length > 0) copy[i % copy.length] = byte;
  return Uint8Array.from([...copy.subarray(0, cut ?? copy.length), ...more]);
};
const word = (value: number): number[] => [value >> 8, value & 255];
const record = fc.oneof(
  fc
    .uint8Array({ minLength: 4, maxLength: 4 })
    .map((data) => ({ type: "A" as const, code: 1, data: [...data], text: data.join(".") })),
  fc
    .uint8Array({ minLength: 16, maxLength: 16 })
    .map((data) => ({ type: "AAAA" as const, code: 28, data: [...data], text: inetNtop(AF_INET6, data) })),
  fc.constant({ type: "CNAME" as const, code: 5, data: [1, 120, 0xc0, 12], text: "x.www.example.test" }),
  fc.constant({ type: null, code: 99, data: [1, 2, 3], text: "" }),
);
const dnsAnswer = target(
  "dns-answer",
  "inputs",
  fc.tuple(fc.array(record, { maxLength: 5 }), changes),
  ([records, changing]) => {
    const question = query("www.example.test", "A") as Uint8Array;
    const body = records.flatMap(({ code, data }) => [
      0xc0,
      12,
      ...word(code),
      0,
      1,
      0,
      0,
      0,
      9,
      ...word(data.length),
      ...data,
    ]);
    const bytes = [
      0,
      0,
      0x81,
      0x80,
      0,
      1,
      ...word(records.length),
      0,
      0,
      0,
      0,
      ...question.subarray(12),
      ...body,
    ];
    const wanted = records.flatMap(({ type, text }) =>
      type === null ? [] : [{ name: "www.example.test", type, data: text }],
    );
    alike("the answer", parseAnswer(Uint8Array.from(bytes), question), { code: 0, records: wanted });
    const other = tried(() => parseAnswer(changed(bytes, changing), question), MalformedAnswer);
    if (other !== undefined && other.records.length > 65_535)
      throw new Error("more records than an answer can have");
    return 1;
  },
);

const asked = fc.record({
  name: fc.constantFrom(
    "example.test",
    "WWW.example.test",
    "many.example.test",
    "loop.example.test",
    "text.example.test",
    "none.example.test",
    "example.net",
  ),
  type: fc.constantFrom(1, 2, 5, 6, 15, 16, 28, 255, 252, 99),
  edns: fc.option(fc.nat(65_535)),
  limit: fc.constantFrom(512, 65_535),
  changing: fc.option(changes),
});
const dnsServer = target("dns-server", "inputs", asked, ({ name, type, edns, limit, changing }) => {
  const labels = name.split(".").flatMap((label) => [label.length, ...Buffer.from(label)]);
  const opt = edns === null ? [] : [0, 0, 41, ...word(edns), 0, 0, 0, 0, 0, 0];
  const whole = [
    1,
    2,
    1,
    0,
    0,
    1,
    0,
    0,
    0,
    0,
    0,
    edns === null ? 0 : 1,
    ...labels,
    0,
    ...word(type),
    0,
    1,
    ...opt,
  ];
  const bytes = changing === null ? Uint8Array.from(whole) : changed(whole, changing);
  const reply = answer(bytes, limit);
  if (reply === null) {
    same("whether no reply is due", bytes.length < 12 || ((bytes[2] as number) & 0x80) !== 0, true);
    return 1;
  }
  same("the reply's id", latin1(reply.subarray(0, 2)), latin1(bytes.subarray(0, 2)));
  if (reply.length > Math.max(limit, 1232)) throw new Error(`a reply of ${reply.length} bytes`);
  same("an answer to a reply", answer(reply, limit), null);
  if (changing === null) {
    const cut = ((reply[2] as number) & 2) !== 0;
    if (reply.length > Math.max(limit, Math.min(edns ?? 0, 1232)))
      throw new Error("larger than the client takes");
    same(
      "the question, repeated",
      latin1(reply.subarray(12, 12 + labels.length + 5)),
      latin1(Uint8Array.from([...labels, 0, ...word(type), 0, 1])),
    );
    if (cut)
      same("records of a reply that is cut short", (reply[6] as number) * 256 + (reply[7] as number), 0);
  }
  return 1;
});

// ---- RESP ----

const WORD = fc.uint8Array({ maxLength: 8 }).map(respText);
const quoted = (text: string, how: number): string => {
  if (how === 1 && !/['\x80-\xff]|\\$/.test(text) && !text.includes("\\")) return `'${text}'`;
  if (how === 2 && /^[!#-&(-[\]-~]+$/.test(text)) return text;
  return `"${text.replace(/[^ !#-[\]-~]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`)}"`;
};
const respInline = target(
  "resp-inline",
  "inputs",
  fc.tuple(
    fc.array(fc.tuple(WORD, fc.nat(2)), { maxLength: 5 }),
    fc.constantFrom(" ", "\t", "  "),
    madeOf("ab \"'\\xn\t", 16),
  ),
  ([words, blank, any]) => {
    alike(
      "the words",
      inlineWords(words.map(([text, how]) => quoted(text, how)).join(blank)),
      words.map(([text]) => text),
    );
    tried(() => inlineWords(any), ProtocolError);
    return 1;
  },
);
const respNumber = target(
  "resp-number",
  "inputs",
  fc.oneof(fc.integer({ min: -99_999_999, max: 2_000_000_000 }).map(String), madeOf("0123456789-+ .e", 14)),
  (text) => {
    const plain = /^(0|-?[1-9][0-9]{0,9}|-0)$/.test(text);
    const number = numberIn(`$${text}`);
    if (Number.isNaN(number) === plain && text !== "-0") throw new Error(`${text}: ${number}`);
    if (plain && text !== "-0") same(text, number, Number(text));
    return 1;
  },
);

// ---- JSON, transcripts, events ----

const transcript: fc.Arbitrary<Transcript> = fc
  .record({
    note: fc.option(fc.string({ unit: "binary" }), { nil: undefined }),
    said: fc.array(
      fc.record({
        from: fc.constantFrom("client" as const, "server" as const),
        data: fc.oneof(
          fc.uint8Array({ maxLength: 30 }),
          fc.string({ unit: "binary", maxLength: 20 }).map((text) => new TextEncoder().encode(text)),
        ),
        after: fc.nat(1000),
      }),
      { maxLength: 8 },
    ),
    end: fc.option(fc.constantFrom("half-close" as const, "close" as const, "reset" as const)),
  })
  .map(({ note, said, end }) => {
    let at = 0;
    const events: TranscriptEvent[] = said.map(({ from, data, after }) => {
      at += after;
      return { at, from, data };
    });
    if (end !== null) events.push({ at, from: "client", end });
    return { kind: "stream", ...(note !== undefined && { note }), events };
  });
const comparable = ({ events, ...rest }: Transcript): unknown => ({
  ...rest,
  events: events.map((event) => ("data" in event ? { ...event, data: latin1(event.data) } : event)),
});
const transcripts = target(
  "transcript",
  "inputs",
  fc.tuple(
    transcript,
    fc.array(fc.tuple(fc.nat(2000), fc.string({ unit: "binary", maxLength: 2 })), { maxLength: 2 }),
  ),
  ([given, changing]) => {
    const text = formatTranscript(given);
    // A note that has half a pair is not text; JSON writes it as an escape, and it comes back.
    alike("a transcript that was written and read", comparable(parseTranscript(text)), comparable(given));
    let other = text;
    for (const [at, put] of changing)
      other = other.slice(0, at % (text.length + 1)) + put + other.slice((at % (text.length + 1)) + 1);
    const read = tried(() => parseTranscript(other), SyntaxError);
    if (read !== undefined)
      alike(
        "what was read, written and read",
        comparable(parseTranscript(formatTranscript(read))),
        comparable(parseTranscript(formatTranscript(parseTranscript(formatTranscript(read))))),
      );
    return 1;
  },
);

const untagged = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(untagged);
  if (typeof value !== "object" || value === null) return value;
  if ("base64" in value && Object.keys(value).length === 1)
    return `bytes ${Buffer.from(String(value.base64), "base64").toString("latin1")}`;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, untagged(one)]));
};
const tagged = (value: unknown): unknown => {
  if (value instanceof Uint8Array) return `bytes ${latin1(value)}`;
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return value.map(tagged);
  return typeof value === "object" && value !== null
    ? Object.fromEntries(Object.entries(value).map(([key, one]) => [key, tagged(one)]))
    : value;
};
const { tree } = fc.letrec((tie) => ({
  leaf: fc.oneof(
    fc.uint8Array({ maxLength: 12 }),
    fc.uint8Array({ maxLength: 12 }).map((bytes) => Buffer.from(bytes)),
    fc.bigInt(),
    fc.string({ unit: "binary" }),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
  ),
  tree: fc.oneof(
    { maxDepth: 3 },
    tie("leaf"),
    fc.array(tie("tree"), { maxLength: 4 }),
    fc.dictionary(
      fc.string({ maxLength: 5 }).filter((key) => key !== "__proto__"),
      tie("tree"),
      { maxKeys: 4 },
    ),
  ),
}));
const json = target("json", "inputs", tree, (value) => {
  alike("a result that was written and read", untagged(JSON.parse(toJson(value))), tagged(value));
  return 1;
});

const hidden = /[\p{C}\p{Zl}\p{Zp}]/u;
const print = target("printable", "inputs", fc.string({ unit: "binary", maxLength: 30 }), (text) => {
  same("whether a terminal would obey it", hidden.test(printable(text)), false);
  const json = printableJson(JSON.stringify(text));
  same("whether it would obey the JSON", hidden.test(json), false);
  same("what that JSON says", JSON.parse(json), text);
  return 1;
});

const sse = target(
  "sse",
  "inputs",
  fc.tuple(
    fc.array(
      fc.record({
        id: fc.nat(),
        type: fc.constantFrom("output", "ended"),
        data: fc.jsonValue({ maxDepth: 1 }),
        text: fc.string({ unit: "binary" }),
      }),
      { maxLength: 4 },
    ),
    fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }),
  ),
  async ([events, sizes]) => {
    const source = (async function* () {
      yield* events;
    })();
    const parts: Uint8Array[] = [];
    for await (const part of eventStream(source, new AbortController())) parts.push(part);
    const whole = Buffer.concat(parts);
    let i = 0;
    let at = 0;
    const cut = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (at === whole.length) return controller.close();
        const size = sizes[i++ % sizes.length] as number;
        controller.enqueue(new Uint8Array(whole.subarray(at, at + size)));
        at = Math.min(at + size, whole.length);
      },
    });
    const got: unknown[] = [];
    for await (const event of readEvents<{ id: number; type: string }>(cut)) got.push(event);
    alike("events that were written, cut and read", got, JSON.parse(JSON.stringify(events)));
    return 1;
  },
);

export const parsers: readonly Target[] = [
  address,
  inet,
  aton,
  network,
  allow,
  services,
  hosts,
  dnsAnswer,
  dnsServer,
  respInline,
  respNumber,
  transcripts,
  json,
  print,
  sse,
];
