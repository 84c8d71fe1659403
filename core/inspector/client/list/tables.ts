/** The tabs of listeners, pools and fault rules. */

import type { EntryInfo, FaultInfo, ListenerInfo } from "../../../control/plane.ts";
import type { PoolInfo } from "../../../handlers/client.ts";
import { ask, oneAtATime } from "../data/api.ts";
import { at, button, choice, element, say, table } from "../display/dom.ts";

/** Shows the listeners, with their servers' counts. */
export const showListeners = oneAtATime(async () => {
  const { listeners } = await ask<{ listeners: ListenerInfo[] }>("GET", "/listeners");
  const head = [
    "handler",
    "address",
    "serve",
    "state",
    "running",
    "waiting",
    "served",
    "failed",
    "refused",
    "received",
    "sent",
  ];
  const rows = listeners.map((one) => [
    one.name,
    one.address,
    one.serve,
    one.suspended === null ? one.state : `suspended (${one.suspended})`,
    one.running,
    one.waiting,
    one.served,
    one.failed,
    one.refused,
    one.bytesRead,
    one.bytesWritten,
  ]);
  at("listeners").replaceChildren(table("Listeners", head, rows));
});

/** Shows the app's pools. */
export const showPools = oneAtATime(async () => {
  const { pools } = await ask<{ pools: PoolInfo[] }>("GET", "/pools");
  const head = [
    "pool",
    "address",
    "connections",
    "idle",
    "leased",
    "running",
    "waiting",
    "answered",
    "lost",
    "error",
  ];
  const rows = pools.map((one) => [
    one.name,
    one.address,
    one.connections,
    one.idle,
    one.leased,
    one.running,
    one.waiting,
    one.answered,
    one.lost,
    one.error ?? "",
  ]);
  at("pools").replaceChildren(
    pools.length === 0 ? element("p", {}, "The app has no pools.") : table("Pools", head, rows),
  );
});

/** Parses a rule as the commands write it: `latency from=server latency=100`. Throws for a wrong word. */
const ruleOf = (text: string): Record<string, unknown> => {
  const [fault, ...rest] = text.trim().split(/\s+/);
  const rule: Record<string, unknown> = { fault: fault?.split("=")[0] };
  for (const word of [...(fault?.includes("=") ? [fault] : []), ...rest]) {
    const [name, ...value] = word.split("=");
    if (value.length === 0 || name === undefined) throw new Error(`"${word}" is no name=value`);
    const given = value.join("=");
    rule[name] = /^-?\d+(\.\d+)?$/.test(given) ? Number(given) : given;
  }
  return rule;
};

/** Shows the fault rules that are set, and a form for one more. */
export const showFaults: (entries: readonly EntryInfo[]) => Promise<void> = oneAtATime(async (entries) => {
  const { faults } = await ask<{ faults: FaultInfo[] }>("GET", "/faults");
  const change = async (work: Promise<unknown>): Promise<void> => {
    try {
      await work;
      await showFaults(entries);
      if (document.activeElement === document.body) at("fault-rule")?.focus(); // what had it was drawn anew
    } catch (error) {
      say((error as Error).message, true);
    }
  };
  const rows = faults.map(({ on, entry, name, fault, holds, applied, ...more }) => [
    `${on} ${entry}`,
    name,
    fault,
    Object.entries(more)
      .map(([key, value]) => `${key}=${value}`)
      .join(" "),
    holds ? "now" : "not now",
    applied,
    button(`Remove ${name}`, () => void change(ask("DELETE", `/faults/${encodeURIComponent(name)}`))),
  ]);
  const of = choice(
    "Of ",
    entries.map(({ on, entry }, i) => [String(i), `${on} ${entry}`] as const),
  );
  const rule = element("input", {
    id: "fault-rule",
    "aria-label": "The rule",
    placeholder: "latency=100 from=server",
    size: "40",
    spellcheck: "false",
  });
  const form = element(
    "form",
    { class: "bar", "aria-label": "Set a rule" },
    of.label,
    rule,
    element("button", { type: "submit" }, "Set"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { on, entry } = entries[Number(of.select.value)] ?? {};
    try {
      void change(ask("POST", "/faults", { on, entry, ...ruleOf(rule.value) }));
    } catch (error) {
      say((error as Error).message, true);
    }
  });
  at("faults").replaceChildren(
    faults.length === 0
      ? element("p", {}, "No rule is set.")
      : table("Rules", ["entry", "name", "fault", "how", "holds", "applied", ""], rows),
    form,
    element(
      "p",
      { class: "dim" },
      "Faults, as in `socklet proxy --fault`: latency, rate, slice, slow-close, stall, silence, close, reset; for datagrams loss, duplicate, reorder, corrupt.",
    ),
  );
});
