/**
 * The PROXY protocol at a server's door. A peer that the option `proxyProtocol` names as a proxy must say first which client it
 * connects for. From any other peer no header is read, so that no client can give itself an address.
 */

import { deadline } from "../bytes/alarm.ts";
import { type Data, joinBytes, toBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import type { Refusal } from "../handlers/events.ts";
import { parseNetwork } from "../net/access.ts";
import { type Address, formatAddress, inNetwork, type Network, packAddress } from "../net/address.ts";
import { cameThrough, type ParsedProxyHeader, type ProxyHeader } from "../net/proxy/header.ts";
import { parseProxyDatagram, parseProxyHeader } from "../net/proxy/reader.ts";
import { checkCount, checkOptions, checkTime, checkWord, optionNamesOf, wholeMs } from "../options.ts";
import type { StreamOptions } from "../sockets/streams/stream-options.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";
import type { StreamSink, StreamTransport } from "../sockets/transport.ts";
import { type DatagramWay, ServedDatagram } from "./requests.ts";

/** Which peers are proxies that speak the PROXY protocol, and the limits of their headers. Times are milliseconds, sizes bytes. */
export interface ProxyProtocolOptions {
  /**
   * Which peers are proxies: networks and addresses (`"10.0.0.0/8"`, `"192.0.2.1"`); `"unix"`, every peer that connects to a path;
   * `"unknown"`, peers whose address the platform does not report (in a Worker). They must send the header first, before TLS.
   */
  readonly from: readonly string[];
  /** What happens to every other peer: it is refused, or served under its own address. A header from it is never read. Default `"refuse"`. */
  readonly others?: "refuse" | "direct";
  /** What happens to a connection that a proxy makes for itself (`LOCAL`), such as a health check: it is closed, or served under the proxy's own address, which a check that speaks the protocol needs. Default `"close"`. */
  readonly local?: "close" | "serve";
  /** How long the header may take to arrive. Default 5 000: a lost packet is sent again within 3 s. */
  readonly timeout?: number;
  /** How many bytes a version 2 header may have. Default 4 096; one with the client's certificate may need more, 65 551 at most. */
  readonly maxHeader?: number;
}

export const PROXY_PROTOCOL_NAMES = optionNamesOf<ProxyProtocolOptions>("a server behind proxies")({
  from: "strings",
  others: true,
  local: true,
  timeout: true,
  maxHeader: true,
});

/** The names in `from` for peers without an IP address: clients of a path, and clients whose address the platform does not report. */
export type Unaddressed = "unix" | "unknown";

/** A request that came through the door. */
export interface Passage {
  /** The client's address. */
  readonly address: Address | null;
  /** The header that its proxy sent. */
  readonly header: ProxyHeader;
  /** What was read after the header: the client's first bytes. */
  readonly rest: Uint8Array;
}

/** A datagram that came through the door. */
export interface DatagramPassage extends Passage {
  /** What precedes each reply: in Spectrum's Simple Proxy Protocol the header again, otherwise nothing. */
  readonly prefix: Uint8Array;
}

/** The request of a connection that came through the door; `null` if it came without a header. */
export const requestOf = (
  transport: StreamTransport,
  options: StreamOptions,
  passage: Passage | null,
): StreamSocket => {
  const request = new StreamSocket(transport, options);
  if (passage !== null) {
    cameThrough(request, passage.header);
    if (passage.rest.length > 0) request.rfile.push(passage.rest);
  }
  return request;
};

/** The request of a datagram that came through the door: its replies go to the proxy, by `post`. `most`: bytes of it that are taken. */
export const datagramOf = (
  { address, header, rest, prefix }: DatagramPassage,
  post: (data: Data) => number,
  most = Number.POSITIVE_INFINITY,
  cut = false,
): ServedDatagram => {
  const way: DatagramWay = {
    post: (data) => {
      if (prefix.length === 0) return post(data);
      const bytes = toBytes(data);
      const sent = post(joinBytes([prefix, bytes], prefix.length + bytes.length));
      return Math.max(sent - prefix.length, 0);
    },
  };
  const request = new ServedDatagram(rest.subarray(0, most), address, way, cut || rest.length > most);
  cameThrough(request, header);
  return request;
};

const NOTHING = new Uint8Array(0);

/** What the door reports to its server. */
export interface Doorkeeper {
  /** Whether a connection that waits here does not keep the process running. */
  readonly daemonThreads: boolean;
  /** How many connections may wait here. */
  mostWaiting(): number;
  /** A peer was turned away. */
  turnAway(address: Address | null, reason: Refusal, error?: SocketError): void;
  /** A proxy checked whether the server is there. */
  checked(address: Address | null): void;
}

const WORDS: readonly string[] = ["unix", "unknown"] satisfies Unaddressed[];
const TIMEOUT = 5_000; // ms
const MAX_HEADER = 4_096; // bytes
const LEAST = 16; // bytes: the shortest header of version 2

/** The client that a header names, or the peer itself if it names none. */
const clientOf = ({ carries, source }: ProxyHeader, peer: Address | null): Address | null =>
  carries === null ? peer : source;

/** Throws `TypeError`, `RangeError`, and `ERR_INVALID_ADDRESS` for what is not a network. */
export const checkProxyProtocol = (options: ProxyProtocolOptions): void => {
  const { from, others = "refuse", local = "close", timeout = TIMEOUT, maxHeader = MAX_HEADER } = options;
  if (!Array.isArray(from) || from.length === 0) {
    throw new TypeError(
      'proxyProtocol.from lists the proxies whose headers are trusted, such as ["10.0.0.0/8"]; it needs at least one',
    );
  }
  networksIn(from);
  checkWord("proxyProtocol.others", others, ["refuse", "direct"]);
  checkWord("proxyProtocol.local", local, ["close", "serve"]);
  checkTime("proxyProtocol.timeout", timeout);
  checkCount("proxyProtocol.maxHeader", maxHeader, LEAST);
};

const networksIn = (from: readonly string[]): Network[] =>
  from.filter((text) => !WORDS.includes(text)).map(parseNetwork);

/**
 * `proxyProtocol` for a server that does not include the code for it: a Worker's, whose size counts. It takes the same options, and
 * every place accepts it, so that one app can run in all of them.
 *
 *     proxyProtocol: behindProxies({ from: ["unknown"] })
 *
 * Throws `TypeError`, `RangeError`, and `ERR_INVALID_ADDRESS` for what is not a network.
 */
export const behindProxies = (options: ProxyProtocolOptions): ProxyProtocolOptions => {
  checkOptions("behindProxies()", options, PROXY_PROTOCOL_NAMES);
  checkProxyProtocol(options);
  return Object.assign(Object.create(opening) as object, options);
};

/** Added by `behindProxies()` to its options. */
const opening = {
  openDoor(this: ProxyProtocolOptions, keeper: Doorkeeper): ProxyDoor {
    return new ProxyDoor(this, keeper);
  },
};

/** The door that these options bring; `null` if they are plain options. */
export const broughtDoor = (options: ProxyProtocolOptions, keeper: Doorkeeper): ProxyDoor | null =>
  (options as ProxyProtocolOptions & Partial<typeof opening>).openDoor?.(keeper) ?? null;

/** Reads the headers of connections and datagrams, and turns away those without one. Its options have been checked. */
export class ProxyDoor {
  readonly #keeper: Doorkeeper;
  readonly #networks: readonly Network[];
  readonly #words: ReadonlySet<string>;
  readonly #others: "refuse" | "direct";
  readonly #local: "close" | "serve";
  readonly #timeout: number;
  readonly #most: number;
  readonly #waiting = new Set<Reading>();

  constructor(options: ProxyProtocolOptions, keeper: Doorkeeper) {
    const { from, others = "refuse", local = "close", timeout = TIMEOUT, maxHeader = MAX_HEADER } = options;
    this.#keeper = keeper;
    this.#networks = networksIn(from);
    this.#words = new Set(from.filter((text) => WORDS.includes(text)));
    this.#others = others;
    this.#local = local;
    this.#timeout = timeout;
    this.#most = maxHeader;
  }

  /**
   * Lets a connection in. Returns `"direct"` for one without a proxy; what its proxy said, once that has arrived, and then the caller
   * reads on; or `null` if the connection is over, which was reported to the server. Never throws or rejects. `unaddressed` says what a
   * peer without an IP address is at this server.
   */
  enter(
    transport: StreamTransport,
    unaddressed: Unaddressed | null,
  ): "direct" | null | Promise<Passage | null> {
    const peer = transport.remoteAddress;
    if (peer === null && unaddressed === null) {
      transport.abort(); // it was reset before it was accepted, as by a health check that only connects
      this.#keeper.checked(null);
      return null;
    }
    if (this.#trusts(peer, unaddressed)) return this.#read(transport);
    if (this.#others === "direct") return "direct";
    transport.abort();
    this.#refuse(peer);
    return null;
  }

  /** The same for a datagram. */
  receive(
    message: Uint8Array,
    peer: Address | null,
    unaddressed: Unaddressed | null,
  ): "direct" | null | DatagramPassage {
    if (this.#trusts(peer, unaddressed)) return this.#unwrap(message, peer);
    if (this.#others === "direct") return "direct";
    this.#refuse(peer);
    return null;
  }

  #trusts(peer: Address | null, unaddressed: Unaddressed | null): boolean {
    if (peer === null || peer.family === "unix") return unaddressed !== null && this.#words.has(unaddressed);
    const packed = packAddress(peer.hostname);
    return packed !== null && this.#networks.some((network) => inNetwork(packed, network));
  }

  async #read(transport: StreamTransport): Promise<Passage | null> {
    const peer = transport.remoteAddress;
    if (this.#waiting.size >= this.#keeper.mostWaiting()) {
      transport.abort();
      this.#keeper.turnAway(peer, "full");
      return null;
    }
    const reading = new Reading(transport, this.#most, this.#timeout, this.#keeper.daemonThreads);
    this.#waiting.add(reading);
    const found = await reading.over;
    this.#waiting.delete(reading);
    if (found === "closing") {
      this.#keeper.turnAway(peer, "closing");
      return null;
    }
    if (found instanceof SocketError) {
      this.#keeper.turnAway(peer, "proxy", found);
      return null;
    }
    if (found === "nothing" || (found.header.command === "LOCAL" && this.#local === "close")) {
      this.#keeper.checked(peer);
      if (found !== "nothing") await leave(transport);
      return null;
    }
    return { address: clientOf(found.header, peer), header: found.header, rest: found.rest };
  }

  /** Turns away a peer that is not a proxy. */
  #refuse(peer: Address | null): void {
    const said = `${formatAddress(peer)} is not one of the proxies in proxyProtocol.from, and other peers are refused`;
    this.#keeper.turnAway(peer, "proxy", new SocketError("ERR_PROXY", said));
  }

  #unwrap(message: Uint8Array, peer: Address | null): DatagramPassage | null {
    let parsed: ParsedProxyHeader;
    try {
      parsed = parseProxyDatagram(message, this.#most);
    } catch (error) {
      this.#keeper.turnAway(peer, "proxy", error as SocketError);
      return null;
    }
    const { header, size } = parsed;
    if (header.command === "LOCAL" && this.#local === "close") {
      this.#keeper.checked(peer);
      return null;
    }
    const prefix = header.version === "simple" ? message.slice(0, size) : NOTHING;
    return { address: clientOf(header, peer), header, rest: message.subarray(size), prefix };
  }

  /** How many connections wait for their header. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** The server stops accepting: the connections that wait here are closed. */
  close(): void {
    for (const reading of this.#waiting) reading.close();
  }
}

/** Closes a connection that will not be read. */
const leave = async (transport: StreamTransport): Promise<void> => {
  transport.start({ needed: 0, data: () => false, end() {}, error() {} });
  try {
    await transport.end();
    await transport.close();
  } catch {
    transport.abort();
  }
};

type Found = { readonly header: ProxyHeader; readonly rest: Uint8Array };

/** One connection whose header is incomplete. */
class Reading implements StreamSink {
  needed = 1;
  readonly #transport: StreamTransport;
  readonly #most: number;
  readonly #stopTimer: () => void;
  readonly #over = Promise.withResolvers<Found | SocketError | "nothing" | "closing">();
  #bytes: Uint8Array = NOTHING;

  constructor(transport: StreamTransport, most: number, timeout: number, daemon: boolean) {
    this.#transport = transport;
    this.#most = most;
    const late = (): void =>
      this.#fail(
        new SocketError(
          "ERR_PROXY",
          `no PROXY protocol header came within ${wholeMs(timeout)}: ${this.#bytes.length} bytes of one had arrived`,
        ),
      );
    this.#stopTimer = deadline(timeout, late, { daemon });
    transport.start(this);
    transport.resume();
  }

  get over(): Promise<Found | SocketError | "nothing" | "closing"> {
    return this.#over.promise;
  }

  data(bytes: Uint8Array): boolean {
    if (this.needed === 0) return false;
    this.#bytes =
      this.#bytes.length === 0 ? bytes : joinBytes([this.#bytes, bytes], this.#bytes.length + bytes.length);
    try {
      const parsed = parseProxyHeader(this.#bytes, this.#most);
      if (parsed === null) return true;
      this.#transport.pause();
      this.#settle({ header: parsed.header, rest: this.#bytes.subarray(parsed.size) });
    } catch (error) {
      this.#fail(error as SocketError);
    }
    return false;
  }

  end(): void {
    this.#gone(`the connection ended after ${this.#bytes.length} bytes of a PROXY protocol header`);
  }

  error(error: SocketError): void {
    this.#gone(`the connection broke after ${this.#bytes.length} bytes of a PROXY protocol header`, error);
  }

  close(): void {
    if (this.needed === 0) return;
    this.#settle("closing");
    this.#transport.abort();
  }

  #gone(why: string, cause?: unknown): void {
    if (this.needed === 0) return;
    if (this.#bytes.length > 0) this.#fail(new SocketError("ERR_PROXY", why, { cause }));
    else {
      this.#settle("nothing");
      this.#transport.abort();
    }
  }

  #fail(error: SocketError): void {
    if (this.needed === 0) return;
    this.#settle(error);
    this.#transport.abort();
  }

  #settle(found: Found | SocketError | "nothing" | "closing"): void {
    this.needed = 0;
    this.#stopTimer();
    this.#over.resolve(found);
  }
}
