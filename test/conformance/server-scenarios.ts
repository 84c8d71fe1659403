/**
 * What every server must do with a request, in every place: the hooks in CPython's order, whatever throws. Each
 * outcome is a server that records what is called. No vitest here: this runs in a Worker, too.
 */

import {
  type Address,
  type BaseServer,
  type SockletEvent,
  StreamRequestHandler,
  type StreamSocket,
} from "socklet";
import type { Board } from "./handler.ts";

/** Where a scenario's server throws, or turns a request away. */
interface Fault {
  readonly refuse?: boolean;
  readonly throws?: readonly string[];
}

export interface ServerScenario extends Fault {
  readonly name: string;
  /** The calls, in order; without `getRequest` if the platform accepts. */
  readonly trace: readonly string[];
  /** What the client reads up to the end. */
  readonly client: string;
}

const begun = ["getRequest", "verifyRequest", "processRequest", "finishRequest"];
const over = ["shutdownRequest", "closeRequest"];

const scenarios: readonly ServerScenario[] = [
  { name: "served", trace: [...begun, "setup", "handle", "finish", ...over], client: "handled" },
  { name: "refused", refuse: true, trace: ["getRequest", "verifyRequest", ...over], client: "" },
  {
    name: "verifyRequest throws",
    throws: ["verifyRequest"],
    trace: ["getRequest", "verifyRequest", "handleError: verifyRequest", ...over],
    client: "",
  },
  {
    name: "setup throws",
    throws: ["setup"],
    trace: [...begun, "setup", "handleError: setup", ...over],
    client: "",
  },
  {
    name: "handle throws",
    throws: ["handle"],
    trace: [...begun, "setup", "handle", "finish", "handleError: handle", ...over],
    client: "handled",
  },
  {
    name: "finish throws",
    throws: ["finish"],
    trace: [...begun, "setup", "handle", "finish", "handleError: finish", ...over],
    client: "handled",
  },
  {
    name: "handle and finish throw",
    throws: ["handle", "finish"],
    trace: [...begun, "setup", "handle", "finish", "handleError: handle + finish", ...over],
    client: "handled",
  },
  {
    name: "handle and handleError throw",
    throws: ["handle", "handleError"],
    trace: [
      ...begun,
      "setup",
      "handle",
      "finish",
      "handleError: handle",
      "told: handle + handleError",
      ...over,
    ],
    client: "handled",
  },
];

/** Each scenario twice: with hooks that give their value, and with hooks that give a promise. */
export const serverScenarios: readonly (ServerScenario & { readonly awaits: boolean })[] = scenarios.flatMap(
  (scenario) => [
    { ...scenario, awaits: false },
    { ...scenario, name: `${scenario.name}, async`, awaits: true },
  ],
);

const saidBy = (error: unknown): string =>
  error instanceof AggregateError ? error.errors.map(saidBy).join(" + ") : (error as Error).message;

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
type StreamServerClass = new (...args: any[]) => BaseServer<StreamSocket, any>;

/**
 * The server class of scenario `index` over a place's own: it records its hooks, and puts the trace on the board
 * when the connection was let go. Give the class to a place as `new Traced(…its arguments…)`.
 */
export const tracing = <Base extends StreamServerClass>(
  Server: Base,
  index: number,
  board: Board,
  key: string,
): { readonly Server: Base; readonly Handler: new (...args: never[]) => StreamRequestHandler } => {
  const { refuse = false, throws = [], awaits } = serverScenarios[index] as (typeof serverScenarios)[number];
  let trace: string[] = [];
  let served = 0;

  /** Records the call, throws if the scenario says so, and returns `value`, at once or later. */
  const step = <T>(name: string, value: () => T): T => {
    trace.push(name);
    const fault = throws.find((fault) => name === fault || name.startsWith(`${fault}:`));
    const act = (): T => {
      if (fault !== undefined) throw new Error(fault);
      return value();
    };
    return awaits ? (Promise.resolve().then(act) as T) : act();
  };

  abstract class Traced extends Server {
    // biome-ignore lint/suspicious/noExplicitAny: as above
    constructor(...args: any[]) {
      super(...args);
      this.onEvent = (event: SockletEvent) => {
        if (event.type === "error") trace.push(`told: ${saidBy(event.error)}`);
      };
    }
    override getRequest() {
      trace.push("getRequest");
      return super.getRequest();
    }
    override verifyRequest() {
      return step("verifyRequest", () => !refuse);
    }
    override processRequest(request: StreamSocket, address: Address | null) {
      trace.push("processRequest");
      return super.processRequest(request, address);
    }
    override finishRequest(request: StreamSocket, address: Address | null) {
      trace.push("finishRequest");
      return super.finishRequest(request, address);
    }
    override handleError(_request: StreamSocket, _address: Address | null, error: unknown) {
      return step(`handleError: ${saidBy(error)}`, () => {});
    }
    override shutdownRequest(request: StreamSocket) {
      trace.push("shutdownRequest");
      return super.shutdownRequest(request);
    }
    override async closeRequest(request: StreamSocket) {
      trace.push("closeRequest");
      const recorded = trace;
      trace = [];
      await board.put(`${key}/${++served}`, JSON.stringify(recorded));
      await super.closeRequest(request);
    }
  }

  class Handler extends StreamRequestHandler {
    override setup() {
      return step("setup", () => {});
    }
    override handle() {
      this.wfile.write("handled");
      return step("handle", () => {});
    }
    override finish() {
      return step("finish", () => {});
    }
  }
  return { Server: Traced as unknown as Base, Handler: Handler as never };
};

/** `hold`, `drain` or `shutdown`: a server's life, asked for from inside. */
export class Life extends StreamRequestHandler<Board> {
  override async handle(): Promise<void> {
    // biome-ignore lint/suspicious/noExplicitAny: servers of every place and context
    const server = this.server as unknown as BaseServer<StreamSocket, any>;
    const asked = await this.rfile.line();
    if (asked === "shutdown") {
      await server.shutdown();
      this.wfile.write("and no more\n");
    } else if (asked === "drain") {
      this.wfile.write("draining\n");
      void server.drain(20).then(() => this.context.put("life/drained", `${server.info().running} running`));
    } else {
      this.wfile.write("holding\n");
      const ended = await this.rfile.line().catch((error) => error.code);
      await this.context.put("life/held", String(ended));
    }
  }
}
