/** Everything that takes options refuses an unknown one, and names it and the one that was probably meant. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as core from "socklet";
import { DatagramRequestHandler, type OptionNames, streamHandler } from "socklet";
import * as control from "socklet/control";
import * as emulator from "socklet/emulator";
import * as testing from "socklet/testing";
import { describe, expect, test } from "vitest";
import { checkOptions, optionNamesOf } from "../../core/options.ts";
import { type Exports, isEndpoint, type Row, refusalOf, takersOf } from "../conformance/no-option.ts";

const Nothing = streamHandler(() => {});
class Packet extends DatagramRequestHandler {}
class Calls extends core.ClientHandler<string, string> {
  override call(call: string): string {
    return call;
  }
}
const nowhere: testing.MemoryTarget = { connect: () => expect.fail("it dials") };
const forking = emulator.handlerFrom(import.meta.url, "Nothing");
const transcript: testing.Transcript = { kind: "stream", events: [] };
const app = core.defineApp({
  handlers: { nothing: Nothing },
  listen: [{ handler: "nothing", address: "127.0.0.1:0" }],
});
const plane = (): control.LocalPlane =>
  new control.LocalPlane({ app, connector: () => new emulator.TCPConnector("127.0.0.1:1", Nothing) });
const { Socket } = emulator;

/** Everybody who takes options, of every entry that Node can load; what is indented under another is its method. */
const TABLE: Readonly<Record<string, Row>> = {
  // socklet
  defineApp: (options: object) => core.defineApp({ handlers: {}, ...options }),
  "defineApp, listen": (options: object) =>
    core.defineApp({ handlers: { x: Nothing }, listen: [{ handler: "x", address: ":0", ...options }] }),
  "defineApp, listen, options": (options: object) =>
    core.defineApp({ handlers: { x: Nothing }, listen: [{ handler: "x", address: ":0", options }] }),
  "defineApp, dial": (options: object) =>
    core.defineApp({ handlers: { x: Nothing }, dial: { x: { handler: "x", address: ":1", ...options } } }),
  "defineApp, dial, keep": (keep: object) =>
    core.defineApp({ handlers: { x: Nothing }, dial: { x: { handler: "x", address: ":1", keep } } }),
  "defineApp, pools": (options: object) =>
    core.defineApp({ handlers: { x: Calls }, pools: { x: { handler: "x", address: ":1", ...options } } }),
  behindProxies: (options: object) => core.behindProxies({ from: ["::1"], ...options }),
  proxyHeader: (options) => core.proxyHeader(options),
  "proxyHeader, ssl": (ssl) => core.proxyHeader({ version: 2, ssl }),
  inetAton: (options) => core.inetAton("1", options),
  StreamSocket: (options) => new core.StreamSocket(null, options),
  "StreamSocket, startTls": (options) => testing.memoryPair()[0].startTls(options),
  "StreamSocket, makefile": (options) => testing.memoryPair()[0].makefile("r", options),
  UnconnectedSocket: (options) => emulator.socket().connect("127.0.0.1:1", options),
  BaseServer: (options) => new testing.MemoryServer(Nothing).serveForever(options),
  BaseConnector: (options) => new emulator.TCPConnector("127.0.0.1:1", Nothing).run(options),
  Pool: (options: object) =>
    new core.Pool(Calls, { address: "x", connector: () => expect.fail("it dials"), ...options }),
  "Pool, call": (options) => testing.memoryPool(nowhere, Calls).call("x", options),
  "Pool, lease": (options) => testing.memoryPool(nowhere, Calls).lease(options),
  // socklet/emulator
  pool: (options) => emulator.pool("127.0.0.1:1", Calls, options),
  createConnection: (options) => emulator.createConnection("127.0.0.1:1", options),
  createDatagramConnection: (options) => emulator.createDatagramConnection("127.0.0.1:1", options),
  createServer: (options) => emulator.createServer("127.0.0.1:0", options),
  getaddrinfo: (options) => emulator.getaddrinfo("127.0.0.1", 1, options),
  serveApp: (options) => emulator.serveApp(app, options),
  "serveApp, control": (options) => emulator.serveApp(app, { control: options }),
  "serveApp, descriptors": (one: object) =>
    emulator.serveApp(app, { descriptors: [{ name: "", fd: 0, ...one }] }),
  serveCluster: (options) => emulator.serveCluster("file:///nowhere.ts", options),
  socket: (options) => emulator.socket(core.AF_INET, core.SOCK_STREAM, 0, options),
  Socket: (options) => new Socket(core.AF_INET).connect("127.0.0.1:1", options),
  streamSocket: (options) => emulator.streamSocket({ localAddress: "::1" } as never, options),
  // socklet/control
  controlClient: (options) => control.controlClient("http://127.0.0.1:1", options),
  "controlClient, call": (options) => control.controlClient("http://127.0.0.1:1").health(options),
  "controlClient, end": (options) => control.controlClient("http://127.0.0.1:1").sessions.end("x", options),
  "controlClient, follow": (options) => control.controlClient("http://127.0.0.1:1").listenerEvents(options),
  controlRoutes: (options: object) =>
    control.controlRoutes({ plane: plane(), tokens: undefined, ...options }),
  LocalPlane: (options: object) =>
    new control.LocalPlane({ app, connector: () => expect.fail("it connects"), ...options }),
  "LocalPlane, start": (options: object) => plane().start({ handler: "nothing", address: ":1", ...options }),
  // socklet/testing
  assertTranscript: (options) => testing.assertTranscript(transcript, transcript, options),
  checkPool: (options: object) =>
    testing.checkPool(Calls, { server: Nothing, ask: String, reply: String, ...options }),
  checkFraming: (options) => testing.checkFraming(Nothing, [], options),
  "checkFraming, message": (options) => testing.checkFraming(Nothing, [options]),
  compareTranscripts: (options) => testing.compareTranscripts(transcript, transcript, options),
  Conversation: (options) => new testing.Conversation(options),
  "Conversation, run": (options) => new testing.Conversation().run(testing.memoryPair()[0], options),
  "Conversation, startTls": (options) => new testing.Conversation().startTls(options),
  conversation: (options) => testing.conversation(options),
  FaultsMixIn: (faults) => testing.FaultsMixIn(testing.MemoryServer, faults),
  "FaultsMixIn, options": (options) => testing.FaultsMixIn(testing.MemoryServer, {}, options),
  faultyHandler: (faults) => testing.faultyHandler(Nothing, faults),
  "faultyHandler, options": (options) => testing.faultyHandler(Nothing, {}, options),
  memoryPool: (options) => testing.memoryPool(nowhere, Calls, options),
  memoryPair: (options) => testing.memoryPair(options),
  record: (options) => testing.record(testing.memoryPair()[0], "client", options),
  recordDatagrams: (options) => testing.recordDatagrams(Packet, options),
  recordHandler: (options) => testing.recordHandler(Nothing, () => {}, options),
  recordingProxy: (options) =>
    testing.recordingProxy(
      () => expect.fail("it dials"),
      () => {},
      options,
    ),
  replay: (options) => testing.replay(transcript, "client", options),
  runScript: (options) => testing.runScript(Nothing, testing.conversation(), options),
  scriptDatagramHandler: (options) => testing.scriptDatagramHandler(testing.conversation(), options),
  scriptHandler: (options) => testing.scriptHandler(testing.conversation(), options),
  transcriptMatchers: (options) => testing.transcriptMatchers({} as never, options),
  withFaults: (faults) => testing.withFaults(testing.memoryPair()[0], faults),
  "withFaults, options": (options) => testing.withFaults(testing.memoryPair()[0], {}, options),
};

