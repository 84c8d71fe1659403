/** What a client asks about the server: `INFO`, `CONFIG`, `COMMAND`; and `DEBUG`, for authors of clients. */

import { latin1 } from "./bytes.ts";
import { type Client, type Command, container, VERSION } from "./command.ts";
import type { ReplyWriter } from "./reply.ts";
import { type KeyStore, MAX_MEMORY } from "./store.ts";

const SERVER = { group: "server", flags: ["loading", "stale"] } as const;

/** What `INFO` says, by section. Clients send nothing else until `loading` is 0. */
const sections = (keys: KeyStore): Readonly<Record<string, Readonly<Record<string, string | number>>>> => ({
  Server: { redis_version: VERSION, redis_mode: "standalone", server_name: "socklet" },
  Memory: { used_memory: keys.memory, maxmemory: MAX_MEMORY, maxmemory_policy: "noeviction" },
  Persistence: { loading: 0 },
  Replication: { role: "master", connected_slaves: 0 },
  Keyspace: keys.size === 0 ? {} : { db0: `keys=${keys.size},expires=0,avg_ttl=0` },
});

const info = (args: readonly Uint8Array[], { keys, out }: Client): void => {
  const asked = new Set(args.map((arg) => latin1(arg).toLowerCase()));
  const all = asked.size === 0 || ["all", "default", "everything"].some((word) => asked.has(word));
  const said = Object.entries(sections(keys)).flatMap(([title, fields]) => {
    if (!all && !asked.has(title.toLowerCase())) return [];
    const lines = Object.entries(fields).map(([field, value]) => `${field}:${value}\r\n`);
    return [`# ${title}\r\n${lines.join("")}`];
  });
  out.verbatim(said.join("\r\n"));
};

/** What `CONFIG GET` knows; redis-benchmark asks how the server saves. */
const SETTINGS: Readonly<Record<string, string>> = {
  appendonly: "no",
  databases: "1",
  maxmemory: `${MAX_MEMORY}`,
  "maxmemory-policy": "noeviction",
  save: "",
};

export const CONFIG: Command = container(
  "CONFIG",
  {
    group: "server",
    flags: ["admin", "noscript", "loading", "stale"],
    summary: "Ask for the server's settings",
  },
  {
    GET: {
      arity: -3,
      summary: "Return the settings whose names match one of the patterns",
      run(patterns, { out }) {
        const matches = patterns.map((pattern) => glob(latin1(pattern)));
        const found = Object.entries(SETTINGS).filter(([name]) => matches.some((match) => match.test(name)));
        out.map(found.length);
        for (const [name, value] of found) {
          out.bulk(name);
          out.bulk(value);
        }
      },
    },
  },
);

/** `*` is any text, `?` any character. */
const glob = (pattern: string): RegExp => {
  const source = pattern.replace(/\*+/g, "*").replace(/[\s\S]/g, (one) => {
    if (one === "*") return ".*";
    return one === "?" ? "." : one.replace(/[$()*+.?[\\\]^{|}]/, "\\$&");
  });
  return new RegExp(`^${source}$`, "i");
};

/** How `COMMAND` describes a command: ten items, some of them sets. */
const describe = (name: string, { arity, flags, keys, subcommands }: Command, out: ReplyWriter): void => {
  out.array(10);
  out.bulk(name.toLowerCase());
  out.integer(arity);
  out.set(flags.length);
  for (const flag of flags) out.simple(flag);
  for (const place of keys ?? [0, 0, 0]) out.integer(place);
  out.set(0); // categories of access rights
  out.set(0); // tips for clients of clusters
  out.set(keys === undefined ? 0 : 1);
  if (keys !== undefined) describeKeys(keys, flags.includes("readonly"), out);
  out.set(subcommands?.size ?? 0);
  for (const [each, command] of subcommands ?? []) describe(`${name}|${each}`, command, out);
};

/** Where a command's keys are, again, in the form of Redis 7. A client that finds none here assumes that there are none. */
const describeKeys = (
  [first, last, step]: readonly [number, number, number],
  reads: boolean,
  out: ReplyWriter,
): void => {
  out.map(3);
  out.bulk("flags");
  out.set(2);
  for (const flag of reads ? ["RO", "access"] : ["RW", "update"]) out.simple(flag);
  out.bulk("begin_search");
  describeSearch("index", { index: first }, out);
  out.bulk("find_keys");
  describeSearch("range", { lastkey: last < 0 ? last : last - first, keystep: step, limit: 0 }, out);
};

