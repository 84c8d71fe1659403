/** Clients of test/emulator/fixtures/clustered.ts, whose servers say in which process they are. */

import dgram from "node:dgram";
import { once } from "node:events";
import net from "node:net";
import tls from "node:tls";

/** The address of a listener (`tcp://127.0.0.1:7`, `unix:/path`) in the form that `net.connect` takes. */
export const placeOf = (url: string): net.TcpNetConnectOpts | net.IpcNetConnectOpts => {
  if (url.startsWith("unix:")) return { path: url.slice("unix:".length) };
  const { hostname, port } = new URL(url.replace(/^\w+:/, "http:"));
  return { host: hostname, port: Number(port) };
};

/** All that comes until the end; rejects if the connection fails. */
export const allOf = async (socket: net.Socket): Promise<string> => {
  let text = "";
  socket.setEncoding("utf8").on("data", (more: string) => {
    text += more;
  });
  await once(socket, "end");
  return text;
};

/** Sends one line on a new connection, over TLS with `ca`; returns the words of the reply. */
export const ask = async (
  url: string,
  line = "hello",
  { ca, session }: { readonly ca?: string; readonly session?: Buffer } = {},
): Promise<{ readonly words: readonly string[]; readonly session: Buffer | undefined }> => {
  const place = placeOf(url);
  const socket = url.startsWith("tls:")
    ? tls.connect({
        ...place,
        ca,
        servername: "localhost",
        ...(session && { session }),
      } as tls.ConnectionOptions)
    : net.connect(place);
  let ticket: Buffer | undefined;
  socket.on("session", (given: Buffer) => {
    ticket = given;
  });
  socket.end(`${line}\n`);
  try {
    return { words: (await allOf(socket)).trim().split(" "), session: ticket };
  } finally {
    socket.destroy();
  }
};

/** The process that answers. */
export const pidAt = async (url: string, ca?: string): Promise<number> =>
  Number((await ask(url, "hello", ca === undefined ? {} : { ca })).words[0]);

/** A client of datagrams, on its own port. */
export class Datagrams {
  readonly #socket = dgram.createSocket("udp4");
  readonly #place: { readonly host: string; readonly port: number };

  constructor(url: string) {
    this.#place = placeOf(url) as { readonly host: string; readonly port: number };
  }

  /** The process that answers; rejects after a minute. */
  async pid(): Promise<number> {
    const { host, port } = this.#place;
    const signal = AbortSignal.timeout(60_000);
    this.#socket.send("?", port, host);
    const [reply] = await once(this.#socket, "message", { signal }).catch((cause) => {
      throw new Error(`the datagram to ${host}:${port} was not answered`, { cause });
    });
    return Number(reply);
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }
}

/** Asks, concurrently, until this many processes have answered; returns them. */
export const pidsAt = async (askOne: () => Promise<number>, count: number): Promise<Set<number>> => {
  const pids = new Set<number>();
  while (pids.size < count) {
    for (const pid of await Promise.all(Array.from({ length: 8 }, askOne))) pids.add(pid);
  }
  return pids;
};

/** Whether a process is there. */
export const runs = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};
