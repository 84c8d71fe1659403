/**
 * The TLS of a listener: the handshakes under way, the connections that wait for theirs, and the certificates, which are read
 * again when their files change.
 */

import type { BigIntStats } from "node:fs";
import { Alarm } from "../../core/bytes/alarm.ts";
import { SocketError } from "../../core/errors.ts";
import { wholeMs } from "../../core/options.ts";
import { MAX_HANDSHAKES, type ServerTlsOptions } from "../../core/sockets/tls/tls.ts";
import type { StreamTransport } from "../../core/sockets/transport.ts";
import { fs } from "../builtin.ts";
import { filesOf, type Replacement, ServerSecurity } from "../kernel/tls/tls.ts";
import type { Connection } from "../kernel/transports/seam.ts";

const LOOK = 1_000; // ms between two checks of a file: a certificate is renewed weeks before it expires
const SETTLE = 2_000; // ms that a certificate and its key may not match: an ACME client writes one after the other

/** The outcome of a handshake: the secured connection, or why there is none. */
export type Outcome =
  | { readonly transport: StreamTransport; readonly duration: number }
  | { readonly error: SocketError; readonly duration: number };

/** What is reported about a listener's certificates. */
interface CertificateEvents {
  /** They were replaced. */
  replaced(): void;
  /** The new ones cannot be used; the old ones stay in use. */
  refused(error: unknown): void;
}

/** A text that differs between states of a file: `""` if there is none. */
const statusOf = async (file: string): Promise<string> => {
  try {
    return said(await fs.promises.stat(file, { bigint: true }));
  } catch {
    return "";
  }
};

const said = ({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string =>
  [dev, ino, size, mtimeNs, ctimeNs].join(" ");

const statusesOf = (files: readonly string[]): string =>
  files
    .map((file) => {
      try {
        return said(fs.statSync(file, { bigint: true }));
      } catch {
        return ""; // reading it will say why
      }
    })
    .join();

/** The end of the time of one handshake. All of a listener's share one timer. */
class Deadline extends Alarm {
  readonly #late: () => void;

  /** `late` is called after `timeout` ms. */
  constructor(timeout: number, late: () => void) {
    super();
    this.#late = late;
    this.set(Math.ceil(performance.now()) + timeout, timeout, true);
  }

  cancel(): void {
    this.unset();
  }

  protected override ring(): void {
    this.#late();
  }
}

/** The TLS of one listener. */
export class Handshakes {
  readonly security: ServerSecurity;
  readonly #most: number;
  readonly #timeout: number;
  readonly #going = new Set<Connection>();
  readonly #waiting: {
    readonly connection: Connection;
    readonly begin: (outcome: Promise<Outcome> | null) => void;
  }[] = [];
  #closed = false;
  #seen: string; // of the files, when they were read
  #looking: ReturnType<typeof setInterval> | undefined;
  #settling: ReturnType<typeof setTimeout> | undefined;
  #events: CertificateEvents | null = null;

  /** `timeout`: of one handshake, in ms. Throws `TypeError` and `RangeError`, which name the option that is wrong. */
  constructor(options: ServerTlsOptions, timeout: number) {
    this.#seen = statusesOf(filesOf(options));
    this.security = new ServerSecurity(options);
    this.#most = options.maxHandshakes ?? MAX_HANDSHAKES;
    this.#timeout = timeout;
  }

  /** How many wait for their handshake to begin. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Whether one more would have to wait. */
  get full(): boolean {
    return this.#going.size >= this.#most;
  }

  /** Secures a connection by `security`, in its turn. Resolves to `null` if the listener was closed first. */
  async run(connection: Connection): Promise<Outcome | null> {
    if (!this.full) return this.#begin(connection);
    const { promise, resolve } = Promise.withResolvers<Promise<Outcome> | null>();
    this.#waiting.push({ connection, begin: resolve });
    return promise;
  }

  #begin(connection: Connection): Promise<Outcome> {
    this.#going.add(connection);
    const started = performance.now();
    return new Promise((resolve) => {
      const over = (outcome: { transport: StreamTransport } | { error: SocketError }): void => {
        if (!this.#going.delete(connection)) return; // it took too long
        deadline.cancel();
        if ("error" in outcome) connection.abort();
        resolve({ ...outcome, duration: performance.now() - started });
        const next = this.#closed ? undefined : this.#waiting.shift();
        next?.begin(this.#begin(next.connection));
      };
      const deadline = new Deadline(this.#timeout, () => {
        const said = `the TLS handshake was not done for ${wholeMs(this.#timeout)}`;
        over({ error: new SocketError("ETIMEDOUT", said) });
      });
      (connection.startTls as NonNullable<StreamTransport["startTls"]>)({}).then(
        (transport) => over({ transport }),
        (error) => over({ error: SocketError.from(error, "ERR_TLS") }),
      );
    });
  }

  /** The listener accepts no more: connections that wait, and those in their handshake, are closed. */
  close(): void {
    this.#closed = true;
    this.unwatch();
    for (const { connection, begin } of this.#waiting.splice(0)) {
      connection.abort();
      begin(null);
    }
    for (const connection of this.#going) connection.abort();
  }

  /** Whether `close()` was called. */
  get closed(): boolean {
    return this.#closed;
  }

  // ---- Certificates ----

  /** Watches the files from now on, by their status and not by events of their folders: a path may contain links that are swapped, as certbot's and Kubernetes' do. */
  watch(events: CertificateEvents): void {
    this.#events = events;
    this.unwatch();
    if (this.#closed || this.security.files.length === 0) return;
    this.#looking = setInterval(() => void this.#look(), LOOK);
    this.#looking.unref();
  }

  unwatch(): void {
    clearInterval(this.#looking);
    clearTimeout(this.#settling);
    this.#settling = undefined;
  }

  async #look(): Promise<void> {
    const before = this.#seen;
    const now = await Promise.all(this.security.files.map(statusOf));
    if (this.#closed || before !== this.#seen || now.join() === before) return;
    this.#seen = now.join();
    this.#reload(false);
  }

  /** Throws `TypeError`, and then keeps what it has. */
  replace(next?: Replacement): void {
    this.#seen = statusesOf(filesOf({ ...this.security.options, ...next })); // before they are read, so that changes during the reading are seen
    this.security.replace(next);
    clearTimeout(this.#settling);
    this.#settling = undefined;
    if (this.#events !== null) this.watch(this.#events);
    this.#events?.replaced();
  }

  /** Files have changed. If they cannot be used, they may not all be written yet: they get some time. */
  #reload(last: boolean): void {
    try {
      this.replace();
    } catch (error) {
      clearTimeout(this.#settling);
      this.#settling = undefined;
      if (last) {
        this.#events?.refused(error);
        return;
      }
      this.#settling = setTimeout(() => this.#reload(true), SETTLE);
      this.#settling.unref();
    }
  }
}
