/**
 * The servers of this user that run on this machine, so that `socklet sessions` finds them: each has a small file while
 * it runs, which only that user can read, since it has a token.
 */

import { attempt } from "../../../core/promises.ts";
import { fs, join, lazy } from "../../builtin.ts";
import { UsageError } from "../terminal/output.ts";

/** A server that runs. */
export interface Running {
  readonly pid: number;
  /** When that process began, as the system says it; `null` if it does not. Another one may get its id. */
  readonly since: string | null;
  readonly url: string;
  /** A token of its control routes; `null` if tokens were given at its start. */
  readonly token: string | null;
  /** The folder where it was started, and the app that it serves. */
  readonly folder: string;
  readonly app: string;
  /** Whether a SIGUSR2 restarts it. */
  readonly restarts: boolean;
  /** The process that it has taken over from in this way; `null` for the first. */
  readonly before: number | null;
  /** How often a successor of its own failed to serve, and why the last one did. */
  readonly refused: { readonly times: number; readonly why: string };
}

/** The note of this process. */
interface Note {
  /** A successor failed to serve. */
  refuse(why: string): void;
  /** Removes it, as the end of the process does. */
  forget(): void;
}

/** The folder of the files: the one that the system provides for this, or one among the temporary files. */
const runtimeFolder = (): string => {
  const { XDG_RUNTIME_DIR: given } = process.env; // https://specifications.freedesktop.org/basedir-spec/latest/
  if (given) return join(given, "socklet");
  return join(lazy.os.tmpdir(), `socklet-${process.getuid?.() ?? lazy.os.userInfo().username}`);
};

/** Whether nobody else can put files there, or read them. */
const isOurs = (folder: string): boolean => {
  const { uid, mode } = fs.statSync(folder);
  return process.getuid === undefined || (uid === process.getuid() && (mode & 0o077) === 0);
};

const NO_NOTE: Note = { refuse() {}, forget() {} };

/** Notes that this process serves; `restarts`: whether a SIGUSR2 restarts it, and which process it has taken over from. */
export const noteRunning = (
  app: string,
  url: string,
  token: string | null,
  restarts: { readonly before: number | null } | null = null,
): Note => {
  const folder = runtimeFolder();
  const path = join(folder, `${process.pid}.json`);
  let times = 0;
  const write = (why: string): void => {
    const refused = { times, why };
    const running: Running = {
      pid: process.pid,
      since: beginOf(process.pid),
      url,
      token,
      folder: process.cwd(),
      app,
      restarts: restarts !== null,
      before: restarts?.before ?? null,
      refused,
    };
    const fresh = `${path}.new`; // renamed, so that no reader sees half of it
    fs.writeFileSync(fresh, `${JSON.stringify(running)}\n`, { mode: 0o600 });
    fs.renameSync(fresh, path);
  };
  try {
    fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
    if (!isOurs(folder)) return NO_NOTE;
    write("");
  } catch {
    return NO_NOTE; // nowhere to write: `sessions` needs its address
  }
  const forget = (): void => {
    process.off("exit", forget);
    fs.rmSync(path, { force: true });
  };
  process.on("exit", forget);
  return {
    forget,
    refuse(why) {
      times++;
      attempt(
        () => write(why),
        () => {},
      ); // the folder is gone
    },
  };
};

/** When a process began, in ticks since the machine did: proc_pid_stat(5), field 22. `null` on systems without `/proc`. */
const beginOf = (pid: number): string | null => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null; // the second field, a name, may hold anything
  } catch {
    return null;
  }
};

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as { code?: string }).code === "EPERM";
  }
};

const read = (path: string): Running | null => {
  try {
    const found: Running = JSON.parse(fs.readFileSync(path, "utf8"));
    if (isAlive(found.pid) && found.since === beginOf(found.pid)) return found;
    fs.rmSync(path, { force: true }); // it was killed; another process may have its id now
  } catch {} // it has just ended, or is just being written
  return null;
};

/** All servers of this user that run. */
export const allRunning = (): Running[] => {
  const folder = runtimeFolder();
  try {
    if (!isOurs(folder)) return [];
    const names = fs.readdirSync(folder).filter((name) => /^\d+\.json$/.test(name));
    return names.flatMap((name) => read(join(folder, name)) ?? []);
  } catch {
    return [];
  }
};

/** The server to use if none is named: the only one, or the only one of this folder. Throws `UsageError` if there are several: `give` says which is meant. */
export const theRunning = (give = "--url"): Running | null => {
  const all = allRunning();
  const here = all.filter(({ folder }) => folder === process.cwd());
  const [found, other] = here.length > 0 ? here : all;
  if (found === undefined || other === undefined) return found ?? null;
  const list = (here.length > 0 ? here : all).map(
    ({ pid, url, app, folder }) => `${url} (${app} in ${folder}, process ${pid})`,
  );
  throw new UsageError(`which control plane? Several run: ${list.join(", ")}; give ${give}`);
};
