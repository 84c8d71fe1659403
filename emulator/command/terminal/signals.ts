/** The signals that ask a command to stop, and its reaction to SIGHUP. */

import { fs, lazy } from "../../builtin.ts";

/** The signals that ask a command to stop. */
type StopSignal = "SIGINT" | "SIGTERM" | "SIGHUP";

/** What a SIGHUP means to this process; see `hangUp()`. */
type HangUp = "stop" | "reload" | "ignore";

// A signal to a whole process group (Ctrl-C on a terminal, a service manager's SIGTERM) reaches this process, and npm (11),
// which hands its script one more.
const SAME_SIGNAL = 500; // ms that npm may take on a busy machine

/**
 * What a SIGHUP means to this process, by how it was started. `"ignore"` under `nohup`; `"stop"` if it is attached to a
 * terminal, which sends the signal when it closes; else `"reload"`, as for any daemon. Call it at the start: once
 * the terminal is gone, nothing shows that there was one.
 *
 * Node gives every signal its default action when it starts, so a SIGHUP that was ignored cannot be seen in this
 * process's own state (nor by a child of npm's). It is recognized by what else nohup(1) does: it puts a file in the place of
 * each of the three standard streams that is a terminal, and a shell names it in `$_`. So if none of the three is a
 * terminal, a SIGHUP does not stop the process either, whatever ignored it.
 */
export const hangUp = (): HangUp => {
  if (process.platform === "win32") return "stop"; // Node's name for the console's window being closed
  if (isUnderNohup()) return "ignore";
  return [0, 1, 2].some(lazy.tty.isatty) && hasControllingTerminal() ? "stop" : "reload";
};

const isUnderNohup = (): boolean => {
  if (/(^|\/)nohup$/.test(process.env._ ?? "")) return true;
  if ([1, 2].some((fd) => linkOf(fd).endsWith("/nohup.out"))) return true;
  return linkOf(0) === "/dev/null" && !isReadable(0); // GNU's, which prints that
};

/** The file of a descriptor, if the system provides it (Linux). */
const linkOf = (fd: number): string => {
  try {
    return fs.readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
};

const isReadable = (fd: number): boolean => {
  try {
    const flags = /^flags:\s*(\d+)/m.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1];
    return (Number.parseInt(flags ?? "0", 8) & 3) !== fs.constants.O_WRONLY; // open(2): the access mode is two bits
  } catch {
    return true;
  }
};

const hasControllingTerminal = (): boolean => {
  try {
    fs.closeSync(fs.openSync("/dev/tty", "r")); // tty(4): ENXIO if there is none
    return true;
  } catch {
    return false;
  }
};

/** ms for an aborted handler to notice, before the process ends without it. */
export const ABORT_GRACE = 1_000;

/** What to do at signals. */
interface StopHandlers {
  /** Called once, for the first signal that asks to stop. */
  stop(signal: StopSignal): void;
  /** For every further one that a person sent: a terminal that closes sends its SIGHUP more than once. */
  again?(signal: StopSignal): void;
  /** For a SIGHUP that means to reload. Absent: it stops. */
  reload?(): void;
  /** For a SIGUSR2. Absent: it ends the process, the default. */
  restart?(): void;
}

/** From now on, signals only call `handlers`. Returns a function that restores the defaults. */
export const onStop = ({ stop, again, reload, restart }: StopHandlers): (() => void) => {
  const meaning = hangUp();
  const byNpm = process.env.npm_lifecycle_event !== undefined;
  let first: number | undefined; // when it came
  const asked = (signal: StopSignal): void => {
    if (first === undefined) {
      first = performance.now();
      stop(signal);
    } else if (signal !== "SIGHUP" && !(byNpm && performance.now() - first < SAME_SIGNAL)) {
      again?.(signal);
    }
  };
  const hungUp = (signal: StopSignal): void => {
    if (meaning === "reload" && reload !== undefined) {
      if (first === undefined) reload();
    } else if (meaning !== "ignore") {
      asked(signal);
    }
  };
  process.on("SIGINT", asked).on("SIGTERM", asked).on("SIGHUP", hungUp);
  if (restart !== undefined && process.platform !== "win32") process.on("SIGUSR2", restart);
  return () => {
    if (restart !== undefined) process.off("SIGUSR2", restart);
    process.off("SIGINT", asked).off("SIGTERM", asked).off("SIGHUP", hungUp);
  };
};
