/** What the commands print: on stdout, on stderr, and about an error. */

import { SESSION_LIMITS } from "../../../core/control/plane.ts";
import {
  isA,
  peek,
  plain,
  printable,
  printableJson,
  describe as thrownAs,
  toJson,
} from "../../../core/describe.ts";
import { SocketError, type SocketErrorCode } from "../../../core/errors.ts";
import type { SockletEvent } from "../../../core/handlers/events.ts";
import { type Address, formatAddress } from "../../../core/net/address.ts";
import { fileURLToPath, fs, relative } from "../../builtin.ts";
import { isUsers } from "../../own-files.ts";

/** Wrong usage: exit status 2. */
export class UsageError extends Error {}

/** Runs code that parses the user's input: what it throws becomes a `UsageError` that names `what` was parsed. */
export const asked = <T>(what: string, read: () => T): T => {
  try {
    return read();
  } catch (error) {
    const said = thrownAs(error).message;
    throw new UsageError(said.includes(what) ? said : `${what}: ${said}`, { cause: error });
  }
};

// This command writes everything by `say`, `print` and `printJson`: what a peer sent must not control the terminal.

/** One line, whatever is in it. (Not by one pattern for a line's end and the space around it: on 100 KB of spaces that takes seconds.) */
export const oneLine = (text: string): string =>
  printable(
    text
      .split(/[\r\n]/)
      .map((line) => line.trim())
      .filter((line) => line !== "")
      .join(" "),
  );

const LONGEST = 1000; // characters of a message: it may repeat a word of the user's, and its end says what would be right

/** `text`, without its middle where it is longer than a message may be. */
const shortened = (text: string): string =>
  text.length <= LONGEST
    ? text
    : `${text.slice(0, LONGEST / 2)}… (${text.length} characters) …${text.slice(-LONGEST / 2)}`;

/** How events and messages appear on stderr: a JSON object per line, text for people, or (events) not at all. */
export const LOG_FORMATS = ["json", "pretty", "off"] as const;
export type LogFormat = (typeof LOG_FORMATS)[number];

let format: LogFormat = "pretty";

/** Sets how everything appears on stderr from now on. */
export const setLog = (wanted: LogFormat): void => {
  format = wanted;
};

/** One JSON object as a line of the log. */
const logLine = (fields: Readonly<Record<string, unknown>>): void =>
  void process.stderr.write(`${inJson({ time: new Date().toISOString(), ...fields })}\n`);

/** Prints something for the user on stderr, in one line; as JSON with the complete error that it is `about`. */
export const say = (text: string, about?: { readonly error: unknown }): void => {
  const message = oneLine(shortened(text));
  if (format === "json")
    logLine({ type: "message", message, ...(about && { error: wholeError(about.error) }) });
  else process.stderr.write(`socklet: ${message}\n`);
};

/** Writes to stdout; resolves when it is written. */
const write = (text: string): Promise<void> =>
  new Promise((resolve, reject) => {
    process.stdout.write(`${text}\n`, (error) => (error ? reject(error) : resolve()));
  });

/** Prints text to stdout; resolves when it is written. */
export const print = (text: string): Promise<void> => write(printable(text, true));

/** Prints `value` to stdout as JSON. Throws as `toJson`. */
export const printJson = (value: unknown, indent?: number): Promise<void> => write(inJson(value, indent));

/** `value` as JSON that is safe to print. Throws as `toJson`. */
export const inJson = (value: unknown, indent?: number): string => printableJson(toJson(value, indent));

/** Rows as lines, each column as wide as its widest cell. */
export const columns = (given: readonly (readonly string[])[]): string => {
  const rows = given.map((row) => row.map(oneLine));
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) => oneLine(row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  "))).join("\n");
};

// What to do, for errors that do not say it. (EADDRINUSE and ERR_LIMIT do.)
const REMEDY: Partial<Record<SocketErrorCode, string>> = {
  ECONNREFUSED: "start the server, or check the host and port",
  ECONNRESET: "the peer closed the connection midway; its own log may say why",
  EADDRNOTAVAIL: "give one of its own with --host, such as 127.0.0.1, or 0.0.0.0 for all of them",
  ENOENT: "check the path, and that the server is up",
  ERR_NAME: "check its spelling, or give an address such as 127.0.0.1",
  ERR_INCOMPLETE_READ: "the peer has to send the rest before it ends the connection",
};

/** Where in the user's own files `error` was thrown, or found by the parser: `app.ts:3:7`. */
const placeOf = (stack: string): string | undefined => {
  const [url, position] = urlOf(stack) ?? [];
  try {
    return url === undefined ? undefined : shortPath(fileURLToPath(url)) + position;
  } catch {
    return undefined; // a stack may contain anything
  }
};

/** The same as the file's URL, with `:3:7`. */
const urlOf = (stack: string): readonly [url: string, position: string] | undefined => {
  const places = stack.match(/file:\/\/[^\s)]+?:\d+(:\d+)?(?=[\s)]|$)/g) ?? [];
  const place = places.find(isUsers);
  if (place === undefined) return undefined;
  const [, url = "", position = ""] = /^(.*?)((?::\d+)+)$/.exec(place) ?? [];
  return [url, position];
};

