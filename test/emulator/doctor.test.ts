/** `socklet doctor`: each finding, in a project that has what it finds. */

import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { reservePort } from "../peers/ports.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
let folder: string; // in the package, whose name the app imports

beforeEach(async () => {
  mkdirSync(join(root, ".wrangler"), { recursive: true });
  folder = await mkdtemp(join(root, ".wrangler", "doctor-"));
  onTestFinished(() => rm(folder, { recursive: true }));
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

const doctor = (
  ...args: string[]
): { status: number | null; found: Finding[]; of(what: string): Finding[] } => {
  const cli = [
    `--conditions=socklet:source`,
    join(root, "emulator/command/cli.ts"),
    "doctor",
    "--json",
    ...args,
  ];
  const { status, stdout, stderr } = spawnSync(process.execPath, cli, { cwd: folder, encoding: "utf8" });
  if (stdout === "") throw new Error(stderr);
  const found: Finding[] = JSON.parse(stdout);
  return { status, found, of: (what) => found.filter((one) => one.what === what) };
};

test("a project that fits: nothing to mend, exit status 0", async () => {
  const port = await reservePort();
  await write("app.ts", app(`tcp://127.0.0.1:${port}`));
  await write("worker.ts", "");
  await write(
    "wrangler.toml",
    `main = "worker.ts"\ncompatibility_date = "2026-10-01"\n[[connect]]\nprotocol = "tcp"\nport = ${port}\n`,
  );
  const { status, found } = doctor("app.ts");
  expect(found.filter(({ state }) => state !== "ok")).toEqual([]);
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
    ["mend", `tcp://127.0.0.1:${port}: EADDRINUSE`],
    ["mend", "tcp://192.0.2.1:7007: EADDRNOTAVAIL"],
    ["mend", "unix:/no/such/folder/s: ENOENT"],
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
    ["mend", "has no main"],
    ["mend", "has no compatibility_date"],
    ["note", `does not open port ${port} of the listener "Echo" in wrangler dev`],
  ]);
  expect(status).toBe(1);
  await write("wrangler.toml", 'main = "none.ts"\ncompatibility_date = "2026-10-01"\n');
  expect(doctor().of("wrangler.toml")[0]?.says).toBe('has main = "none.ts", and there is no such file');
});

test("an app that does not load; a koffi that is too old", async () => {
  await write("app.ts", "export const app = nope;\n");
  mkdirSync(join(folder, "node_modules/koffi"), { recursive: true });
  await write("node_modules/koffi/package.json", '{ "version": "2.9.0" }');
  const { status, of } = doctor("app.ts");
  expect(of("app")[0]).toMatchObject({ state: "mend", says: expect.stringContaining("nope is not defined") });
  expect(of("koffi")[0]).toMatchObject({ state: "mend", remedy: "npm install koffi@3" });
  expect(status).toBe(1);
});
