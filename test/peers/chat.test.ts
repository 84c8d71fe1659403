/** The chat with the clients that people have, in Node and in workerd; one of them does not read. */

import { spawn } from "node:child_process";
import { ThreadingTCPServer } from "socklet/emulator";
import { expect, onTestFinished, test } from "vitest";
import { Chat, type ChatContext } from "../../examples/chat.ts";
import { Told } from "../core/told.ts";
import { runWorker } from "../emulator/workerd.ts";
import { reservePorts } from "./ports.ts";
import { describeWith, type Program, start } from "./program.ts";

const LINE = "x".repeat(900);

/** Joins with this program; returns it when it has received the confirmation. */
const join = async (program: Program, name: string, members: number): Promise<Program> => {
  await program.line(/^What is your name\?$/);
  program.write(`${name}\n`);
  await program.line(new RegExp(`^\\* ${name} is here, of ${members}$`));
  return program;
};

/** A member whose output is not read: its pipe fills, and then it stops reading. */
const notReading = (port: number): void => {
  const child = spawn("nc", ["127.0.0.1", String(port)], { stdio: ["pipe", "pipe", "ignore"] });
  child.stdin.on("error", () => {});
  child.stdin.write("slow\n");
  onTestFinished(() => void child.kill("SIGKILL"));
};

/** Two talk, with one beside them that does not read, until the chat has lost that one. */
const talk = async (port: number): Promise<void> => {
  const nc = () => start("nc", ["-N", "127.0.0.1", port]);
  await using ann = await join(nc(), "ann", 1);
  await using bob = await join(start("socat", ["-", `TCP:127.0.0.1:${port}`]), "bob", 2);
  await ann.line(/^\* bob is here, of 2$/);
  notReading(port);
  for (const member of [ann, bob]) await member.line(/^\* slow is here, of 3$/);
  let cut = false;
  for (let said = 0; !cut; said++) {
    expect(said).toBeLessThan(2_000);
    ann.write(`${said} ${LINE}\n`.repeat(100));
    let heard = 0;
    while (heard < 100) {
      const line = await bob.line();
      if (line === "* slow has left") cut = true;
      else if (line === `ann: ${said} ${LINE}`) heard++;
      else throw new Error(`bob was told ${line.slice(0, 80)}`);
    }
  }
  bob.write("still here\n");
  for (const member of [ann, bob]) await member.line(/^bob: still here$/);
  ann.end();
  expect((await ann.ended).code).toBe(0);
  await bob.line(/^\* ann has left$/);
};

describeWith(["nc", "socat"], "the chat", () => {
  test("in Node: the one that does not read is cut and told", async () => {
    const told = new Told();
    const context: ChatContext = { members: new Set() };
    await using server = new ThreadingTCPServer("127.0.0.1:0", Chat, { context, onEvent: told.on });
    const address = await server.listen();
    void server.serveForever();
    await talk(address !== null && address.family !== "unix" ? address.port : 0);
    await told.next("end", 3);
    const codes = told.of("error").map(({ id, error }) => [id, (error as { code?: string }).code]);
    expect(codes).toEqual([[3, "ENOBUFS"]]);
    expect(told.of("end").map(({ id, failed }) => [id, failed])).toContainEqual([3, true]);
    expect(told.of("end").filter(({ failed }) => failed).length).toBe(1);
  });

  test("in workerd, where its members meet in a Durable Object", async () => {
    const [port = 0] = await reservePorts(1);
    const worker = await runWorker({
      main: "test/worker/chat-main.ts",
      ports: [port],
      classes: { CHAT: "ChatRoom" },
    });
    try {
      await talk(port);
    } finally {
      await worker.close();
    }
  });
});
