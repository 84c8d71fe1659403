/**
 * Tracks which request a connection belongs to. A Worker can use a connection only in the request that dialled
 * it. After `guardConnections()` the same fails here, so that the mistake is seen before it is deployed. An
 * `AsyncLocalStorage` tells requests apart, which slows all asynchronous code of the process slightly (docs/pools.md says
 * how much); without that call there is none.
 */

import type { AsyncLocalStorage } from "node:async_hooks";
import type tls from "node:tls";
import type { Data } from "../../../core/bytes/data.ts";
import type { SocketError } from "../../../core/errors.ts";
import { formatAddress } from "../../../core/net/address.ts";
import { otherRequest } from "../../../core/sockets/dialling/connect.ts";
import type { StartTlsOptions, TlsInfo } from "../../../core/sockets/tls/tls.ts";
import type { StreamSink } from "../../../core/sockets/transport.ts";
import { lazy } from "../../builtin.ts";
import { NodeTransport } from "../../kernel/transports/net-transport.ts";
import type { Connection, Origin } from "../../kernel/transports/seam.ts";
import { heldRequest } from "./edge.ts";

/** The store for connections that belong to no request, such as those of a pool. */
const SHARED: object = Object.freeze({});

let requests: AsyncLocalStorage<object> | null = null;

/**
 * From now on, in the whole process: a connection that is dialled within `asRequest()` fails with `ERR_UNSUPPORTED` if
 * another request uses it, and one that is dialled outside of all requests fails if any request uses it. Pools are exempt.
 */
export const guardConnections = (): void => {
  requests ??= new lazy.asyncHooks.AsyncLocalStorage<object>();
};

/** Runs `work`, and everything that it starts, as the request that `owner` stands for. */
export const asRequest = <Result>(owner: object, work: () => Result): Result =>
  requests === null ? work() : requests.run(owner, work);

/** Runs `work`: connections that it dials belong to no request, and all requests may use them. */
export const asShared = <Result>(work: () => Result): Result => asRequest(SHARED, work);

/** The object that stands for the request that runs now; `undefined` outside of all requests, and if they are not told apart. */
export const currentRequest = (): object | undefined => requests?.getStore();

/** The class of transport for a connection that is dialled now. */
export const transportClass = (): typeof NodeTransport =>
  requests === null || requests.getStore() === SHARED ? NodeTransport : OwnedTransport;

/** The transport of a connection that belongs to the request in which this was made. */
class OwnedTransport extends NodeTransport {
  #owner = requests?.getStore();
  #sink: StreamSink | null = null;
  #refused = false; // and a violation of the edge's rules was reported
  #checked = false; // the running call began earlier, and was checked then

  override start(sink: StreamSink): void {
    this.#sink = sink;
    super.start(sink);
  }

  override resume(): void {
    if (this.#isForeign) void this.#refuse();
    else super.resume();
  }

  override write(data: Data): Promise<void> | undefined {
    return this.#isForeign ? this.#refuse() : super.write(data);
  }

  override end(): Promise<void> {
    return this.#isForeign ? Promise.reject(this.#error) : super.end();
  }

  override async startTls(options: StartTlsOptions): Promise<Connection> {
    if (this.#isForeign) throw this.#error;
    return super.startTls(options);
  }

  protected override over(socket: tls.TLSSocket, origin: Origin, state: TlsInfo): NodeTransport {
    const secured = new OwnedTransport(socket, origin, this, state);
    secured.#owner = this.#owner;
    return secured;
  }

  /** Everything that is deferred runs in the turn of the first caller that deferred something. */
  override defer(task: () => void): void {
    if (this.#isForeign) {
      void this.#refuse();
      return;
    }
    super.defer(() => {
      this.#checked = true;
      try {
        task();
      } finally {
        this.#checked = false;
      }
    });
  }

  override close(): void {
    this.#checked = true; // nothing reads what the peer still sends
    super.close();
  }

  get #error(): SocketError {
    const { remoteAddress } = this;
    if (!this.#refused)
      heldRequest(currentRequest())?.rules.met("other-request", formatAddress(remoteAddress));
    this.#refused = true;
    return otherRequest(remoteAddress === null ? {} : { address: formatAddress(remoteAddress) });
  }

  get #isForeign(): boolean {
    if (this.#checked) return false;
    const user = requests?.getStore();
    return user !== undefined && user !== SHARED && user !== this.#owner;
  }

  /** Breaks the connection, as in a Worker. Not at once, since the caller is not ready for the report. */
  async #refuse(): Promise<void> {
    await undefined;
    this.#sink?.error(this.#error);
  }
}
