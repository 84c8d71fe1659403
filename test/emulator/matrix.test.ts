/** Every example in every place of Node, and in workerd behind real ports; and the page that lists them. */

import { readdirSync, readFileSync } from "node:fs";
import type { Data, HandlerClass, InternetAddress, StreamSocket } from "socklet";
import { createConnection, TCPConnector } from "socklet/emulator";
import { type Conversation, conversation } from "socklet/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { appHandlerFrom } from "../../emulator/servers/forking/channel/handler-source.ts";
import { ForkingTCPServer } from "../../emulator/servers/forking/servers.ts";
import { checkCell, type MatrixPlace, matrixOf } from "../conformance/matrix.ts";
import { placesPage } from "../conformance/matrix-page.ts";
import {
  doorOf,
  type Example,
  type ExampleContext,
  exampleContext,
  examples,
  inMemory,
  isDatagrams,
  type PlaceId,
  places,
  placesOf,
  type StreamExample,
  servings,
} from "../conformance/matrix-table.ts";
import * as scripts from "../conformance/scripts.ts";
import * as bug from "../core/fixtures/planted-bugs.ts";
import { reservePort, reserveUdpPort } from "../peers/ports.ts";
import { freshPath, made, socketPlaces, udpPeer } from "./socket-places.ts";
import { AWAITING_CHILD } from "./standstill.ts";
import { type RunningWorker, runWorker } from "./workerd.ts";

const FILE = "test/emulator/matrix.test.ts";

// ---- TLS, by a forking server ----

const APP = new URL("fixtures/example-handlers.ts", import.meta.url).href;

/** A server of all the examples; started when it is first asked for. */
let forked: ReturnType<typeof forking> | undefined;

afterAll(async () => {
  if (forked === undefined) return;
  const { server, errors } = await forked;
  await server.serverClose();
  expect(errors).toEqual([]);
});

const forking = async () => {
  const names = Object.keys(servings).filter((name) => !isUdp(name));
  const handler = (name: string) => appHandlerFrom(APP, name, freshPath());
  const errors: unknown[] = [];
  const server = new ForkingTCPServer("tls://127.0.0.1:0", handler("Echo"), {
    tls: {
      cert: made?.cert ?? "",
      key: made?.key ?? "",
      alpn: Object.fromEntries(names.map((name) => [name, handler(name)])),
    },
    onEvent: (event) => event.type === "error" && errors.push(event.error),
  });
  const at = (await server.listen()) as InternetAddress;
  void server.serveForever();
  return { server, at, errors };
};

// ---- workerd, behind ports ----

const names = Object.keys(servings);
const isUdp = (name: string): boolean => isDatagrams(servings[name] as Example);
const ports = new Map<string, number>();
const workers: RunningWorker[] = [];

beforeAll(async () => {
  const spare = await reservePort();
  for (const name of names) ports.set(name, await (isUdp(name) ? reserveUdpPort() : reservePort()));
  const doors = (udp: boolean) =>
    Object.fromEntries(
      names.filter((name) => isUdp(name) === udp).map((name) => [ports.get(name), doorOf(name)]),
    );
  const numbers = (udp: boolean) => Object.keys(doors(udp)).map(Number);
  const main = "test/worker/main.ts";
  // Two: what works without the flag `experimental` must be seen without it.
  workers.push(
    ...(await Promise.all([
      runWorker({ main, ports: numbers(false), classes: {}, vars: { DOORS: doors(false) } }),
      runWorker({ main, ports: [spare], udpPorts: numbers(true), classes: {}, vars: { DOORS: doors(true) } }),
    ])),
  );
});

afterAll(() => Promise.all(workers.map((worker) => worker.close())));

const inWorkerd = (name: string): { readonly hostname: string; readonly port: number } => ({
  hostname: "127.0.0.1",
  port: ports.get(name) as number,
});

// ---- The places ----

