/// <reference types="@cloudflare/workers-types" />
/**
 * The socket object, as far as the platform's `connect()` allows: a stream that dials. Everything else throws
 * `ERR_UNSUPPORTED`, with a message that says what to use instead.
 */

import { SocketError } from "../../core/errors.ts";
import type { AddressLike, Endpoint } from "../../core/net/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  IPPROTO_TCP,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../../core/net/constants.ts";
import { type OptionNames, optionNamesOf } from "../../core/options.ts";
import type { SocketConnectOptions } from "../../core/sockets/dialling/unconnected.ts";
import { SOCKET_CONNECT_NAMES, UnconnectedSocket } from "../../core/sockets/dialling/unconnected.ts";
import type { StreamTransport } from "../../core/sockets/transport.ts";
import { dial, type WorkerConnectOptions } from "./connector.ts";

const LONGEST_CONNECT = 127_000; // ms: as long as Linux tries with tcp_syn_retries 6 (ip-sysctl); the platform has no limit of its own

const unsupported = (what: string, instead: string): SocketError =>
  new SocketError("ERR_UNSUPPORTED", `a Worker has no ${what}; ${instead}`);

const LISTENING = "where requests arrive, it serves them by WorkerServer in its connect() handler";
const DATAGRAMS = "UDP out of a Worker needs a relay that speaks TCP or WebSocket";

/** Options of `connect()` in a Worker. */
export type WorkerSocketConnectOptions = SocketConnectOptions & Pick<WorkerConnectOptions, "slots">;

const SOCKET_NAMES = optionNamesOf<WorkerSocketConnectOptions>()({ ...SOCKET_CONNECT_NAMES, slots: true });

/**
 * A stream socket that dials from a Worker: `connect`, `connectEx`, and then all of `StreamSocket` (`send`, `recv`
 * with `MSG_PEEK`, `makefile`, `shutdown`, `startTls`…). CPython's `socket`.
 *
 * `connect()` has one code for every failure, `ERR_CONNECT_FAILED`, because the platform does not say why.
 */
export class Socket extends UnconnectedSocket {
  protected override get connectNames(): OptionNames {
    return SOCKET_NAMES;
  }

  protected override dial(
    endpoint: Endpoint,
    timeout: number | null,
    options: WorkerSocketConnectOptions,
  ): Promise<StreamTransport> {
    return dial(endpoint, { ...options, connectTimeout: timeout ?? LONGEST_CONNECT });
  }

  override connect(address: AddressLike, options: WorkerSocketConnectOptions = {}): Promise<void> {
    return super.connect(address, options);
  }

  /** `ERR_UNSUPPORTED`: the platform chooses where it dials from. */
  bind(_address: AddressLike): Promise<void> {
    return Promise.reject(unsupported("address of its own to bind", LISTENING));
  }

  /** `ERR_UNSUPPORTED`: the platform listens. */
  listen(_backlog?: number): Promise<void> {
    return Promise.reject(unsupported("listener", LISTENING));
  }

  /** `ERR_UNSUPPORTED`: the platform accepts. */
  accept(): Promise<never> {
    return Promise.reject(unsupported("listener", LISTENING));
  }
}

/**
 * A socket of the given family and type, not yet connected. CPython's `socket.socket`.
 *
 * Streams over IPv4 and IPv6 (the platform resolves names and chooses the family). Throws `ERR_UNSUPPORTED` for
 * datagrams, Unix sockets and raw sockets, and `EAFNOSUPPORT` for an unknown family.
 */
export const socket = (family: number = AF_INET, type: number = SOCK_STREAM, proto = 0): Socket => {
  if (family === AF_UNIX) throw unsupported("Unix sockets", "dial tcp://host:port");
  if (family !== AF_INET && family !== AF_INET6) {
    throw new SocketError(
      "EAFNOSUPPORT",
      `the address family is AF_INET (2) or AF_INET6 (10), not ${family}`,
    );
  }
  if (type === SOCK_DGRAM) throw unsupported("outbound datagrams", DATAGRAMS);
  if (type !== SOCK_STREAM) throw unsupported("sockets of that type", "it has SOCK_STREAM (1)");
  if (proto !== 0 && proto !== IPPROTO_TCP) {
    throw new SocketError("EPROTONOSUPPORT", `a stream's protocol is 0 or IPPROTO_TCP (6), not ${proto}`);
  }
  return new Socket(family);
};
