/** What runs the programs of `servers/`: where it is, which version, and the command line of a program. */

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const here = import.meta.dirname;
const root = join(here, "../..");
const servers = join(here, "servers");

/** What is made for a run: the load tool, bundles, results. */
export const out = join(here, ".out");

export type RuntimeName = "node" | "workerd" | "python" | "uvloop" | "bun" | "deno" | "go" | "redis";

export interface Runtime {
  readonly version: string;
  /** The command line that serves; `port` is for a program that cannot choose one itself. */
  command(args: readonly string[], port: number): Promise<readonly string[]>;
  /** Whether it takes `port`, and says nothing: it is looked for there. */
  readonly needsPort?: true;
}

/** Why a runtime is absent, where that is all there is to say. */
export const NOT_INSTALLED = "not installed";

/** Runs a program to its end; returns its stdout. */
export function say(command: string, ...args: string[]): string {
  try {
    return execFileSync(command, args, { encoding: "utf8", stdio: "pipe", timeout: 60_000 }).trim();
  } catch (error) {
    const { code, stderr, stdout } = error as NodeJS.ErrnoException & { stderr?: string; stdout?: string };
    const said = stderr || stdout || (error as Error).message;
    throw new Error(code === "ENOENT" ? `${command} is not installed` : said.trim());
  }
}

/** The C compiler makes the load tool, `.out/load`: with TLS where OpenSSL's headers are. Throws if there is no compiler. */
export function buildLoad(): void {
  mkdirSync(out, { recursive: true });
  const fresh = join(out, `load.${process.pid}`); // renamed, since a load that runs now cannot be overwritten
  const plain = ["-std=c11", "-O2", "-Wall", "-Wextra", "-o", fresh, join(here, "load.c")];
  try {
    say("cc", ...plain, "-DTLS", "-lssl", "-lcrypto");
  } catch {
    say("cc", ...plain); // it says itself what it lacks
  }
  renameSync(fresh, join(out, "load"));
}

/** dist/ as its users get it, which is what all programs run on; throws if it does not compile. */
export function buildPackage(): void {
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  say(process.execPath, tsc, "-b", ...["core", "emulator", "worker"].map((part) => join(root, part)));
  say(process.execPath, join(root, "build.ts"));
}

/** A program that `npm run test:runtimes` has installed, or else one that is on PATH. */
const installed = (name: string): string => {
  const path = join(root, "test/runtimes/programs/node_modules/.bin", name);
  return existsSync(path) ? path : name;
};

const python = (): string => say("python3", "-c", "import sys; print(sys.executable)"); // not the shim of a version manager

const finders: Readonly<Record<RuntimeName, () => Runtime>> = {
  node: () => ({
    version: process.versions.node,
    command: async ([file = "", ...args]) => [
      process.execPath,
      // A profile of each program: .out/*.cpuprofile
      ...(process.env.BENCH_PROFILE ? ["--cpu-prof", `--cpu-prof-dir=${out}`] : []),
      join(servers, file),
      ...args,
    ],
  }),

  workerd: () => {
    const workerd = createRequire(import.meta.url)("workerd").default as string;
    return {
      version: say(workerd, "--version").replace(/^workerd /, ""),
      async command([file = "", work = ""]) {
        const { build } = await import("esbuild");
        mkdirSync(out, { recursive: true });
        await build({
          entryPoints: [join(servers, file)],
          bundle: true,
          format: "esm",
          target: "esnext",
          external: ["cloudflare:*"],
          alias: { "socklet/worker": join(root, "worker/index.ts"), socklet: join(root, "core/index.ts") },
          outfile: join(out, file),
          logLevel: "error",
        });
        const config = join(out, `${file}.${work}.capnp`);
        writeFileSync(
          config,
          `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = (
      modules = [(name = "main.js", esModule = embed "${file}")],
      compatibilityDate = "2026-10-01",
      compatibilityFlags = ["no_nodejs_compat", "no_nodejs_compat_v2"],
      bindings = [(name = "WORK", text = "${work}")])),
    (name = "internet", network = (allow = ["local"])),
  ],
  sockets = [(name = "main", address = "127.0.0.1:0", tcp = (), service = "main")],
);
`,
        );
        return [workerd, "serve", "--control-fd=1", config];
      },
    };
  },

  python: () => {
    const path = python();
    return {
      version: say(path, "--version").replace(/^Python /, ""),
      command: async (args) => [path, join(servers, "python.py"), ...args],
    };
  },

  uvloop: () => {
    const versionOf = (path: string) => say(path, "-c", "import uvloop; print(uvloop.__version__)");
    let path = python();
    let version: string;
    try {
      version = versionOf(path);
    } catch {
      path = "/usr/bin/python3"; // the system's packages are here, whatever comes first on PATH
      version = versionOf(path);
    }
    return { version, command: async (args) => [path, join(servers, "python.py"), ...args] };
  },

  bun: () => {
    const path = installed("bun");
    return {
      version: say(path, "--version"),
      command: async ([file = "", ...args]) => [path, join(servers, file), ...args],
    };
  },

  deno: () => {
    const path = installed("deno");
    return {
      version: say(path, "--version").replace(/^deno (\S+)[\s\S]*$/, "$1"),
      command: async ([file = "", ...args]) => [
        path,
        ...["run", "-A", "--unstable-net", "--node-modules-dir=manual", "--no-lock"],
        join(servers, file),
        ...args,
      ],
    };
  },

  go: () => {
    const version = say("go", "version").replace(/^go version go(\S+).*$/, "$1");
    mkdirSync(out, { recursive: true });
    say("go", "build", "-o", join(out, "peer"), join(servers, "peer.go"));
    return { version, command: async (args) => [join(out, "peer"), ...args] };
  },

  redis: () => ({
    version: say("redis-server", "--version").replace(/^.*v=(\S+).*$/, "$1"),
    needsPort: true,
    command: async (_, port) => [
      "redis-server",
      ...["--bind", "127.0.0.1", "--port", String(port), "--save", "", "--appendonly", "no"],
      ...["--loglevel", "warning", "--dir", out],
    ],
  }),
};

const found = new Map<RuntimeName, Runtime | string>();

/** The runtime, or why it is not here. */
export function runtime(name: RuntimeName): Runtime | string {
  let result = found.get(name);
  if (result === undefined) {
    try {
      result = finders[name]();
    } catch (error) {
      const [line = ""] = (error as Error).message.split("\n").slice(-1);
      result = /is not installed|No module named/.test(line) ? NOT_INSTALLED : (error as Error).message;
    }
    found.set(name, result);
  }
  return result;
}
