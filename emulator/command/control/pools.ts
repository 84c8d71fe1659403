/** `socklet pools`: shows the pools of an emulator or a Worker. */

import type { PoolInfo } from "../../../core/handlers/client.ts";
import { columns, print, printJson } from "../terminal/output.ts";
import { type ControlFlags, withControl } from "./control.ts";

const HEAD =
  "NAME ADDRESS CONNECTIONS IDLE LEASED OPENING RUNNING WAITING ANSWERED LOST ABANDONED OPENED FAILED ERROR".split(
    " ",
  );

const rowOf = (info: PoolInfo): string[] => {
  const { name, address, max, connections, idle, leased, opening, running, waiting } = info;
  const { answered, lost, abandoned, opened, failed, error } = info;
  const counts = [idle, leased, opening, running, waiting, answered, lost, abandoned, opened, failed];
  return [name, address, `${connections} of ${max}`, ...counts.map(String), error ?? "-"];
};

export const pools = (name: string | undefined, flags: ControlFlags): Promise<void> =>
  withControl(flags, name && `pool ${name}; \`socklet pools\` shows those that it has`, async (control) => {
    const found = name === undefined ? await control.pools() : [await control.pool(name)];
    if (flags.json) return printJson(name === undefined ? found : found[0]);
    if (found.length === 0) return print("no pools");
    await print(columns([HEAD, ...found.map(rowOf)]));
  });
