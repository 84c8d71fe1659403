/** What `socklet serve --data` keeps its sessions in: journals on a disk that may be cut off, damaged or full, and a folder that one process holds. */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { holdFolder, Journal } from "../../emulator/journal.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "socklet-journal-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const NAME = "a.log";
const path = (): string => join(folder, NAME);

/** A journal with these entries, closed. */
const written = async (...entries: string[]): Promise<void> => {
  const { journal } = await Journal.open(folder, NAME);
  for (const entry of entries) await journal.append(entry);
  await journal.close();
};

const read = async (): Promise<string[]> => {
  const { journal, entries } = await Journal.open(folder, NAME);
  await journal.close();
  return entries;
};

describe("a journal", () => {
  test("has its entries, in their order, and is its owner's alone", async () => {
    await written("one", "zwölf ✓", "");
    expect(await read()).toEqual(["one", "zwölf ✓", ""]);
    expect(statSync(path()).mode & 0o777).toBe(0o600);
  });

  test("that was cut off anywhere has the entries before, and takes more", async () => {
    await written("one", "zwölf", "three");
    const whole = readFileSync(path());
    const starts = [0, ...[...whole].flatMap((byte, i) => (byte === 0x0a ? [i + 1] : []))];
    for (let size = 0; size < whole.length; size++) {
      writeFileSync(path(), whole.subarray(0, size));
      const left = ["one", "zwölf", "three"].slice(0, starts.filter((start) => start <= size).length - 1);
      expect(await read()).toEqual(left);
      await written("next");
      expect(await read()).toEqual([...left, "next"]);
    }
  });

  test("whose last line has the wrong bytes was not written to its end", async () => {
    await written("one");
    appendFileSync(path(), `00000000 ${"\0".repeat(20)}\n`);
    expect(await read()).toEqual(["one"]);
  });

  test("that is damaged before its last line is refused, and left as it is", async () => {
    await written("one", "two", "three");
    const damaged = readFileSync(path(), "utf8").replace("two", "tvo");
    writeFileSync(path(), damaged);
    await expect(read()).rejects.toThrow(/ERR_INTERNAL.*a\.log is damaged: line 2 .*move it away/);
    expect(readFileSync(path(), "utf8")).toBe(damaged);
  });

  test("is written anew with one entry, when it has grown", async () => {
    const { journal } = await Journal.open(folder, NAME);
    const large = "x".repeat(100_000);
    while (!journal.grown) await journal.append(large);
    expect(statSync(path()).size).toBeGreaterThan(1024 * 1024);
    await journal.replace("all of it");
    expect(journal.grown).toBe(false);
    await journal.append("more");
    await journal.close();
    expect(statSync(path()).size).toBeLessThan(100);
    expect(await read()).toEqual(["all of it", "more"]);
    expect(readdirSync(folder)).toEqual([NAME]);
  });

  test("that is closed says so", async () => {
    const { journal } = await Journal.open(folder, NAME);
    await journal.close();
    await expect(journal.append("one")).rejects.toMatchObject({ code: "EBADF" });
  });
});

const isRoot = process.getuid?.() === 0;
const mounts = isRoot && process.platform === "linux" && spawnSync("mount", ["--version"]).status === 0;

/** Runs `work` in a folder of 64 KiB; `false` if none can be mounted. */
const onSmallDisk = async (work: () => Promise<void>): Promise<boolean> => {
  if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]).status !== 0) return false;
  try {
    await work();
  } finally {
    spawnSync("umount", ["-l", folder]);
  }
  return true;
};

