import { exports } from "cloudflare:workers";
import { conversation } from "socklet/testing";
import { streamSocket } from "socklet/worker";
import { test } from "vitest";

test("the Worker answers", async () => {
  const socket = await streamSocket(exports.default.connect("frames:7007", { allowHalfOpen: true }));
  const [asked, answer] = [Uint8Array.of(0, 0, 0, 2, 1, 2), Uint8Array.of(0, 0, 0, 2, 2, 1)];
  await conversation().send(asked).expect(answer).halfClose().expectEnd().run(socket);
});
