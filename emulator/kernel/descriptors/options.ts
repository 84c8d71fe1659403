/** For every socket option: its name in errors, the check of its number, and its value as bytes. */

import { SocketError } from "../../../core/errors.ts";
import * as constants from "../../../core/net/constants.ts";
import { IPPROTO_IPV6, SOL_IP, SOL_SOCKET, SOL_TCP } from "../../../core/net/constants.ts";

/** An option as the key of a table. */
export const optionKey = (level: number, name: number): string => `${level} ${name}`;

const LEVELS: Readonly<Record<number, readonly [level: string, names: string]>> = {
  [SOL_SOCKET]: ["SOL_SOCKET", "SO_"],
  [SOL_IP]: ["SOL_IP", "IP_"],
  [SOL_TCP]: ["SOL_TCP", "TCP_"],
  [IPPROTO_IPV6]: ["IPPROTO_IPV6", "IPV6_"],
};

/** An option as an error message names it: `SO_SNDBUF (7) at SOL_SOCKET (1)`. */
export const optionName = (level: number, name: number): string => {
  const [levelName, prefix] = LEVELS[level] ?? [];
  const found = Object.entries(constants).find(
    ([one, value]) => value === name && one.startsWith(prefix ?? " "),
  );
  const said = found === undefined ? `the option ${name}` : `${found[0]} (${name})`;
  return `${said} at ${levelName === undefined ? `level ${level}` : `${levelName} (${level})`}`;
};

/** The kernel's error about an option, with the option's name. */
export const optionError = (error: unknown, level: number, name: number, value?: Uint8Array): unknown => {
  if (!(error instanceof SocketError)) return error;
  const { code, cause } = error;
  const own = optionName(level, name);
  const given = value?.length === 4 ? integer(value) : `${value?.length} bytes`;
  if (code === "EINVAL" && value !== undefined)
    return new SocketError(code, `${own} cannot be ${given}`, { cause });
  if (code === "ENOPROTOOPT") {
    const how = value === undefined ? "read" : "set";
    return new SocketError(code, `${own} cannot be ${how} on this socket`, { cause });
  }
  return new SocketError(code, `${own}: ${error.message.slice(code.length + 2)}`, { cause });
};

/** Throws `TypeError` for a level or a name that is not an integer. */
export const checkOption = (level: number, name: number): void => {
  for (const [what, value] of [
    ["level", level],
    ["name", name],
  ] as const) {
    if (!Number.isInteger(value)) throw new TypeError(`the ${what} of an option is an integer, not ${value}`);
  }
};

/** A C int, or a shorter value (some options are a byte). */
export const integer = (bytes: Uint8Array): number =>
  bytes.length < 4 ? (bytes[0] ?? 0) : (new Int32Array(bytes.slice(0, 4).buffer)[0] as number);

/** A C int. Throws `TypeError`, `RangeError`. */
export const bytesOf = (value: number): Uint8Array => {
  if (!Number.isInteger(value)) throw new TypeError(`the value of an option is an integer, not ${value}`);
  if (value !== (value | 0)) {
    throw new RangeError(`the value of an option is an integer of 32 bits, or bytes, not ${value}`);
  }
  return new Uint8Array(Int32Array.of(value).buffer);
};