describe.skipIf(!mounts)("on a disk that is full (needs root)", () => {
  test("an entry is there or not, and the journal goes on when there is room", async (context) => {
    const ran = await onSmallDisk(async () => {
      const { journal } = await Journal.open(folder, NAME);
      await journal.append("first");
      await expect(journal.append("x".repeat(100_000))).rejects.toMatchObject({ code: "ENOSPC" });
      await journal.append("second");
      await expect(journal.replace("y".repeat(100_000))).rejects.toMatchObject({ code: "ENOSPC" });
      expect(readdirSync(folder)).toEqual([NAME]);
      await journal.append("third");
      await journal.close();
      expect(await read()).toEqual(["first", "second", "third"]);
    });
    if (!ran) context.skip("no tmpfs may be mounted here");
  });
});

describe("a folder that is held", () => {
  const source = `const { holdFolder } = await import(${JSON.stringify(new URL("../../emulator/journal.ts", import.meta.url).href)});
    await holdFolder(process.argv[1]);
    console.log("held");
    setInterval(() => {}, 1_000_000);`;

  /** Another process that holds it. */
  const holder = async () => {
    const options = ["--conditions=socklet:source", "--input-type=module", "-e", source, folder];
    const child = spawn(process.execPath, options, { stdio: ["ignore", "pipe", "inherit"] });
    await once(child.stdout, "data");
    return child;
  };

  test("is refused to another process, which is told who has it: EBUSY; and taken over when that was killed", async () => {
    const child = await holder();
    await expect(holdFolder(folder)).rejects.toThrow(
      new RegExp(`EBUSY.*${folder} is used by process ${child.pid}; give this one a folder of its own`),
    );
    child.kill("SIGKILL");
    await once(child, "exit");
    const release = await holdFolder(folder);
    await expect(holdFolder(folder)).rejects.toMatchObject({ code: "EBUSY" });
    await release();
    expect(readdirSync(folder)).toEqual([]);
  });

  test("by a process whose number somebody else has by now is free", async () => {
    writeFileSync(join(folder, ".holder"), `${process.ppid} 1 of-another-boot`);
    await (await holdFolder(folder))();
    expect(readdirSync(folder)).toEqual([]);
  });

  test("is taken over by one of many that find its holder gone", async () => {
    for (let round = 0; round < 30; round++) {
      writeFileSync(join(folder, ".holder"), "999999999 1 gone");
      const tries = await Promise.allSettled(Array.from({ length: 20 }, () => holdFolder(folder)));
      expect(tries.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
      for (const one of tries) {
        if (one.status === "rejected") expect(one.reason).toMatchObject({ code: "EBUSY" });
        else await one.value();
      }
      expect(readdirSync(folder)).toEqual([]);
    }
  });

  test("is taken over, too, where one that took it over was killed before it had it", async () => {
    writeFileSync(join(folder, ".holder"), "999999999 1 gone");
    const follower = `.holder-${crc32("999999999 1 gone").toString(16).padStart(8, "0")}`;
    writeFileSync(join(folder, follower), "999999998 1 gone");
    await (await holdFolder(folder))();
    expect(readdirSync(folder)).toEqual([]);
  });

  test("is rid of what was left by one that was killed when it had taken it over, and keeps what one that runs has there", async () => {
    const [right, part] = [".holder-0123abcd", `.holder-${crypto.randomUUID()}`];
    for (const name of [right, part]) writeFileSync(join(folder, name), "999999998 1 gone");
    const child = await holder();
    expect(readdirSync(folder)).toEqual([".holder"]);
    const its = readFileSync(join(folder, ".holder"));
    child.kill("SIGKILL");
    await once(child, "exit");
    const other = spawn(process.execPath, ["-e", "setInterval(() => {}, 1_000_000)"]);
    await once(other, "spawn");
    try {
      const stat = readFileSync(`/proc/${other.pid}/stat`, "latin1");
      const start = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
      writeFileSync(join(folder, part), `${other.pid} ${start} its-own`);
      writeFileSync(join(folder, right), its); // of the one that was killed
      await (await holdFolder(folder))();
      expect(readdirSync(folder)).toEqual([part]);
    } finally {
      other.kill("SIGKILL");
      await once(other, "exit");
    }
  });
});
