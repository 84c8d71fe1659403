/** `socklet replay`, `socklet diff` and `socklet export`: the commands for transcripts that `socklet proxy --record` wrote. */

import { BaseRequestHandler } from "../../../core/handlers/handler.ts";
import { type Endpoint, packAddress, parseAddress } from "../../../core/net/address.ts";
import type { StreamSocket } from "../../../core/sockets/streams/stream-socket.ts";
import type { Conversation } from "../../../core/testing/script/conversation.ts";
import { ScriptError } from "../../../core/testing/script/error.ts";
import { scriptDatagramHandler } from "../../../core/testing/script/server.ts";
import type { DatagramPeer } from "../../../core/testing/script/wire.ts";
import { compareTranscripts } from "../../../core/testing/transcript/compare.ts";
import {
  parseTranscript,
  peerOf,
  type Side,
  type Transcript,
} from "../../../core/testing/transcript/form.ts";
import { replay } from "../../../core/testing/transcript/replay.ts";
import { fs, lazy, once } from "../../builtin.ts";
import { listenerUrl, type TCPServerOptions, ThreadingTCPServer } from "../../servers/tcp.ts";
import { ThreadingUDPServer } from "../../servers/udp.ts";
import { createConnection } from "../../sockets/dialling/connector.ts";
import { toPcapng } from "../../wire/transcripts/pcapng.ts";
import { asked, describe, print, say, UsageError } from "../terminal/output.ts";
import { onStop } from "../terminal/signals.ts";
import { issuedFor } from "./authority.ts";
import { listenEndpoint } from "./proxy.ts";

/** The transcript in a file. Throws `UsageError`. */
const readTranscript = (path: string): Transcript => {
  let text: string;
  try {
    text = fs.readFileSync(path, "utf8");
  } catch (error) {
    throw new UsageError(`${path} could not be read: ${(error as Error).message}`, { cause: error });
  }
  return asked(path, () => parseTranscript(text));
};

interface ReplayFlags {
  to?: string;
  listen?: string;
  connection?: number;
  paced?: boolean;
  ca?: string;
  timeout: number;
}

/** The numbers of the connections to replay. Throws `UsageError`. */
const connectionsOf = ({ events }: Transcript, path: string, { connection }: ReplayFlags): number[] => {
  const all = [...new Set(events.map(peerOf))].sort((one, other) => one - other);
  if (all.length === 0) throw new UsageError(`${path}: it has no conversation`);
  if (connection === undefined) return all;
  if (all.includes(connection)) return [connection];
  throw new UsageError(`${path} has no connection ${connection}; it has ${all.length}`);
};

export const replayFile = async (path: string, flags: ReplayFlags): Promise<void> => {
  const { to, listen } = flags;
  if ((to === undefined) === (listen === undefined)) {
    throw new UsageError("give --to, to be its client, or --listen, to be its server");
  }
  const transcript = readTranscript(path);
  const numbers = connectionsOf(transcript, path, flags);
  const side: Side = to === undefined ? "server" : "client";
  const { ca, paced = false } = flags;
  const tls = ca === undefined ? {} : { ca: { file: ca } };
  const scriptOf = (peer: number): Conversation =>
    asked(path, () => replay(transcript, side, { peer, paced, ...(to !== undefined && { tls }) }));
  const turns = transcript.events.some((event) => "tls" in event && numbers.includes(peerOf(event)));
  try {
    if (to !== undefined) await asClient(transcript.kind, to, numbers, scriptOf, turns, flags);
    else {
      if (ca !== undefined)
        throw new UsageError("--ca is for --to: whom this side trusts as the server's authority");
      const security = turns ? securityFor(transcript) : {};
      await asServer(transcript.kind, listen as string, numbers, scriptOf, security, flags);
    }
  } catch (error) {
    if (!(error instanceof Differs)) throw error;
    await print(error.message);
    process.exitCode = 1;
    return;
  }
  const said = transcript.kind === "stream" ? "connection" : "client";
  await print(`${numbers.length} ${said}${numbers.length === 1 ? "" : "s"}: as recorded`);
};

/** The certificate for a server that starts TLS in the middle of a conversation: one for the name of the recorded server. */
const securityFor = ({ address }: Transcript): TCPServerOptions<unknown> => {
  const recorded = address === undefined ? undefined : parseAddress(address);
  const hostname = recorded === undefined || recorded.scheme === "unix" ? "localhost" : recorded.hostname;
  const { cert, key } = issuedFor(hostname, packAddress(hostname) !== null);
  return { tls: { cert, key }, secureTransport: "starttls" };
};

/** The other side says something else than what was recorded: many lines, which show where. */
class Differs extends Error {}

/** What went wrong with one connection, named by its number. */
const ofConnection = (number: number, error: unknown): Error =>
  error instanceof ScriptError
    ? new Differs(`connection ${number}: ${error.message}`, { cause: error })
    : new Error(`connection ${number}: ${describe(error)}`, { cause: error });

type ScriptOf = (peer: number) => Conversation;

const asClient = async (
  kind: Transcript["kind"],
  address: string,
  numbers: readonly number[],
  scriptOf: ScriptOf,
  turns: boolean,
  { ca, timeout }: ReplayFlags,
): Promise<void> => {
  const endpoint = asked(`--to ${address}`, () => parseAddress(address));
  if (turns && endpoint.scheme === "tls")
    throw new UsageError(
      `--to ${address}: this conversation begins in plain text, and turns to TLS by itself; give tcp://host:port`,
    );
  const udp = endpoint.scheme === "udp";
  if (udp !== (kind === "datagrams")) {
    const right = kind === "datagrams" ? "udp://host:port" : "tcp://host:port, or tls://host:port";
    throw new UsageError(`--to ${address}: this is a transcript of ${kind}; give ${right}`);
  }
  for (const number of numbers) {
    const script = scriptOf(number);
    try {
      if (udp) await sayByDatagrams(endpoint, script, timeout);
      else {
        const tls = ca === undefined || turns ? {} : { tls: { ca: { file: ca } } }; // the script has its own
        const stream = await createConnection(endpoint, tls);
        try {
          await script.run(stream, { timeout });
        } finally {
          await stream.close();
        }
      }
    } catch (error) {
      throw error instanceof UsageError ? error : ofConnection(number, error);
    }
  }
};

