/** Node's form of addresses, and its errors for names and addresses. */

import { SocketError } from "../../core/errors.ts";
import type { Address, InternetAddress } from "../../core/net/address.ts";
import { isNameFailure, type NameFailure, nameErrno } from "../../core/net/names.ts";
import { getSystemErrorName } from "../builtin.ts";

/** A Node address as an `Address`; `null` if Node has none. */
export const addressOf = (
  hostname: string | undefined,
  port: number | undefined,
  family: string | undefined,
): Address | null => {
  if (hostname === undefined || port === undefined) return null;
  if (family !== "IPv6") return { family: "IPv4", hostname, port };
  const [host = "", scopeId] = hostname.split("%");
  return scopeId === undefined
    ? { family: "IPv6", hostname: host, port }
    : { family: "IPv6", hostname: host, port, scopeId };
};

/** Why a name could not be resolved. Node's `ENOTFOUND` covers `EAI_NONAME` and `EAI_NODATA`; its error number says which. On Bun that is a number of c-ares. */
export const nameFailure = (error: unknown): NameFailure => {
  const { errno, code = "" } = error as NodeJS.ErrnoException;
  if (typeof errno === "number" && errno > 0 && code === "ENOTFOUND") return "EAI_NONAME";
  const reason = typeof errno === "number" && errno < 0 ? getSystemErrorName(errno) : code;
  return isNameFailure(reason) ? reason : "EAI_FAIL";
};

/** The host in Node's form: an IPv6 address with its scope. */
export const hostOf = ({ hostname, scopeId }: InternetAddress): string =>
  scopeId === undefined ? hostname : `${hostname}%${scopeId}`;

/** A `SocketError` for an error about a name or an address; its message says which. */
export const networkError = (error: unknown, address: string): SocketError => {
  // Happy Eyeballs throws one error for all the addresses that it tried; the first one has the reason.
  const first = error instanceof AggregateError && error.errors.length > 0 ? error.errors[0] : error;
  const code = (first as { code?: string }).code ?? "";
  if (/^(ENOTFOUND|EAI_)/.test(code)) {
    return new SocketError("ERR_NAME", `the name in ${address} could not be resolved (${code})`, {
      address,
      cause: error,
      errno: nameErrno(nameFailure(first)),
    });
  }
  if (code === "EAGAIN") {
    const said = `${address}: its queue of connections that wait to be accepted is full`; // Unix sockets only: TCP retries
    return new SocketError("EWOULDBLOCK", said, { address, cause: error });
  }
  const remedy: Record<string, string> = {
    EADDRINUSE: `${address} is in use: another program listens there; end it, or choose another port`,
    EACCES: `${address} may not be used by this process: ports below 1024 need root; choose one above`,
    EADDRNOTAVAIL: `${address} is not an address of this machine`,
    ECONNREFUSED: `${address} refused the connection: nothing listens there`,
    ENOENT: `${address}: there is no socket at that path`,
  };
  return Object.hasOwn(remedy, code)
    ? new SocketError(code as "EADDRINUSE", remedy[code], { address, cause: error })
    : SocketError.from(first, "ERR_CONNECT_FAILED", address);
};

/** The error for a libuv error number. */
export const systemError = (status: number): Error => {
  const code = getSystemErrorName(status);
  return Object.assign(new Error(code), { code });
};
