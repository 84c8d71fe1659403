/** `socklet sessions`: lists, watches, starts and ends the sessions of a control plane, an emulator's or a Worker's. */

import type { ControlClient } from "../../../core/control/http/client.ts";
import type {
  ListenerEvent,
  ListenerInfo,
  SessionEvent,
  SessionInfo,
  SessionSpec,
  SessionState,
} from "../../../core/control/plane.ts";
import type { Json } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import type { SecureTransport } from "../../../core/sockets/tls/tls.ts";
import { paramsOf } from "../terminal/arguments.ts";
import { columns, describe, inJson, oneLine, print, printJson, UsageError } from "../terminal/output.ts";
import { onStop } from "../terminal/signals.ts";
import { type ControlFlags, withControl } from "./control.ts";

/** Runs one command of `sessions`, for the session `id` if it is about one. */
const withSessions = (
  flags: ControlFlags,
  id: string | undefined,
  body: (sessions: ControlClient["sessions"], control: ControlClient) => Promise<void>,
): Promise<void> => {
  const missing = id && `session ${id}; \`socklet sessions list\` shows those that it has`;
  return withControl(flags, missing, (control) => body(control.sessions, control));
};

const HEAD = ["ID", "STATE", "HANDLER", "", "PEER", "READ", "WRITTEN", "STARTED"];

const rowOf = (info: SessionInfo): string[] => [
  info.id,
  info.state,
  info.handler,
  info.direction === "inbound" ? "from" : "to",
  info.peer ?? info.address,
  String(info.bytesRead),
  String(info.bytesWritten),
  info.startedAt,
];

/** A record, as JSON or in words. */
const printSession = (info: SessionInfo, { json }: ControlFlags): Promise<void> => {
  if (json) return printJson(info);
  const { result, error, kept, ...rest } = info;
  const shown = { ...rest, ...(result !== null && { result: inJson(result) }) };
  const fields: (readonly [string, string | number | null])[] = Object.entries(shown);
  if (error !== null) fields.push(["error", error.message]);
  if (kept !== null) {
    fields.push(["attempt", kept.attempt], ["next", kept.next], ["savedAt", kept.savedAt]);
    for (const { number, endedAt, how, error } of kept.attempts) {
      fields.push([`attempt ${number}`, `${how} at ${endedAt}${error === null ? "" : `: ${error.message}`}`]);
    }
  }
  return print(columns(fields.map(([name, value]) => [name, String(value ?? "-")])));
};

interface ListFlags extends ControlFlags {
  state?: SessionState;
  handler?: string;
  limit?: number;
  before?: string;
}

export const listSessions = ({ state, handler, limit, before, ...flags }: ListFlags): Promise<void> =>
  withSessions(flags, undefined, async (control) => {
    const page = await control.list({ state, handler, limit, before });
    if (flags.json) return printJson(page);
    if (page.sessions.length === 0) return print("no sessions");
    await print(columns([HEAD, ...page.sessions.map(rowOf)]));
    if (page.next !== null) await print(`there are more: --before ${page.next}`);
  });

export const showSession = (id: string, flags: ControlFlags): Promise<void> =>
  withSessions(flags, id, async (control) => printSession(await control.get(id), flags));

const LISTENERS =
  "NAME ADDRESS SERVE STATE WAITING RUNNING SERVED FAILED REFUSED READ WRITTEN CHILDREN".split(" ");

const listenerRow = (info: ListenerInfo): string[] => {
  const { name, address, serve, state, suspended, children } = info;
  const { waiting, running, served, failed, refused, bytesRead, bytesWritten } = info;
  const counts = [waiting, running, served, failed, refused, bytesRead, bytesWritten].map(String);
  const processes =
    children === null
      ? "-"
      : `${children.idle} idle, ${children.busy} busy, ${children.starting} starting, ${children.restarted} restarted`;
  const how = suspended === null ? state : `${state}, suspended (${suspended})`;
  return [name, address, serve, how, ...counts, processes];
};

