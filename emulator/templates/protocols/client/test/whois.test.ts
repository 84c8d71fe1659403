import { conversation, runScript } from "socklet/testing";
import { expect, test } from "vitest";
import { Whois } from "../src/whois.ts";

test("it asks, and gives the whole answer", async () => {
  const server = conversation().expectLine("example.com").send("domain: ").send("EXAMPLE.COM\r\n").close();
  const { result } = await runScript(Whois, server, { params: ["example.com"] });
  expect(result).toBe("domain: EXAMPLE.COM\r\n");
});

test("it sends no second line", () =>
  expect(runScript(Whois, conversation().expectEnd(), { params: ["a\r\nb"] })).rejects.toThrow(
    "give one name",
  ));
