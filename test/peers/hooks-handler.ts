/** The handlers whose hooks `hooks.test.ts` traces in the children of a forking server, which import them from here. */

import { DatagramRequestHandler, type HandlerClass, StreamRequestHandler, type StreamSocket } from "socklet";

/** The outcome of a request; `timeout` if none comes. */
export const OUTCOMES = ["served", "refused", "setup", "handle", "finish", "timeout"] as const;
export type Outcome = (typeof OUTCOMES)[number];

/** A handler of that kind which reports its hooks, and fails at the place that `outcome` names. */
const traced = (
  Base: typeof StreamRequestHandler,
  told: (handler: StreamRequestHandler, hook: string) => void,
  outcomeOf: (handler: StreamRequestHandler) => Outcome,
): HandlerClass<StreamSocket> =>
  class Traced extends Base {
    #called(hook: string): void {
      told(this, hook);
    }

    #fault(hook: string): void {
      if (outcomeOf(this) === hook) throw new Error(hook);
    }

    override setup() {
      this.#called("setup");
      const ready = super.setup();
      this.#fault("setup");
      return ready;
    }

    override handle() {
      this.#called("handle");
      this.wfile.write("handled");
      this.#fault("handle");
    }

    override finish() {
      this.#called("finish");
      this.#fault("finish");
      return super.finish();
    }
  };

/** The handler for this process: it reports to `trace`. */
export const tracedHere = (datagrams: boolean, outcome: Outcome, trace: string[]) =>
  traced(
    datagrams ? (DatagramRequestHandler as unknown as typeof StreamRequestHandler) : StreamRequestHandler,
    (_, hook) => trace.push(hook),
    () => outcome,
  );

const inChild = (Base: unknown) =>
  traced(
    Base as typeof StreamRequestHandler,
    (handler, hook) => handler.emit({ pid: process.pid, hook }),
    (handler) => (handler.context as { readonly outcome: Outcome }).outcome,
  );

/** Those for a child: they emit what is called, and in which process. */
export const TracedStreams = inChild(StreamRequestHandler);
export const TracedDatagrams = inChild(DatagramRequestHandler);
