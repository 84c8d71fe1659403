/** The rows of the inspector's list: in the order of their time, however they arrive. */

import { expect, test } from "vitest";
import { type Row, Rows } from "../../core/inspector/client/list/rows.ts";

const row = (id: string, more: Partial<Row> = {}): Row => ({
  id,
  kind: "session",
  started: 0,
  handler: "Echo",
  inbound: true,
  address: "tcp://127.0.0.1:7",
  peer: "",
  state: "running",
  ended: 0,
  read: 0,
  written: 0,
  error: "",
  key: "",
  ...more,
});

const ids = (rows: Rows): string[] => rows.shown.map(({ id }) => id);

test("what arrives late is at its place, and updates reach what they mean", () => {
  const rows = new Rows();
  rows.put([row("03"), row("05")]);
  rows.putMissing([row("01"), row("04"), row("05", { state: "stale" })]);
  rows.put([row("02", { kind: "flow" }), row("06"), row("06", { state: "ended" })]);
  expect(ids(rows)).toEqual(["01", "02", "03", "04", "05", "06"]);
  for (const id of ids(rows)) expect(rows.get(id)?.id).toBe(id);
  expect(rows.get("05")?.state).toBe("running");
  expect(rows.get("06")?.state).toBe("ended");
  rows.put([row("03", { state: "ended" })]);
  expect(ids(rows)).toEqual(["01", "02", "03", "04", "05", "06"]);
  expect(rows.get("03")?.state).toBe("ended");
});

test("conversations of files are last, in their own order", () => {
  const rows = new Rows();
  rows.put([row("03")]);
  rows.put(["file:b#2", "file:b#10", "file:a#1"].map((id) => row(id, { kind: "file" })));
  rows.put([row("04")]);
  rows.putMissing([row("01")]);
  expect(ids(rows)).toEqual(["01", "03", "04", "file:b#2", "file:b#10", "file:a#1"]);
  expect(rows.get("file:b#10")?.id).toBe("file:b#10");
});