const sayByDatagrams = async (to: Endpoint, script: Conversation, timeout: number): Promise<void> => {
  const { hostname, port } = to as Exclude<Endpoint, { readonly scheme: "unix" }>;
  const { address, family } = await lazy.dns.promises.lookup(hostname);
  const socket = lazy.dgram.createSocket(family === 6 ? "udp6" : "udp4");
  const came: Uint8Array[] = [];
  let failed: Error | undefined;
  let more = Promise.withResolvers<void>();
  const wake = (): void => {
    more.resolve();
    more = Promise.withResolvers();
  };
  socket.on("message", (bytes) => {
    came.push(new Uint8Array(bytes));
    wake();
  });
  try {
    const connected = once(socket, "connect");
    socket.connect(port, address);
    await connected;
    socket.on("error", (error) => {
      failed = error;
      wake();
    });
    const peer: DatagramPeer = {
      send: (data) =>
        new Promise<void>((resolve, reject) =>
          socket.send(data, (error) => (error ? reject(error) : resolve())),
        ),
      async recv() {
        while (came.length === 0) {
          if (failed !== undefined) throw failed;
          await more.promise;
        }
        return came.shift() as Uint8Array;
      },
    };
    await script.run(peer, { timeout });
  } finally {
    socket.close();
  }
};

const asServer = async (
  kind: Transcript["kind"],
  text: string,
  numbers: readonly number[],
  scriptOf: ScriptOf,
  security: TCPServerOptions<unknown>,
  { timeout }: ReplayFlags,
): Promise<void> => {
  const listen = listenEndpoint(text);
  const done = Promise.withResolvers<void>();
  done.promise.catch(() => {}); // awaited below
  onStop({ stop: (signal) => done.reject(new Error(`interrupted by ${signal}, before all was said`)) });
  let begun = 0;
  let ended = 0;
  const runOne = async (run: (number: number) => Promise<unknown>): Promise<void> => {
    const number = numbers[begun++];
    if (number === undefined) {
      done.reject(new Error(`there came more connections than the ${numbers.length} that were recorded`));
      return;
    }
    try {
      await run(number);
      if (++ended === numbers.length) done.resolve();
    } catch (error) {
      done.reject(ofConnection(number, error));
    }
  };
  class Replayed extends BaseRequestHandler<StreamSocket> {
    override handle(): Promise<void> {
      return runOne((number) => scriptOf(number).run(this.request, { timeout }));
    }
  }
  const endpoint = { ...listen, scheme: kind === "stream" ? "tcp" : "udp" } as const;
  let server: ThreadingTCPServer | ThreadingUDPServer;
  if (kind === "stream") server = new ThreadingTCPServer(endpoint, Replayed, security);
  else {
    if (numbers.length > 1)
      throw new UsageError(`it has ${numbers.length} clients; say by --connection which is expected`);
    const number = numbers[0] as number;
    const Handler = scriptDatagramHandler(scriptOf(number), { timeout });
    server = new ThreadingUDPServer(endpoint, Handler, {
      onEvent: ({ type }) => {
        if (type !== "begin" || begun++ > 0) return;
        Handler.outcomes().then(
          () => done.resolve(),
          (error) => done.reject(ofConnection(number, error)),
        );
      },
    });
  }
  const address = await server.listen();
  void server.serveForever();
  say(`${listenerUrl(endpoint.scheme, address)} answers as recorded`);
  try {
    await done.promise;
  } finally {
    await server.serverClose();
  }
};

export const diff = async (
  expected: string,
  actual: string,
  { apart = false }: { apart?: boolean },
): Promise<void> => {
  const [wanted, came] = [readTranscript(expected), readTranscript(actual)];
  if (wanted.kind !== came.kind) {
    throw new Error(`${expected} is of a ${wanted.kind}, and ${actual} of a ${came.kind}`);
  }
  const error = compareTranscripts(came, wanted, { apart });
  if (error === null) return;
  await print(`- ${expected}\n+ ${actual}\n${error.message}`);
  process.exitCode = 1;
};

const WRITTEN = 1024 * 1024; // bytes of a capture that are written together

export const exportFile = async (
  path: string,
  { pcapng, port }: { pcapng: string; port?: number },
): Promise<void> => {
  const transcript = readTranscript(path);
  const blocks = toPcapng(transcript, port);
  const first = asked("--port", () => blocks.next()); // if it cannot be parsed, nothing is written
  let fd: number;
  try {
    fd = fs.openSync(pcapng, "w");
  } catch (error) {
    throw new Error(`--pcapng ${pcapng}: ${(error as Error).message}`, { cause: error });
  }
  try {
    let parts: Uint8Array[] = [first.value as Uint8Array];
    let size = 0;
    for (const bytes of blocks) {
      parts.push(bytes);
      size += bytes.length;
      if (size < WRITTEN) continue;
      fs.writeFileSync(fd, Buffer.concat(parts));
      parts = [];
      size = 0;
    }
    fs.writeFileSync(fd, Buffer.concat(parts));
  } finally {
    fs.closeSync(fd);
  }
};
