/**
 * A transcript as a capture for Wireshark and tshark: pcapng (draft-ietf-opsawg-pcapng) of raw IP, with the TCP and UDP headers that
 * the conversation would have had. The bytes are exactly those of the conversation, split as they were recorded.
 */

import { parseAddress } from "../../../core/net/address.ts";
import type { Side, Transcript, TranscriptEvent } from "../../../core/testing/transcript/form.ts";

const SECTION = 0x0a0d0d0a;
const INTERFACE = 1;
const PACKET = 6;
const MAGIC = 0x1a2b3c4d;
const LINKTYPE_RAW = 101; // packets begin with their IP header
const SNAPLEN = 65_535; // the longest IP packet
const IP = 20; // bytes of an IPv4 header
const TCP = 20; // bytes of a TCP header
const UDP = 8; // bytes of a UDP header
const MOST = SNAPLEN - IP - TCP; // bytes of a segment
const PROTOCOL = { tcp: 6, udp: 17 } as const;
const FIN = 1;
const SYN = 2;
const RST = 4;
const PSH = 8;
const ACK = 16;
const FIRST_CLIENT = 49_152; // the first of the dynamic ports (RFC 6335)
const CLIENTS = 65_536 - FIRST_CLIENT;
const LOOPBACK = [127, 0, 0, 1] as const;

const block = (type: number, body: Buffer): Buffer => {
  const padded = (body.length + 3) & ~3;
  const whole = Buffer.alloc(12 + padded);
  whole.writeUInt32LE(type, 0);
  whole.writeUInt32LE(whole.length, 4);
  body.copy(whole, 8);
  whole.writeUInt32LE(whole.length, 8 + padded);
  return whole;
};

const header = (): Buffer => {
  const section = Buffer.alloc(16);
  section.writeUInt32LE(MAGIC, 0);
  section.writeUInt16LE(1, 4); // version 1.0
  section.writeBigInt64LE(-1n, 8); // length of the section: unspecified
  const link = Buffer.alloc(8);
  link.writeUInt16LE(LINKTYPE_RAW, 0);
  link.writeUInt32LE(SNAPLEN, 4);
  return Buffer.concat([block(SECTION, section), block(INTERFACE, link)]);
};

/** One packet, `at` microseconds after 1970. */
const packet = (at: bigint, bytes: Buffer): Buffer => {
  const body = Buffer.alloc(20 + bytes.length);
  body.writeUInt32LE(Number(at >> 32n), 4);
  body.writeUInt32LE(Number(at & 0xffff_ffffn), 8);
  body.writeUInt32LE(bytes.length, 12);
  body.writeUInt32LE(bytes.length, 16);
  bytes.copy(body, 20);
  return block(PACKET, body);
};

