/** Descriptors that this process was given to listen on: by `--fd`, and by systemd (socket activation, sd_listen_fds(3)). */

import type { ListenDescriptor } from "../../app/listeners/descriptors.ts";
import { UsageError } from "../terminal/output.ts";

const FIRST = 3; // SD_LISTEN_FDS_START, sd-daemon.h

/**
 * The descriptors that systemd has passed to this process, with their names (`LISTEN_FDNAMES`), if any. The variables are
 * removed from the environment: they are not for this process's children.
 */
export const activated = (): readonly ListenDescriptor[] => {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES = "" } = process.env;
  for (const name of ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"])
    delete process.env[name];
  if (LISTEN_FDS === undefined || LISTEN_PID !== String(process.pid)) return []; // they are another process's
  const count = /^\d{1,5}$/.test(LISTEN_FDS) ? Number(LISTEN_FDS) : Number.NaN;
  if (Number.isNaN(count)) throw new UsageError(`LISTEN_FDS is a number of descriptors, not "${LISTEN_FDS}"`);
  const names = LISTEN_FDNAMES.split(":");
  return Array.from({ length: count }, (_, i) => ({ name: names[i] ?? "", fd: FIRST + i }));
};
