import { checkFraming, conversation, runScript } from "socklet/testing";
import { expect, test } from "vitest";
import { Frames } from "../src/frames.ts";

const frame = (...bytes: number[]): Uint8Array => Uint8Array.of(0, 0, 0, bytes.length, ...bytes);

test("it answers each frame", () =>
  runScript(
    Frames,
    conversation()
      .send(frame(1, 2, 3))
      .expect(frame(3, 2, 1))
      .send(frame())
      .expect(frame())
      .halfClose()
      .expectEnd(),
  ));

test("it does not depend on how the network cuts its input", () =>
  checkFraming(Frames, [frame(1, 2, 3), frame(), frame(4)]));

test("it refuses a frame that is too large", () =>
  expect(
    runScript(
      Frames,
      conversation()
        .send(Uint8Array.of(255, 255, 255, 255))
        .expectEnd(),
    ),
  ).rejects.toThrow("a frame of 4294967295 bytes"));