const running: Partial<Record<PlaceId, MatrixPlace>> = {
  memory: inMemory,
  "node-tcp": socketPlaces.tcp,
  "node-tls": socketPlaces.tls,
  "node-tls-forking": {
    missing: made === null ? "not on PATH: openssl" : null,
    async streams(_, name) {
      forked ??= forking();
      const { at } = await forked;
      const options = {
        secureTransport: "on",
        tls: { ca: made?.ca ?? "", serverName: "localhost", alpn: [name] },
        ...AWAITING_CHILD,
      } as const;
      return {
        dial: () => createConnection(at, options),
        connector: (Handler: HandlerClass<StreamSocket, ExampleContext>) =>
          new TCPConnector<ExampleContext>(at, Handler, { ...options, context: exampleContext() }),
      };
    },
    asked: () => new ForkingTCPServer("udp://127.0.0.1:0", appHandlerFrom(APP, "Echo", freshPath())),
  },
  "node-unix": socketPlaces.unix,
  "node-udp": socketPlaces.udp,
  "workerd-port": {
    streams: async (_, name) => ({
      dial: () => createConnection(inWorkerd(name)),
      connector: (Handler: HandlerClass<StreamSocket, ExampleContext>) =>
        new TCPConnector(inWorkerd(name), Handler, { context: exampleContext() }),
    }),
    datagrams: (_, name) => udpPeer(inWorkerd(name).port),
  },
};

for (const id of placesOf(FILE)) matrixOf(id, running[id]);

// ---- That it finds what is wrong ----

/** An example of a planted bug, and its conversation, which succeeds unchanged. */
const planted = (Handler: HandlerClass<StreamSocket>, script: Conversation): StreamExample => ({
  file: "",
  says: "",
  Handler,
  script,
});
const asked = (...turns: readonly (readonly [say: Data, hear: Data])[]): Conversation =>
  turns.reduce((all, [say, hear]) => all.send(say).expect(hear), conversation());
const PING = ["PING\r\n", "+PONG\r\n"] as const;
const NOOP = ["NOOP\r\n", "250 OK\r\n"] as const;
const EXPN = ["EXPN\r\n", "500 Command not known\r\n"] as const;

/** The failure of each in memory, with every cut, end and reset; and over TCP, as in all places. `null`: it succeeds there. */
const bugs: readonly (readonly [bug: string, example: StreamExample, memory: RegExp, tcp: RegExp | null])[] =
  [
    [
      "a line that is split across reads",
      planted(bug.TakesAReadForALine, asked(["alice\r\n", "alice: no such user\r\n"]).expectEnd()),
      /^1\) The answer is another when the bytes are cut in the middle of message 1 \(after byte 1 of 7\)$/m,
      /, byte by byte: step 2, .*: something else came\ndiffers at byte 1: expected 6c "l", got 3a ":"$/m,
    ],
    [
      "the second of two commands in one read",
      planted(bug.SeesTheFirstCommandOnly, asked(PING, PING)),
      /^1\) The answer to message 2 is missing when the 2 messages come in one piece/m,
      /, in one piece: step 3, .*: the end came too early\nends after 7 of 14 bytes$/m,
    ],
    [
      "a character of UTF-8 that is cut",
      planted(bug.DecodesEachRead, asked(["hello", "HELLO"], ["wörld", "WÖRLD"])),
      /^1\) The answer is another when the bytes are cut inside the character "ö" of message 2/m,
      /, byte by byte: step 4, .*\ndiffers at byte 1: expected c3, got ef\n- "WÖRLD"$/m,
    ],
    [
      "a cut between CR and LF",
      planted(bug.TakesCrForAnEnd, asked(NOOP, EXPN)),
      /^1\) More is answered when the bytes are cut between the CR and the LF of message 1/m,
      /, byte by byte: /,
    ],
    [
      "a length that is cut",
      planted(bug.TakesALengthFromOneRead, scripts.dns),
      /^1\) It throws an error when the bytes are cut in the middle of message 1 \(after byte 1 of 36\): TypeError: /m,
      /, byte by byte: step 2, expectBytes\(2\): the end came$/m,
    ],
    [
      "a write after the close",
      planted(bug.SaysGoodbyeToNobody, asked(NOOP).send("QUIT\r\n").expectEnd()),
      /^1\) It writes after its own end when nothing is cut: "221 Bye\\r\\n"$/m,
      null,
    ],
    [
      "a last piece that is not flushed",
      planted(bug.ForgetsTheLastPiece, asked(PING, PING, ["QUIT\r\n", "+OK\r\n"])),
      /^1\) The answers to messages 1, 2 are missing when the 3 messages come in one piece$/m,
      /, in one piece: step 3, .*\ndiffers at byte 1: expected 50 "P", got 4f "O"$/m,
    ],
    [
      "a line without an end",
      planted(bug.GathersForEver, asked(NOOP, EXPN)),
      /^1\) It takes 2097152 bytes when message 1 does not end, and neither refuses nor answers them/m,
      null,
    ],
    [
      "replies in another order",
      planted(bug.AnswersWhenReady, asked(PING, ["GET k\r\n", "$-1\r\n"], PING)),
      /^1\) The answers come in another order \(1, 3, 2\) when the 3 messages come in one piece$/m,
      /, in one piece: step 3, .*\ndiffers at byte 7: expected 24 "\$", got 2b "\+"$/m,
    ],
    [
      "a timer that is left",
      planted(bug.LeavesItsDeadline, asked(["alice\r\n", "alice: no such user\r\n"]).expectEnd()),
      /^1\) It leaves a timer behind when nothing is cut: setTimeout of 30000 ms, set at .*planted-bugs\.ts:\d+/m,
      null,
    ],
    [
      "an end that is taken for a close",
      planted(bug.TakesAnEndForAClose, asked(PING, ["GET k\r\n", "$-1\r\n"])),
      /^1\) The answer to message 1 is missing when the peer's end follows message 1 at once \(a half-close is no close/m,
      /, in one piece: step \d, .*: the peer reset the connection$/m,
    ],
    [
      "a reset that is taken for the end",
      {
        ...planted(bug.TakesAResetForTheEnd, conversation().send("Thank you").halfClose().expectEnd()),
        dials: { result: "Thank you" },
      },
      /^1\) It returns a result when the connection is reset before anything is asked, as if all had come: ""$/m,
      null,
    ],
  ];

