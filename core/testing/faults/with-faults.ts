/**
 * Faults: what networks do to connections and datagrams, on purpose, on any platform, and reproducibly.
 *
 *     const far = withFaults(socket, { incoming: { latency: 80, jitter: 40, slice: 1 } });
 *     const cut = withFaults(socket, { outgoing: { resetAfter: 100 } });
 *     class Lossy extends FaultsMixIn(ThreadingUDPServer, { incoming: { loss: 0.2 }, outgoing: { duplicates: 0.1 } }) {}
 *
 * A faulty stream replaces the stream, and is a `StreamSocket` like it: so a handler, or a client, has
 * faults over memory, over a real TCP connection in Node, and inside workerd. Directions are those of the stream
 * that is wrapped: `incoming` is what its peer sends.
 */

import { type Data, type MaybePromise, toBytes } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import type { Speaker } from "../../handlers/fault-rule.ts";
import { BaseRequestHandler, checkHandler, type HandlerClass } from "../../handlers/handler.ts";
import type { Address } from "../../net/address.ts";
import { ServedDatagram } from "../../serve/requests.ts";
import type { BaseServer } from "../../serve/server.ts";
import { checkDatagramSize, type Datagram, type DatagramTransport } from "../../sockets/datagram.ts";
import { type StreamOptions, settleStream } from "../../sockets/streams/stream-options.ts";
import { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import type { StreamTransport } from "../../sockets/transport.ts";
import { serverOf } from "../handler.ts";
import { SocketTransport } from "../transports.ts";
import {
  checkDatagrams,
  type DatagramFaults,
  FaultyDatagramTransport,
  LIKELIHOODS,
  type Link,
  type LinkFault,
  linksOf,
} from "./datagrams.ts";
import type { FaultRules } from "./rules.ts";
import { checkStream, FaultyTransport, type StreamFaults } from "./streams.ts";

/** The transport of a stream that is not to be secured: input is read ahead, so a handshake could not begin in the middle of it. */
class Unsecured extends SocketTransport {
  override async startTls(): Promise<never> {
    throw new SocketError(
      "ERR_UNSUPPORTED",
      "a stream with faults cannot be secured; secure the stream first, then withFaults()",
    );
  }
}

/**
 * `stream`, or the transport of a platform, with `faults` in it. Use the result instead of the original from then
 * on. With the same `seed` the same bytes meet the same faults.
 *
 *     const slow = withFaults(await createConnection("127.0.0.1:6379"), { incoming: { latency: 200 } });
 *
 * Limits and time-outs of the stream are unchanged; `options` changes them, and sets the one that a stream
 * does not expose, its `closeTimeout`. Secure a stream before this; a transport may be secured later
 * (`startTls`). Nothing passes during silence, so the peer of a stream that is closed then sees a reset.
 *
 * Throws `TypeError` and `RangeError` for faults that are not possible.
 */
export function withFaults(
  stream: StreamSocket,
  faults: StreamFaults,
  options?: Partial<StreamOptions>,
): StreamSocket;
/** A platform's transport of streams with faults in it; may be secured later. Throws `TypeError` and `RangeError` for faults that are not possible. */
export function withFaults(transport: StreamTransport, faults: StreamFaults): StreamTransport;
/** A platform's transport of datagrams with faults in it. Throws `TypeError` and `RangeError` for faults that are not possible. */
export function withFaults(transport: DatagramTransport, faults: DatagramFaults): DatagramTransport;
export function withFaults(
  given: StreamSocket | StreamTransport | DatagramTransport,
  faults: StreamFaults & DatagramFaults,
  options: Partial<StreamOptions> = {},
): StreamSocket | StreamTransport | DatagramTransport {
  const isStream = given instanceof StreamSocket;
  if (!isStream && typeof (given as StreamTransport | undefined)?.start !== "function") {
    throw new TypeError(
      `withFaults() takes a connection (a StreamSocket) or a transport, not ${typeof given}`,
    );
  }
  if (!isStream && "bind" in given) return new FaultyDatagramTransport(given, faults);
  checkStream(faults);
  if (!isStream) return new FaultyTransport(given, faults);
  return over(given, new FaultyTransport(new Unsecured(given), faults), options);
}

/** `stream` with the faults of `rules`, as its end of the conversation is that of `side`; `connection` is its number. */
export const withRules = (
  stream: StreamSocket,
  rules: FaultRules,
  side: Speaker,
  connection: number,
): StreamSocket => over(stream, rules.stream(new Unsecured(stream), side, connection, true));

/** The stream over a transport that wraps `given`, with the limits and the time-outs of `given`. */
const over = (
  given: StreamSocket,
  transport: StreamTransport,
  options: Partial<StreamOptions> = {},
): StreamSocket => {
  const { rfile, wfile } = given;
  const { maxLine, maxRead } = rfile;
  const { maxPending, whenSlow } = wfile;
  const faulty = new StreamSocket(transport, { maxLine, maxRead, maxPending, whenSlow, ...options });
  if (options.timeout === undefined) faulty.settimeout(given.gettimeout());
  given.settimeout(null); // the faulty one's own waits are bounded
  return faulty;
};

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
type ServerClass = abstract new (...args: any[]) => BaseServer<any, any>;

/**
 * A server whose requests have faults: its connections, or what it receives and sends as datagrams. In any place where
 * requests arrive: memory, TCP, UDP.
 *
 *     class FarAway extends FaultsMixIn(ThreadingTCPServer, { incoming: { latency: 100 }, outgoing: { latency: 100 } }) {}
 *     class Lossy extends FaultsMixIn(MemoryDatagramServer, { incoming: { loss: 0.1, duplicates: 0.1, reorder: 0.1 } }) {}
 *
 * Each connection's seed is one more than the previous one's, so that connections differ, and are the same each
 * time. `options` are those of `withFaults`.
 */
export const FaultsMixIn = <Base extends ServerClass>(
  Server: Base,
  faults: Base extends abstract new (
    ...args: never[]
  ) => BaseServer<StreamSocket, unknown>
    ? StreamFaults
    : DatagramFaults,
  options: Partial<StreamOptions> = {},
): Base => {
  settleStream(options);
  const given: StreamFaults & DatagramFaults = faults;
  const names = [given.incoming, given.outgoing].flatMap((way) => Object.keys(way ?? {}));
  if (LIKELIHOODS.some((name) => names.includes(name))) checkDatagrams(given);
  else checkStream(given);
  let connections = 0;
  return faultyServer(Server as ServerClass, {
    idle: false,
    stream: (request) => withFaults(request, { ...given, seed: (given.seed ?? 1) + connections++ }, options),
    links: () => linksOf(given),
  }) as Base;
};

/** The faults of a server's requests. */
interface Meddling {
  /** Whether no fault affects datagrams now. */
  readonly idle: boolean;
  stream(request: StreamSocket): StreamSocket;
  /** The faults of one server's datagrams, received and sent. */
  links(): readonly [Passage, Passage];
}
type Passage = Pick<Link, "pass" | "close">;

const faultyServer = (Server: ServerClass, meddling: Meddling): ServerClass => {
  abstract class FaultyServer extends Server {
    #links: readonly [Passage, Passage] | undefined;

    protected override letGo(): MaybePromise<void> {
      for (const link of this.#links ?? []) link.close();
      return super.letGo();
    }

    protected override arrive(
      request: StreamSocket | Datagram,
      clientAddress: Address | null,
      admitted?: boolean,
    ): void {
      if (request instanceof StreamSocket) {
        super.arrive(meddling.stream(request), clientAddress, admitted);
        return;
      }
      if (meddling.idle) {
        super.arrive(request, clientAddress, admitted);
        return;
      }
      this.#links ??= meddling.links();
      const [incoming, outgoing] = this.#links;
      const lost = (bytes: number) => (fault: LinkFault) => {
        if (fault === "full" && this.watches("dropped"))
          this.announce({
            type: "dropped",
            server: this.name,
            address: clientAddress,
            bytes,
            reason: "full",
          });
      };
      const reply = (data: Data): number => {
        const bytes = new Uint8Array(toBytes(data));
        checkDatagramSize(bytes.length, clientAddress);
        const deliver = (own: Uint8Array): void => {
          try {
            request.reply(own);
          } catch {
            // the server is closed by now: lost, like everything in flight then
          }
        };
        outgoing.pass(bytes, deliver, lost(bytes.length));
        return bytes.length;
      };
      const come = (bytes: Uint8Array): void => {
        const own = new Uint8Array(bytes); // of a duplicate, only one copy may be corrupted
        super.arrive(
          new ServedDatagram(own, request.address, { post: reply }, request.truncated),
          clientAddress,
        );
      };
      incoming.pass(new Uint8Array(request.data), come, lost(request.data.length));
    }
  }
  Object.defineProperty(FaultyServer, "name", { value: (Server as { readonly name?: string }).name });
  return FaultyServer;
};

/** A server with the faults of `rules`; unchanged while none is set. Its datagrams count as those of one client. */
export const RulesMixIn = <Base>(Server: Base, rules: FaultRules): Base => {
  let connections = 0;
  return faultyServer(Server as ServerClass, {
    get idle() {
      return rules.idle;
    },
    stream: (request) => {
      connections++;
      return rules.idle ? request : withRules(request, rules, "server", connections);
    },
    links: () => [rules.link("client", 1), rules.link("server", 1)],
  }) as Base;
};

/**
 * `Handler` with faults on each connection, for a server of the platform, as in a Worker, or for a handler
 * that dials. Seeds and `options` are as with `FaultsMixIn`.
 *
 *     defineApp({ handlers: { mail: faultyHandler(Mail, { incoming: { slice: 1 } }) }, listen: [...] })
 *
 * Throws `TypeError` and `RangeError` for faults that are not possible.
 */
export const faultyHandler = <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  faults: StreamFaults,
  options: Partial<StreamOptions> = {},
): HandlerClass<StreamSocket, Context> => {
  checkHandler(Handler);
  checkStream(faults);
  settleStream(options);
  let connections = 0;
  class Faulty extends BaseRequestHandler<StreamSocket, Context> {
    override async handle(): Promise<unknown> {
      const seed = (faults.seed ?? 1) + connections++;
      const stream = withFaults(this.request, { ...faults, seed }, options);
      try {
        return await new Handler(stream, this.clientAddress, serverOf(this, stream)).run();
      } finally {
        await stream.close();
      }
    }
  }
  return Object.defineProperty(Faulty, "name", { value: Handler.name });
};
