import { checkFraming, conversation, runScript } from "socklet/testing";
import { test } from "vitest";
import { Lines } from "../src/lines.ts";

test("it answers each line", () =>
  runScript(
    Lines,
    conversation().send("hello\nagain\n").expectLine("HELLO").expectLine("AGAIN").halfClose().expectEnd(),
  ));

test("it does not depend on how the network cuts its input", () =>
  checkFraming(Lines, ["hello\n", "again\n"]));