describe("the matrix finds", () => {
  const said = (place: MatrixPlace, example: StreamExample): Promise<string | null> =>
    checkCell(place, example, example.Handler.name).then(
      () => null,
      (error: Error) => error.message,
    );

  test.each(bugs)("%s", async (_, example, memory, tcp) => {
    expect(await said(inMemory, example)).toMatch(memory);
    const overTcp = await said(running["node-tcp"] as MatrixPlace, example);
    if (tcp === null) expect(overTcp).toBe(null);
    else expect(overTcp).toMatch(tcp);
  });
});

// ---- That nothing is missing ----

describe("the matrix is whole", () => {
  test.each(readdirSync("examples").filter((name) => name.endsWith(".ts")))(
    "every handler of examples/%s has a conversation",
    async (file) => {
      const module: Record<string, unknown> = await import(`../../examples/${file.slice(0, -3)}.ts`);
      const isHandler = (value: unknown): boolean =>
        typeof value === "function" && typeof value.prototype?.handle === "function";
      for (const [name, value] of Object.entries(module)) {
        if (!isHandler(value)) continue;
        const example = examples[name];
        if (example === undefined) {
          throw new Error(
            `examples/${file} exports the handler ${name}, which has no conversation: add it to \`examples\` in test/conformance/matrix-table.ts`,
          );
        }
        const Handler = isDatagrams(example) ? example.Datagrams : example.Handler;
        expect([example.file, Handler === value]).toEqual([file, true]);
      }
    },
  );

  test.each(Object.entries(places))("the place %s is run by the test that it names", (_, { file }) => {
    const code = readFileSync(file, "utf8");
    if (code.includes(`const FILE = "${file}"`) && /of placesOf\(FILE\)\) (if \(.*\) )?matrixOf\(/.test(code))
      return;
    throw new Error(`${file} runs no places: name one that does in test/conformance/matrix-table.ts`);
  });

  test("docs/places.md is what the table says (npm run docs writes it)", async () => {
    await expect(placesPage()).toMatchFileSnapshot("../../docs/places.md");
  });
});
