/** A stream proxy between clients and one server. Each connection gets its own connection to the server. */

import net from "node:net";
import { withDeadline } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import type { Speaker } from "../../core/handlers/fault-rule.ts";
import { type Address, type Endpoint, formatAddress } from "../../core/net/address.ts";
import { settleStream } from "../../core/sockets/streams/stream-options.ts";
import type { ServerTlsOptions, TlsOptions } from "../../core/sockets/tls/tls.ts";
import type { StreamTransport } from "../../core/sockets/transport.ts";
import type { FaultRules } from "../../core/testing/faults/rules.ts";
import type { Limit } from "../../core/testing/faults/streams.ts";
import type { Side, TranscriptEnd } from "../../core/testing/transcript/form.ts";
import { addressOf, networkError } from "../kernel/addresses.ts";
import { ServerSecurity } from "../kernel/tls/tls.ts";
import { acceptInto, overHandle } from "../kernel/transports/handle-transport.ts";
import { NodeTransport } from "../kernel/transports/net-transport.ts";
import type { Connection } from "../kernel/transports/seam.ts";
import { dial } from "../sockets/dialling/connector.ts";
import { zoned } from "../sockets/names/names.ts";
import { Relay, type Watch } from "./relay.ts";
import { type Beginning, beginningOf, type StartTlsProtocol, type Turn } from "./starttls.ts";
import type { Tape } from "./transcripts/tape.ts";

const BACKLOG = 511; // connections that the kernel queues; Node's default
const INHERITED = { noDelay: true }; // pass pieces on as they come: Nagle's algorithm would hold them back

/** Where a proxy listens and connects, and what it does in between. */
export interface ProxyOptions {
  readonly listen: { readonly hostname: string; readonly port: number };
  readonly target: Endpoint;
  /** Records what passes. */
  readonly tape?: Tape | undefined;
  /** TLS towards clients: the certificate that the proxy shows. */
  readonly security?: ServerTlsOptions | undefined;
  /** TLS towards the server. */
  readonly tls?: TlsOptions | undefined;
  /** The protocol whose STARTTLS the proxy takes part in; `security` and `tls` then apply from there on. */
  readonly startTls?: StartTlsProtocol | undefined;
  /** The faults to apply between the two. */
  readonly rules?: FaultRules | undefined;
  /** Called for a connection that could not be passed on. */
  readonly failed?: ((client: Address | null, error: unknown) => void) | undefined;
}

/** A running proxy. */
export interface WireProxy {
  readonly address: Address;
  /** Stops accepting, and ends the open connections. */
  close(): Promise<void>;
}

/** Opens a proxy between clients and the server at `target`. Rejects as a listener does: `EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`, `ERR_NAME`. */
export const openProxy = async (options: ProxyOptions): Promise<WireProxy> => {
  const { listen } = options;
  const running = new Set<Passing>();
  let count = 0;
  const arrived = (connection: Connection): void => {
    const passing = new Passing(connection, ++count, options, () => running.delete(passing));
    running.add(passing);
    void passing.begin();
  };
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true, ...INHERITED }, (socket) =>
    arrived(new NodeTransport(socket)),
  );
  const said = formatAddress({ scheme: "tcp", ...listen });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => reject(networkError(error, said)));
    server.listen(
      { host: zoned(listen.hostname || "0.0.0.0", said), port: listen.port, backlog: BACKLOG },
      resolve,
    );
  });
  server.removeAllListeners("error");
  server.on("error", () => {}); // a failed accept: that client was dropped, and the next can come
  acceptInto(server, INHERITED, arrived);
  const { address, port, family } = server.address() as net.AddressInfo;
  return {
    address: addressOf(address, port, family) as Address,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const passing of running) passing.abort();
      await closed;
    },
  };
};

/** A client's connection and the matching one to the server. */
class Passing implements Watch {
  readonly #connection: Connection;
  readonly #client: Address | null;
  readonly #number: number;
  readonly #options: ProxyOptions;
  readonly #gone: () => void;
  readonly #dialling = new AbortController();
  #relay: Relay | null = null;
  #broken = false; // a rule has broken the connection
  #beginning: Beginning | null; // set until TLS has begun, or can begin no more
  #plain: StreamTransport | null = null; // the client's connection, if it can be secured
  #server: StreamTransport | null = null;
  #answered: PromiseWithResolvers<void> | null = null; // the client has asked for TLS

