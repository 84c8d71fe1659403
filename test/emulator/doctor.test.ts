/** `socklet doctor`: each finding, in a project with that problem. */

import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync } from "node:fs";
import { chmod, cp, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { reservePort } from "../peers/ports.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
let folder: string; // in the package, whose name the app imports

beforeEach(async () => {
  mkdirSync(join(root, ".wrangler"), { recursive: true });
  const made = await mkdtemp(join(root, ".wrangler", "doctor-"));
  onTestFinished(() => rm(made, { recursive: true }));
  folder = made;
});

const write = (name: string, text: string): Promise<void> => writeFile(join(folder, name), text);

const app = (...addresses: string[]): string => `
  import { defineApp, StreamRequestHandler } from "socklet";
  class Echo extends StreamRequestHandler {}
  export const app = defineApp({ handlers: { Echo }, listen: [${addresses.map((address) => `{ handler: "Echo", address: "${address}" }`)}] });
`;

interface Finding {
  readonly what: string;
  readonly state: string;
  readonly says: string;
  readonly remedy: string | null;
}

interface Told {
  readonly status: number | null;
  readonly found: Finding[];
  of(what: string): Finding[];
}

const cli = ["--conditions=socklet:source", join(root, "emulator/command/cli.ts")];

/** The output of `program`, which starts the command in `cwd`. */
const said = (program: string, args: readonly string[], cwd: string): Told => {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, encoding: "utf8" });
  if (stdout === "") throw error ?? new Error(stderr);
  const found: Finding[] = JSON.parse(stdout);
  return { status, found, of: (what) => found.filter((one) => one.what === what) };
};

const doctor = (...args: string[]): Told =>
  said(process.execPath, [...cli, "doctor", "--json", ...args], folder);

/** The same without what root may do and others may not; `setpriv` is a part of every Linux, and needs root itself. */
const unprivileged = (...args: string[]): Told => {
  const command = [process.execPath, ...cli, "doctor", "--json", ...args];
  if (process.getuid?.() !== 0) return said(command[0] as string, command.slice(1), folder);
  const without = "--bounding-set=-dac_override,-dac_read_search,-net_bind_service";
  return said("setpriv", [without, ...command], folder);
};

/** A folder that finds nothing of this repository's packages. */
const elsewhere = async (): Promise<string> => {
  const made = await mkdtemp(join(tmpdir(), "socklet-doctor-"));
  onTestFinished(() => rm(made, { recursive: true }));
  return made;
};

test("a package.json of `npm init -y` is told of, by what Node will refuse, and not where the app loads all the same", async () => {
  await write("package.json", '{ "name": "fresh", "type": "commonjs" }');
  expect(doctor().of("package.json")).toEqual([
    {
      what: "package.json",
      state: "note",
      says: 'has "type": "commonjs", with which Node refuses import in .ts and .js files',
      remedy: "npm pkg set type=module",
    },
  ]);
  await mkdir(join(folder, "node_modules"));
  await symlink(root, join(folder, "node_modules/socklet"));
  await write("app.mts", app(`tcp://127.0.0.1:${await reservePort()}`));
  const loaded = doctor("app.mts");
  expect([loaded.of("app")[0]?.state, loaded.of("package.json")]).toEqual(["ok", []]);
  await write("package.json", '{ "name": "fresh", "type": "module" }');
  expect(doctor().of("package.json")).toEqual([]);
});

test("a project that fits: nothing to fix, exit status 0", async () => {
  const port = await reservePort();
  await write("app.ts", app(`tcp://127.0.0.1:${port}`));
  await write("worker.ts", "");
  await write(
    "wrangler.toml",
    `main = "worker.ts"\ncompatibility_date = "2026-10-01"\n[[connect]]\nprotocol = "tcp"\nport = ${port}\n`,
  );
  const { status, found } = doctor("app.ts");
  const notes = found.filter(({ state }) => state !== "ok");
  expect(notes.map(({ what, state }) => [what, state])).toEqual([["edge", "note"]]); // which opens no ports
  expect(found.map(({ what }) => what)).toEqual(
    expect.arrayContaining(["node", "koffi", "data", "app", "wrangler", "wrangler.toml", "listener Echo"]),
  );
  expect(status).toBe(0);
});

