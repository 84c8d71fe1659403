/** Whole sockets, in memory and over the kernel: what one end writes in any way is what the other reads in any way. */

import fc from "fast-check";
import type { SocketError } from "../../core/errors.ts";
import type { TextFile } from "../../core/files/text-file.ts";
import { BaseRequestHandler } from "../../core/handlers/handler.ts";
import { MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, POLLIN, SHUT_WR } from "../../core/net/constants.ts";
import { poll, select } from "../../core/sockets/select.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { memoryPair } from "../../core/testing/index.ts";
import { intake } from "../../emulator/kernel/handles/intake.ts";
import { ThreadingTCPServer } from "../../emulator/servers/tcp.ts";
import { createConnection } from "../../emulator/sockets/dialling/connector.ts";
import { latin1, same, type Target, target } from "./target.ts";

interface Write {
  readonly do: "write" | "writelines" | "sendall" | "send" | "makefile" | "flush";
  readonly size: number;
  readonly value: number;
}
interface Read {
  readonly do:
    | "recv"
    | "recvInto"
    | "peek"
    | "waitall"
    | "dontwait"
    | "readexactly"
    | "readline"
    | "tryLine"
    | "line"
    | "file"
    | "select"
    | "poll"
    | "timeout"
    | "all";
  readonly size: number;
}
type Step = (Write | Read) & { readonly end: 0 | 1 };

const end = fc.constantFrom(0 as const, 1 as const);
const much = fc.oneof(
  { weight: 12, arbitrary: fc.nat(300) },
  { weight: 2, arbitrary: fc.integer({ min: 16_000, max: 17_000 }) },
  { weight: 1, arbitrary: fc.constantFrom(70_000, 300_000) },
);
const writes = fc.constantFrom<Write["do"][]>("write", "writelines", "sendall", "send", "makefile", "flush");
const reads = fc.constantFrom<Read["do"][]>(
  ...([
    "recv",
    "recvInto",
    "peek",
    "waitall",
    "readexactly",
    "readline",
    "tryLine",
    "line",
    "file",
    "all",
  ] as const),
);
const waits = fc.constantFrom<Read["do"][]>("dontwait", "select", "poll", "timeout");
const size = fc.oneof(fc.nat(20), fc.nat(2000));
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ end, do: writes, size: much, value: fc.nat(255) }) },
  { weight: 8, arbitrary: fc.record({ end, do: reads, size }) },
  { weight: 1, arbitrary: fc.record({ end, do: waits, size }) },
);

/** Lines and others: every 7th byte or so ends a line. */
const bytesFor = (size: number, value: number): Uint8Array =>
  Uint8Array.from({ length: size }, (_, i) => ((i * 31 + value) % 7 === 0 ? 10 : 65 + ((i + value) % 50)));

/** One direction: what was written and not read. */
class Direction {
  readonly #from: StreamSocket;
  readonly #to: StreamSocket;
  readonly #out: TextFile;
  readonly #in: TextFile;
  #sent = "";

  constructor(from: StreamSocket, to: StreamSocket) {
    this.#from = from;
    this.#to = to;
    const options = { encoding: "latin-1", newline: "\n" } as const;
    this.#out = from.makefile("rw", options);
    this.#in = to.makefile("rw", options);
  }

