/** The type of a handler's params: the handler reads it, and who runs the handler is held to it. */

import {
  BaseConnector,
  defineApp,
  type HandlerClass,
  StreamRequestHandler,
  type StreamSocket,
  streamHandler,
} from "socklet";
import { TCPConnector, UnixStreamConnector } from "socklet/emulator";
import { checkFraming, conversation, memoryPair, runScript } from "socklet/testing";
import { expect, expectTypeOf, test } from "vitest";

interface Question {
  readonly word: string;
  readonly times?: number;
}

class Ask extends StreamRequestHandler<{ readonly prefix: string }, Question> {
  override async handle(): Promise<string | null> {
    expectTypeOf(this.params).toEqualTypeOf<Question>();
    expectTypeOf(this.context).toEqualTypeOf<{ readonly prefix: string }>();
    const { word, times = 1 } = this.params;
    this.wfile.write(`${this.context.prefix}${word.repeat(times)}\n`);
    return await this.rfile.line();
  }
}

class Untyped extends StreamRequestHandler {
  override handle(): unknown {
    expectTypeOf(this.params).toEqualTypeOf<unknown>();
    return this.params;
  }
}

const script = conversation().expectLine("-hihi").send("yes\n");
const context = { prefix: "-" };

/** A connector of its user's, in memory. */
class Local<Context, Params> extends BaseConnector<StreamSocket, Context, Params> {
  override async connect(): Promise<StreamSocket> {
    const [here, there] = memoryPair();
    void script.run(there);
    return here;
  }

  override peerOf(): null {
    return null;
  }
}

test("run() takes the params that the handler has", async () => {
  const connector = new Local(Ask, { context });
  expectTypeOf<NonNullable<Parameters<typeof connector.run>[0]>["params"]>().toEqualTypeOf<
    Question | undefined
  >();
  expect(await connector.run({ params: { word: "hi", times: 2 } })).toBe("yes");
  // @ts-expect-error: a word is a string
  void (() => connector.run({ params: { word: 5 } }));
  // @ts-expect-error: a word is missing
  void (() => connector.run({ params: {} }));
});

test("so do the platform's connectors, runScript() and checkFraming()", async () => {
  const { result } = await runScript(Ask, script, {
    context: () => context,
    params: { word: "hi", times: 2 },
  });
  expect(result).toBe("yes");
  const connector = new TCPConnector("127.0.0.1:1", Ask, { context });
  const unix = new UnixStreamConnector("unix:/run/none", Ask, { context });
  // @ts-expect-error: a word is a string
  void (() => connector.run({ params: { word: 5 } }));
  // @ts-expect-error: a word is a string
  void (() => unix.run({ params: { word: 5 } }));
  // @ts-expect-error: a word is a string
  void (() => runScript(Ask, script, { context: () => context, params: { word: 5 } }));
  // @ts-expect-error: a word is a string
  void (() => checkFraming(Ask, script, { context: () => context, params: { word: 5 } }));
});

test("a handler that names no type takes any params, and fits wherever one with params does", async () => {
  const script = conversation().expectEnd();
  expect((await runScript(Untyped, script, { params: 5 })).result).toBe(5);
  expect((await runScript(Untyped, script)).result).toBe(undefined);
  expectTypeOf(Ask).toExtend<HandlerClass<StreamSocket, { readonly prefix: string }>>();
});

test("a function is a handler with params, too", async () => {
  const Double = streamHandler<unknown, number>(({ params }) => params * 2);
  expect((await runScript(Double, conversation().expectEnd(), { params: 21 })).result).toBe(42);
  // @ts-expect-error: a number
  void (() => runScript(Double, conversation(), { params: "21" }));
});

test("an app keeps the types of its handlers", () => {
  const app = defineApp({ handlers: { ask: Ask, untyped: Untyped }, context: () => context });
  expectTypeOf(app.handlers.ask).toEqualTypeOf<typeof Ask>();
  const connector = new TCPConnector("127.0.0.1:1", app.handlers.ask, { context });
  // @ts-expect-error: a word is a string
  void (() => connector.run({ params: { word: 5 } }));
  expect(app.handlers.ask).toBe(Ask);
});