test("a port that is in use, and an address of another machine", async () => {
  const taken = net.createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  onTestFinished(() => void taken.close());
  const { port } = taken.address() as net.AddressInfo;
  await write("app.ts", app(`tcp://127.0.0.1:${port}`, "tcp://192.0.2.1:7007", "unix:/no/such/folder/s"));
  const { status, of } = doctor("app.ts");
  expect(of("listener Echo").map(({ state, says }) => [state, says])).toEqual([
    ["fix", `tcp://127.0.0.1:${port}: EADDRINUSE`],
    ["fix", "tcp://192.0.2.1:7007: EADDRNOTAVAIL"],
    ["fix", "unix:/no/such/folder/s: ENOENT"],
  ]);
  expect(of("listener Echo").every(({ remedy }) => remedy !== null)).toBe(true);
  expect(status).toBe(1);
});

test("what wrangler.toml lacks", async () => {
  const port = await reservePort();
  await write("app.ts", app(`tcp://127.0.0.1:${port}`));
  await write("wrangler.toml", 'name = "x"\n# main = "worker.ts"\n');
  const { status, of } = doctor("app.ts");
  expect(of("wrangler.toml").map(({ state, says }) => [state, says])).toEqual([
    ["fix", "has no main"],
    ["fix", "has no compatibility_date"],
    ["note", `does not open port ${port} of the listener "Echo" in wrangler dev`],
  ]);
  expect(of("wrangler.toml")[2]?.remedy).toBe(`[[connect]] protocol = "tcp" port = ${port}`);
  expect(status).toBe(1);
  await write("wrangler.toml", 'main = "none.ts"\ncompatibility_date = "2026-10-01"\n');
  expect(doctor().of("wrangler.toml")[0]?.says).toBe('has main = "none.ts", but there is no such file');
});

test("an app that does not load; a koffi that is too old", async () => {
  await write("app.ts", "export const app = nope;\n");
  mkdirSync(join(folder, "node_modules/koffi"), { recursive: true });
  await write("node_modules/koffi/package.json", '{ "version": "2.9.0" }');
  const { status, of } = doctor("app.ts");
  expect(of("app")[0]).toMatchObject({ state: "fix", says: expect.stringContaining("nope is not defined") });
  expect(of("koffi")[0]).toMatchObject({ state: "fix", remedy: "npm install koffi@3" });
  expect(status).toBe(1);
});

test("a koffi that does not load: it came without its binary", async () => {
  folder = await elsewhere();
  await cp(join(root, "node_modules/koffi"), join(folder, "node_modules/koffi"), { recursive: true });
  const { status, of } = doctor();
  const { version } = JSON.parse(readFileSync(join(root, "node_modules/koffi/package.json"), "utf8"));
  expect(of("koffi")).toEqual([
    {
      what: "koffi",
      state: "fix",
      says: expect.stringMatching(new RegExp(`^${version} does not load: .`)),
      remedy: expect.stringContaining("npm install on this machine"),
    },
  ]);
  expect(status).toBe(1);
});

test("no koffi, no Worker: each is a note, and nothing needs fixing", async () => {
  folder = await elsewhere();
  const { status, found } = doctor();
  expect(found.map(({ what, state }) => [what, state])).toEqual([
    ["node", "ok"],
    ["wrangler.toml", "note"],
    ["koffi", "note"],
    ["data", "ok"],
  ]);
  expect(status).toBe(0);
});

test("a Node that is too old: doctor says so beside all else, any other command at once", async () => {
  const older = `data:text/javascript,${encodeURIComponent(
    'Object.defineProperty(process, "versions", { value: { ...process.versions, node: "22.17.1" } });',
  )}`;
  const { status, of } = said(process.execPath, ["--import", older, ...cli, "doctor", "--json"], folder);
  expect(of("node")).toEqual([
    {
      what: "node",
      state: "fix",
      says: "is v22.17.1; Socklet needs 22.18.0 or newer, which runs TypeScript directly",
      remedy: expect.stringContaining("npm install --save-dev node"),
    },
  ]);
  expect(of("data")).toHaveLength(1);
  expect(status).toBe(1);
  await writeFile(join(folder, "app.ts"), "export const app = which.needs(that.Node);");
  const withApp = said(process.execPath, ["--import", older, ...cli, "doctor", "app.ts", "--json"], folder);
  expect(withApp.of("app")).toMatchObject([{ state: "note", remedy: "run doctor again then" }]);
  const other = spawnSync(process.execPath, ["--import", older, ...cli, "sessions", "list"], {
    encoding: "utf8",
  });
  expect([other.status, other.stderr]).toEqual([
    2,
    expect.stringContaining("Socklet needs Node 22.18.0 or newer"),
  ]);
});