  async write({ do: how, size, value }: Write): Promise<void> {
    const bytes = bytesFor(size, value);
    const text = latin1(bytes);
    const from = this.#from;
    this.#sent += text;
    let done: Promise<unknown> = Promise.resolve();
    if (how === "write") same("write()", from.wfile.write(bytes), size);
    else if (how === "writelines")
      from.wfile.writelines([bytes.subarray(0, size >> 1), bytes.subarray(size >> 1)]);
    else if (how === "sendall") done = from.sendall(Buffer.from(bytes.buffer));
    else if (how === "send") done = from.send(bytes).then((sent) => same("send()", sent, size));
    else if (how === "makefile") this.#out.write(text);
    else {
      from.wfile.write(text);
      done = from.wfile.flush();
    }
    if (size < 16 * 1024) bytes.fill(0); // the caller's again; text stays
    if (this.#sent.length > 32_000) await this.read({ do: "all", size: 0 });
    await done;
    await from.wfile.flush();
    bytes.fill(1);
  }

  async read({ do: how, size }: Read): Promise<void> {
    const to = this.#to;
    const here = this.#sent;
    const { rfile } = to;
    if (how === "timeout") {
      if (here !== "") return;
      to.settimeout(1);
      same(
        "the code of a read that nothing comes for",
        await rfile.recv().catch((error) => error.code),
        "ETIMEDOUT",
      );
      return to.settimeout(null);
    }
    if (here === "") return;
    const line = here.indexOf("\n") + 1;
    const upTo = Math.min(Math.max(size, 1), here.length);
    let got: string;
    let taken: number | undefined; // as many as came, where not said
    if (how === "select") {
      same("select()", (await select([to], [], []))[0][0], to);
      return;
    }
    if (how === "poll") {
      const watch = poll();
      watch.register(to, POLLIN);
      same("poll()", (await watch.poll())[0]?.[1], POLLIN);
      return;
    }
    if (how === "recv") got = latin1((await to.recv(upTo)) as Uint8Array);
    else if (how === "dontwait") {
      const bytes = await to.recv(upTo, MSG_DONTWAIT).catch((error: SocketError) => error.code);
      if (bytes === "EWOULDBLOCK") return;
      got = latin1(bytes as Uint8Array);
    } else if (how === "recvInto") {
      const into = new Uint8Array(upTo);
      got = latin1(into.subarray(0, (await to.recvInto(into)) as number));
    } else if (how === "peek") {
      got = latin1((await to.recv(upTo, MSG_PEEK)) as Uint8Array);
      taken = 0;
      same("what peek() gave", got, here.slice(0, got.length));
    } else if (how === "waitall") {
      got = latin1((await to.recv(upTo, MSG_WAITALL)) as Uint8Array);
      same("MSG_WAITALL gave all", got.length, upTo);
    } else if (how === "readexactly" || how === "all") {
      const all = how === "all" ? here.length : upTo;
      got = latin1(await rfile.readexactly(all));
      same("readexactly() gave all", got.length, all);
    } else {
      if (line === 0) return;
      got =
        how === "readline"
          ? latin1((await rfile.readline()) as Uint8Array)
          : how === "file"
            ? ((await this.#in.readline()) as string)
            : `${how === "line" ? await rfile.line() : (rfile.tryLine() ?? (await rfile.line()))}\n`;
      same("a line's length", got.length, line);
    }
    if (got === "") throw new Error(`${how} gave nothing`);
    same(how, got, here.slice(0, got.length));
    this.#sent = here.slice(taken ?? got.length);
  }

  /** Our end: what is left, then the end, as a Web stream gives it. */
  async finish(): Promise<void> {
    await this.#from.shutdown(SHUT_WR);
    let got = "";
    for await (const bytes of this.#to.toWeb().readable) got += latin1(bytes);
    same("what is left", got, this.#sent);
  }
}

/** Two ends of one connection, and what lets go of them. */
type Meet = () => Promise<readonly [StreamSocket, StreamSocket, () => Promise<void>]>;

const inMemory: Meet = async () => {
  const [a, b] = memoryPair();
  return [a, b, async () => void (await Promise.all([a.close(), b.close()]))];
};

let accepted: (socket: StreamSocket) => void = () => {};
class Hands extends BaseRequestHandler<StreamSocket> {
  static readonly over = new Map<StreamSocket, () => void>();
  override async handle(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    Hands.over.set(this.request, resolve);
    accepted(this.request);
    await promise;
  }
}

/** Over loopback, by Node's handles or, where `on` is false, by its sockets' 'data'. */
const byKernel =
  (on: boolean): Meet =>
  async () => {
    const before = intake.on;
    intake.on = on;
    try {
      const server = new ThreadingTCPServer({ hostname: "127.0.0.1", port: 0 }, Hands);
      await server.listen();
      const serving = server.serveForever();
      const came = new Promise<StreamSocket>((resolve) => {
        accepted = resolve;
      });
      const client = await createConnection(server.serverAddress as never);
      const request = await came;
      const close = async (): Promise<void> => {
        Hands.over.get(request)?.();
        Hands.over.delete(request);
        await client.close();
        await server.close();
        await serving;
      };
      return [client, request, close];
    } finally {
      intake.on = before;
    }
  };

const mix = (name: string, meet: Meet): Target => ({
  slow: true,
  ...target(
    name,
    "operations",
    fc.array(step, { minLength: 1, maxLength: 60, size: "max" }),
    async (steps) => {
      const [a, b, close] = await meet();
      try {
        const ways = [new Direction(a, b), new Direction(b, a)];
        for (const step of steps) {
          const way = ways[step.end] as Direction;
          if ("value" in step) await way.write(step);
          else await way.read(step);
        }
        await (ways[0] as Direction).finish();
      } finally {
        await close();
      }
      return steps.length;
    },
  ),
});

export const sockets: readonly Target[] = [
  mix("socket-memory", inMemory),
  mix("socket-tcp", byKernel(true)),
  mix("socket-tcp-data", byKernel(false)),
];