/** The Internet checksum (RFC 1071) of these parts, each but the last of an even length. */
const checksum = (...parts: readonly Buffer[]): number => {
  let sum = 0;
  for (const part of parts) {
    for (let i = 0; i + 1 < part.length; i += 2) sum += part.readUInt16BE(i);
    if (part.length % 2 === 1) sum += (part.at(-1) as number) << 8;
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
};

/** One end: its address and port. */
interface End {
  readonly ip: readonly number[];
  readonly port: number;
}

const ipPacket = (
  protocol: keyof typeof PROTOCOL,
  from: End,
  to: End,
  segment: Buffer,
  sum: number,
): Buffer => {
  const pseudo = Buffer.from([...from.ip, ...to.ip, 0, PROTOCOL[protocol], 0, 0]);
  pseudo.writeUInt16BE(segment.length, 10);
  const computed = checksum(pseudo, segment);
  segment.writeUInt16BE(protocol === "udp" && computed === 0 ? 0xffff : computed, sum);
  const ip = Buffer.alloc(IP);
  ip[0] = 0x45; // version 4, five words
  ip.writeUInt16BE(IP + segment.length, 2);
  ip.writeUInt16BE(0x4000, 6); // don't fragment
  ip[8] = 64; // hops
  ip[9] = PROTOCOL[protocol];
  Buffer.from([...from.ip, ...to.ip]).copy(ip, 12);
  ip.writeUInt16BE(checksum(ip), 10);
  return Buffer.concat([ip, segment]);
};

/** One connection as TCP would have carried it. */
class Connection {
  readonly #ends: Readonly<Record<Side, End>>;
  readonly #next: Record<Side, number> = { client: 1_000, server: 2_000_000 }; // arbitrary; Wireshark shows them relative to 0
  readonly #gone = new Set<Side>();
  #reset = false;
  #open = false;

  constructor(client: End, server: End) {
    this.#ends = { client, server };
  }

  /** The packets of one event. */
  packets(event: TranscriptEvent): Buffer[] {
    if (!("from" in event) || "fault" in event) return [];
    const { from } = event;
    const packets = this.#open ? [] : this.#handshake();
    if ("data" in event) {
      for (let at = 0; at < event.data.length; at += MOST) {
        packets.push(this.#segment(from, PSH | ACK, event.data.subarray(at, at + MOST)));
      }
    } else if (event.end === "reset") {
      if (!this.#reset) packets.push(this.#segment(from, RST | ACK));
      this.#reset = true;
    } else if (!this.#reset && !this.#gone.has(from)) {
      this.#gone.add(from);
      packets.push(
        this.#segment(from, FIN | ACK),
        this.#segment(from === "client" ? "server" : "client", ACK),
      );
    }
    return packets;
  }

  #handshake(): Buffer[] {
    this.#open = true;
    return [this.#segment("client", SYN), this.#segment("server", SYN | ACK), this.#segment("client", ACK)];
  }

  #segment(from: Side, flags: number, data: Uint8Array = new Uint8Array(0)): Buffer {
    const to = from === "client" ? "server" : "client";
    const segment = Buffer.alloc(TCP + data.length);
    segment.writeUInt16BE(this.#ends[from].port, 0);
    segment.writeUInt16BE(this.#ends[to].port, 2);
    segment.writeUInt32BE(this.#next[from], 4);
    segment.writeUInt32BE((flags & ACK) === 0 ? 0 : this.#next[to], 8);
    segment[12] = (TCP / 4) << 4;
    segment[13] = flags;
    segment.writeUInt16BE(0xffff, 14); // the window
    segment.set(data, TCP);
    const counted = data.length + ((flags & (SYN | FIN)) === 0 ? 0 : 1);
    this.#next[from] = (this.#next[from] + counted) % 2 ** 32;
    return ipPacket("tcp", this.#ends[from], this.#ends[to], segment, 16);
  }
}

const datagram = (from: End, to: End, data: Uint8Array): Buffer => {
  const segment = Buffer.alloc(UDP + data.length);
  segment.writeUInt16BE(from.port, 0);
  segment.writeUInt16BE(to.port, 2);
  segment.writeUInt16BE(segment.length, 4);
  segment.set(data, UDP);
  return ipPacket("udp", from, to, segment, 6);
};

/** The server's end, from the transcript's `address` as far as it is known; `port` overrides its port. Throws `TypeError`. */
const serverOf = ({ address }: Transcript, port: number | undefined): End => {
  const endpoint = address === undefined ? undefined : parseAddress(address);
  const known = endpoint === undefined || endpoint.scheme === "unix" ? undefined : endpoint;
  const number = port ?? known?.port;
  if (number === undefined) {
    throw new TypeError(
      "the transcript does not say the server's port, by which a capture is dissected; give one",
    );
  }
  const ip = (known?.hostname ?? "").split(".").map(Number);
  return { ip: ip.length === 4 && ip.every((byte) => byte >= 0 && byte < 256) ? ip : LOOPBACK, port: number };
};

/** `transcript` as a capture, block by block. Throws `TypeError` if it has no server port and none is given. */
export function* toPcapng(transcript: Transcript, port?: number): Generator<Uint8Array> {
  const server = serverOf(transcript, port);
  const connections = new Map<number, Connection>();
  const began = BigInt(transcript.began === undefined ? 0 : Date.parse(transcript.began)) * 1000n;
  yield header();
  for (const event of transcript.events) {
    const { peer = 1 } = event;
    const client: End = { ip: LOOPBACK, port: FIRST_CLIENT + ((peer - 1) % CLIENTS) };
    const at = began + BigInt(Math.round(event.at * 1000));
    if (transcript.kind === "datagrams") {
      if (!("data" in event)) continue;
      const ends = event.from === "client" ? ([client, server] as const) : ([server, client] as const);
      yield packet(at, datagram(...ends, event.data));
      continue;
    }
    const connection = connections.get(peer) ?? new Connection(client, server);
    connections.set(peer, connection);
    for (const bytes of connection.packets(event)) yield packet(at, bytes);
  }
}
