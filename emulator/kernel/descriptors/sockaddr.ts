/** Socket addresses as the kernel reads and writes them: `struct sockaddr`. */

import { SocketError } from "../../../core/errors.ts";
import { type Address, formatAddress, inetNtop, inetPton } from "../../../core/net/address.ts";
import { AF_INET, AF_INET6, AF_UNIX } from "../../../core/net/constants.ts";

export const SOCKADDR = 128; // bytes of struct sockaddr_storage; socket(7)
const MAX_PATH = process.platform === "linux" ? 107 : 103; // bytes: sun_path with its NUL is 108 (unix(7)), on the BSDs 104

/** The bytes of a Unix path, or of an abstract name. Throws `EINVAL` if it is too long for an address: Node would truncate it, or say only that it is invalid. */
export const checkedPath = (path: string): Uint8Array => {
  const bytes = new TextEncoder().encode(path);
  const abstract = bytes[0] === 0;
  const length = abstract ? bytes.length - 1 : bytes.length;
  if (length <= MAX_PATH) return bytes;
  const said = formatAddress({ scheme: "unix", path });
  const what = abstract ? "an abstract name, after its \\0," : "a socket's path";
  throw new SocketError("EINVAL", `${what} has at most ${MAX_PATH} bytes, not ${length}: ${said}`, {
    address: said,
  });
};

/** The network interfaces of this machine: addresses use their names, the kernel their numbers. */
export interface Interfaces {
  /** 0 if there is none of that name. if_nametoindex(3) */
  indexOf(name: string): number;
  /** Empty if there is none of that number. if_indextoname(3) */
  nameOf(index: number): string;
}

/** `struct sockaddr_in`, `sockaddr_in6` or `sockaddr_un`: ip(7), ipv6(7), unix(7). */
export const packSockaddr = (address: Address, interfaces: Interfaces): Uint8Array => {
  if (address.family === "unix") {
    const path = checkedPath(address.path);
    const packed = new Uint8Array(2 + path.length + (path[0] === 0 ? 0 : 1)); // an abstract name ends with its length, a path with a NUL
    new Uint16Array(packed.buffer, 0, 1)[0] = AF_UNIX;
    packed.set(path, 2);
    return packed;
  }
  const wide = address.family === "IPv6";
  const packed = new Uint8Array(wide ? 28 : 16);
  new Uint16Array(packed.buffer)[0] = wide ? AF_INET6 : AF_INET;
  packed[2] = address.port >> 8;
  packed[3] = address.port & 0xff;
  packed.set(inetPton(wide ? AF_INET6 : AF_INET, address.hostname), wide ? 8 : 4);
  if (address.scopeId !== undefined && wide) {
    new Uint32Array(packed.buffer)[6] = interfaceIndex(address.scopeId, address.hostname, interfaces);
  }
  return packed;
};

const interfaceIndex = (scope: string, hostname: string, interfaces: Interfaces): number => {
  const index = /^[0-9]+$/.test(scope) ? Number(scope) : interfaces.indexOf(scope);
  if (index > 0) return index;
  throw new SocketError("EADDRNOTAVAIL", `${hostname}%${scope}: this machine has no interface ${scope}`);
};

/** The address that the kernel wrote; `null` for a Unix socket without a name. */
export const unpackSockaddr = (packed: Uint8Array, interfaces: Interfaces): Address | null => {
  const size = packed.length;
  if (size < 2) return null; // the peer of a socketpair() has not even a family
  const family = new Uint16Array(packed.buffer, packed.byteOffset, 1)[0];
  if (family === AF_UNIX) {
    const path = packed.subarray(2);
    if (path.length === 0) return null;
    const end = path[0] === 0 ? -1 : path.indexOf(0);
    return { family: "unix", path: new TextDecoder().decode(end < 0 ? path : path.subarray(0, end)) };
  }
  const port = ((packed[2] as number) << 8) | (packed[3] as number);
  if (family === AF_INET) return { family: "IPv4", hostname: packed.subarray(4, 8).join("."), port };
  const hostname = inetNtop(AF_INET6, packed.subarray(8, 24));
  const scope = new Uint32Array(packed.buffer, packed.byteOffset + 24, 1)[0] as number;
  return scope === 0
    ? { family: "IPv6", hostname, port }
    : { family: "IPv6", hostname, port, scopeId: interfaces.nameOf(scope) || String(scope) };
};
