/** Faults by rule, in memory and by virtual time: when each comes, where, and what of it is told. */

import { StreamSocket } from "socklet";
import { memoryPair, VirtualClock } from "socklet/testing";
import { expect, test } from "vitest";
import type { FaultRule } from "../../core/handlers/fault-rule.ts";
import { FaultRules, type FaultTold } from "../../core/testing/faults/rules.ts";
import { SocketTransport } from "../../core/testing/transports.ts";

/** The two ends of a stream, the words of whose client pass through rules. */
const ends = (rules: FaultRules, connection = 1): { client: StreamSocket; server: StreamSocket } => {
  const [here, server] = memoryPair();
  return {
    client: new StreamSocket(rules.stream(new SocketTransport(here), "client", connection, true)),
    server,
  };
};
const made = (...given: FaultRule[]) => {
  const clock = new VirtualClock();
  const told: FaultTold[] = [];
  const rules = new FaultRules("stream", { clock, did: (one) => told.push(one) });
  for (const rule of given) rules.add(rule);
  return { clock, rules, told };
};

test("a stall for a time: all arrives when it is over", async () => {
  const { clock, rules, told } = made({
    fault: "stall",
    from: "client",
    after: 3,
    for: 60_000,
    name: "wait",
  });
  const { client, server } = ends(rules);
  await client.sendall("abcdef");
  expect(await server.rfile.readexactly(3)).toEqual(new TextEncoder().encode("abc"));
  expect(clock.now()).toBeLessThan(60_000);
  expect(await server.rfile.readexactly(3)).toEqual(new TextEncoder().encode("def"));
  expect(clock.now()).toBe(60_000);
  expect(told).toEqual([{ rule: "wait", fault: "stall", from: "client", connection: 1 }]);
  await client.close();
});

test("a stall without an end goes on when its rule is taken back", async () => {
  const { rules } = made({ fault: "stall", name: "wait" });
  const { client, server } = ends(rules);
  await client.sendall("abc");
  let came = false;
  const reading = server.rfile.readexactly(3).then(() => {
    came = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 0));
  expect(came).toBe(false);
  expect(rules.remove("wait")).toBe(true);
  await reading;
  expect([rules.list(), rules.remove("wait")]).toEqual([[], false]);
  await client.close();
});

test("in and for: a latency holds between times alone", async () => {
  const { clock, rules } = made({ fault: "latency", latency: 1000, from: "client", in: 10_000, for: 5_000 });
  const { client, server } = ends(rules);
  const took = async (): Promise<number> => {
    const before = clock.now();
    await client.sendall("x");
    await server.rfile.readexactly(1);
    return clock.now() - before;
  };
  expect(await took()).toBe(0);
  await clock.sleep(11_000 - clock.now());
  expect(rules.list()).toMatchObject([{ name: "rule-1", holds: true, applied: 1 }]);
  expect(await took()).toBe(1000);
  await clock.sleep(16_000 - clock.now());
  expect(await took()).toBe(0);
  await client.close();
});

test("a rule that is set now is felt by the connections that there are", async () => {
  const { rules, told } = made();
  const { client, server } = ends(rules, 3);
  await client.sendall("x");
  await server.rfile.readexactly(1);
  rules.add({ fault: "reset", name: "now" });
  await expect(server.recv()).rejects.toMatchObject({ code: "ECONNRESET" });
  expect(told.map(({ rule, connection }) => [rule, connection])).toContainEqual(["now", 3]);
  await client.close();
});

test.each([1, 2, 3, 7])("what matches is found however the bytes were cut: in pieces of %i", async (size) => {
  const { rules, told } = made({ fault: "close", from: "client", match: "QUIT\r\n" });
  const { client, server } = ends(rules);
  const text = "QUITE\r\nQQUIT\r\nlost";
  for (let at = 0; at < text.length; at += size)
    await client.sendall(text.slice(at, at + size)).catch(() => {});
  let came = "";
  for await (const bytes of server) came += new TextDecoder().decode(bytes);
  expect(came).toBe("QUITE\r\nQQUIT\r\n");
  expect(told).toHaveLength(1);
  await client.close();
});

test("what cannot be is told by its name; nothing is set then", () => {
  const { rules } = made({ fault: "latency", latency: 1, name: "one" });
  const refused = (rule: object, message: string): void => {
    expect(() => rules.add(rule as FaultRule)).toThrow(message);
  };
  refused({ fault: "loss" }, 'the rule can never come true: a stream has no "loss"');
  refused({ fault: "delay" }, "fault");
  refused({ fault: "latency" }, 'a rule of "latency" needs latency');
  refused({ fault: "reset", rate: 5 }, 'a rule of "reset" has no rate');
  refused({ fault: "reset", likelihood: 0 }, "the rule can never come true: its likelihood is 0");
  refused({ fault: "reset", match: "" }, "match is text of 1 to 4096 bytes");
  refused({ fault: "reset", match: "x", after: 1 }, "a rule has after or match, not both");
  refused({ fault: "reset", name: "one" }, 'there is a rule "one" already');
  refused({ fault: "silence", for: 10 }, "a stream cannot lose bytes and go on");
  refused({ fault: "reset", ever: 1 }, "ever");
  expect(() => rules.set([{ fault: "reset" }, { fault: "close", after: 5 }])).toThrow("can never come true");
  expect(rules.list().map(({ name }) => name)).toEqual(["one"]);
  expect(rules.set([{ fault: "reset", after: 9 }])).toMatchObject([{ fault: "reset", after: 9, applied: 0 }]);
});