/** Prints on stderr the line of the user's own files where `error` was thrown, or found by the parser. */
export const showPlace = (error: unknown): void => {
  const [url, position = ""] = urlOf(thrownAs(error).stack ?? "") ?? [];
  const [, line = Number.NaN, column] = position.split(":").map(Number);
  if (url === undefined || format === "json") return;
  try {
    const path = fileURLToPath(url);
    const text = fs.readFileSync(path, "utf8").split(/\r?\n/)[line - 1];
    if (text === undefined) return;
    const head = `  ${line} | `;
    const mark =
      column === undefined
        ? ""
        : `\n${" ".repeat(head.length)}${text.slice(0, column - 1).replace(/\S/g, " ")}^`;
    process.stderr.write(
      `${printable(`  ${shortPath(path)}:${position.slice(1)}\n${head}${text}${mark}`, true)}\n`,
    );
  } catch {} // it does not exist, or not any more
};

const shortPath = (path: string): string => {
  const short = relative(process.cwd(), path);
  return short === "" || short.startsWith("..") ? path : short;
};

/** `said`, and where in the user's own files `error` was thrown, unless `said` has that already. */
export const withPlace = (said: string, error: unknown): string => {
  const place = placeOf(thrownAs(error).stack ?? "");
  return place === undefined || said.includes(place) ? said : `${said} (${place})`;
};

/** What an error is, and what to do about it. */
export const describe = (error: unknown): string => {
  const { name, message, code } = thrownAs(error);
  if (isA(error, UsageError)) return message;
  if (!isA(error, SocketError)) return withPlace(name === "" ? message : `${name}: ${message}`, error);
  const remedy = SocketError.isCode(code) ? REMEDY[code] : undefined;
  return remedy === undefined ? message : `${message}; ${remedy}`;
};

/** The text of `event`. Of a handler's own event only what it emitted: more would distract. */
const eventJson = (event: SockletEvent): string => {
  const shown =
    event.type === "handler" ? { ...event, detail: plain(event.detail, SESSION_LIMITS.detailSize) } : event;
  return inJson(shown);
};

/** What happened to a listener's certificates. */
const certificateText = ({
  certificates,
  error,
}: Extract<SockletEvent, { readonly type: "certificate" }>): string => {
  const shown = certificates
    .map(({ subject, validTo }) => `${subject}, until ${validTo.toISOString()}`)
    .join("; ");
  return error === null
    ? `the certificate was read again: ${shown}`
    : `the new certificate is not used: ${describe(error)}; the old one stays in use: ${shown}`;
};

const CAUSES = 5; // how far the causes of an error are followed: they may be circular

/** A complete error for JSON: its name, code, message, stack and causes. */
const wholeError = (error: unknown, causes = CAUSES): Readonly<Record<string, unknown>> => {
  const { name, code, message, stack, address } = thrownAs(error);
  const within = isA(error, AggregateError) ? peek(error, "errors") : undefined;
  const cause = isA(error, Error) ? peek(error, "cause") : undefined;
  return {
    ...(name !== "" && { name }),
    ...(code !== undefined && { code }),
    message,
    ...(address !== undefined && { address }),
    ...(stack !== undefined && { stack }),
    ...(cause !== undefined && causes > 0 && { cause: wholeError(cause, causes - 1) }),
    ...(Array.isArray(within) && causes > 0 && { errors: within.map((one) => wholeError(one, causes - 1)) }),
  };
};

/** An event as a line of JSON: addresses as text, errors complete. */
const logEvent = (event: SockletEvent): void => {
  const { type, ...rest } = event;
  const fields = Object.entries(rest).map(([name, value]): [string, unknown] => {
    if (name === "address") return [name, value === null ? null : formatAddress(value as Address)];
    if (name === "error") return [name, value === null ? null : wholeError(value)];
    return [name, name === "detail" ? plain(value, SESSION_LIMITS.detailSize) : value];
  });
  logLine({ type, ...Object.fromEntries(fields) });
};

/** A listener that prints the events of servers on stderr: errors, and with `verbose` those of requests too; as JSON all of them. */
export const logger =
  (verbose: boolean) =>
  (event: SockletEvent): void => {
    if (format === "json") logEvent(event);
    if (format !== "pretty") return;
    const peer = "address" in event && event.address !== null ? `  ${formatAddress(event.address)}` : "";
    const who = `${event.server}${peer}`;
    if (event.type === "error") say(`${who}  ${describe(event.error)}`);
    else if (event.type === "refused") {
      const why = event.error === undefined ? "" : `: ${describe(event.error)}`;
      say(`${who}  refused (${event.reason})${why}`);
    } else if (event.type === "handshake" && event.error !== null) say(`${who}  ${describe(event.error)}`);
    else if (event.type === "certificate") say(`${who}  ${certificateText(event)}`);
    else if (event.type === "lost") say(`${who}  a child process was lost: ${describe(event.error)}`);
    else if (event.type === "edge") say(`${who}  ${event.message}`);
    else if (event.type === "stuck") say(`${who}  did not end when it was aborted`);
    else if (verbose && event.type !== "listening") say(eventJson(event));
  };
