/** An app whose handlers keep a connection in a variable of their module. The place provides the function that dials. */

import { type App, ClientHandler, defineApp, type PoolClient, SHUT_WR, StreamRequestHandler } from "socklet";
import type { CreateConnection } from "../../core/sockets/dialling/connect.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";

export interface Context {
  readonly early: StreamSocket | null;
  readonly lines: PoolClient<string, string> | null;
}

/** Asks an echo server for one line. */
export class Lines extends ClientHandler<string, string> {
  override send(line: string): void {
    this.wfile.write(`${line}\n`);
  }

  override async receive(): Promise<string> {
    return (await this.rfile.line()) ?? "";
  }
}

const codeOf = (error: unknown): string => `${(error as { code?: string }).code} ${(error as Error).message}`;

export interface Keeping {
  /** An echo server. */
  readonly upstream: string;
  readonly port: number;
  readonly createConnection: CreateConnection;
  /** `context()` dials, too. */
  readonly early?: boolean;
  /** The app has a pool. */
  readonly pool?: boolean;
  readonly serve?: "threading" | "forking";
}

export const keeperApp = ({
  upstream,
  port,
  createConnection,
  early,
  pool,
  serve = "threading",
}: Keeping): App<Context> => {
  let kept: StreamSocket;

  /** Does what a line says, and answers with the result. */
  class Keeper extends StreamRequestHandler<Context> {
    readonly does: Readonly<Record<string, () => Promise<unknown>>> = {
      dial: async () => {
        kept = await createConnection(upstream);
      },
      dialStarttls: async () => {
        kept = await createConnection(upstream, { secureTransport: "starttls" });
      },
      early: async () => {
        kept = this.context.early as StreamSocket;
      },
      ask: async () => {
        kept.wfile.write("hello\n");
        return kept.rfile.line();
      },
      read: () => kept.rfile.line(),
      send: () => kept.sendall("hello\n").then(() => kept.rfile.line()),
      gather: async () => {
        kept.wfile.write("hello\n");
        await new Promise((resolve) => setTimeout(resolve)); // it leaves at the end of the turn
        return kept.rfile.line();
      },
      large: async () => {
        kept.wfile.write(new Uint8Array(32_768));
        await kept.wfile.flush();
        return kept.rfile.readexactly(1);
      },
      end: () => kept.shutdown(SHUT_WR),
      secure: () => kept.startTls(),
      pool: async () => this.context.lines?.call("hello"),
    };

    override async handle(): Promise<void> {
      for await (const line of this.rfile.lines()) {
        const said = await this.does[line]?.().then((value) => `ok ${String(value)}`, codeOf);
        this.wfile.write(`${said}\n`);
      }
    }
  }

  /** A session: keeps its own connection, or uses that of the one before. */
  class Visit extends StreamRequestHandler<Context, "keep" | "use"> {
    override async handle(): Promise<unknown> {
      if (this.params === "keep") kept = this.request;
      kept.wfile.write("hello\n");
      const line = await kept.rfile.line();
      if (this.params === "keep") {
        this.emit(line);
        await new Promise((resolve) => this.signal.addEventListener("abort", resolve));
      }
      return line;
    }
  }

  return defineApp<Context>({
    handlers: { keeper: Keeper, lines: Lines, visit: Visit },
    listen: [
      {
        handler: "keeper",
        address: { hostname: "127.0.0.1", port },
        serve,
        ...(serve === "forking" && { options: { maxChildren: 1 } }),
      },
    ],
    dial: { visit: { handler: "visit", address: upstream } },
    pools: pool ? { lines: { handler: "lines", address: upstream, max: 1 } } : {},
    context: async ({ pool: poolOf }) => ({
      early: early ? await createConnection(upstream) : null,
      lines: pool ? poolOf("lines", Lines) : null,
    }),
  });
};
