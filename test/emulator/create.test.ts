/** `npm create socklet` and `socklet init`: each project that they make, as its user gets it and uses it. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { AF_INET, SOCK_DGRAM } from "socklet";
import { createConnection, socket } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { reservePort, reservePorts } from "../peers/ports.ts";
import { describeWith } from "../peers/program.ts";
import { env, manifest, packOnce, root, run } from "./packed.ts";
import { typed } from "./terminal.ts";

const RUNTIMES = ["node", "workerd", "both"] as const;
const PROTOCOLS = ["lines", "frames", "datagrams", "client"] as const;
type Runtime = (typeof RUNTIMES)[number];
type Protocol = (typeof PROTOCOLS)[number];

/** Every answer that there is. */
const projects = RUNTIMES.flatMap((runtime) =>
  PROTOCOLS.filter((protocol) => runtime === "node" || protocol !== "datagrams").map((protocol) => ({
    runtime,
    protocol,
  })),
);

let temporary: string;
let user: string; // where both packages are installed
let create: string; // what `npm create socklet` runs
let cli: string;

beforeAll(async () => {
  temporary = await realpath(await mkdtemp(join(tmpdir(), "socklet-create-")));
  const packed = await packOnce();
  user = join(temporary, "user");
  await mkdir(user);
  const dependencies = {
    socklet: `file:${packed.socklet.path}`,
    "create-socklet": `file:${packed.create.path}`,
  };
  await writeFile(join(user, "package.json"), JSON.stringify({ private: true, dependencies }));
  await run(user, "npm", "install", "--prefer-offline", "--no-audit", "--no-fund");
  create = join(user, "node_modules/create-socklet/create-socklet.js");
  cli = join(user, "node_modules/socklet", manifest.bin.socklet);
});

afterAll(() => rm(temporary, { recursive: true, force: true }));

const folderOf = (runtime: Runtime, protocol: Protocol): string =>
  join(temporary, `projects/${runtime}-${protocol}`);

/** Makes a project, with the packages that `npm install` would add. */
const made = async (runtime: Runtime, protocol: Protocol): Promise<string> => {
  const folder = folderOf(runtime, protocol);
  await rm(folder, { recursive: true, force: true });
  await run(temporary, process.execPath, create, folder, "--runtime", runtime, "--protocol", protocol);
  const modules = join(folder, "node_modules");
  await mkdir(join(modules, ".bin"), { recursive: true });
  const { dependencies, devDependencies } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  for (const name of Object.keys({ ...dependencies, ...devDependencies })) {
    await mkdir(join(modules, name, ".."), { recursive: true });
    await symlink(join(name === "socklet" ? user : root, "node_modules", name), join(modules, name));
  }
  for (const name of ["tsc", "vitest", "wrangler"]) {
    await symlink(join(root, "node_modules/.bin", name), join(modules, ".bin", name));
  }
  await symlink(cli, join(modules, ".bin/socklet"));
  return folder;
};

