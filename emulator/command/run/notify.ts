/** Reports the state of this process to the service manager: sd_notify(3). */

import { SocketError } from "../../../core/errors.ts";
import { AF_UNIX, SOCK_DGRAM } from "../../../core/net/constants.ts";
import { lazy, once } from "../../builtin.ts";
import { libc } from "../../kernel/descriptors/libc.ts";
import { socket } from "../../sockets/make.ts";
import { describe, say } from "../terminal/output.ts";

/** Sends by the program `systemd-notify`, if there is no libc. */
const byProgram = async (lines: readonly string[]): Promise<void> => {
  const program = lazy.childProcess.spawn("systemd-notify", [...lines], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const [status] = await once(program, "close");
  if (status !== 0) throw new SocketError("ERR_UNSUPPORTED", `systemd-notify ended with ${status}`);
};

/** Sends these lines (`"READY=1"`) if a manager wants them (`NOTIFY_SOCKET`). Resolves when they are sent; failures are printed. */
export const notify = async (...lines: readonly string[]): Promise<void> => {
  const { NOTIFY_SOCKET: path } = process.env;
  if (path === undefined || path === "") return;
  try {
    if (!/^[/@]/.test(path))
      throw new SocketError("EAFNOSUPPORT", `${path} is not the path of a Unix socket`);
    if (libc() === null) {
      await byProgram(lines);
      return;
    }
    const sender = socket(AF_UNIX, SOCK_DGRAM);
    try {
      await sender.sendto(`${lines.join("\n")}\n`, { path: path.replace(/^@/, "\0") });
    } finally {
      await sender.close();
    }
  } catch (error) {
    say(`could not send ${lines[0]} to the service manager at NOTIFY_SOCKET: ${describe(error)}`);
  }
};