const entries: readonly Exports[] = [core, control, emulator, testing];
const endpoints = entries.flatMap((entry) =>
  Object.entries(entry).flatMap(([name, value]) => (isEndpoint(value) ? [{ name, Class: value }] : [])),
);

/** One of such a class, with these options. */
const made = (Class: typeof core.BaseEndpoint, options: object): unknown => {
  class Own extends (Class as unknown as new (...args: unknown[]) => object) {}
  const { name } = Class;
  const Handler = name.startsWith("Forking") ? forking : /UDP|Datagram/.test(name) ? Packet : Nothing;
  const port = name.endsWith("Connector") ? 1 : 0;
  const address = name.includes("Unix") ? "unix:/run/none" : `127.0.0.1:${port}`;
  const places = name === "MemoryConnector" ? [nowhere] : /^Base|Memory/.test(name) ? [] : [address];
  return new Own(...places, Handler, options);
};

test("the table has everybody who takes options", () => {
  const named = (name: string): boolean => Object.keys(TABLE).some((row) => row.split(",")[0] === name);
  const takers = entries.flatMap(takersOf);
  expect(takers.length).toBeGreaterThan(25);
  expect(takers.filter((name) => !named(name))).toEqual([]);
  expect(endpoints.length).toBeGreaterThan(20);
});

