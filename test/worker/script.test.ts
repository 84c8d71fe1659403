/** Scripts and recordings inside workerd: as clients of what it serves, as its servers, and dialling out. */

import { env } from "cloudflare:workers";
import type { StreamSocket } from "socklet";
import {
  type Conversation,
  conversation,
  formatTranscript,
  parseTranscript,
  record,
  recordHandler,
  replay,
  runScript,
  type Transcript,
} from "socklet/testing";
import { streamSocket, TCPConnector } from "socklet/worker";
import { expect, inject, test } from "vitest";
import { RespClient } from "../../examples/resp.ts";
import { PATIENT } from "../conformance/matrix-table.ts";
import * as scripts from "../conformance/scripts.ts";
import { streamConformance } from "../conformance/stream.ts";

const inbound = (authority: string): Promise<StreamSocket> =>
  streamSocket(env.SELF.connect(authority, { allowHalfOpen: true }), { closeTimeout: 300 });

/** Runs the script on one connection, which is then closed. */
const hold = async (script: Conversation, dialling: Promise<StreamSocket>) => {
  const stream = await dialling;
  try {
    return await script.run(stream, PATIENT);
  } finally {
    await stream.close();
  }
};

test("inbound: the script is the server", async () => {
  const asked = conversation()
    .send("*2\r\n$3\r\nGET\r\n$8\r\ngreet")
    .send("ing\r\n")
    .expect("$5\r\nhello\r\n")
    .expectEnd();
  await hold(asked, inbound("app-script:6380"));
  await hold(conversation().send("*2\r\n$3\r\nSET\r\n").expectEnd(), inbound("app-script:6380")); // workerd sends no reset
});

test("what goes wrong is said the same here", async () => {
  const wrong = hold(conversation().send("hi\n").expectLine("ho"), inbound("app-echo:7"));
  await expect(wrong).rejects.toThrow(
    /^step 2, expectLine\("ho"\): another line came\ndiffers at byte 1: expected 6f "o", got 69 "i"/,
  );
  const silent = conversation()
    .send("hi")
    .expect("hi there")
    .run(await inbound("app-echo:7"), { timeout: 50 });
  await expect(silent).rejects.toThrow(/nothing (more )?came within 50 ms/); // the echo may be late, too
});

test("a place without resets says so, and that it cannot know who waits", async () => {
  await expect(hold(conversation().reset(), inbound("app-echo:7"))).rejects.toMatchObject({
    code: "ERR_UNSUPPORTED",
  });
  await expect(hold(conversation().expectNothing(), inbound("app-echo:7"))).rejects.toMatchObject({
    code: "ERR_UNSUPPORTED",
  });
});

test("recorded inbound and outbound, and replayed", async () => {
  const recording = record(await inbound("app-resp:6379"), "client");
  await scripts.redis.run(recording.stream);
  await recording.stream.close();
  const transcript = parseTranscript(formatTranscript(recording.transcript));
  expect(transcript.events.at(-1)).toMatchObject({ from: "client", end: "close" });
  await hold(replay(transcript, "client"), inbound("app-resp:6379"));

  const transcripts: Transcript[] = [];
  const Recorded = recordHandler(RespClient, (one) => transcripts.push(one), { side: "client" });
  const address = { hostname: "127.0.0.1", port: inject("scriptPort") };
  await new TCPConnector(address, Recorded).run({ params: ["GET", "greeting"] });
  await runScript(RespClient, replay(transcripts[0] as Transcript, "server"), {
    params: ["GET", "greeting"],
  });
});

// Recording changes nothing.
streamConformance({
  name: "workerd, service binding, recorded",
  dial: async () =>
    record(await inbound("conformance:1"), "client", { maxBytes: 2 ** 20, stream: { closeTimeout: 300 } })
      .stream,
});
