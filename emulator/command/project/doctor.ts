/** `socklet doctor`: checks this machine and a project for problems, and says how to fix them. */

import net from "node:net";
import type { App, Listener } from "../../../core/app/app.ts";
import { describe as thrownAs } from "../../../core/describe.ts";
import { isPublic, parseAllowRule } from "../../../core/net/access.ts";
import { formatAddress, type Network } from "../../../core/net/address.ts";
import { type EdgeRuleName, edgeRulesOf, edgeText } from "../../../core/net/edge.ts";
import { edgeListeners } from "../../app/edge.ts";
import { dirname, fs, join, lazy, once, relative, resolve } from "../../builtin.ts";
import { columns, oneLine, print, printJson, UsageError } from "../terminal/output.ts";
import { fileOf, loadApp } from "../user-code/modules.ts";
import { isSince, LEAST_KOFFI, LEAST_NODE } from "./manifest.ts";
import { type FoundConfig, readWranglerConfig, wranglerConfigIn } from "./wrangler.ts";

/** The result of one check. */
interface Finding {
  readonly what: string;
  /** `fix`: it does not work as it is. `note`: something optional is missing, or worth knowing. */
  readonly state: "ok" | "note" | "fix";
  readonly says: string;
  /** What to do; `null` if nothing needs to be done. */
  readonly remedy: string | null;
}

const ok = (what: string, says: string): Finding => ({ what, state: "ok", says, remedy: null });
const note = (what: string, says: string, remedy: string): Finding => ({ what, state: "note", says, remedy });
const fix = (what: string, says: string, remedy: string): Finding => ({ what, state: "fix", says, remedy });

/** The version of a package that the project would import; `null` if it has none. */
const versionOf = (name: string, folder: string): string | null => {
  for (let at = resolve(folder); ; at = dirname(at)) {
    try {
      return JSON.parse(fs.readFileSync(join(at, "node_modules", name, "package.json"), "utf8")).version;
    } catch {}
    if (dirname(at) === at) return null;
  }
};

/** What the checks examine. */
interface Project {
  /** Where the command was started, and the app's data is kept. */
  readonly cwd: string;
  /** The app's folder, or `cwd` if no app was named. */
  readonly folder: string;
  /** `null` if none was named, or it does not load. */
  readonly app: App | null;
  /** `null` if there is none, or it cannot be read. */
  readonly wrangler: FoundConfig | null;
}

const nodeFinding = (): Finding => {
  const { node } = process.versions;
  if (isSince(node, LEAST_NODE)) return ok("node", `v${node}`);
  return fix(
    "node",
    `is v${node}; Socklet needs ${LEAST_NODE} or newer, which runs TypeScript directly`,
    "install the current Node, or for npx and npm run: npm install --save-dev node",
  );
};

/** Whether the project's package.json makes Node read an app as CommonJS, as the one of `npm init -y` does. An app that loads is right as it is. */
const typeFinding = ({ folder, app }: Project): Finding[] => {
  if (app !== null) return [];
  for (let at = resolve(folder); ; at = dirname(at)) {
    try {
      const { type } = JSON.parse(fs.readFileSync(join(at, "package.json"), "utf8"));
      if (type !== "commonjs") return [];
      const says = 'has "type": "commonjs", with which Node refuses import in .ts and .js files';
      return [note("package.json", says, "npm pkg set type=module")];
    } catch {} // the next one up
    if (dirname(at) === at) return [];
  }
};

const koffiFinding = ({ folder }: Project): Finding => {
  const version = versionOf("koffi", folder);
  const needs = "socket options, urgent data and Unix datagrams of socket() need it";
  if (version === null) return note("koffi", `is not installed; ${needs}`, "npm install koffi");
  if (!isSince(version, LEAST_KOFFI) || isSince(version, "4"))
    return fix(
      "koffi",
      `is ${version}; Socklet needs ${LEAST_KOFFI} or newer, below 4`,
      "npm install koffi@3",
    );
  try {
    lazy.module
      .createRequire(join(resolve(folder), "package.json"))("koffi")
      .load(null);
    return ok("koffi", version);
  } catch (error) {
    // Installed on another system and copied here, or without its optional dependencies.
    const says = `${version} does not load: ${oneLine(thrownAs(error).message)}`;
    return fix(
      "koffi",
      says,
      "remove node_modules and run npm install on this machine, without --omit=optional",
    );
  }
};

