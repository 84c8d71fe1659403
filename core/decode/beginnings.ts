/** What may precede a connection's own protocol: a header of the PROXY protocol, a TLS ClientHello. */

import { formatAddress } from "../net/address.ts";
import { parseProxyHeader } from "../net/proxy/reader.ts";
import type { DecodedMessage, Decoder } from "./decoder.ts";

const decoder = new TextDecoder();

/** Decodes the client's PROXY protocol header (versions 1 and 2), then passes what follows to `rest`. */
export const decodeProxied = (rest: Decoder = () => []): Decoder =>
  function* (bytes, from) {
    const parsed = from === "client" ? parseProxyHeader(bytes) : null;
    let size = 0;
    if (parsed !== null) {
      const { header } = parsed;
      ({ size } = parsed);
      const of = (address: typeof header.source): string =>
        address === null ? "unknown" : formatAddress(address);
      const whom = `${of(header.source)} to ${of(header.destination)}`;
      yield {
        start: 0,
        end: size,
        text: `PROXY ${header.version}: ${header.command === "LOCAL" ? "local" : whom}`,
      };
    }
    for (const { start, end, text } of rest(bytes.subarray(size), from)) {
      yield { start: start + size, end: end + size, text };
    }
  };

/** Reads big-endian numbers and length-prefixed parts of a ClientHello. Throws if it is too short. */
class Fields {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  number(size: 1 | 2 | 3): number {
    let value = 0;
    for (const byte of this.bytes(size)) value = value * 256 + byte;
    return value;
  }

  bytes(size: number): Uint8Array {
    if (size > this.left)
      throw new Error(`the ClientHello is cut off: ${size} bytes are to follow, and ${this.left} do`);
    this.#at += size;
    return this.#bytes.subarray(this.#at - size, this.#at);
  }

  /** A length-prefixed part. */
  part(size: 1 | 2): Fields {
    return new Fields(this.bytes(this.number(size)));
  }
}

const VERSIONS: Readonly<Record<number, string>> = { 769: "1.0", 770: "1.1", 771: "1.2", 772: "1.3" };
const [SERVER_NAME, ALPN, SUPPORTED_VERSIONS] = [0, 16, 43]; // RFC 6066, 7301, 8446

/** Decodes a TLS ClientHello (RFC 8446, 4.1.2) in the first record: the server name, the versions and the protocols that it offers. */
export function* decodeClientHello(
  bytes: Uint8Array,
  from: "client" | "server",
): Generator<DecodedMessage, void, undefined> {
  if (from === "server" || bytes.length < 5) return;
  if (bytes[0] !== 22) throw new Error("byte 0: it is no TLS handshake");
  const end = 5 + (bytes[3] as number) * 256 + (bytes[4] as number);
  if (bytes.length < end) return;
  const record = new Fields(bytes.subarray(5, end));
  if (record.number(1) !== 1) throw new Error("byte 5: the handshake does not begin with a ClientHello");
  const hello = new Fields(record.bytes(record.number(3)));
  let versions = [hello.number(2)];
  hello.bytes(32); // random
  hello.part(1); // session id
  const suites = hello.part(2).left / 2;
  hello.part(1); // compression
  const said: string[] = [];
  const extensions = hello.left === 0 ? hello : hello.part(2);
  while (extensions.left > 0) {
    const type = extensions.number(2);
    const value = extensions.part(2);
    if (type === SERVER_NAME && value.left > 0) {
      const names = value.part(2);
      names.number(1);
      said.push(`for ${decoder.decode(names.bytes(names.number(2)))}`);
    } else if (type === ALPN) {
      const list = value.part(2);
      const names: string[] = [];
      while (list.left > 0) names.push(decoder.decode(list.bytes(list.number(1))));
      said.push(`ALPN ${names.join(", ")}`);
    } else if (type === SUPPORTED_VERSIONS) {
      const list = value.part(1);
      versions = [];
      while (list.left > 0) versions.push(list.number(2));
    }
  }
  const known = versions.flatMap((version) => VERSIONS[version] ?? []).join(", ");
  yield {
    start: 0,
    end,
    text: [`TLS ClientHello`, `versions ${known}`, `${suites} cipher suites`, ...said].join("; "),
  };
}
