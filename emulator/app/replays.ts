/** Saying something again to a server: what `POST /v1/replays` does. */

import type { X509Certificate } from "node:crypto";
import type { ErrorInfo, Replayed, ReplaySpec } from "../../core/control/plane.ts";
import { errorInfo, SocketError } from "../../core/errors.ts";
import { type Endpoint, formatAddress } from "../../core/net/address.ts";
import { SHUT_WR } from "../../core/net/constants.ts";
import { wholeMs } from "../../core/options.ts";
import type { TlsOptions } from "../../core/sockets/tls/tls.ts";
import { formatEvent, type Transcript } from "../../core/testing/transcript/form.ts";
import { Log, record } from "../../core/testing/transcript/record.ts";
import { lazy, once } from "../builtin.ts";
import { createConnection } from "../sockets/dialling/connector.ts";

const SILENCE = 300; // ms without an answer after which the next piece is said all the same
const QUIET = 30; // ms without more after which an answer is whole: on one machine its pieces are closer together

/** Where it is said. */
export interface ReplayTarget {
  readonly endpoint: Endpoint;
  readonly tls?: TlsOptions | undefined;
}

/** How to trust this certificate of a server of this process at `hostname`: by itself where it is self-signed, and by the name that it has. */
export const trusting = (certificate: X509Certificate, hostname: string): TlsOptions => {
  const known = certificate.checkIP(hostname) ?? certificate.checkHost(hostname);
  const [, name] = /DNS:([^,]+)/.exec(certificate.subjectAltName ?? "") ?? [];
  return {
    ...(known === undefined && name !== undefined && { serverName: name.replace(/^\*/, "any") }),
    ...(certificate.checkIssued(certificate) && { ca: certificate.toString() }),
  };
};

/** Waits for answers. */
class Answers {
  readonly #deadline: AbortSignal;
  #count = 0;
  #ended = false;
  #wake = (): void => {};

  constructor(deadline: AbortSignal) {
    this.#deadline = deadline;
    deadline.addEventListener("abort", () => this.#wake());
  }

  /** Something came. */
  came(): void {
    this.#count++;
    this.#wake();
  }

  /** No more comes. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  get over(): boolean {
    return this.#ended || this.#deadline.aborted;
  }

  /** Resolves when an answer is whole, when none comes, or when no more can. */
  async whole(): Promise<void> {
    let patience = SILENCE;
    while (!this.over) {
      const before = this.#count;
      await this.#change(patience);
      if (this.#count === before) return;
      patience = QUIET;
    }
  }

  /** Resolves when no more comes, or it is too late. */
  async all(): Promise<void> {
    while (!this.over) await this.#change(null);
  }

  #change(within: number | null): Promise<void> {
    return new Promise((resolve) => {
      const timer = within === null ? undefined : setTimeout(resolve, within);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

const shown = ({ events }: Transcript) => events.map((event) => JSON.parse(formatEvent(event)));

const infoOf = (failed: unknown): ErrorInfo | null =>
  failed === null ? null : errorInfo(failed, "ERR_CONNECT_FAILED");

/** Says it, and gives what was said by both. Rejects where the server cannot be reached; what goes wrong later is in the answer. */
export const replayTo = async ({ endpoint, tls }: ReplayTarget, spec: ReplaySpec): Promise<Replayed> => {
  const { timeout } = spec;
  const deadline = AbortSignal.timeout(timeout);
  const answers = new Answers(deadline);
  const said = { address: formatAddress(endpoint) };
  const late = new SocketError("ETIMEDOUT", `the server has not ended after ${wholeMs(timeout)}`);
  if (endpoint.scheme === "udp") {
    const { transcript, failed } = await byDatagrams(endpoint, spec, answers);
    return { ...said, events: shown(transcript), error: infoOf(failed) };
  }
  const stream = await createConnection(endpoint, { signal: deadline, ...(tls && { tls }) });
  const recording = record(stream, "client");
  const { stream: own } = recording;
  own.settimeout(null);
  let failed: unknown = null;
  const reading = (async () => {
    for await (const bytes of own) if (bytes.length > 0) answers.came();
  })()
    .catch((error) => {
      if (!deadline.aborted) failed = error;
    })
    .finally(() => answers.end());
  try {
    for (const piece of spec.pieces) {
      if (answers.over) break;
      if (piece.length > 0) await own.sendall(piece);
      await own.wfile.flush();
      await answers.whole();
    }
    if (spec.halfClose) {
      if (!answers.over) await own.shutdown(SHUT_WR);
      await answers.all();
    }
  } catch (error) {
    failed ??= error;
  }
  if (deadline.aborted) {
    failed ??= late;
    own.abort();
  } else await own.close().catch(() => {}); // what was lost the transcript says
  await reading;
  return {
    ...said,
    events: shown(recording.transcript),
    error: infoOf(failed),
  };
};

const byDatagrams = async (
  { hostname, port }: Exclude<Endpoint, { readonly scheme: "unix" }>,
  { pieces }: ReplaySpec,
  answers: Answers,
): Promise<{ readonly transcript: Transcript; readonly failed: unknown }> => {
  const { address, family } = await lazy.dns.promises.lookup(hostname);
  const socket = lazy.dgram.createSocket(family === 6 ? "udp6" : "udp4");
  const log = new Log("datagrams", {});
  let failed: unknown = null;
  socket.on("message", (bytes) => {
    log.said("server", bytes);
    answers.came();
  });
  socket.on("error", (error) => {
    failed = error;
    answers.end();
  });
  try {
    const connected = once(socket, "connect");
    socket.connect(port, address);
    await connected;
    for (const piece of pieces) {
      if (answers.over) break;
      log.said("client", piece);
      socket.send(piece);
      await answers.whole();
    }
  } finally {
    socket.close();
  }
  return { transcript: log.transcript, failed };
};