/** Finds the project's wrangler, and reads its configuration. */
const configFindings = async (
  folder: string,
): Promise<{ wrangler: FoundConfig | null; found: Finding[] }> => {
  const path = wranglerConfigIn(folder);
  if (path === null) {
    const found = note("wrangler.toml", "does not exist; only a Worker needs it", "see docs/deploying.md");
    return { wrangler: null, found: [found] };
  }
  const version = versionOf("wrangler", folder);
  if (version === null) {
    const says = `is not installed; ${relative(process.cwd(), path)} was not read`;
    return { wrangler: null, found: [fix("wrangler", says, "npm install --save-dev wrangler")] };
  }
  try {
    const wrangler = await readWranglerConfig(path);
    const faults = wrangler.faults.map((fault) =>
      fix(wrangler.name, fault, "correct it, and run doctor again"),
    );
    return { wrangler, found: [ok("wrangler", version), ...faults] };
  } catch (error) {
    const says = `${version} does not load: ${oneLine(thrownAs(error).message)}`;
    return { wrangler: null, found: [fix("wrangler", says, "npm install --save-dev wrangler")] };
  }
};

/** Checks the Worker's configuration against the app. */
const workerFindings = ({ app, wrangler }: Project): Finding[] => {
  const { config, name: what, path } = wrangler ?? {};
  if (!config || what === undefined || path === undefined) return [];
  const isToml = what.endsWith(".toml");
  /** A field as the file has it. */
  const field = (name: string, value: string): string =>
    isToml ? `${name} = "${value}"` : `"${name}": "${value}"`;
  const found: Finding[] = [];
  const { main, compatibility_date: date, connect = [], durable_objects: objects } = config;
  if (main === undefined) {
    const remedy = `name the module that exports the Worker: ${field("main", "src/worker.ts")}`;
    found.push(fix(what, "has no main", remedy));
  } else if (!fs.existsSync(main)) {
    const says = `has ${field("main", relative(dirname(path), main))}, but there is no such file`;
    found.push(fix(what, says, "correct the path"));
  }
  if (date === undefined) {
    const today = new Date().toISOString().slice(0, 10);
    found.push(fix(what, "has no compatibility_date", field("compatibility_date", today)));
  }
  const ports = new Set(connect.map(({ port }) => port));
  for (const { name, endpoint } of app?.listeners ?? []) {
    if (endpoint.scheme !== "tcp" || endpoint.port === 0 || ports.has(endpoint.port)) continue;
    const remedy = isToml
      ? `[[connect]] protocol = "tcp" port = ${endpoint.port}`
      : `"connect": [{ "protocol": "tcp", "port": ${endpoint.port} }]`;
    const says = `does not open port ${endpoint.port} of the listener "${name}" in wrangler dev`;
    found.push(note(what, says, remedy));
  }
  const bindings = new Set(objects.bindings.map(({ name }) => name));
  const needs = [
    ...(Object.keys(app?.dial ?? {}).length > 0 ? ["SOCKLET_SESSIONS", "SOCKLET_REGISTRY"] : []),
    ...(Object.keys(app?.pools ?? {}).length > 0 ? ["SOCKLET_POOLS"] : []),
  ];
  const missing = needs.filter((name) => !bindings.has(name));
  if (missing.length > 0) {
    const says = `does not bind ${missing.join(" and ")}, which the app's ${missing.includes("SOCKLET_POOLS") ? "pools" : "dial"} needs in a Worker`;
    found.push(note(what, says, "see docs/deploying.md"));
  }
  return found.length > 0 ? found : [ok(what, "main, compatibility_date, ports and bindings")];
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
      EADDRINUSE: "stop the program that listens there, or serve with --any-port",
      EACCES:
        "use a port of 1024 or above, or a folder that you can write to; for systemd's sockets see docs/servers.md",
      EADDRNOTAVAIL: "use an address of this machine, such as 127.0.0.1",
      ENOENT: "create the folder of that path",
    };
    return fix(what, `${at}: ${code || message}`, remedies[code] ?? "check the address");
  }
};