interface ListenersFlags extends ControlFlags {
  follow?: boolean;
  after?: number;
}

export const listListeners = ({ follow, after, ...flags }: ListenersFlags): Promise<void> =>
  withSessions(flags, undefined, async (_, control) => {
    if (follow) return printEvents(control.listenerEvents({ after, signal: untilSignal() }), flags);
    const listeners = await control.listeners();
    if (flags.json) return printJson(listeners);
    await print(columns([LISTENERS, ...listeners.map(listenerRow)]));
  });

/** Aborts at Ctrl-C. */
const untilSignal = (): AbortSignal => {
  const stop = new AbortController();
  onStop({ stop: () => stop.abort(), again: () => process.exit(1) });
  return stop.signal;
};

const printEvents = async (
  events: AsyncIterable<SessionEvent | ListenerEvent>,
  { json }: ControlFlags,
): Promise<void> => {
  for await (const event of events) await (json ? printJson(event) : print(eventLine(event)));
};

const eventLine = ({ id, at, type, ...more }: SessionEvent | ListenerEvent): string => {
  const detail = Object.entries(more).map(([name, value]) => {
    const message = (value as { message?: unknown } | null)?.message; // an error's message has its code
    return `${name} ${typeof value === "object" ? (message ?? inJson(value)) : value}`;
  });
  return oneLine([at, String(id).padStart(4), type.padEnd(10), detail.join(", ")].join("  "));
};

export const followSession = (id: string, flags: ControlFlags & { after?: number }): Promise<void> =>
  withSessions(flags, id, async (control) => {
    const { after } = flags;
    await printEvents(control.follow(id, { after, signal: untilSignal() }), flags);
  });

interface RunFlags extends ControlFlags {
  address?: string;
  params?: string;
  background?: boolean;
  deadline?: number;
  connectTimeout?: number;
  secureTransport?: SecureTransport;
}

export const runSession = (name: string, words: string[], flags: RunFlags): Promise<void> =>
  withSessions(flags, undefined, async (control) => {
    const { address, background, deadline, connectTimeout, secureTransport, json } = flags;
    const spec: SessionSpec = {
      ...(address === undefined ? { dial: name } : { handler: name, address }),
      params: paramsOf(words, flags.params) as Json,
      deadline,
      connectTimeout,
      secureTransport,
    };
    if (background) {
      const info = await control.start(spec);
      return json ? printJson(info) : print(info.id);
    }
    const info = await control.run(spec);
    if (json) await printJson(info);
    else if (info.error === null) await printJson(info.result, 2);
    if (info.error === null) return;
    const { code, message } = info.error;
    const said = describe(new SocketError(code, message.replace(`${code}: `, "")));
    throw new Error(said.includes(info.address) ? said : `${info.handler} at ${info.address}: ${said}`);
  });

export const sendToSession = (
  id: string,
  words: string[],
  flags: ControlFlags & { crlf?: boolean },
): Promise<void> =>
  withSessions(flags, id, async (control) => {
    const given = words.join(" ") + (flags.crlf ? "\r\n" : "");
    let sent = 0;
    let info: SessionInfo | undefined;
    // Standard input as it comes: typed text is sent line by line.
    for await (const bytes of given === "" ? process.stdin : [Buffer.from(given)]) {
      info = await control.send(id, bytes);
      sent += bytes.length;
    }
    if (info === undefined) throw new UsageError("nothing to send: give it as words, or on standard input");
    await (flags.json ? printJson(info) : print(`${sent} bytes sent`));
  });

export const halfCloseSession = (id: string, flags: ControlFlags): Promise<void> =>
  withSessions(flags, id, async (control) => printSession(await control.halfClose(id), flags));

export const endSession = (
  id: string,
  flags: ControlFlags & { readonly graceful?: boolean },
): Promise<void> =>
  withSessions(flags, id, async (control) =>
    printSession(await control.end(id, { graceful: flags.graceful ?? false }), flags),
  );