describe.each(projects)("$runtime, $protocol", ({ runtime, protocol }) => {
  let folder: string;
  beforeAll(async () => {
    folder = await made(runtime, protocol);
  });

  test("it has what its user asked for, and the versions that are tested here", async () => {
    const files = (await readdir(folder)).filter((name) => name !== "node_modules").sort();
    const always = [".gitignore", "README.md", "package.json", "src", "test", "tsconfig.json"];
    const ofWorker = [".dev.vars", "vitest.config.ts", "wrangler.toml"];
    expect(files).toEqual(
      {
        node: always,
        workerd: [...always, ...ofWorker].sort(),
        both: [...always, ...ofWorker, "tsconfig.worker.json"].sort(),
      }[runtime],
    );
    const { name, dependencies, devDependencies } = JSON.parse(
      readFileSync(join(folder, "package.json"), "utf8"),
    );
    expect(name).toBe(`${runtime}-${protocol}`);
    expect(dependencies).toEqual({ socklet: `^${manifest.version}` });
    for (const [one, range] of Object.entries(devDependencies)) {
      expect([one, range]).toEqual([one, manifest.devDependencies[one]]);
    }
    const everything = await readdir(folder, { recursive: true, withFileTypes: true });
    for (const entry of everything.filter(
      (one) => one.isFile() && !one.parentPath.includes("node_modules"),
    )) {
      expect(readFileSync(join(entry.parentPath, entry.name), "utf8")).not.toContain("socklet-app");
    }
    if (runtime !== "node") {
      const ofRoot = /^compatibility_date = .*$/m.exec(readFileSync(`${root}wrangler.toml`, "utf8"))?.[0];
      expect(readFileSync(join(folder, "wrangler.toml"), "utf8")).toContain(ofRoot);
      expect(readFileSync(join(folder, "test/worker/wrangler.toml"), "utf8")).toContain(ofRoot);
      expect(readFileSync(join(folder, ".dev.vars"), "utf8")).toMatch(/^SOCKLET_TOKENS=[\w-]{32}$/m);
    }
  });

  test("its types are right, and its tests pass", async () => {
    await run(folder, "npm", "run", "--silent", "check");
    const told = join(temporary, "report.json");
    const limits = ["--testTimeout=300000", "--hookTimeout=300000"]; // Vitest's own are 5 s and 10 s: of a machine that is idle
    await run(folder, "npm", "test", "--", "--reporter=json", `--outputFile=${told}`, ...limits);
    const report = JSON.parse(await readFile(told, "utf8"));
    expect(report.success).toBe(true);
    expect(report.numPassedTests).toBeGreaterThan(0);
    const named = (test: { name: string }): string => test.name.slice(folder.length + 1);
    const files: string[] = report.testResults.map(named).sort();
    const own = `test/${protocol === "client" ? "whois" : protocol}.test.ts`;
    const inWorker = ["test/worker/door.test.ts"];
    expect(files).toEqual(
      { node: [own], workerd: [own, ...inWorker], both: [own, own, ...inWorker] }[runtime],
    );
  });

  test("doctor finds nothing to fix", async () => {
    await onPort(folder, await reservePort());
    const found = JSON.parse(await run(folder, process.execPath, cli, "doctor", "--json", "src/app.ts"));
    const notes = found.filter(({ state }: { state: string }) => state !== "ok");
    const edge = runtime !== "node" && protocol !== "client" ? ["edge"] : []; // which does not open the port
    const none = runtime === "node" ? ["wrangler.toml"] : [];
    expect(
      notes.map(({ what, state }: { what: string; state: string }) => `${state} ${what}`).sort(),
    ).toEqual([...edge, "koffi", ...none].map((what) => `note ${what}`));
  });
});

/** Has a project listen on `port` in place of the one that all projects have. */
const onPort = async (folder: string, port: number): Promise<void> => {
  for (const name of ["src/app.ts", "wrangler.toml"].map((file) => join(folder, file)).filter(existsSync)) {
    await writeFile(name, readFileSync(name, "utf8").replaceAll("7007", String(port)));
  }
};

