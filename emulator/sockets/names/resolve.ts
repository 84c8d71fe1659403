/** Addresses for bind(2), connect(2) and sendto(2): checked against the socket's family, and resolved. */

import net from "node:net";
import { SocketError } from "../../../core/errors.ts";
import { type Address, type Endpoint, formatAddress } from "../../../core/net/address.ts";
import { AF_INET6, AF_UNIX, EAI_ADDRFAMILY } from "../../../core/net/constants.ts";
import { dirname, fs, lazy } from "../../builtin.ts";
import { addressOf, networkError } from "../../kernel/addresses.ts";
import { checkedPath } from "../../kernel/descriptors/sockaddr.ts";
import { zoned } from "./names.ts";

export const versionOf = (family: number): 4 | 6 => (family === AF_INET6 ? 6 : 4);

/** The name of an unbound socket, as getsockname(2) returns it. */
export const unboundName = (family: number): Address | null => {
  if (family === AF_UNIX) return null;
  return family === AF_INET6
    ? { family: "IPv6", hostname: "::", port: 0 }
    : { family: "IPv4", hostname: "0.0.0.0", port: 0 };
};

/** Throws if it is not an address of this family: `EAFNOSUPPORT`, and `ERR_NAME` for an address of the other version, as getaddrinfo(3). */
export const mustFit = (endpoint: Endpoint, family: number): void => {
  const said = formatAddress(endpoint);
  if ((endpoint.scheme === "unix") !== (family === AF_UNIX)) {
    const wants = family === AF_UNIX ? "a path" : "a host and port";
    throw new SocketError("EAFNOSUPPORT", `this socket takes ${wants}, not ${said}`, { address: said });
  }
  if (endpoint.scheme === "unix") {
    checkedPath(endpoint.path);
    return;
  }
  const version = net.isIP(endpoint.hostname);
  if (version === 0 || version === versionOf(family)) return;
  throw new SocketError(
    "ERR_NAME",
    `${said} is an address of IPv${version}, and this socket has IPv${versionOf(family)}`,
    { address: said, errno: EAI_ADDRFAMILY },
  );
};

/** The address of an endpoint in this family: the first if there are several, as for CPython's `bind` and `sendto`. */
export const resolve = async (endpoint: Endpoint, family: number): Promise<Address> => {
  mustFit(endpoint, family);
  if (endpoint.scheme === "unix") return { family: "unix", path: endpoint.path };
  const { hostname, port } = endpoint;
  const version = versionOf(family);
  const named = (host: string): Address => addressOf(host, port, `IPv${version}`) as Address;
  if (hostname === "") return named(version === 6 ? "::" : "0.0.0.0");
  if (hostname === "<broadcast>" && version === 4) return named("255.255.255.255"); // CPython's code for it
  if (net.isIP(hostname) === version) return named(zoned(hostname, formatAddress(endpoint)));
  try {
    return named((await lazy.dns.promises.lookup(hostname, { family: version })).address);
  } catch (error) {
    throw networkError(error, formatAddress(endpoint));
  }
};

/** An error of bind(2), with a remedy. */
export const bindError = (error: unknown, address: Address, said: string): SocketError => {
  const { code } = error as { readonly code?: string };
  if (address.family !== "unix" || (code !== "ENOENT" && code !== "EACCES")) return networkError(error, said);
  // libuv has one code for both causes.
  const folder = dirname(address.path);
  const missing = !fs.existsSync(folder);
  const why = missing ? `there is no folder ${folder}` : `this process may not create a file in ${folder}`;
  return new SocketError(missing ? "ENOENT" : "EACCES", `${said}: ${why}`, { address: said, cause: error });
};
