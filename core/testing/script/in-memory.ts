/** A script against a handler in memory: `runScript`. */

import { LATE } from "../../bytes/alarm.ts";
import type { MaybePromise } from "../../bytes/data.ts";
import { errorText, printable } from "../../describe.ts";
import type { SocketError } from "../../errors.ts";
import type { HandlerClass } from "../../handlers/handler.ts";
import type { Address } from "../../net/address.ts";
import { checkOptions, checkTime, optionNamesOf, wholeMs } from "../../options.ts";
import { BaseConnector } from "../../serve/connector.ts";
import { ENDPOINT_NAMES, type EndpointOptions } from "../../serve/endpoint.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { MEMORY_NAMES, type MemoryOptions, memoryPair } from "../memory-streams.ts";
import { type Conversation, checkScript, stepsOf } from "./conversation.ts";
import { ScriptError } from "./error.ts";
import { hold, inTime, type ScriptOptions, type Seen, TIMEOUT } from "./run.ts";
import { StreamWire } from "./wire.ts";

/** Options of `runScript`: the options of a run, and the handler's inputs. */
export interface RunScriptOptions<Context, Params = unknown>
  extends Omit<ScriptOptions, "otherEnd">,
    Omit<EndpointOptions<Context>, "context"> {
  /** Makes the handler's `this.context`, as in `checkFraming`; may be async. */
  readonly context?: () => MaybePromise<Context>;
  /** The handler's `this.params`. */
  readonly params?: Params;
  /** The connection between the two. */
  readonly stream?: MemoryOptions;
}

const RUN_SCRIPT_NAMES = optionNamesOf<RunScriptOptions<unknown>>()({
  ...ENDPOINT_NAMES,
  context: "function",
  timeout: true,
  clock: true,
  params: true,
  stream: MEMORY_NAMES,
});

/** The result of `runScript`: what the script saw, and what the handler returned. */
export interface ScriptResult extends Seen {
  /** What the handler returned. */
  readonly result: unknown;
}

class OneHandler<Context, Params> extends BaseConnector<StreamSocket, Context, Params> {
  readonly #end: StreamSocket;
  /** What the handler threw. */
  thrown: { readonly error: unknown } | null = null;

  constructor(
    Handler: HandlerClass<StreamSocket, Context, Params>,
    options: EndpointOptions<Context>,
    end: StreamSocket,
  ) {
    super(Handler, options);
    this.#end = end;
  }

  override connect(): Promise<StreamSocket> {
    return Promise.resolve(this.#end);
  }

  override peerOf(request: StreamSocket): Address | null {
    return request.getpeername();
  }

  override async finishRequest(request: StreamSocket, clientAddress: Address | null): Promise<unknown> {
    try {
      return await super.finishRequest(request, clientAddress);
    } catch (error) {
      this.thrown = { error };
      throw error;
    }
  }
}

/**
 * Runs `script` against one `Handler` in memory, whichever of the two would have dialled: the handler begins, then the
 * script, which closes the connection when it is over. Resolves to what the script saw and what the handler returned.
 *
 *     const { result } = await runScript(RespClient, server, { params: ["PING"] });
 *
 * Rejects with the `ScriptError`, whose `cause` is what the handler threw; if the script succeeded, with what the
 * handler threw (unless that is the reset by the script); and with a `ScriptError` if the handler
 * continues for `timeout` ms after the connection is closed.
 */
export const runScript = async <Context, Params>(
  Handler: HandlerClass<StreamSocket, Context, Params>,
  script: Conversation,
  options: RunScriptOptions<Context, NoInfer<Params>> = {},
): Promise<ScriptResult> => {
  checkScript(script);
  checkOptions("runScript()", options, RUN_SCRIPT_NAMES);
  const { timeout = TIMEOUT, clock, params, stream, context, ...endpoint } = options;
  checkTime("timeout", timeout);
  const made = (await context?.()) as Context;
  const [here, there] = memoryPair(stream);
  const connector = new OneHandler<Context, Params>(Handler, { ...endpoint, context: made }, there);
  const running = connector.run({ params });
  running.catch(() => {}); // reported below
  let seen: Seen;
  try {
    seen = await hold(stepsOf(script), new StreamWire(here), { timeout, clock, otherEnd: there });
  } catch (error) {
    const thrown = connector.thrown?.error; // read now: the abort causes errors of its own
    connector.abort(error);
    here.abort();
    throw error instanceof ScriptError && thrown !== undefined ? withCause(error, thrown) : error;
  }
  await here.close();
  try {
    const result = await inTime(running, timeout);
    if (result !== LATE) return { ...seen, result };
  } catch (error) {
    // If the script reset the connection, the handler's error about that is not a failure.
    const code = (error as Partial<SocketError> | null)?.code;
    const reset = stepsOf(script).some(({ name }) => name === "reset()");
    if (!reset || (code !== "ECONNRESET" && code !== "EPIPE")) throw error;
    return { ...seen, result: undefined };
  }
  connector.abort();
  throw new ScriptError(
    `the script is over and the connection closed, and the handler still runs after ${wholeMs(timeout)}`,
    script.length + 1,
    "that the handler ends",
    "it goes on",
  );
};

/** `error`, with what the handler had thrown before it. */
const withCause = (error: ScriptError, thrown: unknown): ScriptError => {
  const message = `${error.message}\n\nThe handler had failed: ${printable(errorText(thrown), true)}`;
  const whole = new ScriptError(message, error.step, error.expected, error.actual, thrown);
  whole.stack = (error.stack ?? "").replace(error.message, () => message);
  return whole;
};
