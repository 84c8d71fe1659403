/**
 * `npm run dev`: the examples in workerd, by `wrangler dev`.
 *
 * What wrangler does not do itself: it makes a token for the control routes where nobody has, prints what listens, and
 * leaves no process behind. npm ends its script's shell alone, and who is killed can end nobody: so wrangler and what it
 * starts have a process group of their own, which ends with this process, however that ends.
 *
 *     npm run dev -- [--app APP.ts] [any option of `wrangler dev`]
 */

import { spawn } from "node:child_process";
import { dirname } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { isApp } from "./core/app/app.ts";
import { formatAddress } from "./core/net/address.ts";
import { controlEntry, type Entry, filled, listing } from "./emulator/app/listeners/listing.ts";
import { devTokens } from "./emulator/command/project/tokens.ts";
import { hangUp, onStop } from "./emulator/command/terminal/signals.ts";

const GRACE = 5_000; // ms that wrangler has to end what it started, before its group is killed
const LOOK = 50; // ms between two looks whether the group is gone
const PARENT = 500; // ms between two looks whether npm is there still

const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

const { values, tokens: words } = parseArgs({
  options: {
    app: { type: "string", default: file("examples/app.ts") },
    config: { type: "string", short: "c", default: file("wrangler.toml") },
  },
  strict: false, // what else there is is wrangler's
  tokens: true,
});
const [appPath, config] = [String(values.app), String(values.config)];
const ours = words.flatMap((word) => {
  if (word.kind !== "option" || word.name !== "app") return [];
  return word.inlineValue ? [word.index] : [word.index, word.index + 1];
});
const wranglerArgs = process.argv.slice(2).filter((_, i) => !ours.includes(i));

// ---- The token of the control routes ----

const found = devTokens(dirname(config));
const token = found.isNew ? found.tokens : null;
if (found.isNew) console.log(`dev: ${found.path} was created, with a token for the control routes`);
else if (found.tokens === null) {
  console.log(`dev: the control routes are shut: ${found.path} has no SOCKLET_TOKENS`);
}

// ---- wrangler, and what it starts ----

const { app } = await import(pathToFileURL(appPath).href);
if (!isApp(app)) throw new Error(`${appPath} exports no \`app\` that came from defineApp()`);

const inGroup = process.platform !== "win32"; // which has none
const wrangler = spawn(
  process.execPath,
  [file("node_modules/wrangler/bin/wrangler.js"), "dev", ...wranglerArgs],
  {
    detached: inGroup,
    stdio: ["ignore", "pipe", "inherit"],
    env: { WRANGLER_SEND_METRICS: "false", WRANGLER_HIDE_BANNER: "true", ...process.env },
  },
);
const group = wrangler.pid;
const ended = new Promise<number | null>((resolve, reject) => {
  wrangler.once("error", reject).once("exit", resolve);
});

/** Sends a signal to all of them; false where none is left. */
const signalAll = (signal: NodeJS.Signals | 0): boolean => {
  if (group === undefined || !inGroup) return false;
  try {
    return process.kill(-group, signal);
  } catch {
    return false;
  }
};

// Outlives this process, and only by what it has to do: whoever is killed can end nobody.
const sentinel = inGroup
  ? spawn("sh", ["-c", 'read -r _; kill -TERM "-$0"; sleep 2; kill -KILL "-$0"', String(group)], {
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
    })
  : null;
sentinel?.unref();

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Ends when none of the group is left. */
const endAll = async (): Promise<void> => {
  wrangler.kill("SIGTERM"); // wrangler's to end its own, in its order
  await Promise.race([ended, pause(GRACE)]);
  for (let tries = 0; signalAll(0) && tries * LOOK < GRACE; tries++) {
    signalAll("SIGKILL");
    await pause(LOOK);
  }
  sentinel?.kill("SIGKILL");
};

let stopped = false;
const stop = (): void => {
  if (stopped) return;
  stopped = true;
  void endAll().then(() => process.exit(0));
};
onStop({ stop, again: () => signalAll("SIGKILL") });
process.stdout.on("error", stop); // nobody is there any more
process.stderr.on("error", stop);
if (process.env.npm_lifecycle_event !== undefined && hangUp() !== "ignore") {
  const npm = process.ppid; // under nohup it dies of a SIGHUP, and this does not
  setInterval(() => process.ppid !== npm && stop(), PARENT).unref();
}

// ---- What it says, and what listens ----

const listeners = app.listeners.flatMap(({ name, endpoint, try: use }): Entry[] => {
  if (endpoint.scheme !== "tcp") return []; // workerd brings a Worker TCP alone, unless it has the flag `experimental`
  return [[name, formatAddress(endpoint), filled(use, { host: endpoint.hostname, port: endpoint.port })]];
});

let listed = false;
for await (const line of createInterface(wrangler.stdout as NodeJS.ReadableStream)) {
  console.log(line);
  const url = /Ready on (https?:\/\/\S+?)\/?$/.exec(line)?.[1];
  if (url === undefined || listed) continue;
  listed = true;
  console.log(listing([...listeners, controlEntry(url, token, ".dev.vars")]));
}
const code = await ended;
if (!stopped) {
  await endAll();
  process.exit(code ?? 1);
}
