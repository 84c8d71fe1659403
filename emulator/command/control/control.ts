/** What the commands that use a control plane share: which one, with which token, and how its refusals are reported. */

import { bearerToken } from "../../../core/control/http/auth.ts";
import { type ControlClient, controlClient } from "../../../core/control/http/client.ts";
import { SocketError } from "../../../core/errors.ts";
import { UsageError } from "../terminal/output.ts";
import { allRunning, type Running, theRunning } from "./running.ts";

/** The flags of every command that uses a control plane. */
export interface ControlFlags {
  url?: string;
  token?: string;
  json?: boolean;
}

/** The server of this user that runs at `url`. */
const runningAt = (url: string): Running | null => {
  const at = URL.parse(url)?.origin;
  return allRunning().find((one) => URL.parse(one.url)?.origin === at) ?? null;
};

/** The flags; if they name no control plane, with that of the server that runs here; and with its token, if they name none. */
const completed = (flags: ControlFlags): ControlFlags => {
  if (flags.url && flags.token) return flags;
  const running = flags.url ? runningAt(flags.url) : theRunning();
  if (running === null) return flags;
  const token = flags.token || running.token;
  return { ...flags, url: flags.url || running.url, ...(token && { token }) };
};

const clientOf = ({ url, token }: ControlFlags): ControlClient => {
  if (!url) {
    throw new UsageError(
      "which control plane? None of yours runs on this machine: start `socklet dev` or `socklet serve`, or give --url, or set SOCKLET_URL",
    );
  }
  if (!/^https?:$/.test(URL.parse(url)?.protocol ?? "")) {
    throw new UsageError(
      `--url ${url} is not the URL of a control plane; give one such as http://127.0.0.1:7100`,
    );
  }
  if (!token) {
    throw new UsageError(`${url} needs a token: give --token, or set SOCKLET_TOKEN`);
  }
  if (bearerToken(`Bearer ${token}`) === undefined) {
    throw new UsageError(
      "the token has characters that a token cannot have; check --token, or SOCKLET_TOKEN",
    );
  }
  return controlClient(url, { token });
};

/** A control plane's error, as the user sees it. */
const answered = (error: unknown, { url }: ControlFlags, missing?: string): unknown => {
  if (!(error instanceof SocketError)) return error;
  const { status } = (error.cause ?? {}) as { status?: number };
  const said = error.message.replace(`${error.code}: `, "");
  if (status === 401) return new Error(`${url} does not accept this token; check --token, or SOCKLET_TOKEN`);
  if (status === 404 && missing !== undefined) return new Error(`${url} has no ${missing}`);
  if (status === 422) return new UsageError(`${url}: ${said}`);
  if (error.code === "ERR_INTERNAL") return new Error(`${url}: ${said}; check --url, or SOCKLET_URL`);
  return status === undefined ? error : new Error(`${url}: ${said}`);
};

/** Runs a command that uses a control plane. If the reader of its output leaves (`| head -1`), it ends without an error. `missing`: what does not exist if the answer is 404. */
export const withControl = async (
  given: ControlFlags,
  missing: string | undefined,
  body: (control: ControlClient) => Promise<void>,
): Promise<void> => {
  const flags = completed(given);
  try {
    await body(clientOf(flags));
  } catch (error) {
    if ((error as { code?: string }).code !== "EPIPE" || error instanceof SocketError) {
      throw answered(error, flags, missing);
    }
  }
};