const describeSearch = (type: string, spec: Readonly<Record<string, number>>, out: ReplyWriter): void => {
  out.map(2);
  out.bulk("type");
  out.bulk(type);
  out.bulk("spec");
  out.map(Object.keys(spec).length);
  for (const [name, value] of Object.entries(spec)) {
    out.bulk(name);
    out.integer(value);
  }
};

/** The same for people; redis-cli shows it while they type. */
const document = (name: string, { group, summary, subcommands }: Command, out: ReplyWriter): void => {
  out.bulk(name.toLowerCase());
  out.map(subcommands === undefined ? 2 : 3);
  out.bulk("summary");
  out.bulk(summary);
  out.bulk("group");
  out.bulk(group);
  if (subcommands === undefined) return;
  out.bulk("subcommands");
  out.map(subcommands.size);
  for (const [each, command] of subcommands) document(`${name}|${each}`, command, out);
};

/** The commands of these names, or all. */
const named = (
  commands: ReadonlyMap<string, Command>,
  names: readonly Uint8Array[],
): [string, Command | undefined][] =>
  names.length === 0
    ? [...commands]
    : names.map((word) => {
        const name = latin1(word).toUpperCase();
        return [name, commands.get(name)];
      });

/** The command `COMMAND`, with which a client asks for the other commands. */
export const commandOf = (all: () => ReadonlyMap<string, Command>): Command => {
  const describeAll = (names: readonly Uint8Array[], { out }: Client): void => {
    const asked = named(all(), names);
    out.array(asked.length);
    for (const [name, command] of asked) {
      if (command === undefined) out.null();
      else describe(name, command, out);
    }
  };
  return container(
    "COMMAND",
    { ...SERVER, summary: "Describe the commands of this server" },
    {
      COUNT: {
        arity: 2,
        summary: "Return how many commands there are",
        run: (_, { out }) => out.integer(all().size),
      },
      DOCS: {
        arity: -2,
        summary: "Return what people want to know of commands",
        run(names, { out }) {
          const found = named(all(), names).filter(
            (entry): entry is [string, Command] => entry[1] !== undefined,
          );
          out.map(found.length);
          for (const [name, command] of found) document(name, command, out);
        },
      },
      INFO: { arity: -2, summary: "Return what programs want to know of commands", run: describeAll },
      LIST: {
        arity: 2,
        summary: "Return the names of the commands",
        run(_, { out }) {
          out.set(all().size);
          for (const name of all().keys()) out.bulk(name.toLowerCase());
        },
      },
    },
    (client) => describeAll([], client),
  );
};

/** One reply of each type, as Redis offers them to authors of clients. */
const SAMPLES: Readonly<Record<string, (out: ReplyWriter) => void>> = {
  string: (out) => out.bulk("Hello World"),
  integer: (out) => out.integer(12345),
  // biome-ignore lint/suspicious/noApproximativeNumericConstant: what Redis replies
  double: (out) => out.double(3.141),
  bignum: (out) => out.bigNumber(1234567999999999999999999999999999999n),
  null: (out) => out.null(),
  array(out) {
    out.array(3);
    for (const item of [0, 1, 2]) out.integer(item);
  },
  set(out) {
    out.set(3);
    for (const item of [0, 1, 2]) out.integer(item);
  },
  map(out) {
    out.map(3);
    for (const key of [0, 1, 2]) {
      out.integer(key);
      out.boolean(key === 1);
    }
  },
  attrib(out) {
    if (out.protocol === 3) {
      out.attribute(1);
      out.bulk("key-popularity");
      out.array(2);
      out.bulk("key:123");
      out.integer(90);
    }
    out.bulk("Some real reply following the attribute");
  },
  push(out) {
    if (out.protocol === 2) {
      out.error("ERR RESP2 is not supported by this command");
      return;
    }
    out.push(2);
    out.bulk("server-cpu-usage");
    out.integer(42);
    out.bulk("Some real reply following the push reply");
  },
  verbatim: (out) => out.verbatim("This is a verbatim\nstring"),
  true: (out) => out.boolean(true),
  false: (out) => out.boolean(false),
};

export const DEBUG: Command = container(
  "DEBUG",
  { group: "server", flags: ["admin", "noscript", "loading", "stale"], summary: "Help to write clients" },
  {
    PROTOCOL: {
      arity: 3,
      summary: `Reply with a sample of a type: ${Object.keys(SAMPLES).join(", ")}`,
      run([type], { out }) {
        const name = latin1(type).toLowerCase();
        const names = Object.keys(SAMPLES).join("|");
        if (Object.hasOwn(SAMPLES, name)) SAMPLES[name](out);
        else out.error(`ERR Wrong protocol type name. Please use one of the following: ${names}`);
      },
    },
  },
);

export const INFO: Command = { ...SERVER, arity: -1, summary: "Say how the server is", run: info };
