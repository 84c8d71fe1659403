/** `socklet doctor`: what of this machine and of a project does not fit, and what to do about it. */

import net from "node:net";
import { dirname, resolve } from "node:path";
import { describe as thrownAs } from "../../core/describe.ts";
import { formatAddress } from "../../core/net/address.ts";
import type { App, Listener } from "../../core/serve/app.ts";
import { fs, join, lazy, once } from "../builtin.ts";
import { fileOf, loadApp } from "./modules.ts";
import { columns, print, printJson, UsageError } from "./output.ts";

/** One thing that was looked at. */
export interface Finding {
  readonly what: string;
  /** `mend`: it does not work as it is. `note`: something that is not there, and need not be. */
  readonly state: "ok" | "note" | "mend";
  readonly says: string;
  /** What to do; `null` where nothing needs to be done. */
  readonly remedy: string | null;
}

const ok = (what: string, says: string): Finding => ({ what, state: "ok", says, remedy: null });
const note = (what: string, says: string, remedy: string): Finding => ({ what, state: "note", says, remedy });
const mend = (what: string, says: string, remedy: string): Finding => ({ what, state: "mend", says, remedy });

/** The version of a package as the project would import it; `null` where it has none. */
const versionOf = (name: string, folder: string): string | null => {
  for (let at = resolve(folder); ; at = dirname(at)) {
    try {
      return JSON.parse(fs.readFileSync(join(at, "node_modules", name, "package.json"), "utf8")).version;
    } catch {}
    if (dirname(at) === at) return null;
  }
};

const koffi = (folder: string): Finding => {
  const version = versionOf("koffi", folder);
  const needs = "socket options, urgent data and Unix datagrams of socket() need it";
  if (version === null) return note("koffi", `is not installed; ${needs}`, "npm install koffi");
  if (/^3\./.test(version)) return ok("koffi", version);
  return mend("koffi", `is ${version}; this needs 3.3.4 or newer, below 4`, "npm install koffi@3");
};

/** What the project's wrangler.toml says, against the app. */
const wranglerFindings = (folder: string, app: App | null): Finding[] => {
  const path = join(folder, "wrangler.toml");
  if (!fs.existsSync(path))
    return [note("wrangler.toml", "there is none; only a Worker needs it", "see docs/deploying.md")];
  const version = versionOf("wrangler", folder);
  const found: Finding[] = [
    version === null
      ? mend("wrangler", "is not installed", "npm install --save-dev wrangler")
      : ok("wrangler", version),
  ];
  const text = fs.readFileSync(path, "utf8").replace(/^\s*#.*$/gm, "");
  const main = /^main\s*=\s*["'](.+?)["']/m.exec(text)?.[1];
  if (main === undefined) {
    found.push(
      mend("wrangler.toml", "has no main", 'name the module that exports the Worker: main = "worker.ts"'),
    );
  } else if (!fs.existsSync(join(folder, main))) {
    found.push(mend("wrangler.toml", `has main = "${main}", and there is no such file`, "correct the path"));
  }
  if (!/^compatibility_date\s*=/m.test(text)) {
    const today = new Date().toISOString().slice(0, 10);
    found.push(mend("wrangler.toml", "has no compatibility_date", `compatibility_date = "${today}"`));
  }
  const ports = new Set([...text.matchAll(/^port\s*=\s*(\d+)/gm)].map(([, port]) => Number(port)));
  for (const { name, endpoint } of app?.listeners ?? []) {
    if (endpoint.scheme !== "tcp" || ports.has(endpoint.port)) continue;
    const remedy = `[[connect]] protocol = "tcp" port = ${endpoint.port}`;
    found.push(
      note(
        "wrangler.toml",
        `does not open port ${endpoint.port} of the listener "${name}" in wrangler dev`,
        remedy,
      ),
    );
  }
  return found.length > 1 ? found : [...found, ok("wrangler.toml", "main, compatibility_date and ports")];
};

/** Whether a listener's address is free. */
const listenerFinding = async ({ name, endpoint }: Listener): Promise<Finding> => {
  const at = formatAddress(endpoint);
  const what = `listener ${name}`;
  try {
    if (endpoint.scheme === "udp") {
      const { hostname: address, port } = endpoint;
      const socket = lazy.dgram.createSocket(address.includes(":") ? "udp6" : "udp4");
      socket.bind({ port, address, exclusive: true });
      await once(socket, "listening");
      socket.close();
    } else if (endpoint.scheme === "unix") {
      fs.accessSync(dirname(resolve(endpoint.path)), fs.constants.W_OK);
    } else {
      const server = net.createServer();
      server.listen({ port: endpoint.port, host: endpoint.hostname || "::", exclusive: true });
      await once(server, "listening");
      server.close();
    }
    return ok(what, `${at} is free`);
  } catch (error) {
    const { code = "", message } = thrownAs(error);
    const remedies: Readonly<Record<string, string>> = {
      EADDRINUSE: "end what listens there, or serve with --any-port",
      EACCES:
        "take a port from 1024 on, a folder that you may write to, or see docs/servers.md for systemd's sockets",
      EADDRNOTAVAIL: "give an address of this machine, such as 127.0.0.1",
      ENOENT: "make the folder of the path",
    };
    return mend(what, `${at}: ${code || message}`, remedies[code] ?? "check the address");
  }
};

const dataFinding = (folder: string): Finding => {
  const data = join(folder, ".socklet");
  try {
    fs.accessSync(fs.existsSync(data) ? data : folder, fs.constants.W_OK);
    return ok("data", `${data} can be written`);
  } catch {
    return mend("data", `${data} cannot be written`, "serve with --data, and a folder that you may write to");
  }
};

const findings = async (path: string | undefined): Promise<Finding[]> => {
  const folder = path === undefined ? process.cwd() : dirname(fileOf(path));
  const project = [process.cwd(), folder].find((one) => fs.existsSync(join(one, "wrangler.toml"))) ?? folder;
  const found = [ok("node", process.version), koffi(folder), dataFinding(process.cwd())];
  let app: App | null = null;
  if (path !== undefined) {
    try {
      app = await loadApp(path);
      found.push(ok("app", `${path} has ${app.listeners.length} listeners`));
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      found.push(mend("app", error.message, "correct that, and ask again"));
    }
  }
  found.push(...wranglerFindings(project, app));
  for (const listener of app?.listeners ?? []) found.push(await listenerFinding(listener));
  return found;
};

export const doctor = async (path: string | undefined, { json }: { json?: boolean }): Promise<void> => {
  const found = await findings(path);
  if (found.some(({ state }) => state === "mend")) process.exitCode = 1;
  if (json) return printJson(found);
  await print(
    columns(
      found.map(({ what, state, says, remedy }) => [
        state,
        what,
        remedy === null ? says : `${says}: ${remedy}`,
      ]),
    ),
  );
};
