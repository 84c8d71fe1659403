/** One slow reader does not affect others, when the members of a chat meet in a Durable Object. */

import { env } from "cloudflare:workers";
import type { SockletEvent } from "socklet";
import { streamSocket } from "socklet/worker";
import { expect, test } from "vitest";
import { checkTold, slowMember } from "../conformance/slow-member.ts";

test("a member of a chat that never reads is cut and told, and the others go on", async () => {
  const room = env.CHAT.getByName("slow");
  const slow = await slowMember(() => streamSocket(room.connect("chat:1", { allowHalfOpen: true })));
  const told = async (): Promise<SockletEvent[]> => JSON.parse(await room.told());
  await expect.poll(async () => (await told()).filter(({ type }) => type === "end").length).toBe(3);
  checkTold(await told(), (error) => error);
  expect(await slow.rfile.read()).toBeNull(); // the platform has no reset: its connection ends
  await slow.close();
});