/** All of the sources. */
const all = ["core", "emulator", "worker"]
  .flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => readFileSync(join(folder, name), "utf8")),
  )
  .join("\n");

test("each options' interface has a list of its names, which the compiler compares with it", () => {
  const kinds = "Options|Faults|Bounds|Setup|Entry|Definition|Rules|Limit";
  const names = [
    ...all.matchAll(new RegExp(`^export (?:interface|type) (\\w+(?:${kinds})|FramingMessage)\\b`, "gm")),
  ];
  const elsewhere = [
    "ListenerOptions", // KINDS in core/app/listener-options.ts, which says also who has which
    "RigOptions", // of the check of framing, of itself
    "WorkerPlaneSetup", // of the Worker's plane, of itself
    "SessionSetup", // as that
    "PlainOptions", // of sockets in native.ts, of itself
    "GateOptions", // a part of a server's
    "FaultRulesOptions", // of FaultRules, which no entry exports
    "PlannedFaults", // of FaultyTransport, as that
    "ProxyOptions", // of `socklet proxy`, of itself
    "TapeOptions", // as that
    "WorkerdOptions", // of `socklet dev`, of itself
    "ShownSetup", // a part of a session's options, of a plane, of itself
    "ClientSetup", // of a Worker's pools, of itself
    "PoolObjectSetup", // as that
    "StartTlsOptions", // the options of either role
  ];
  expect(names.length).toBeGreaterThan(40);
  const without = names.map(([, name = ""]) => name).filter((name) => !elsewhere.includes(name));
  expect(without.filter((name) => !new RegExp(`optionNamesOf<${name}\\b`).test(all))).toEqual([]);
});

describe("an option that is none is refused by", () => {
  test.each(Object.entries(TABLE))("%s", async (_, row) => {
    const error = await refusalOf(row, { nonsense: 1 });
    expect(String(error)).toMatch(/has no option (\w+\.)*nonsense; it has \w+/);
    if (!(error instanceof core.SocketError)) expect(error).toBeInstanceOf(TypeError);
    else expect(["ERR_APP", "EINVAL"]).toContain(error.code); // of an app, and what a plane was asked
    expect(String(await refusalOf(row, { nonsense: undefined }))).toMatch(/has no option (\w+\.)*nonsense/);
  });

  test.each(endpoints)("$name", ({ name, Class }) => {
    expect(() => made(Class, { nonsense: 1 })).toThrow(/^Own has no option nonsense; it has name, context/);
    expect(() => made(Class, { drainTimeut: 5 })).toThrow(
      "Own has no option drainTimeut; did you mean drainTimeout?",
    );
    expect(() => made(Class, null as never)).toThrow("Own takes an object of options, not null");
    // And those within: all that it has, at every depth.
    const within = Object.entries(Class.optionNames).filter(([, names]) => typeof names === "object");
    if (/Server$/.test(name)) expect(within.length).toBeGreaterThan(0);
    for (const [option] of within) {
      expect(() => made(Class, { [option]: { nonsense: 1 } })).toThrow(
        new RegExp(`^Own has no option ${option}\\.nonsense; it has ${option}\\.`),
      );
      expect(() => made(Class, { [option]: 5 })).toThrow(`${option} of Own is an object of options, not 5`);
    }
    // What it has passes this check, whatever another says of the value.
    for (const option of Object.keys(Class.optionNames)) {
      try {
        made(Class, { [option]: undefined });
      } catch (error) {
        expect(String(error)).not.toMatch(/has no option/);
      }
    }
  });
});

