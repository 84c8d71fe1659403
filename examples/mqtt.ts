/**
 * MQTT 3.1.1 (https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/), the client's side: it subscribes to a topic, and tells each message
 * of QoS 2 once, through any loss of its connection, its process or its object.
 *
 * Its session at the server lasts (Clean Session is 0): while the client is away the server keeps what comes. QoS 2 is told once
 * as section 4.3.3, method A, says: the client keeps the packet identifier with what it tells, before it answers PUBREC, and forgets it
 * when PUBREL comes.
 *
 *     PUBLISH ──▶ told, and its identifier saved, in one turn ──▶ PUBREC ──▶ PUBREL ──▶ the identifier forgotten ──▶ PUBCOMP
 */

import { SocketError, StreamRequestHandler } from "socklet";

/** What `MqttSubscriber` takes as its params. */
export interface MqttParams {
  /** Names its session at the server: no two clients may have the same. */
  readonly clientId: string;
  /** A topic filter. */
  readonly topic: string;
  readonly username?: string;
  readonly password?: string;
  /** Seconds of silence after which either end takes the other for dead. Default 600: an idle connection is used within the 15 minutes for which it keeps a Durable Object. */
  readonly keepAlive?: number;
  /** How many messages it tells in all; default: it goes on for ever. */
  readonly limit?: number;
}

interface MqttState {
  /** Identifiers of messages that were told, and that the server may send again. */
  readonly received: ReadonlySet<number>;
  readonly told: number;
}

const CONNECT = 1;
const CONNACK = 2;
const PUBLISH = 3;
const PUBACK = 4;
const PUBREC = 5;
const PUBREL = 6;
const PUBCOMP = 7;
const SUBSCRIBE = 8;
const SUBACK = 9;
const PINGREQ = 12;
const PINGRESP = 13;

const REFUSED = [
  "",
  "the protocol's version",
  "the client's identifier",
  "the server is unavailable",
  "the user's name or password",
  "it is not authorised",
];
const MAX_PACKET = 1024 * 1024; // bytes: the protocol allows 256 MB, and a Worker has 128 MB
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Tells each message as `{ topic, message }`, text as text and other bytes as they are. */
export class MqttSubscriber extends StreamRequestHandler<unknown, MqttParams, MqttState> {
  override readonly initialState: MqttState = { received: new Set(), told: 0 };

  override async handle(): Promise<number> {
    const {
      clientId,
      topic,
      username,
      password,
      keepAlive = 600,
      limit = Number.POSITIVE_INFINITY,
    } = this.params;
    const flags = (username === undefined ? 0 : 0x80) | (password === undefined ? 0 : 0x40); // and not 2, a clean session
    const login = [username, password].flatMap((word) => (word === undefined ? [] : [text(word)]));
    this.request.settimeout(keepAlive * 1000);
    this.wfile.write(
      packet(CONNECT, 0, text("MQTT"), Uint8Array.of(4, flags), uint16(keepAlive), text(clientId), ...login),
    );
    const connack = await this.#packet();
    const [present = 0, code = 0] = connack.body;
    if (connack.type !== CONNACK) throw broken(`type ${connack.type} before CONNACK`);
    if (code !== 0) throw new SocketError("ERR_REFUSED", `the server refuses: ${REFUSED[code] ?? code}`);
    let { received, told } = this.state;
    if ((present & 1) === 0) {
      if (told > 0) this.emit({ missing: "the server has no session of ours any more" });
      received = new Set(); // its identifiers are those of another session now
      await this.save({ received, told });
    }
    this.wfile.write(packet(SUBSCRIBE, 2, uint16(1), text(topic), Uint8Array.of(2)));

    while (told < limit || received.size > 0) {
      const { type, flags, body } = await this.#packet();
      if (type === PUBLISH) {
        const qos = (flags >> 1) & 3;
        const length = read16(body, 0);
        const id = qos === 0 ? 0 : read16(body, 2 + length);
        if (qos !== 2 || !received.has(id)) {
          this.emit({
            topic: decoder.decode(body.subarray(2, 2 + length)),
            message: textOrBytes(body.slice(2 + length + (qos === 0 ? 0 : 2))),
          });
          told++;
          if (qos === 2) received = new Set([...received, id]);
          await this.save({ received, told });
        }
        if (qos === 1) this.wfile.write(packet(PUBACK, 0, uint16(id)));
        if (qos === 2) this.wfile.write(packet(PUBREC, 0, uint16(id)));
      } else if (type === PUBREL) {
        const id = read16(body, 0);
        received = new Set([...received].filter((other) => other !== id));
        await this.save({ received, told });
        this.wfile.write(packet(PUBCOMP, 0, uint16(id)));
      } else if (type === SUBACK) {
        if (((body[2] ?? 0x80) & 0x80) !== 0)
          throw new SocketError("ERR_REFUSED", `no subscription to ${topic}`);
      } else if (type !== PINGRESP) throw broken(`type ${type}`);
    }
    return this.done(told);
  }

  /** The next packet. A server that says nothing for the keep-alive's time is asked whether it is there. */
  async #packet(): Promise<{ type: number; flags: number; body: Uint8Array }> {
    let first: Uint8Array | undefined;
    for (let asked = false; first === undefined; asked = true) {
      try {
        first = await this.rfile.readexactly(1);
      } catch (error) {
        if (asked || !(error instanceof SocketError) || error.code !== "ETIMEDOUT") throw error;
        this.wfile.write(packet(PINGREQ, 0));
      }
    }
    let length = 0;
    for (let shift = 0, more = true; more; shift += 7) {
      if (shift > 21) throw broken("a length of more than four bytes");
      const [byte = 0] = await this.rfile.readexactly(1);
      length |= (byte & 0x7f) << shift;
      more = byte >= 0x80;
    }
    if (length > MAX_PACKET) throw new SocketError("ERR_LIMIT", `a packet of ${length} bytes`);
    const body = length === 0 ? new Uint8Array(0) : await this.rfile.readexactly(length);
    const [head = 0] = first;
    return { type: head >> 4, flags: head & 15, body };
  }
}

const broken = (what: string): SocketError =>
  new SocketError("ERR_INTERNAL", `the server breaks MQTT: ${what}`);

const uint16 = (value: number): Uint8Array => Uint8Array.of(value >> 8, value & 255);
const read16 = (bytes: Uint8Array, at: number): number => {
  const [high, low] = bytes.subarray(at, at + 2);
  if (high === undefined || low === undefined) throw broken("a packet that is too short");
  return high * 256 + low;
};

const text = (value: string): Uint8Array => {
  const bytes = encoder.encode(value);
  if (bytes.length > 0xffff) throw new RangeError("a text of MQTT has at most 65535 bytes");
  return Uint8Array.of(...uint16(bytes.length), ...bytes);
};

/** A packet: its type and flags, its length in 7-bit pieces, what is in it. */
const packet = (type: number, flags: number, ...parts: Uint8Array[]): Uint8Array => {
  const body = parts.flatMap((part) => [...part]);
  const length: number[] = [];
  for (let left = body.length, more = true; more; ) {
    const byte = left & 0x7f;
    left >>= 7;
    more = left > 0;
    length.push(more ? byte | 0x80 : byte);
  }
  return Uint8Array.of((type << 4) | flags, ...length, ...body);
};

const textOrBytes = (bytes: Uint8Array): string | Uint8Array => {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return bytes;
  }
};
