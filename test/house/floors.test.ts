/**
 * Who may import whom. Each room names the rooms below it, and what it may take from outside the project; a file that
 * imports anything else fails here. (That no files import each other in a circle is held by Biome: noImportCycles.)
 */

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { parseAst } from "rolldown/parseAst";
import { expect, test } from "vitest";

interface Room {
  /** The rooms whose files it may import, beside its own. */
  readonly below: readonly string[];
  /** The packages and built-in modules that it may import. */
  readonly packages?: RegExp;
}

const NET = ["core", "core/bytes", "core/net", "core/net/proxy"];
const STREAMS = [...NET, "core/files", "core/sockets/tls", "core/sockets", "core/sockets/streams"];
const SOCKETS = [...STREAMS, "core/sockets/dialling"];
const SERVE = [...SOCKETS, "core/handlers", "core/serve"];
const APP = [...SERVE, "core/app"];
const HANDLES = ["emulator", "emulator/kernel/descriptors", "emulator/kernel", "emulator/kernel/handles"];
const TRANSPORTS = [...HANDLES, "emulator/kernel/tls", "emulator/kernel/transports"];
const KERNEL = [...TRANSPORTS, "emulator/kernel/runtimes", "emulator/kernel/opening"];
const DIALLING = ["emulator/sockets/names", "emulator/sockets/dialling"];
const SOCKET_MODULE = [...DIALLING, "emulator/sockets/datagrams", "emulator/sockets"];
const FORKING = ["emulator/servers/forking/channel", "emulator/servers/forking"];
const TRANSCRIPTS = ["core/testing", "core/testing/script", "core/testing/transcript", "core/testing/faults"];
const POOL = [...APP, "core/pool"];
const PAGE = ["core/inspector/client/display", "core/inspector/client/data"];
const CONTROL = ["core/control", "core/control/recording", "core/control/sessions", "core/control/http"];

