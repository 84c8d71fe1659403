/**
 * Host byte order to network byte order and back: byteorder(3), CPython's `socket.htons` and its three
 * sisters.
 *
 * Each is its own inverse, and on a big-endian host each is the identity. A number that is not an integer is
 * a `TypeError`, one that does not fit is a `RangeError` (CPython's `OverflowError`).
 */

// Network order is big-endian (RFC 1700), so only a little-endian host has anything to swap.
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/**
 * A 16-bit number (a port) from host to network byte order: `htons(20000)` is 8270 on a little-endian host.
 *
 * @throws TypeError if it is not an integer; RangeError if it is not within 0 to 65535.
 */
export function htons(hostshort: number): number {
  return swap16(unsigned("htons", hostshort, 16));
}

/**
 * A 32-bit number (an IPv4 address) from host to network byte order: `htonl(20000)` is 541982720 on a
 * little-endian host. The result is unsigned.
 *
 * @throws TypeError if it is not an integer; RangeError if it is not within 0 to 4294967295.
 */
export function htonl(hostlong: number): number {
  return swap32(unsigned("htonl", hostlong, 32));
}

/**
 * A 16-bit number (a port) from network to host byte order: `ntohs(8270)` is 20000 on a little-endian host.
 *
 * @throws TypeError if it is not an integer; RangeError if it is not within 0 to 65535.
 */
export function ntohs(netshort: number): number {
  return swap16(unsigned("ntohs", netshort, 16));
}

/**
 * A 32-bit number (an IPv4 address) from network to host byte order: `ntohl(541982720)` is 20000 on a
 * little-endian host. The result is unsigned.
 *
 * @throws TypeError if it is not an integer; RangeError if it is not within 0 to 4294967295.
 */
export function ntohl(netlong: number): number {
  return swap32(unsigned("ntohl", netlong, 32));
}

function swap16(value: number): number {
  return LITTLE_ENDIAN ? ((value & 0xff) << 8) | (value >>> 8) : value;
}

function swap32(value: number): number {
  if (!LITTLE_ENDIAN) return value;
  // `>>> 0`: JavaScript's bitwise results are signed, and a C uint32_t is not.
  return ((value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)) >>> 0;
}

/** Returns `value` if it is an unsigned integer of this many bits. */
function unsigned(name: string, value: number, bits: 16 | 32): number {
  if (!Number.isInteger(value)) {
    const given = typeof value === "number" ? String(value) : value === null ? "null" : typeof value;
    throw new TypeError(`${name}() takes an integer of type number, not ${given}`);
  }
  const max = 2 ** bits - 1;
  if (value < 0 || value > max) {
    throw new RangeError(`${name}() takes 0 to ${max} (${bits} bits), not ${value}`);
  }
  return value;
}
