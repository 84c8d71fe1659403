/** The app of the inspector's tests, in a Worker and in Node. */

import {
  type AppDefinition,
  ClientHandler,
  DatagramRequestHandler,
  decodeLines,
  type PoolClient,
  StreamRequestHandler,
  streamHandler,
} from "socklet";
import { Echo } from "../../examples/echo.ts";
import { Lines } from "./lines.ts";

/** Sends its params, and emits the answer. */
const Asks = streamHandler(async (handler) => {
  handler.wfile.write(`${handler.params}\n`);
  const line = await handler.rfile.line();
  handler.emit({ characters: line?.length ?? 0 }); // its text is a secret: it came as params
  return line;
});

/** Sends a greeting, then answers each line in upper case, or does what the line says. */
class Shouts extends StreamRequestHandler {
  override async handle(): Promise<void> {
    this.wfile.write("ready\n");
    for await (const line of this.rfile.lines()) {
      this.emit({ line });
      if (line === "CRASH") throw new Error("it crashed");
      this.wfile.write(`${line.toUpperCase()}\n`);
      if (line === "QUIT") return;
    }
  }
}

class EchoDatagram extends DatagramRequestHandler {
  override handle(): void {
    this.request.reply(this.request.data);
  }
}

/** A call and its answer are lines. */
class Upper extends ClientHandler<string, string> {
  override send(call: string): void {
    this.wfile.write(`${call}\n`);
  }

  override receive(): Promise<string> {
    return this.rfile.readuntil("\n").then((bytes) => new TextDecoder().decode(bytes).trimEnd());
  }
}

interface Pooled {
  readonly upper: PoolClient<string, string>;
}

/** Has the pool answer each line. */
class Asked extends StreamRequestHandler<Pooled> {
  override async handle(): Promise<void> {
    for await (const line of this.rfile.lines()) {
      this.wfile.write(`${await this.context.upper.call(line)}\n`);
    }
  }
}

/** The addresses where that app listens, and that it dials. */
export interface InspectedAddresses {
  readonly SHOUTS?: string;
  readonly DATAGRAMS?: string;
  readonly KEPT?: string;
  readonly LOUD?: string;
  readonly SECURED?: string;
}

export const inspectedApp = ({
  SHOUTS = "tcp://127.0.0.1:7008",
  DATAGRAMS = "udp://127.0.0.1:7008",
  KEPT = "127.0.0.1:1",
  LOUD = "127.0.0.1:1",
  SECURED = "127.0.0.1:1",
}: InspectedAddresses) =>
  ({
    handlers: { Echo, Asks, Lines, Shouts, EchoDatagram, Upper, Asked },
    listen: [
      { handler: "Echo", address: "tcp://127.0.0.1:7007" },
      { handler: "Shouts", address: SHOUTS, decode: decodeLines },
      { handler: "EchoDatagram", address: DATAGRAMS },
      { handler: "Asked", address: "tcp://127.0.0.1:7009" },
    ],
    dial: {
      kept: { handler: "Lines", address: KEPT, decode: decodeLines, keep: { redial: { retryDelay: 1 } } },
      loud: { handler: "Lines", address: LOUD },
      secured: { handler: "Lines", address: SECURED, secureTransport: "on" },
    },
    pools: { upper: { handler: "Upper", address: LOUD, max: 1 } },
    allow: ["127.0.0.0/8:*"],
    context: ({ pool }) => ({ upper: pool("upper", Upper) }),
  }) satisfies AppDefinition<Pooled>;