test("a folder that may not be written, and a port that only root may take", async () => {
  const least = Number(readFileSync("/proc/sys/net/ipv4/ip_unprivileged_port_start", "utf8"));
  await write("app.ts", app(`tcp://127.0.0.1:${least - 1}`, "unix:./sock"));
  await chmod(folder, 0o555);
  onTestFinished(() => chmod(folder, 0o755));
  const { status, of } = unprivileged("app.ts");
  expect(of("data")[0]).toMatchObject({
    state: "fix",
    says: `${join(folder, ".socklet")} cannot be written: EACCES`,
    remedy: expect.stringContaining("--data"),
  });
  const [port, path] = of("listener Echo");
  expect(path?.says).toMatch(/: EACCES$/);
  if (least > 0) {
    expect(port?.says).toBe(`tcp://127.0.0.1:${least - 1}: EACCES`);
    expect(port?.remedy).toMatch(/^use a port of 1024 or above, /);
  }
  expect(status).toBe(1);
});

test("data that cannot be a folder, since a file has its name", async () => {
  await write(".socklet", "");
  expect(doctor().of("data")[0]).toMatchObject({ state: "fix", says: expect.stringMatching(/: ENOTDIR$/) });
});

test("wrangler is missing beside its file", async () => {
  folder = await elsewhere();
  await write("wrangler.jsonc", "{}");
  const { status, of } = doctor();
  expect(of("wrangler")).toEqual([
    {
      what: "wrangler",
      state: "fix",
      says: "is not installed; wrangler.jsonc was not read",
      remedy: "npm install --save-dev wrangler",
    },
  ]);
  expect(status).toBe(1);
});

test("wrangler.jsonc is read as wrangler reads it: comments, trailing commas, ports, bindings", async () => {
  const port = await reservePort();
  await write(
    "app.ts",
    app(`tcp://127.0.0.1:${port}`).replace(
      "listen:",
      'dial: { peer: { handler: "Echo", address: "127.0.0.1:7" } }, listen:',
    ),
  );
  await write("worker.ts", "");
  const config = (...bindings: string[]): string => `{
    // the Worker
    "name": "x", "main": "worker.ts", "compatibility_date": "2026-10-01",
    "connect": [{ "protocol": "tcp", "port": ${port} },], /* here */
    "durable_objects": { "bindings": [${bindings.map((name) => `{ "name": "${name}", "class_name": "A" }`)}] },
  }`;
  await write("wrangler.jsonc", config("SOCKLET_SESSIONS"));
  await write("wrangler.toml", "nothing = here"); // wrangler does not read it beside the other
  expect(doctor("app.ts").of("wrangler.jsonc")).toEqual([
    {
      what: "wrangler.jsonc",
      state: "note",
      says: "does not bind SOCKLET_REGISTRY, which the app's dial needs in a Worker",
      remedy: "see docs/deploying.md",
    },
  ]);
  await write("wrangler.jsonc", config("SOCKLET_SESSIONS", "SOCKLET_REGISTRY"));
  expect(
    doctor("app.ts")
      .of("wrangler.jsonc")
      .map(({ state }) => state),
  ).toEqual(["ok"]);
  await write("wrangler.jsonc", "{}");
  expect(
    doctor()
      .of("wrangler.jsonc")
      .map(({ says, remedy }) => [says, remedy]),
  ).toEqual([
    ["has no main", 'name the module that exports the Worker: "main": "src/worker.ts"'],
    ["has no compatibility_date", expect.stringMatching(/^"compatibility_date": "\d{4}-\d\d-\d\d"$/)],
  ]);
});

test("a wrangler.toml that does not parse, and one whose fields have the wrong type", async () => {
  await write("wrangler.toml", 'name = "x"\nmain = "worker.ts\n');
  const { status, of } = doctor();
  expect(of("wrangler.toml").map(({ state, says }) => [state, says])).toEqual([
    ["fix", expect.stringMatching(/^Invalid TOML document: .* \(line 2, column \d+\)$/)],
  ]);
  expect(status).toBe(1);
  await write("wrangler.toml", 'main = "worker.ts"\ncompatibility_date = 2026\nworkers_dev = "yes"\n');
  expect(
    doctor()
      .of("wrangler.toml")
      .map(({ says }) => says),
  ).toEqual([
    expect.stringContaining('"workers_dev" to be of type boolean'),
    expect.stringContaining('"compatibility_date" to be of type string'),
  ]);
});