const ROOMS: Readonly<Record<string, Room>> = {
  core: { below: [] },
  "core/bytes": { below: ["core"] },
  "core/net": { below: ["core"] },
  "core/net/proxy": { below: ["core", "core/bytes", "core/net"] },
  "core/files": { below: ["core", "core/bytes"] },
  "core/sockets/tls": { below: ["core"] },
  "core/sockets": { below: [...NET, "core/sockets/tls"] },
  "core/sockets/streams": { below: [...NET, "core/files", "core/sockets/tls", "core/sockets"] },
  "core/sockets/dialling": { below: STREAMS },
  "core/decode": { below: NET },
  "core/handlers": { below: SOCKETS },
  "core/serve": { below: [...SOCKETS, "core/handlers"] },
  "core/app": { below: [...SERVE, "core/decode"] },
  "core/testing": { below: SERVE },
  "core/testing/faults": { below: [...SERVE, "core/testing"] },
  "core/testing/script": { below: [...SERVE, "core/testing"] },
  "core/testing/transcript": { below: [...SERVE, "core/testing", "core/testing/script"] },
  "core/testing/framing": { below: [...SERVE, "core/testing", "core/testing/script"] },
  "core/pool": { below: APP },
  "core/control": { below: [...APP, "core/decode"] },
  "core/control/recording": {
    below: [...SERVE, "core/decode", "core/control", "core/testing/transcript"],
  },
  "core/control/sessions": { below: [...APP, "core/control", "core/control/recording"] },
  "core/control/http": {
    below: [...SERVE, "core/control", "core/control/recording"],
    packages: /^hono(\/|$)/,
  },
  "core/inspector": { below: [], packages: /^hono(\/|$)/ },
  // The page runs in a browser: of the rest of core it has the types alone.
  "core/inspector/client/display": { below: [] },
  "core/inspector/client/data": { below: ["core/inspector/client/display"] },
  "core/inspector/client/list": { below: [...PAGE, "core/control", "core/handlers"] },
  "core/inspector/client/conversation": { below: [...PAGE, "core/control", "core/inspector/client/list"] },
  "core/inspector/client": {
    below: [...PAGE, "core/control", "core/inspector/client/list", "core/inspector/client/conversation"],
  },
  "core/testing/pool": { below: [...POOL, "core/testing", "core/testing/faults"] },
  emulator: { below: ["core"], packages: /^node:/ },
  "emulator/kernel/descriptors": { below: [...SOCKETS, "emulator"], packages: /^(node:|koffi$)/ },
  "emulator/kernel": {
    below: [...SOCKETS, "emulator", "emulator/kernel/descriptors"],
    packages: /^node:/,
  },
  "emulator/kernel/handles": {
    below: [...SOCKETS, "emulator", "emulator/kernel/descriptors", "emulator/kernel"],
    packages: /^node:/,
  },
  "emulator/kernel/tls": { below: [...SOCKETS, ...HANDLES], packages: /^node:/ },
  "emulator/kernel/transports": {
    below: [...SOCKETS, ...HANDLES, "emulator/kernel/tls"],
    packages: /^node:/,
  },
  "emulator/kernel/runtimes": { below: [...SOCKETS, ...TRANSPORTS], packages: /^node:/ },
  "emulator/kernel/runtimes/bun": {
    below: [...SOCKETS, ...TRANSPORTS, "emulator/kernel/runtimes"],
    packages: /^node:/,
  },
  "emulator/kernel/runtimes/deno": {
    below: [...SOCKETS, ...TRANSPORTS, "emulator/kernel/runtimes"],
    packages: /^node:/,
  },
  "emulator/kernel/opening": {
    below: [...SOCKETS, ...TRANSPORTS, "emulator/kernel/runtimes"],
    packages: /^node:/,
  },
  "emulator/sockets/names": { below: [...SERVE, ...KERNEL], packages: /^node:/ },
  "emulator/sockets/dialling": { below: [...POOL, ...KERNEL, "emulator/sockets/names"], packages: /^node:/ },
  "emulator/sockets/datagrams": {
    below: [...SOCKETS, ...KERNEL, "emulator/sockets/names"],
    packages: /^node:/,
  },
  "emulator/sockets": {
    below: [...POOL, ...KERNEL, ...DIALLING, "emulator/sockets/datagrams"],
    packages: /^node:/,
  },
  "emulator/servers": { below: [...SERVE, ...KERNEL, ...SOCKET_MODULE], packages: /^node:/ },
  "emulator/processes": { below: ["emulator"], packages: /^node:/ },
  "emulator/servers/forking/channel": { below: [...SOCKETS, "core/handlers"] },
  "emulator/servers/forking": {
    below: [
      ...POOL,
      ...KERNEL,
      ...SOCKET_MODULE,
      "emulator/servers",
      "emulator/processes",
      "emulator/servers/forking/channel",
    ],
    packages: /^node:/,
  },
  "emulator/wire/transcripts": { below: [...SERVE, ...TRANSCRIPTS, "core/control/recording", "emulator"] },
  "emulator/wire": {
    below: [...SERVE, ...TRANSCRIPTS, ...KERNEL, ...SOCKET_MODULE, "emulator/wire/transcripts"],
    packages: /^node:/,
  },
  "emulator/app/control": {
    below: [
      ...POOL,
      ...TRANSCRIPTS,
      ...CONTROL,
      "core/inspector",
      ...KERNEL,
      ...SOCKET_MODULE,
      "emulator/servers",
    ],
    packages: /^(node:|@hono\/node-server$)/,
  },
  "emulator/app/listeners": { below: [...APP, ...KERNEL] },
  "emulator/app": {
    below: [
      ...POOL,
      ...TRANSCRIPTS,
      ...CONTROL,
      ...KERNEL,
      ...SOCKET_MODULE,
      "emulator/servers",
      ...FORKING,
      "emulator/app/control",
      "emulator/app/listeners",
    ],
    packages: /^node:/,
  },
  "emulator/cluster": {
    below: [
      ...APP,
      ...CONTROL,
      ...KERNEL,
      "core/testing/transcript",
      "emulator/processes",
      "emulator/servers",
      ...FORKING,
      "emulator/app/control",
      "emulator/app/listeners",
      "emulator/app",
    ],
    packages: /^node:/,
  },
  "emulator/otel": { below: [...SERVE, ...KERNEL], packages: /^(node:|@opentelemetry\/api$)/ },
  "emulator/command/terminal": {
    below: [...NET, "core/handlers", "core/control", "emulator"],
    packages: /^(node:|commander$)/,
  },
  "emulator/command/user-code": {
    below: [...APP, "emulator", "emulator/command/terminal"],
    packages: /^node:/,
  },
  "emulator/command/project": {
    below: [...APP, "emulator", "emulator/app", "emulator/command/terminal", "emulator/command/user-code"],
    packages: /^node:/,
  },
  "emulator/command/control": {
    below: [...SERVE, ...CONTROL, "emulator", "emulator/command/terminal"],
    packages: /^node:/,
  },
  "emulator/command/wire": {
    below: [
      ...SERVE,
      ...TRANSCRIPTS,
      ...KERNEL,
      ...SOCKET_MODULE,
      "emulator/servers",
      "emulator/wire/transcripts",
      "emulator/wire",
      "emulator/command/terminal",
    ],
    packages: /^node:/,
  },
  "emulator/command/run": {
    below: [
      ...POOL,
      ...CONTROL,
      ...KERNEL,
      ...SOCKET_MODULE,
      "emulator/processes",
      ...FORKING,
      "emulator/wire/transcripts",
      "emulator/wire",
      "emulator/app/control",
      "emulator/app/listeners",
      "emulator/app",
      "emulator/cluster",
      "emulator/command/terminal",
      "emulator/command/user-code",
      "emulator/command/project",
      "emulator/command/control",
      "emulator/command/wire",
    ],
    packages: /^node:/,
  },
  "emulator/command": {
    below: [
      "core",
      "core/sockets/tls",
      "core/control",
      "emulator/kernel/tls",
      "emulator/wire/transcripts",
      "emulator/wire",
      "emulator/command/terminal",
      "emulator/command/project",
      "emulator/command/control",
      "emulator/command/wire",
      "emulator/command/run",
    ],
    packages: /^(node:|commander$)/,
  },
  worker: { below: ["core"], packages: /^cloudflare:/ },
  "worker/names": { below: SERVE },
  "worker/sockets": { below: [...SERVE, "worker"], packages: /^cloudflare:/ },
  "worker/objects": {
    below: [...APP, ...CONTROL, "worker", "worker/sockets"],
    packages: /^cloudflare:/,
  },
  "worker/pool": { below: [...POOL, "worker", "worker/sockets", "worker/objects"] },
  "worker/serve": {
    below: [...APP, ...CONTROL, "core/testing", "worker", "worker/sockets", "worker/objects"],
    packages: /^(cloudflare:|hono$)/,
  },
  "examples/resp": { below: [], packages: /^socklet$/ },
  examples: { below: ["examples/resp"], packages: /^socklet$/ },
};