  constructor(connection: Connection, number: number, options: ProxyOptions, gone: () => void) {
    this.#connection = connection;
    this.#client = connection.remoteAddress;
    this.#number = number;
    this.#options = options;
    this.#gone = gone;
    this.#beginning = options.startTls === undefined ? null : beginningOf(options.startTls);
  }

  async begin(): Promise<void> {
    const { tape } = this.#options;
    tape?.note(this.#number, `${formatAddress(this.#client)} connected`);
    let client: StreamTransport = this.#connection;
    try {
      client = await this.#secured();
      const server = await this.#dialled();
      if (this.#dialling.signal.aborted) {
        server.abort();
        throw this.#dialling.signal.reason;
      }
      this.#relay = new Relay(this.#faulty(client, "server"), this.#faulty(server, "client"), this);
    } catch (error) {
      client.abort();
      this.#gone();
      if (!this.#dialling.signal.aborted) this.#options.failed?.(this.#client, error);
    }
  }

  abort(): void {
    this.#dialling.abort(new SocketError("ECANCELED"));
    this.#relay?.abort();
  }

  said(from: Side, bytes: Uint8Array): Promise<void> | undefined {
    const { tape } = this.#options;
    tape?.said(this.#number, from, bytes);
    const turned = this.#beginning?.said(from, bytes);
    return turned == null ? tape?.room : this.#turn(turned);
  }

  /** What that side must wait for before it is read on. */
  #turn(turn: Exclude<Turn, null>): Promise<void> | undefined {
    if (turn === "ask") {
      this.#answered = Promise.withResolvers();
      return this.#answered.promise;
    }
    if (turn === "agree") return this.#startTls();
    if (turn === "never") this.#beginning = null;
    this.#answered?.resolve();
    this.#answered = null;
    return undefined;
  }

  /** Starts TLS on both sides, the server first, so that the client does not see a handshake succeed that the server refuses. */
  async #startTls(): Promise<void> {
    this.#beginning = null;
    await undefined; // by now the server's answer is on its way to the client
    const { tape, failed } = this.#options;
    try {
      const server = await secured(this.#server as StreamTransport);
      const client = await secured(this.#plain as StreamTransport);
      if (this.#relay?.over !== false) throw new SocketError("ECANCELED");
      tape?.secured(this.#number); // before anything that passes inside TLS
      this.#relay.goOnOver(client, server);
      tape?.note(this.#number, `TLS has begun (${client.tls?.version ?? "?"})`);
      this.#answered?.resolve();
    } catch (error) {
      if (this.#relay?.over === false) failed?.(this.#client, error);
      this.#relay?.abort();
    }
  }

  ended(from: Side, end: TranscriptEnd): void {
    if (!this.#broken) this.#options.tape?.ended(this.#number, from, end);
  }

  over(): void {
    this.#gone();
  }

  /** The transport that passes on what that side sends, with the fault rules applied. */
  #faulty(transport: StreamTransport, from: Speaker): StreamTransport {
    const { rules } = this.#options;
    if (rules === undefined) return transport;
    const reached = (limit: Limit): void => {
      // Neither peer did this: the rule did.
      if (limit === "resetAfter" || limit === "endAfter") this.#broken = true;
      if (limit === "resetAfter") this.#relay?.abort();
      else if (limit === "endAfter") this.#relay?.finish();
    };
    return rules.stream(transport, from, this.#number, false, reached);
  }

  async #secured(): Promise<StreamTransport> {
    const { security, startTls } = this.#options;
    if (security === undefined) return this.#connection;
    const plain = this.#connection.from({ security: ServerSecurity.of(security) }).toNode();
    this.#plain = plain;
    return startTls === undefined ? secured(plain) : plain;
  }

  async #dialled(): Promise<StreamTransport> {
    const { target, tls, startTls } = this.#options;
    const server = await dial(target, {
      signal: this.#dialling.signal,
      ...(startTls !== undefined && { secureTransport: "starttls" }),
      ...(tls && { tls }),
    });
    this.#server = server;
    return startTls === undefined && server instanceof NodeTransport ? overHandle(server) : server;
  }
}

const secured = (plain: StreamTransport): Promise<StreamTransport> =>
  withDeadline(
    (plain.startTls as NonNullable<StreamTransport["startTls"]>)({}),
    settleStream({}).handshakeTimeout,
    "the TLS handshake was not done",
  );
