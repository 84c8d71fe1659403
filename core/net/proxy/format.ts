/**
 * What readers and writers of PROXY protocol headers share: the numbers of the format (HAProxy, doc/proxy-protocol.txt; of the
 * Simple Proxy Protocol, Cloudflare Spectrum) and the checksum.
 */

export const SIGNATURE = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
export const LINE = [0x50, 0x52, 0x4f, 0x58, 0x59, 0x20]; // "PROXY "
export const MAX_LINE = 107; // bytes of a version 1 header with its CRLF
export const FIXED = 16; // bytes of a version 2 header before its addresses
export const UNIX_PATH = 108; // bytes of a path in it, filled up with zeros
export const SIMPLE = [0x56, 0xec];
export const SIMPLE_SIZE = 38; // bytes
export const MAX_ID = 128; // bytes of a unique id
export const MAX_BLOCK = 0xffff; // bytes after the fixed part: its length has 16 bits

export const ALPN = 0x01;
export const AUTHORITY = 0x02;
export const CRC32C = 0x03;
export const NOOP = 0x04;
export const UNIQUE_ID = 0x05;
export const SSL = 0x20;
const SSL_VERSION = 0x21;
const SSL_CN = 0x22;
const SSL_CIPHER = 0x23;
const SSL_SIG_ALG = 0x24;
const SSL_KEY_ALG = 0x25;
const SSL_GROUP = 0x26;
const SSL_SIG_SCHEME = 0x27;
export const SSL_CLIENT_CERT = 0x28;
export const NETNS = 0x30;

export const CLIENT_SSL = 0x01;
export const CLIENT_CERT_CONN = 0x02;
export const CLIENT_CERT_SESS = 0x04;

export const SSL_TEXTS = {
  [SSL_VERSION]: "version",
  [SSL_CN]: "commonName",
  [SSL_CIPHER]: "cipher",
  [SSL_SIG_ALG]: "signatureAlgorithm",
  [SSL_KEY_ALG]: "keyAlgorithm",
  [SSL_GROUP]: "group",
  [SSL_SIG_SCHEME]: "signatureScheme",
} as const;

export const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

let table: Uint32Array | undefined;

/** CRC-32C (Castagnoli: RFC 9260, appendix A), reflected, by a table of 256. */
export const crc32c = (bytes: Uint8Array): number => {
  table ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    return crc;
  });
  let crc = 0xffff_ffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 0xff] as number);
  return (crc ^ 0xffff_ffff) >>> 0;
};