/** A script of a project that runs until its test is over, and its output. */
const started = (
  folder: string,
  ...args: string[]
): { child: ChildProcess; said(pattern: RegExp): Promise<RegExpExecArray> } => {
  const child = spawn("npm", ["run", ...args], {
    cwd: folder,
    env,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const closed = once(child, "close");
  onTestFinished(async () => {
    try {
      process.kill(-(child.pid as number), "SIGTERM"); // each ends its own, in its order
    } catch {} // it has ended
    await closed;
  });
  const errors = text(child.stderr);
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    child,
    async said(pattern) {
      for (;;) {
        const { done, value } = await lines.next();
        if (done) throw new Error(`it ended before it said ${pattern}: ${await errors}`);
        const found = pattern.exec(value);
        if (found !== null) return found;
      }
    },
  };
};

const asked = async (port: number, bytes: string): Promise<string> => {
  const client = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  client.end(bytes);
  return text(client);
};

describe("the first byte", () => {
  test("of node: npm run dev", async () => {
    const { said } = started(await made("node", "lines"), "dev", "--", "--any-port", "--no-control");
    const [, port] = await said(/^lines\s+tcp:\/\/127\.0\.0\.1:(\d+)$/);
    expect(await asked(Number(port), "hello\n")).toBe("HELLO\n");
  });

  test("of both, in Node and in workerd: npm run dev", async () => {
    const { said } = started(await made("both", "lines"), "dev", "--", "--any-port");
    const [, port] = await said(/^lines\s+tcp:\/\/127\.0\.0\.1:(\d+)$/);
    expect(await asked(Number(port), "hello\n")).toBe("HELLO\n");
    const [, inWorkerd] = await said(/^lines \(workerd\)\s+tcp:\/\/127\.0\.0\.1:(\d+)$/);
    expect(await asked(Number(inWorkerd), "hello\n")).toBe("HELLO\n");
  });

  test("of frames", async () => {
    const { said } = started(await made("node", "frames"), "start", "--", "--any-port", "--no-control");
    const [, port] = await said(/^frames\s+tcp:\/\/127\.0\.0\.1:(\d+)$/);
    expect(await asked(Number(port), "\0\0\0\u0005olleh")).toBe("\0\0\0\u0005hello");
  });

  test("of datagrams", async () => {
    const { said } = started(await made("node", "datagrams"), "dev", "--", "--any-port", "--no-control");
    const [, port] = await said(/^datagrams\s+udp:\/\/127\.0\.0\.1:(\d+)$/);
    const client = socket(AF_INET, SOCK_DGRAM);
    await client.sendto("hello", `127.0.0.1:${port}`);
    const [data] = await client.recvfrom(1_024);
    expect(new TextDecoder().decode(data)).toBe("HELLO");
    await client.close();
  });

  test("of a client: npx socklet dial, and npm run dev for its sessions", async () => {
    const folder = await made("node", "client");
    const { said } = started(folder, "dev", "--", "--any-port");
    const [, url] = await said(/^control\s+(http:\S+)$/);
    expect(await (await fetch(`${url}/health`)).json()).toMatchObject({ status: "ok" });
    const server = net.createServer((peer) => void peer.once("data", (asked) => peer.end(`about ${asked}`)));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => void server.close());
    const { port } = server.address() as net.AddressInfo;
    const dialled = ["socklet", "dial", `127.0.0.1:${port}`, "src/whois.ts#Whois", "example.com"];
    expect(JSON.parse(await run(folder, "npx", ...dialled))).toBe("about example.com\r\n");
    const unheard = run(folder, "npx", "socklet", "serve", "src/app.ts", "--no-control");
    await expect(unheard).rejects.toThrow("src/app.ts listens nowhere, and with --no-control");
  });

  test.each([
    ["workerd", "dev"],
    ["both", "dev:worker"],
  ] as const)("of %s, in workerd: npm run %s", async (runtime, script) => {
    const folder = await made(runtime, "lines");
    const [port = 0, control = 0, inspector = 0] = await reservePorts(3);
    await onPort(folder, port);
    const { said } = started(
      folder,
      script,
      "--",
      "--port",
      String(control),
      "--inspector-port",
      String(inspector),
    );
    await said(/Ready on /);
    const client = await createConnection({ hostname: "127.0.0.1", port });
    await client.sendall("hello\n");
    expect(await client.rfile.line()).toBe("HELLO");
    await client.close();
    const [, token] = /^SOCKLET_TOKENS=(.+)$/m.exec(readFileSync(join(folder, ".dev.vars"), "utf8")) ?? [];
    const url = `http://127.0.0.1:${control}`;
    const listed = await run(
      folder,
      "npx",
      "socklet",
      "sessions",
      "list",
      "--json",
      "--url",
      url,
      "--token",
      token as string,
    );
    expect(JSON.parse(listed)).toMatchObject({ sessions: [] });
  });
});

