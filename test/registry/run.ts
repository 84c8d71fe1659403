/**
 * Tries `npm create socklet` as a new user would, for every answer: both packages are published to a registry of this
 * machine's own (verdaccio, which passes all other packages on from the registry that npm is set to), and from there
 * npm makes a project in an empty folder, with an empty cache, installs it, runs its tests, and serves it until a client
 * has its first byte. It prints what a user sees, and how long each step took.
 *
 *     npm run test:create [-- WORD…]     only the projects whose names have one of these words, such as node or lines
 */

import { type ChildProcess, spawn } from "node:child_process";
import dgram from "node:dgram";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { env, packOnce, run } from "../emulator/packed.ts";
import { sharePacked } from "../packed-folder.ts";
import { exitOnSignals, temporaryFolder } from "../peers/children.ts";
import { reservePorts } from "../peers/ports.ts";

const words = process.argv.slice(2);
const projects = ["node", "workerd", "both"]
  .flatMap((runtime) => ["lines", "frames", "datagrams", "client"].map((protocol) => ({ runtime, protocol })))
  .filter(({ runtime, protocol }) => runtime === "node" || protocol !== "datagrams")
  .filter(
    ({ runtime, protocol }) =>
      words.length === 0 || words.some((word) => `${runtime}-${protocol}`.includes(word)),
  );

const { path: temporary, remove } = temporaryFolder("registry");
const running: ChildProcess[] = [];
exitOnSignals();
process.on("exit", () => {
  for (const { pid, exitCode, signalCode } of running)
    if (pid !== undefined && exitCode === null && signalCode === null) process.kill(-pid, "SIGKILL");
});