/** Whether the app can store its data. It is tried, because more than permissions can be in the way. */
const dataFinding = ({ cwd }: Project): Finding => {
  const data = join(cwd, ".socklet");
  try {
    fs.rmdirSync(fs.mkdtempSync(join(fs.existsSync(data) ? data : cwd, ".socklet-")));
    return ok("data", `${data} can be written`);
  } catch (error) {
    const says = `${data} cannot be written: ${thrownAs(error).code}`;
    return fix("data", says, "serve with --data and a folder that you can write to");
  }
};

/** The parts of the app that Cloudflare's edge would refuse, according to the table of its rules, if the project has a Worker. */
const edgeFindings = ({ app, wrangler }: Project): Finding[] => {
  if (wrangler === null) return [];
  const found: Finding[] = [];
  const met = (said: string, rule: EdgeRuleName): void => {
    found.push(note("edge", edgeText(said, rule), "see docs/edge.md; socklet dev --edge enforces it"));
  };
  const dialled = [
    ...Object.entries(app?.dial ?? {}).map(([name, { endpoint }]) => [`dial.${name}`, endpoint] as const),
    ...Object.entries(app?.pools ?? {}).map(([name, { endpoint }]) => [`pools.${name}`, endpoint] as const),
  ];
  for (const [where, endpoint] of dialled) {
    for (const rule of edgeRulesOf(endpoint)) met(`${formatAddress(endpoint)} of ${where}`, rule);
  }
  for (const { text, ports, ...rule } of (app?.allow ?? []).map(parseAllowRule)) {
    const { network } = rule as { network?: Network };
    if (ports.every(([first, last]) => first === SMTP && last === SMTP)) met(`allow "${text}"`, "port-25");
    if (network !== undefined && network.prefix > 0 && !isPublic(network.address))
      met(`allow "${text}"`, "private-address");
  }
  for (const { listener, rule, what } of edgeListeners(app?.listeners ?? [])) {
    met(`${formatAddress(listener.endpoint)} of the listener "${listener.name}", ${what}`, rule);
  }
  const { connect = [], compatibility_flags: flags = [] } = wrangler.config ?? {};
  if (connect.length > 0) met(`[[connect]] of ${connect.map(({ port }) => port).join(", ")}`, "listen");
  if (flags.includes("experimental")) {
    const says = 'has the compatibility flag "experimental", which wrangler dev accepts and the edge refuses';
    found.push(note(wrangler.name, says, "remove it before deploying"));
  }
  return found;
};

const SMTP = 25;

const listenerFindings = async ({ app }: Project): Promise<Finding[]> => {
  const found: Finding[] = [];
  for (const listener of app?.listeners ?? []) found.push(await listenerFinding(listener));
  return found;
};

/** The checks of a project that has been read, in the order of the report. */
const CHECKS: readonly ((project: Project) => Finding | Finding[] | Promise<Finding[]>)[] = [
  typeFinding,
  koffiFinding,
  dataFinding,
  workerFindings,
  edgeFindings,
  listenerFindings,
];

const findings = async (path: string | undefined): Promise<Finding[]> => {
  const cwd = process.cwd();
  const folder = path === undefined ? cwd : dirname(fileOf(path));
  const node = nodeFinding();
  const found = [node];
  let app: App | null = null;
  if (path !== undefined && node.state === "fix")
    found.push(note("app", `${path} was not loaded, since that needs a newer Node`, "run doctor again then"));
  else if (path !== undefined) {
    try {
      app = await loadApp(path);
      const { length } = app.listeners;
      found.push(ok("app", `${path} has ${length === 1 ? "1 listener" : `${length} listeners`}`));
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      found.push(fix("app", error.message, "correct it, and run doctor again"));
    }
  }
  const configured = await configFindings([cwd, folder].find((one) => wranglerConfigIn(one)) ?? folder);
  found.push(...configured.found);
  const project: Project = { cwd, folder, app, wrangler: configured.wrangler };
  for (const check of CHECKS) found.push(...[await check(project)].flat());
  return found;
};

export const doctor = async (path: string | undefined, { json }: { json?: boolean }): Promise<void> => {
  const found = await findings(path);
  if (found.some(({ state }) => state === "fix")) process.exitCode = 1;
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
