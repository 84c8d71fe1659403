/** Recording where requests arrive: recorded handlers, and a relay between a client and a server. */

import { type Data, toBytes } from "../../bytes/data.ts";
import type { SocketError } from "../../errors.ts";
import { BaseRequestHandler, checkHandler, type HandlerClass } from "../../handlers/handler.ts";
import { type Address, formatAddress } from "../../net/address.ts";
import { SHUT_WR } from "../../net/constants.ts";
import { checkOptions, checkWord, optionNamesOf } from "../../options.ts";
import { Datagram } from "../../sockets/datagram.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { serverOf } from "../handler.ts";
import { SIDES, type Side, type Transcript } from "./form.ts";
import { Log, RECORD_NAMES, type RecordOptions, record } from "./record.ts";

/** Options of a handler that is recorded. */
export interface RecordHandlerOptions extends RecordOptions {
  /** Which end of the conversation the handler has. Default `server`. */
  readonly side?: Side;
}

const RECORD_HANDLER_NAMES = optionNamesOf<RecordHandlerOptions>()({ ...RECORD_NAMES, side: true });

/**
 * `Handler` with each connection recorded: `tell` gets the transcript when the connection is over. It runs wherever the
 * handler does: in a server, on a connection that was dialled (`side: "client"`), in a Worker, in memory.
 */
export const recordHandler = <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  tell: (transcript: Transcript) => void,
  options: RecordHandlerOptions = {},
): HandlerClass<StreamSocket, Context> => {
  checkOptions("recordHandler()", options, RECORD_HANDLER_NAMES);
  const { side = "server", ...recorded } = options;
  checkWord("side", side, SIDES);
  checkHandler(Handler);
  class Recorded extends BaseRequestHandler<StreamSocket, Context> {
    override async handle(): Promise<unknown> {
      const recording = record(this.request, side, recorded);
      const { stream } = recording;
      try {
        return await new Handler(stream, this.clientAddress, serverOf(this, stream)).run();
      } finally {
        await stream.close();
        await recording.over; // what toWeb() returned continues
        tell(recording.transcript);
      }
    }
  }
  return Object.defineProperty(Recorded, "name", { value: Handler.name });
};

/** A recording of everything that one datagram handler received and answered. */
export interface DatagramRecording<Context> {
  /** What to use instead of the original handler. */
  readonly Handler: HandlerClass<Datagram, Context>;
  /** The transcript so far. */
  readonly transcript: Transcript;
}

/** Records what `Handler` receives, and what it replies. */
export const recordDatagrams = <Context>(
  Handler: HandlerClass<Datagram, Context>,
  options: RecordOptions = {},
): DatagramRecording<Context> => {
  const log = new Log("datagrams", options);
  const peers: string[] = [];
  const numberOf = (address: Address | null): number => {
    const name = address === null ? "" : formatAddress(address);
    if (!peers.includes(name)) peers.push(name);
    return peers.indexOf(name) + 1;
  };
  class Recorded extends BaseRequestHandler<Datagram, Context> {
    override handle(): unknown {
      const { request } = this;
      const peer = numberOf(request.address);
      log.said("client", request.data, peer);
      const post = (data: Data): void => {
        request.reply(data);
        log.said("server", toBytes(data), peer);
      };
      const recorded = new Datagram(request.data, request.address, { post }, request.truncated);
      return new Handler(recorded, this.clientAddress, serverOf(this, recorded)).run();
    }
  }
  return {
    Handler: Object.defineProperty(Recorded, "name", { value: Handler.name }),
    get transcript() {
      return log.transcript;
    },
  };
};

/** A class of handlers that relay, both ways, to a connection that `dial` opens for each. */
export const relayHandler = (
  dial: (signal: AbortSignal) => Promise<StreamSocket>,
): HandlerClass<StreamSocket> =>
  class Relay extends BaseRequestHandler {
    override async handle(): Promise<void> {
      const { request } = this;
      const other = await dial(this.signal);
      try {
        await Promise.all([pass(request, other), pass(other, request)]);
      } catch (error) {
        // If one side broke, the other must see a reset, and not an end.
        request.abort();
        other.abort();
        if ((error as SocketError).code !== "ECONNRESET") throw error;
      } finally {
        await other.close();
      }
    }
  };

const pass = async (from: StreamSocket, to: StreamSocket): Promise<void> => {
  for await (const bytes of from) await to.sendall(bytes);
  await to.shutdown(SHUT_WR);
};

/**
 * A handler class that stands between a client and a server and records what they send. `dial` opens the
 * connection to the server, `tell` gets each transcript when its conversation is over.
 *
 *     const Proxy = recordingProxy(() => createConnection("127.0.0.1:6379"), (t) => transcripts.push(t));
 *     const server = new ThreadingTCPServer("127.0.0.1:6380", Proxy); // redis-cli -p 6380
 *
 * TLS is passed through unchanged: its content is not seen.
 */
export const recordingProxy = (
  dial: (signal: AbortSignal) => Promise<StreamSocket>,
  tell: (transcript: Transcript) => void,
  options: RecordOptions = {},
): HandlerClass<StreamSocket> => recordHandler(relayHandler(dial), tell, options);
