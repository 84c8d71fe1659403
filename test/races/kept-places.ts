/** Where the lasting sessions are tested: `socklet serve`, and a Worker in real workerd. Both can be killed. */

import type { ChildProcess } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";
import { type ControlClient, controlClient } from "socklet/control";
import type { KeptPorts } from "../conformance/kept-app.ts";
import { workerScript } from "../emulator/worker-script.ts";
import { temporaryFolder } from "../peers/children.ts";
import { type Program, start } from "../peers/program.ts";

const TOKEN = "abcdefghijklmnop0123";
const root = fileURLToPath(new URL("../..", import.meta.url));

/** A place whose sessions outlive it. */
export interface KeptPlace extends AsyncDisposable {
  readonly name: string;
  /** Of the process that runs now. */
  client(): ControlClient;
  /** What can be done to it, by name; each resolves when it serves again. */
  readonly faults: Readonly<Record<string, (id: string) => Promise<void>>>;
  /** Evicts the session's object, as soon as nobody follows it and its connection is closed; there is none in a process. */
  evict?(id: string): Promise<void>;
}

/** `socklet serve --data`, in a process of its own. */
export const servedPlace = async (ports: KeptPorts): Promise<KeptPlace> => {
  const folder = temporaryFolder("kept");
  const begin = async () => {
    const settings = [`KEPT_PORTS=${JSON.stringify(ports)}`, `SOCKLET_TOKENS=${TOKEN}`];
    const command = [process.execPath, "--conditions=socklet:source", join(root, "emulator/command/cli.ts")];
    const args = [
      "serve",
      join(root, "test/races/kept-node.ts"),
      "--data",
      folder.path,
      "--control-port",
      "0",
    ];
    const program = start("env", [...settings, ...command, ...args]);
    const line = await program.line(/http:\/\/127\.0\.0\.1:\d+/);
    const [url = ""] = /http:\/\/127\.0\.0\.1:\d+/.exec(line) ?? [];
    return { program, client: controlClient(url, { token: TOKEN, retryDelay: 50 }) };
  };
  let now: { program: Program; client: ControlClient } = await begin();
  const again = (signal: NodeJS.Signals) => async (): Promise<void> => {
    now.program.kill(signal);
    await now.program.ended;
    now = await begin();
  };
  return {
    name: "socklet serve",
    client: () => now.client,
    faults: { "SIGKILL of the process": again("SIGKILL"), "SIGTERM of the process": again("SIGTERM") },
    async [Symbol.asyncDispose]() {
      await now.program[Symbol.asyncDispose]();
      folder.remove();
    },
  };
};

/** A Worker in workerd, with its objects on disk. */
export const workerPlace = async (ports: KeptPorts): Promise<KeptPlace> => {
  const script = await workerScript("test/worker/kept-main.ts");
  const folder = temporaryFolder("kept");
  const options = {
    ...convertV4MiniflareOptions({
      name: "under-test",
      modules: true,
      script,
      compatibilityDate: "2026-10-01",
      compatibilityFlags: ["no_nodejs_compat", "no_nodejs_compat_v2", "unsafe_module"],
      durableObjects: {
        SOCKLET_SESSIONS: { className: "SockletSession", useSQLite: true },
        SOCKLET_REGISTRY: { className: "SockletRegistry", useSQLite: true },
      },
      bindings: { SOCKLET_TOKENS: TOKEN, PORTS: { ...ports } },
    }),
    log: new Log(LogLevel.NONE),
    handleStructuredLogs: () => {},
    resourcePersistencePath: folder.path,
  } as ConstructorParameters<typeof Miniflare>[0];
  const begin = async () => {
    let process: ChildProcess | undefined;
    const started = (message: unknown): void => {
      process = (message as { process: ChildProcess }).process;
    };
    subscribe("child_process", started); // Miniflare does not tell it
    const miniflare = new Miniflare(options);
    const { origin } = await miniflare.ready;
    unsubscribe("child_process", started);
    const client = controlClient(origin, { token: TOKEN, retryDelay: 50 });
    return { miniflare, origin, client, process: process as ChildProcess | undefined };
  };
  let now = await begin();
  return {
    name: "workerd",
    client: () => now.client,
    faults: {
      "SIGKILL of workerd": async () => {
        now.process?.kill("SIGKILL");
        await now.miniflare.dispose(); // which would start it again, on a port that somebody else may have by then
        now = await begin();
      },
      "ctx.abort() of the object": async (id) => void (await fetch(`${now.origin}/lose/${id}`)),
    },
    // Not by Miniflare's own function, which blocks this process until it is done, and with it all that is to be published and
    // reaped here.
    async evict(id) {
      // Where the session was dialled again first, workerd gives up after 30 s, and the object stays.
      const response = await fetch(`${now.origin}/evict/${id}`);
      await response.text();
    },
    async [Symbol.asyncDispose]() {
      await now.miniflare.dispose();
      folder.remove();
    },
  };
};
