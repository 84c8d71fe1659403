/**
 * The servers of this user that run on this machine, so that `socklet sessions` finds them: each has a small file while
 * it runs, which only that user can read, since it has a token.
 */

import { fs, join, lazy } from "../builtin.ts";
import { UsageError } from "./output.ts";

/** A server that runs. */
export interface Running {
  readonly pid: number;
  readonly url: string;
  /** A token of its control routes; `null` if tokens were given at its start. */
  readonly token: string | null;
  /** The folder where it was started, and the app that it serves. */
  readonly folder: string;
  readonly app: string;
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

/** Notes that this process serves; returns a function that removes the note, as the end of the process does. */
export const noteRunning = (app: string, url: string, token: string | null): (() => void) => {
  const folder = runtimeFolder();
  const path = join(folder, `${process.pid}.json`);
  const running: Running = { pid: process.pid, url, token, folder: process.cwd(), app };
  try {
    fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
    if (!isOurs(folder)) return () => {};
    fs.writeFileSync(path, `${JSON.stringify(running)}\n`, { mode: 0o600 });
  } catch {
    return () => {}; // nowhere to write: `sessions` will need --url
  }
  const forget = (): void => {
    process.off("exit", forget);
    fs.rmSync(path, { force: true });
  };
  process.on("exit", forget);
  return forget;
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
    if (isAlive(found.pid)) return found;
    fs.rmSync(path, { force: true }); // it was killed
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

/** The server to use if none is named: the only one, or the only one of this folder. Throws `UsageError` if there are several. */
export const theRunning = (): Running | null => {
  const all = allRunning();
  const here = all.filter(({ folder }) => folder === process.cwd());
  const [found, other] = here.length > 0 ? here : all;
  if (found === undefined || other === undefined) return found ?? null;
  const list = (here.length > 0 ? here : all).map(({ url, app, folder }) => `${url} (${app} in ${folder})`);
  throw new UsageError(`which control plane? Several run: ${list.join(", ")}; give --url`);
};
