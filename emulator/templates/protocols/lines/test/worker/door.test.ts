import { exports } from "cloudflare:workers";
import { conversation } from "socklet/testing";
import { streamSocket } from "socklet/worker";
import { test } from "vitest";

test("the Worker answers", async () => {
  const socket = await streamSocket(exports.default.connect("lines:7007", { allowHalfOpen: true }));
  await conversation().send("hello\n").expectLine("HELLO").halfClose().expectEnd().run(socket);
});