describe("an option that is true or false takes nothing else", () => {
  const lists = [...all.matchAll(/optionNamesOf<.*?\}\);/gs)].join("\n");
  const names = [...new Set([...lists.matchAll(/\b(\w+): "boolean"/g)].map(([, name = ""]) => name))];
  const others = ["no", "yes", 0, 1, null, {}, [], 1n, Symbol("x")];
  const refused = new Set<string>();

  test("there are such options", () => {
    expect(names.length).toBeGreaterThan(8);
  });

  // With each such name: who has the option refuses the value, and all others refuse the name.
  test.each(Object.entries(TABLE))("%s", async (_, row) => {
    for (const name of names) {
      const said = String(await refusalOf(row, { [name]: "no" }));
      if (new RegExp(`has no option (\\w+\\.)*${name}\\b`).test(said)) continue;
      if (said.includes(`${name} of `) && said.includes("is an object of options")) continue; // another of this name
      expect(said).toMatch(new RegExp(`\\b${name} of .+ is true or false, not "no"$`));
      refused.add(name);
      for (const other of others) {
        expect(String(await refusalOf(row, { [name]: other }))).toMatch(/ is true or false, not /);
      }
    }
  });

  test.each(endpoints)("$name", ({ Class }) => {
    for (const [name, kind] of Object.entries(Class.optionNames)) {
      if (kind !== "boolean") continue;
      refused.add(name);
      for (const other of others) {
        expect(() => made(Class, { [name]: other })).toThrow(`${name} of Own is true or false, not `);
      }
      for (const right of [true, false, undefined]) {
        expect(() => made(Class, { [name]: right })).not.toThrow(/true or false/);
      }
    }
  });

  test("each was refused by somebody", () => {
    expect(names.filter((name) => !refused.has(name))).toEqual([]);
  });

  test("within another option, too; and the compiler sees which are such", () => {
    interface Two {
      readonly one?: boolean;
      readonly two?: { readonly three?: boolean | undefined };
    }
    const list = optionNamesOf<Two>()({ one: "boolean", two: { three: "boolean" } });
    expect(() => checkOptions("here", { two: { three: "no" } }, list)).toThrow(
      /^two\.three of here is true or false, not "no"$/,
    );
    // @ts-expect-error its value would not be checked
    optionNamesOf<Two>()({ one: true, two: true });
  });
});

describe("an option whose value must be of one kind takes nothing else", () => {
  const KINDS = {
    string: ["a string", "x"],
    function: ["a function", () => {}],
    list: ["a list", []],
    signal: ["an AbortSignal", new AbortController().signal],
  } as const;
  const others = [5, true, null, {}, 1n, ...Object.values(KINDS).map(([, right]) => right)];

  test.each(endpoints)("$name", ({ Class }) => {
    const check = (name: string, kind: unknown, option: (value: unknown) => object): void => {
      const [is, right] = KINDS[kind as keyof typeof KINDS] ?? [];
      if (is === undefined) return;
      for (const other of others) {
        if (other === right) continue;
        expect(() => made(Class, option(other)), name).toThrow(`${name} of Own is ${is}, not `);
      }
      for (const given of [right, undefined]) {
        try {
          made(Class, option(given));
        } catch (error) {
          expect(String(error)).not.toMatch(/ of Own is /);
        }
      }
    };
    for (const [name, kind] of Object.entries(Class.optionNames)) {
      check(name, kind, (value) => ({ [name]: value }));
      if (typeof kind !== "object") continue;
      for (const [inner, innerKind] of Object.entries(kind)) {
        check(`${name}.${inner}`, innerKind, (value) => ({ [name]: { [inner]: value } }));
      }
    }
  });

  test.each<[row: string, options: object, says: string]>([
    ["defineApp", { listen: {} }, "listen of defineApp() is a list, not an object"],
    ["defineApp", { allow: "*:25" }, 'allow of defineApp() is a list of strings, not "*:25"'],
    ["defineApp", { allow: ["*:25", null] }, "allow[1] of defineApp() is a string, not null"],
    ["defineApp", { dial: 5 }, "dial of defineApp() is an object of entries by name, not 5"],
    ["defineApp", { pools: [] }, "pools of defineApp() is an object of entries by name, not an array"],
    ["defineApp", { context: {} }, "context of defineApp() is a function, not an object"],
    ["defineApp, listen", { faults: {} }, "faults of listen[0] is a list, not an object"],
    ["createConnection", { signal: 5 }, "signal of createConnection() is an AbortSignal, not 5"],
    ["serveApp", { signal: 5 }, "signal of serveApp() is an AbortSignal, not 5"],
    ["serveApp", { onEvent: "x" }, 'onEvent of serveApp() is a function, not "x"'],
    ["serveApp", { data: 5 }, "data of serveApp() is a string, not 5"],
    ["serveApp, control", { tokens: 5 }, "control.tokens of serveApp() is a string, not 5"],
    ["serveApp, control", { port: "x" }, 'control.port must be a number, not "x"'],
    ["serveApp, control", { port: 65_536 }, "control.port must be 0 to 65535, not 65536"],
    ["serveApp, control", { fd: "x" }, 'control.fd must be a number, not "x"'],
    ["controlClient", { token: 5 }, "token of controlClient() is a string, not 5"],
    ["controlClient, call", { signal: {} }, "is an AbortSignal, not an object"],
  ])("%s, %j", async (row, options, says) => {
    expect(String(await refusalOf(TABLE[row] as Row, options))).toContain(says);
  });

  test("what it was given is said in words", () => {
    for (const [given, said] of [
      [undefined, "undefined"],
      [null, "null"],
      ["x", '"x"'],
      [[], "an array"],
      [() => {}, "a function"],
      [Symbol("x"), "a symbol"],
    ]) {
      expect(() => checkOptions("here", given, {})).toThrow(
        `here takes an object of options, not ${String(said)}`,
      );
    }
    expect(() => checkOptions("here", { one: {} }, { one: "list" })).toThrow(
      "one of here is a list, not an object",
    );
  });
});