describe("where a project is made", () => {
  /** Runs `socklet init` without a terminal. */
  const init = async (
    cwd: string,
    ...args: string[]
  ): Promise<{ status: number | null; stderr: string; stdout: string }> => {
    const child = spawn(process.execPath, [cli, "init", ...args], {
      cwd,
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [stdout, stderr, [status]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, "close"),
    ]);
    return { status, stdout, stderr };
  };
  const empty = (): Promise<string> => mkdtemp(join(temporary, "empty-"));

  test("without a terminal it asks nothing, and takes what is usual", async () => {
    const folder = await empty();
    const { status, stdout } = await init(folder);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^my-socklet is made\. Next:\n\n {2}cd my-socklet\n {2}npm install\n/);
    expect(existsSync(join(folder, "my-socklet/src/lines.ts"))).toBe(true);
    expect(readdirSync(folder)).toEqual(["my-socklet"]);
  });

  test("in a folder that is there and empty, also with a .git, and it is named after it", async () => {
    const folder = join(await empty(), "42 My Mail! ");
    await mkdir(join(folder, ".git"), { recursive: true });
    const { status, stdout } = await init(folder, ".", "--yes");
    expect([status, stdout]).toEqual([
      0,
      expect.stringMatching(/^my-mail is made\. Next:\n\n {2}npm install\n/),
    ]);
    expect(JSON.parse(readFileSync(join(folder, "package.json"), "utf8")).name).toBe("my-mail");
    expect(readdirSync(folder).filter((name) => name.startsWith(".socklet"))).toEqual([]);
  });

  test("a name that one of its packages has gets another", async () => {
    const folder = await empty();
    await init(folder, "vitest", "--yes");
    expect(JSON.parse(readFileSync(join(folder, "vitest/package.json"), "utf8")).name).toBe("vitest-app");
  });

  test("a folder that is not empty is left as it is", async () => {
    const folder = await empty();
    for (const name of ["a", "b", "c", "d", "e"]) await writeFile(join(folder, name), name);
    expect(await init(folder, ".")).toEqual({
      status: 2,
      stdout: "",
      stderr: expect.stringMatching(
        /^socklet: \. is not empty: it has a, b, c and 2 more; name a folder that is empty, or not there yet\n$/,
      ),
    });
    expect(readdirSync(folder)).toEqual(["a", "b", "c", "d", "e"]);
    expect(await init(folder, "a")).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("a is a file"),
    });
  });

  test("where nothing can be made, nothing is left behind", async () => {
    const folder = await empty();
    await writeFile(join(folder, "file"), "");
    expect(await init(folder, "file/project")).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(
        /^socklet: file\/project could not be made: .*; name a folder that you may write to\n$/,
      ),
    });
    expect(readdirSync(folder)).toEqual(["file"]);
  });

  test("datagrams in a Worker are refused, and so is what there is not", async () => {
    const folder = await empty();
    const wrong = await init(folder, "x", "--runtime", "both", "--protocol", "datagrams");
    expect(wrong).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("a deployed Worker has no datagrams"),
    });
    expect(await init(folder, "x", "--runtime", "deno")).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("node, workerd, both"),
    });
    expect(readdirSync(folder)).toEqual([]);
  });
});

describeWith(["python3"], "at a terminal", () => {
  const asked = (cwd: string, answers: Parameters<typeof typed>[2], ...args: string[]): Promise<string> =>
    typed([process.execPath, cli, "init", ...args], { cwd, env }, answers);

  test("it asks three things, again where an answer does not do, and takes names and numbers", async () => {
    const folder = await mkdtemp(join(temporary, "terminal-"));
    await mkdir(join(folder, "full/of"), { recursive: true });
    const said = await asked(folder, [
      ["Folder of the project (my-socklet): ", "full\r"],
      ["full is not empty", ""],
      ["Folder of the project (my-socklet): ", "mine\r"],
      ["3  both", ""],
      ["1 to 3 (1): ", "4\r"],
      ["1 to 3 (1): ", "both\r"],
      ["1 to 3 (1): ", "2\r"],
    ]);
    expect(said).toContain("mine is made");
    expect(said).toContain("ended 0");
    expect(existsSync(join(folder, "mine/src/frames.ts"))).toBe(true);
    expect(existsSync(join(folder, "mine/src/worker.ts"))).toBe(true);
  });

  test("it asks only for what is not given, and offers a Worker no datagrams", async () => {
    const folder = await mkdtemp(join(temporary, "terminal-"));
    const said = await asked(folder, [["1 to 3 (1): ", "\r"]], "here", "--runtime", "workerd");
    expect(said).not.toContain("datagrams");
    expect(said).toContain("here is made");
  });

  test.each([
    ["Ctrl-C", "\u0003"],
    ["Ctrl-D", "\u0004"],
  ])("%s leaves nothing behind", async (_, key) => {
    const folder = await mkdtemp(join(temporary, "terminal-"));
    const said = await asked(folder, [
      ["(my-socklet): ", "mine\r"],
      ["1 to 3 (1): ", key],
    ]);
    expect(said).toContain("socklet: nothing was made");
    expect(said).toContain("ended 130");
    expect(readdirSync(folder)).toEqual([]);
  });
});

test("create-socklet is of this version, needs it exactly, and is its one file", async () => {
  const own = JSON.parse(await readFile(join(user, "node_modules/create-socklet/package.json"), "utf8"));
  expect(own).toMatchObject({
    version: manifest.version,
    dependencies: { socklet: manifest.version },
    engines: manifest.engines,
    license: manifest.license,
  });
  expect((await readdir(join(user, "node_modules/create-socklet"))).sort()).toEqual([
    "create-socklet.js",
    "package.json",
  ]);
});
