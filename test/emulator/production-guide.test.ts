/** docs/production.md: systemd checks its units, and the test checks its Dockerfile. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { peer } from "../peers/peer.ts";
import { run } from "../peers/program.ts";

const page = readFileSync("docs/production.md", "utf8");
const blocks = (language: string): string[] =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, "gms"))].map(
    ([, text]) => text as string,
  );

describe.skipIf(peer("systemd-analyze") === null)("the units", () => {
  test("systemd-analyze verify finds nothing wrong with them", async () => {
    const folder = mkdtempSync(join(tmpdir(), "socklet-units-"));
    try {
      const paths = blocks("ini").map((text) => {
        const [, name = ""] = /^# (\S+)\n/.exec(text) ?? [];
        const path = join(folder, name);
        writeFileSync(path, text.replace("/usr/bin/node", process.execPath)); // it looks whether the program is there
        return path;
      });
      expect(paths.map((path) => path.slice(folder.length + 1))).toEqual(["app.service", "app.socket"]);
      const { code, stdout, stderr } = await run("systemd-analyze", ["verify", "--man=no", ...paths]);
      const own = `${stdout}${stderr}`.split("\n").filter((line) => line.includes("app."));
      expect([code, own]).toEqual([0, []]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

test("the command lines of the page have only flags that socklet serve has", () => {
  const flags = new Set(readFileSync("docs/command-line.md", "utf8").match(/--[a-z-]+/g));
  const used = page.match(/(?<=[ `])--(?!omit|value)[a-z-]+/g) ?? [];
  expect(used.length).toBeGreaterThan(5);
  expect(used.filter((flag) => !flags.has(flag))).toEqual([]);
});

test("the Dockerfile pins its image, does not run as root, and starts without a shell, which would keep SIGTERM to itself", () => {
  const [dockerfile = ""] = blocks("dockerfile");
  const lines = dockerfile.trim().split("\n");
  expect(lines[0]).toMatch(/^FROM [\w./-]+:\d+\.\d+\.\d+[\w.-]*$/);
  const order = lines.map((line) => line.split(" ")[0]);
  expect(order.lastIndexOf("USER")).toBeGreaterThan(order.lastIndexOf("RUN"));
  expect(lines.find((line) => line.startsWith("USER"))).not.toBe("USER root");
  const entry = lines.find((line) => line.startsWith("ENTRYPOINT"));
  expect(JSON.parse(entry?.slice("ENTRYPOINT ".length) ?? "")).toContain("serve");
});
