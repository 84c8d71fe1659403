/** What the commands that ask a control plane share: which one, by which token, and how its refusals are told. */

import { bearerToken } from "../../core/control/http/auth.ts";
import { type ControlClient, controlClient } from "../../core/control/http/client.ts";
import { SocketError } from "../../core/errors.ts";
import { UsageError } from "./output.ts";
import { theRunning } from "./running.ts";

/** The flags of every command that asks a control plane. */
export interface ControlFlags {
  url?: string;
  token?: string;
  json?: boolean;
}

/** The flags, with what is known of the server that runs here, where they name none. */
const completed = (flags: ControlFlags): ControlFlags => {
  const running = flags.url ? null : theRunning();
  if (running === null) return flags;
  const token = flags.token || running.token;
  return { ...flags, url: running.url, ...(token && { token }) };
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

/** What a control plane answered, as the user is told it. */
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

/** Runs what asks a control plane; who leaves while it prints (`| head -1`) has had enough. `missing`: what there is none of where it answers 404. */
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