/** The lists of what a part exports, and what wrangler.toml deploys: they may import all of their own part. */
const LISTS = new Set([
  "core/index.ts",
  "core/control/index.ts",
  "core/inspector/index.ts",
  "core/testing/index.ts",
  "emulator/index.ts",
  "worker/index.ts",
  "worker/main.ts",
]);

/** What chooses by the runtime loads, by `import()`, a room that stands below its own. */
const CHOICES: Readonly<Record<string, readonly string[]>> = {
  "emulator/kernel/runtimes/chosen-sockets.ts": [
    "emulator/kernel/runtimes/bun",
    "emulator/kernel/runtimes/deno",
  ],
};

/** How many files a room has at most. (Each file of examples/ is an example of its own.) */
const MOST = 9;

const root = join(import.meta.dirname, "../..");

const sources = ["core", "emulator", "worker", "examples"].flatMap((part) =>
  readdirSync(join(root, part), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.startsWith("templates/")) // those are a new project's
    .map((name) => join(part, name)),
);

/** What a file imports, by any kind of import whose module is written out. */
const importsOf = (path: string): string[] => {
  const source = readFileSync(join(root, path), "utf8");
  const { body } = parseAst(source, { lang: "ts" }, path);
  const named = (body as unknown as { source?: { value: string } | null }[]).flatMap(({ source: from }) =>
    from ? [from.value] : [],
  );
  const loaded = [...source.matchAll(/\bimport\("([^"]+)"\)/g)].map(([, from]) => from as string);
  return [...named, ...loaded];
};

test("every folder of sources is a room of the table, and every room a folder", () => {
  const folders = new Set(sources.filter((path) => !LISTS.has(path)).map((path) => dirname(path)));
  expect([...folders].sort()).toEqual(Object.keys(ROOMS).sort());
});

test("no room is so large that a file is hard to find in it", () => {
  for (const room of Object.keys(ROOMS).filter((one) => one !== "examples")) {
    const files = readdirSync(join(root, room)).filter((name) => name.endsWith(".ts"));
    expect([room, files.slice(MOST)]).toEqual([room, []]);
  }
});

test("a room imports only rooms that stand above it in the table, so that no two import each other", () => {
  const rooms = Object.keys(ROOMS);
  for (const [i, room] of rooms.entries()) {
    const { below } = ROOMS[room] as Room;
    expect([room, below.filter((other) => rooms.indexOf(other) >= i)]).toEqual([room, []]);
  }
});

test.each(sources.filter((path) => !LISTS.has(path)))("%s imports what its room may", (path) => {
  const own = dirname(path);
  const { below, packages } = ROOMS[own] as Room;
  const strange = importsOf(path).filter((from) => {
    if (!from.startsWith(".")) return packages?.test(from) !== true;
    const target = normalize(join(own, from));
    if (LISTS.has(target)) return true;
    const room = dirname(target);
    return room !== own && !below.includes(room) && CHOICES[path]?.includes(room) !== true;
  });
  expect(strange).toEqual([]);
});

/** What a file imports of Node as usual, which costs a start more than emulator/builtin.ts does. None of these is loaded by a server. */
const IMPORTED_AS_USUAL: Readonly<Record<string, readonly string[]>> = {
  "emulator/command/project/init.ts": ["node:readline/promises"],
  "emulator/kernel/runtimes/transport-stream.ts": ["node:stream"],
  "emulator/otel/index.ts": ["node:async_hooks", "node:diagnostics_channel"],
};

test("Node's modules are loaded by emulator/builtin.ts, except node:net", () => {
  const found: Record<string, string[]> = {};
  for (const path of sources.filter((one) => one.startsWith("emulator/"))) {
    const { body } = parseAst(readFileSync(join(root, path), "utf8"), { lang: "ts" }, path);
    for (const { importKind, source } of body as unknown as {
      importKind?: string;
      source?: { value: string };
    }[]) {
      const from = source?.value ?? "";
      if (importKind === "type" || from === "node:net" || !from.startsWith("node:")) continue;
      found[path] = [...(found[path] ?? []), from];
    }
  }
  expect(found).toEqual(IMPORTED_AS_USUAL);
});

test("core and examples are the same everywhere; emulator and worker know nothing of each other", () => {
  for (const [room, { below, packages }] of Object.entries(ROOMS)) {
    const part = room.split("/")[0];
    const parts = new Set(below.map((other) => other.split("/")[0]));
    if (part === "core" || part === "examples") {
      expect([room, [...parts].filter((other) => other !== part)]).toEqual([room, []]);
      expect([
        room,
        packages?.test("node:net") ?? false,
        packages?.test("cloudflare:sockets") ?? false,
      ]).toEqual([room, false, false]);
    } else {
      expect([room, [...parts].filter((other) => other !== "core" && other !== part)]).toEqual([room, []]);
    }
  }
});