describe("it says which is meant", () => {
  const { TCPServer, UDPServer, UnixStreamServer, TCPConnector } = emulator;

  test.each<[string, unknown, object, string]>([
    [
      "TLS of a server without a certificate",
      TCPServer,
      { secureTransport: "on" },
      "needs tls: { cert, key }",
    ],
    ["TLS of a server", TCPServer, { tls: { crt: "", key: "" } }, "did you mean tls.cert or"],
    ["who dials by TLS", TCPConnector, { tls: { clientCertificate: "ask" } }, "a listener that has TLS"],
    ["TLS of UDP", UDPServer, { tls: {} }, "clients have it"],
    ["a limit of its streams", TCPServer, { maxLine: 5 }, "did you mean stream.maxLine?"],
    [
      "a server's option in a stream",
      TCPServer,
      { stream: { drainTimeout: 5 } },
      "did you mean drainTimeout?",
    ],
    ["two letters swapped", TCPServer, { maxReqeusts: 5 }, "did you mean maxRequests?"],
    ["small letters", TCPServer, { drainTimeout: 5, idletimeout: 5 }, "did you mean idleTimeout?"],
    ["forking, where nothing forks", TCPServer, { maxChildren: 5 }, "it is an option of a forking server"],
    ["streams of UDP", UDPServer, { stream: {} }, "and of a server of streams"],
    ["datagrams of TCP", TCPServer, { maxPacketSize: 5 }, "it is an option of a server of datagrams"],
    ["ports of a path", UnixStreamServer, { ipv6Only: true }, "a server that listens on a port"],
    [
      "half a name",
      TCPConnector,
      { timeout: 5 },
      "did you mean stream.timeout or drainTimeout or connectTimeout?",
    ],
  ])("%s", (_, Class, options, says) => {
    expect(() => made(Class as never, options)).toThrow(says);
  });

  test("and where it is anything else, what there is", () => {
    expect(() => checkOptions("here", { zzz: 1 }, { a: true, b: { c: true } })).toThrow(
      /^here has no option zzz; it has a, b$/,
    );
    expect(() => checkOptions("here", { b: { zzz: 1 } }, { a: true, b: { c: true } })).toThrow(
      /^here has no option b\.zzz; it has b\.c$/,
    );
    for (const other of [null, 5, "x", true, [], () => {}, 5n, Symbol("x")]) {
      expect(() => checkOptions("here", other, {})).toThrow(/^here takes an object of options, not /);
    }
    // What every object has is no option, and a name that is a method of objects is none that is known.
    checkOptions("here", Object.create({ zzz: 1 }), { a: true });
    expect(() => checkOptions("here", { toString: 1 }, { a: true })).toThrow(/no option toString/);
  });
});

test("a class of one's own has options of its own by a list that is longer", () => {
  class Greeter extends emulator.ThreadingTCPServer {
    static override readonly optionNames: OptionNames = {
      ...emulator.ThreadingTCPServer.optionNames,
      greeting: true,
    };
    readonly greeting: string;

    constructor(
      address: core.AddressLike,
      handler: core.HandlerClass<core.StreamSocket>,
      options: emulator.TCPServerOptions<unknown> & { readonly greeting: string },
    ) {
      super(address, handler, options);
      this.greeting = options.greeting;
    }
  }
  expect(new Greeter("127.0.0.1:0", Nothing, { greeting: "hello", maxRequests: 5 }).greeting).toBe("hello");
  expect(() => new Greeter("127.0.0.1:0", Nothing, { greting: "hello" } as never)).toThrow(
    "Greeter has no option greting; did you mean greeting?",
  );
});

test("a list that is not the interface's does not compile", () => {
  interface Two {
    readonly one?: number;
    readonly two?: string;
  }
  optionNamesOf<Two>()({ one: true, two: "string" });
  // @ts-expect-error two is missing
  optionNamesOf<Two>()({ one: true });
  const more = { one: true, two: true, three: true } as const;
  // @ts-expect-error three is none of them
  optionNamesOf<Two>()({ ...more });
});
