/** Datagrams that the system does not take at once wait, up to a bound; those over it are dropped and reported. */

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { start } from "../peers/program.ts";

const FIXTURE = fileURLToPath(new URL("./fixtures/full-datagrams.ts", import.meta.url));
const MOST = Math.floor((1024 * 1024) / (1000 + 256)); // datagrams that may wait

/** A separate network needs Linux, `unshare` and `ip`, and permission to make one. */
const own = spawnSync("unshare", ["-Urn", "ip", "link", "add", "v0", "type", "veth"]).status === 0;

describe.each(["on", "off"])("datagrams that have to wait, with SOCKLET_INTAKE=%s", (intake) => {
  const node = ["--conditions=socklet:source"];
  const env = [`SOCKLET_INTAKE=${intake}`, process.execPath];

  test("1 MiB of them waits, what is over is dropped and told; then there is room again", async () => {
    await using program = start("env", [...env, "--test-udp-no-try-send", ...node, FIXTURE, "loopback"]);
    // The first goes to the kernel directly, as its queue is empty, and counts until the loop turns.
    expect(JSON.parse(await program.line())).toEqual({ offered: 3000, taken: MOST, dropped: 3000 - MOST });
    program.write("\n");
    expect(JSON.parse(await program.line())).toEqual({ whole: true, inOrder: true });
    expect((await program.ended).code).toBe(0);
  });

  test.skipIf(!own)(
    "a peer that takes none: what waited arrives as it was sent when it takes some, or is told at the close (needs unshare and ip)",
    async () => {
      await using program = start("unshare", ["-Urn", "env", ...env, ...node, FIXTURE, "unanswered"]);
      const first = JSON.parse(await program.line());
      // Beside what waits there is what the kernel keeps: 208 KiB, of which each takes at least its own size.
      expect(first.taken).toBeGreaterThanOrEqual(MOST);
      expect(first.taken).toBeLessThan(MOST + 250);
      expect(first.dropped).toBe(3000 - first.taken);
      program.write("\n");
      expect(JSON.parse(await program.line())).toEqual({ heard: first.taken, inOrder: true });
      const second = JSON.parse(await program.line());
      expect(second.dropped).toBe(3000 - second.taken);
      expect(JSON.parse(await program.line())).toEqual({ droppedAtLast: second.dropped + MOST });
      expect((await program.ended).code).toBe(0);
    },
  );
});

describe.each([
  ["with koffi", ""],
  ["without", "off"],
])("a socket of the socket module, %s", (_, native) => {
  test.skipIf(!own)(
    "waits, or says that it would, and gives up what it waits for (needs unshare and ip)",
    async () => {
      const node = [process.execPath, "--conditions=socklet:source", FIXTURE, "socket"];
      await using program = start("unshare", ["-Urn", "env", `SOCKLET_NATIVE=${native}`, ...node]);
      const first = JSON.parse(await program.line());
      expect(first.code).toBe("EWOULDBLOCK");
      expect(first.taken).toBeLessThan(250); // what the kernel keeps
      expect(JSON.parse(await program.line())).toEqual({ code: "ETIMEDOUT" });
      expect(JSON.parse(await program.line())).toEqual({ heard: first.taken + 1, inOrder: true });
      expect(JSON.parse(await program.line())).toEqual({ sent: 1000 });
      expect((await program.ended).code).toBe(0);
    },
  );
});
