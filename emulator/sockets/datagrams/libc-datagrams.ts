/** Datagrams with libc: each call is the kernel's own, in every family, and libuv reports when there is something to receive. */

import { DONE } from "../../../core/bytes/data.ts";
import { SocketError } from "../../../core/errors.ts";
import { type Address, type Endpoint, formatAddress } from "../../../core/net/address.ts";
import { MSG_DONTROUTE, MSG_DONTWAIT, SOCK_DGRAM } from "../../../core/net/constants.ts";
import type { DatagramSink, DatagramTransport } from "../../../core/sockets/datagram.ts";
import { Kernel } from "../../kernel/descriptors/kernel.ts";
import { type Libc, libc } from "../../kernel/descriptors/libc.ts";
import { type Kind, PlainDatagramOptions } from "../../kernel/descriptors/plain-options.ts";
import { bindError, resolve } from "../names/resolve.ts";

const ignore = (): void => {};

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const BATCH = 64; // datagrams received in one turn of the event loop

/** Datagrams with libc, in every family. */
export class LibcDatagrams implements DatagramTransport {
  readonly kernel: Kernel;
  readonly #libc: Libc;
  readonly #family: number;
  readonly #fd: number;
  readonly #adopted: boolean;
  #sink: DatagramSink | null = null;
  #unwatch: (() => void) | null = null; // set once something can arrive: until then it keeps no process alive
  #binding = false;
  #delayed = 0; // datagrams that wait for the kernel's room
  #last: Promise<void> = DONE; // when the last of them is sent
  #open = true;
  #deaf = false; // receives no more

  /** `adopted`: the descriptor was made elsewhere, and may be bound. */
  constructor(libc: Libc, kind: Kind, fd: number, adopted: boolean) {
    this.#libc = libc;
    this.#family = kind.family;
    this.#fd = fd;
    this.#adopted = adopted;
    this.kernel = new Kernel(new PlainDatagramOptions(kind), libc).heldBy({
      fd,
      take: () => {
        this.#letGo();
        return fd;
      },
    });
  }

  get localAddress(): Address | null {
    return this.#libc.getsockname(this.#fd);
  }

  start(sink: DatagramSink): void {
    this.#sink = sink;
    if (this.#adopted) this.#hear();
  }

  async bind(endpoint: Endpoint): Promise<void> {
    if (this.#binding) throw new SocketError("EINVAL", "the socket is being bound");
    this.#binding = true;
    try {
      const at = await resolve(endpoint, this.#family);
      const said = formatAddress(endpoint);
      this.#mustBeOpen();
      try {
        this.#libc.bind(this.#fd, at, said);
      } catch (error) {
        const bound = this.#unwatch !== null && (error as SocketError).code === "EINVAL";
        throw bound
          ? new SocketError("EINVAL", "the socket has an address already")
          : bindError(error, at, said);
      }
      this.#hear();
    } finally {
      this.#binding = false;
    }
  }

  resolve(endpoint: Endpoint): Promise<Address> {
    return resolve(endpoint, this.#family);
  }

  async connect(address: Address): Promise<void> {
    this.#libc.connect(this.#fd, address, formatAddress(address));
    this.#hear();
  }

  send(bytes: Uint8Array, address: Address, flags: number, wait?: { readonly over: boolean }): Promise<void> {
    try {
      const to = this.#libc.pack(address);
      const said = formatAddress(address);
      let later = bytes;
      const send = (): boolean => {
        this.#mustBeOpen();
        if (wait?.over) throw new SocketError("ETIMEDOUT");
        this.#hear(); // the kernel binds it
        return this.#libc.sendto(this.#fd, later, flags & MSG_DONTROUTE, to, said) !== null;
      };
      if (this.#delayed === 0 && send()) return DONE;
      if (flags & MSG_DONTWAIT) throw new SocketError("EWOULDBLOCK");
      later = new Uint8Array(bytes); // they belong to the caller again
      return this.#sendLater(send);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Stops receiving; further datagrams are for other processes that have the descriptor. */
  receiveNoMore(): void {
    this.#deaf = true;
    this.#unwatch?.();
  }

  close(): void {
    if (!this.#open) return;
    this.#letGo();
    this.#libc.close(this.#fd);
  }

  /**
   * Sends it when the kernel has room. A Unix socket has room when its receiver has, and the kernel does not report when that is: poll(2)
   * reports the sender as writable anyway. So the send is tried again and again.
   */
  #sendLater(send: () => boolean): Promise<void> {
    this.#delayed++;
    const sent = this.#last.then(async () => {
      try {
        // The receiver may be in this process: once round the event loop before the clock is waited for.
        if (this.#open) await new Promise((resolve) => setImmediate(resolve));
        while (!send()) await sleep(1);
      } finally {
        this.#delayed--;
      }
    });
    this.#last = sent.catch(ignore);
    return sent;
  }

  #hear(): void {
    if (!this.#deaf) this.#unwatch ??= this.#libc.watch(this.#fd, () => this.#receive());
  }

  #receive(): void {
    for (let i = 0; i < BATCH && this.#open && !this.#deaf; i++) {
      try {
        const received = this.#libc.recvfrom(this.#fd);
        if (received === null) return;
        this.#sink?.message(...received);
      } catch (error) {
        this.#sink?.error(error as SocketError); // of an earlier send: ECONNREFUSED
      }
    }
  }

  #letGo(): void {
    this.#open = false;
    this.#unwatch?.();
    this.kernel.closed();
  }

  #mustBeOpen(): void {
    if (!this.#open) throw new SocketError("ECANCELED");
  }
}

/** Datagrams with libc, over `fileno` or a new descriptor; `null` if there is no libc. */
export const libcDatagrams = (kind: Kind, fileno = -1): LibcDatagrams | null => {
  const calls = libc();
  if (!calls?.watches) return null;
  const fd = fileno >= 0 ? fileno : calls.socket(kind.family, SOCK_DGRAM, kind.proto);
  return new LibcDatagrams(calls, kind, fd, fileno >= 0);
};
