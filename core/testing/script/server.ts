/** A script as a server: handler classes that run it on each connection, or over incoming datagrams. */

import { LATE } from "../../bytes/alarm.ts";
import { SocketError } from "../../errors.ts";
import { BaseRequestHandler, type HandlerClass } from "../../handlers/handler.ts";
import { checkCount, checkOptions, checkTime, wholeMs } from "../../options.ts";
import type { Datagram } from "../../sockets/datagram.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { quote } from "../text.ts";
import { type Conversation, checkScript } from "./conversation.ts";
import { ScriptError } from "./error.ts";
import { inTime, SCRIPT_NAMES, type ScriptOptions, type Seen, TIMEOUT } from "./run.ts";
import type { DatagramPeer } from "./wire.ts";

/** A handler class that runs a script on each request it gets, and the outcomes. */
export interface ScriptHandlerClass<Request> extends HandlerClass<Request> {
  /**
   * What the first `count` runs saw (default 1), when they are over. Rejects with the error of the first one that
   * failed, and with a `ScriptError` if fewer have begun within `timeout` ms.
   */
  outcomes(count?: number): Promise<Seen[]>;
}

/** The runs of one handler class. */
class Runs {
  readonly #runs: Promise<Seen>[] = [];
  readonly #timeout: number;
  #more = Promise.withResolvers<void>();

  constructor(options: ScriptOptions) {
    checkOptions("the handler of a script", options, SCRIPT_NAMES);
    this.#timeout = checkTime("timeout", options.timeout ?? TIMEOUT);
  }

  add(run: Promise<Seen>): Promise<Seen> {
    run.catch(() => {}); // outcomes() reports it, and so does the server's event
    this.#runs.push(run);
    this.#more.resolve();
    this.#more = Promise.withResolvers();
    return run;
  }

  async outcomes(count: number): Promise<Seen[]> {
    checkCount("count", count, 1);
    const enough = async (): Promise<void> => {
      while (this.#runs.length < count) await this.#more.promise;
    };
    if ((await inTime(enough(), this.#timeout)) === LATE) {
      const begun = `${this.#runs.length} of ${count} runs`;
      const message = `${begun} of the script have begun within ${wholeMs(this.#timeout)}`;
      throw new ScriptError(message, 1, `${count} runs`, begun);
    }
    return Promise.all(this.#runs.slice(0, count));
  }
}

/**
 * A handler class that runs `script` on each connection: a scripted server, on every platform that has servers.
 *
 *     const Peer = scriptHandler(conversation().expectLine("PING").send("+PONG\r\n"));
 *     const server = new ThreadingTCPServer("127.0.0.1:0", Peer);
 *     …
 *     await Peer.outcomes(); // throws if the peer did not follow the script
 */
export const scriptHandler = (
  script: Conversation,
  options: ScriptOptions = {},
): ScriptHandlerClass<StreamSocket> => {
  checkScript(script);
  const runs = new Runs(options);
  return class ScriptHandler extends BaseRequestHandler {
    static outcomes(count = 1): Promise<Seen[]> {
      return runs.outcomes(count);
    }

    override handle(): Promise<Seen> {
      return runs.add(script.run(this.request, options));
    }
  };
};

/**
 * A handler class that runs `script` once, over the datagrams of all its handlers: each `expect` takes the
 * next, each `send` answers the latest one. A datagram after the script's end is an error of its handler.
 */
export const scriptDatagramHandler = (
  script: Conversation,
  options: ScriptOptions = {},
): ScriptHandlerClass<Datagram> => {
  checkScript(script);
  const runs = new Runs(options);
  const waiting: Arrived[] = [];
  let more = Promise.withResolvers<void>();
  let last: Arrived | null = null;
  let run: Promise<Seen> | null = null;
  const peer: DatagramPeer = {
    send(data) {
      if (last === null) throw new SocketError("ENOTCONN", "no datagram has come yet that could be answered");
      last.datagram.reply(data);
    },
    async recv() {
      last?.done();
      while (waiting.length === 0) await more.promise;
      last = waiting.shift() as Arrived;
      return last.datagram.data;
    },
  };
  return class ScriptHandler extends BaseRequestHandler<Datagram> {
    static outcomes(count = 1): Promise<Seen[]> {
      return runs.outcomes(count);
    }

    /** Waits until the script asks for the next datagram or is over: some places end a flow together with its handler. */
    override async handle(): Promise<void> {
      const answered = Promise.withResolvers<void>();
      const arrived: Arrived = { datagram: this.request, done: answered.resolve };
      waiting.push(arrived);
      more.resolve();
      more = Promise.withResolvers();
      run ??= runs.add(script.run(peer, options));
      await Promise.race([answered.promise, run]);
      if (!waiting.includes(arrived)) return;
      const came = quote(this.request.data);
      throw new ScriptError(
        `a datagram came after the end of the script: ${came}`,
        script.length + 1,
        "nothing",
        came,
      );
    }
  };
};

/** A datagram that waits for the script, and the function that releases its handler. */
interface Arrived {
  readonly datagram: Datagram;
  readonly done: () => void;
}