/** Starts a program in a process group of its own, which ends with this program at the latest. */
const start = (cwd: string, more: NodeJS.ProcessEnv, file: string, ...args: string[]): ChildProcess => {
  const child = spawn(file, args, {
    cwd,
    env: { ...env, ...more },
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.push(child);
  return child;
};

const end = async (child: ChildProcess): Promise<void> => {
  running.splice(running.indexOf(child), 1);
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, "close");
  process.kill(-(child.pid as number), "SIGTERM");
  await closed;
};

/** The first line of its output that matches. Throws if it ends before. */
const lineOf = async (child: ChildProcess, pattern: RegExp): Promise<string> => {
  const lines: string[] = [];
  for await (const line of createInterface(child.stdout!)) {
    lines.push(line);
    if (pattern.test(line)) {
      child.stdout!.resume(); // what it says later is for nobody
      return line;
    }
  }
  throw new Error(`it ended before it said ${pattern}:\n${lines.join("\n")}`);
};

/** A registry that has what was packed. Gives what makes npm use it. */
const registry = async (): Promise<NodeJS.ProcessEnv> => {
  sharePacked();
  const packed = await packOnce();
  const upstream = (await run(temporary, "npm", "config", "get", "registry")).trim();
  const [port = 0] = await reservePorts(1);
  const config = join(temporary, "verdaccio.yaml");
  writeFileSync(
    config,
    JSON.stringify({
      storage: join(temporary, "storage"),
      auth: { htpasswd: { file: join(temporary, "htpasswd") } },
      uplinks: { upstream: { url: upstream, timeout: "60s", maxage: "1h" } },
      packages: {
        socklet: { access: "$all", publish: "$all" },
        "create-socklet": { access: "$all", publish: "$all" },
        "**": { access: "$all", proxy: "upstream" },
      },
      max_body_size: "50mb",
      log: { type: "stdout", format: "pretty", level: "warn" },
    }),
  ); // JSON is YAML
  const program = join(import.meta.dirname, "node_modules/verdaccio/bin/verdaccio");
  const server = start(
    temporary,
    {},
    process.execPath,
    program,
    "--config",
    config,
    "--listen",
    `127.0.0.1:${port}`,
  );
  await lineOf(server, /http address/);
  server.stderr!.resume();
  const userconfig = join(temporary, "npmrc");
  writeFileSync(userconfig, `//127.0.0.1:${port}/:_authToken=anybody\n`);
  const npm = { npm_config_registry: `http://127.0.0.1:${port}/`, npm_config_userconfig: userconfig };
  for (const { path } of [packed.socklet, packed.create]) {
    const published = start(temporary, npm, "npm", "publish", "--tag", "latest", path);
    const [errors] = await Promise.all([text(published.stderr!), once(published, "close")]);
    if (published.exitCode !== 0) throw new Error(errors);
    running.splice(running.indexOf(published), 1);
  }
  return npm;
};

/** What a client gets from `port` for what it sends. */
const asked = async (port: number, bytes: string): Promise<string> => {
  const client = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  client.end(bytes);
  return text(client);
};

const askedByDatagram = async (port: number, bytes: string): Promise<string> => {
  const client = dgram.createSocket("udp4");
  client.send(bytes, port, "127.0.0.1");
  const [message] = await once(client, "message");
  client.close();
  return String(message);
};

const same = (what: string, found: string, expected: string): void => {
  if (found !== expected)
    throw new Error(`${what}: ${JSON.stringify(found)} in place of ${JSON.stringify(expected)}`);
};

interface Step {
  readonly command: string;
  /** ms */
  readonly time: number;
  readonly said: string;
}

const tried = async (npm: NodeJS.ProcessEnv, runtime: string, protocol: string): Promise<Step[]> => {
  const name = `${runtime}-${protocol}`;
  const parent = join(temporary, name);
  mkdirSync(parent);
  const own = { ...npm, npm_config_cache: join(parent, "cache"), npm_config_update_notifier: "false" };
  const folder = join(parent, name);
  const steps: Step[] = [];
  /** Runs a command to its end, and keeps what it said. */
  const step = async (cwd: string, file: string, ...args: string[]): Promise<void> => {
    const began = performance.now();
    const child = start(cwd, own, file, ...args);
    const [said, errors] = await Promise.all([
      text(child.stdout!),
      text(child.stderr!),
      once(child, "close"),
    ]);
    running.splice(running.indexOf(child), 1);
    const command = [file, ...args].join(" ");
    if (child.exitCode !== 0) throw new Error(`${command} ended with ${child.exitCode}:\n${said}\n${errors}`);
    steps.push({ command, time: performance.now() - began, said: said.trim() });
  };
  /** Starts a script of the project, and talks to it when it says that it is ready. */
  const served = async (script: string[], ready: RegExp, talk: () => Promise<void>): Promise<void> => {
    const began = performance.now();
    const child = start(folder, own, "npm", "run", ...script);
    child.stderr!.resume();
    const said = await lineOf(child, ready);
    await talk();
    steps.push({ command: `npm run ${script.join(" ")}`, time: performance.now() - began, said });
    await end(child);
  };

  await step(
    parent,
    "npm",
    "create",
    "--yes",
    "socklet",
    name,
    "--",
    "--runtime",
    runtime,
    "--protocol",
    protocol,
  );
  await step(folder, "npm", "install", "--no-audit", "--no-fund");

  // This machine may use the ports that every project has for something else.
  const [port = 0, control = 0, inspector = 0] = await reservePorts(3);
  for (const file of ["src/app.ts", "wrangler.toml"].map((one) => join(folder, one)).filter(existsSync)) {
    writeFileSync(file, readFileSync(file, "utf8").replaceAll("7007", String(port)));
  }
  const talk = async (): Promise<void> => {
    if (protocol === "lines") same("its answer", await asked(port, "hello\n"), "HELLO\n");
    if (protocol === "frames")
      same("its answer", await asked(port, "\0\0\0\u0005olleh"), "\0\0\0\u0005hello");
    if (protocol === "datagrams") same("its answer", await askedByDatagram(port, "hello"), "HELLO");
  };
  const inNode: [string[], RegExp] = [
    ["dev", "--", "--control-port", String(control)],
    runtime === "both" ? /^control \(workerd\) / : /^control /, // of both, workerd's comes later
  ];
  const inWorkerd: [string[], RegExp] = [
    [
      runtime === "both" ? "dev:worker" : "dev",
      "--",
      "--port",
      String(control),
      "--inspector-port",
      String(inspector),
    ],
    /Ready on /,
  ];
  if (runtime !== "workerd") await served(...inNode, talk);
  if (runtime !== "node") await served(...inWorkerd, talk);
  if (protocol === "client") {
    const whois = net.createServer((peer) => void peer.once("data", (name) => peer.end(`about ${name}`)));
    whois.listen(0, "127.0.0.1");
    await once(whois, "listening");
    const address = `127.0.0.1:${(whois.address() as net.AddressInfo).port}`;
    await step(folder, "npx", "socklet", "dial", address, "src/whois.ts#Whois", "example.com");
    same("its answer", steps.at(-1)?.said ?? "", '"about example.com\\r\\n"');
    whois.close();
  }
  await step(folder, "npm", "test");
  return steps;
};

try {
  const npm = await registry();
  for (const { runtime, protocol } of projects) {
    const steps = await tried(npm, runtime, protocol);
    console.log(`\n== ${runtime}, ${protocol}`);
    for (const { command, time, said } of steps) {
      console.log(`\n$ ${command}    # ${(time / 1_000).toFixed(1)} s\n${said}`);
    }
    const whole = steps.reduce((sum, { time }) => sum + time, 0);
    console.log(`\n== ${runtime}, ${protocol}: ${(whole / 1_000).toFixed(1)} s in all`);
  }
} finally {
  for (const child of [...running]) await end(child);
  remove();
}
process.exit(); // what keeps ports reserved does not keep this program
