import { exports } from "cloudflare:workers";
import { expect, test } from "vitest";

test("the Worker's control routes are there", async () => {
  const { status } = await exports.default.fetch("http://worker/v1/health");
  expect(status).toBe(200);
});
