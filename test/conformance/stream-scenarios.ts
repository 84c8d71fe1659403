/**
 * The behaviour that every stream socket must have, in every place: a list of scenarios, each with two ends. `served` is what the
 * handler does with its `request`, `peer` what the dialling end does; `check` compares what the two saw.
 * No vitest here: this runs in a Worker, too.
 */

import { SHUT_RD, SHUT_RDWR, SHUT_WR, type SocketErrorCode, type StreamSocket } from "socklet";
import { type Chance, chanceOf } from "../../core/testing/clock.ts";
import { patternAt, wrongAt } from "./pattern.ts";

/** How the two ends meet beside the stream, since some scenarios block it: never by time. */
export interface Aside {
  /** Says that something has happened at this end. */
  say(what: string): Promise<void>;
  /** Waits until the other end has said it. */
  heard(what: string): Promise<void>;
}

type End = (socket: StreamSocket, aside: Aside) => Promise<unknown>;

export interface StreamScenario {
  readonly name: string;
  /** What the peer must be able to do; elsewhere the scenario does not apply. */
  readonly needs?: (peer: StreamSocket) => boolean;
  readonly served: End;
  readonly peer: End;
  /** What both saw, when all went well. */
  readonly sees: { readonly served: unknown; readonly peer: unknown };
}

const KiB = 1024;
const MiB = 1024 * KiB;
const text = (bytes: Uint8Array | null): string | null =>
  bytes === null ? null : new TextDecoder().decode(bytes);

const codeOf = async (work: Promise<unknown> | (() => unknown)): Promise<SocketErrorCode | string> => {
  try {
    await (typeof work === "function" ? work() : work);
    return "no error";
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
};

/** Reads to the end. Returns how many bytes arrived, and the position of the first wrong one. */
const readPattern = async (socket: StreamSocket): Promise<{ size: number; wrongAt: number | null }> => {
  let size = 0;
  for await (const bytes of socket) {
    const wrong = wrongAt(bytes, size);
    if (wrong !== null) return { size, wrongAt: wrong };
    size += bytes.length;
  }
  return { size, wrongAt: null };
};

const sendPattern = async (
  socket: StreamSocket,
  size: number,
  piece: (i: number) => number,
): Promise<void> => {
  for (let sent = 0, i = 0; sent < size; i++) {
    const next = Math.min(piece(i), size - sent);
    await socket.sendall(patternAt(sent, next));
    sent += next;
  }
};

/** Sends until the transport has no room, reports that, and continues when it has room. */
const sendUntilBlocked = async (socket: StreamSocket, size: number, aside: Aside): Promise<number | null> => {
  let blockedAt: number | null = null;
  for (let sent = 0; sent < size; sent += 64 * KiB) {
    const sending = socket.sendall(patternAt(sent, 64 * KiB));
    if (blockedAt === null && socket.wfile.blocked) {
      blockedAt = sent;
      await aside.say("blocked");
    }
    await sending;
  }
  return blockedAt;
};

/** What is left to read, be it ended by the end or by an error: a code, or null for the end. */
const drainAll = async (socket: StreamSocket): Promise<string | null> => {
  try {
    for await (const _ of socket);
    return null;
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
};

const EMPTY = new Uint8Array(0);
const BOUND = 32 * MiB; // far above what kernels and runtimes buffer, far below what is sent

/** A stretch of `most` bytes at most, mostly short. */
const stretch = (chance: Chance, most: number): number => Math.floor(chance() ** 4 * most);
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

/** Writes in every way, sizes and pauses by chance; reads likewise. What is written arrives. */
const byChance = (seed: number): StreamScenario => ({
  name: `sizes, ways of writing, reading speeds and pauses by chance (${seed}): all arrives`,
  served: async (request) => {
    const chance = chanceOf(seed);
    const before = request.wfile.bytesWritten;
    let size = 0;
    for (let i = 0; i < 60; i++) {
      const bytes = patternAt(size, stretch(chance, MiB / 2));
      size += bytes.length;
      const way = Math.floor(chance() * 4);
      if (way === 0) await request.sendall(bytes);
      else request.wfile.write(bytes);
      if (way === 1) await request.wfile.flush();
      if (way === 2) await turn();
      if (request.wfile.blocked) await request.wfile.flush();
    }
    return [await codeOf(request.close()), request.lost, request.bytesWritten - before - size];
  },
  peer: async (socket) => {
    const chance = chanceOf(seed + 1000);
    if (chance() < 0.5) await socket.shutdown(SHUT_WR);
    let size = 0;
    let right = true;
    for (;;) {
      const bytes = await socket.recv(1 + stretch(chance, MiB));
      if (bytes === null) break;
      right &&= wrongAt(bytes, size) === null;
      size += bytes.length;
      if (chance() < 0.1) await turn();
    }
    const all = chanceOf(seed);
    let written = 0;
    for (let i = 0; i < 60; i++, all()) written += stretch(all, MiB / 2);
    return [right, size - written];
  },
  sees: { served: ["no error", null, 0], peer: [true, 0] },
});

export const streamScenarios: readonly StreamScenario[] = [
  ...[1, 2, 3].map(byChance),
  {
    name: "a peer that leaves in the midst of what is written has a prefix, and the writer is told",
    served: async (request) => {
      const before = request.wfile.bytesWritten;
      let code = "no error";
      for (let sent = 0; sent < BOUND && code === "no error"; sent += MiB) {
        code = await codeOf(request.sendall(patternAt(sent, MiB)));
      }
      await request.close();
      return [code !== "no error", request.bytesWritten - before < BOUND];
    },
    peer: async (socket) => {
      let size = 0;
      for await (const bytes of socket) {
        if (wrongAt(bytes, size) !== null) return "not what was written";
        size += bytes.length;
        if (size > 3 * MiB) break;
      }
      socket.abort();
      return "a prefix";
    },
    sees: { served: [true, true], peer: "a prefix" },
  },
  {
    name: "bytes arrive whole and in order, both ways at once",
    served: async (request) => {
      let size = 0;
      for (let bytes = await request.recv(); bytes !== null; bytes = await request.recv()) {
        size += bytes.length;
        await request.sendall(bytes);
      }
      return size;
    },
    peer: async (socket) => {
      const reading = readPattern(socket);
      await sendPattern(socket, MiB, (i) => [1, 7, 100, 4096, 65_536, 99_999][i % 6] as number);
      await socket.shutdown(SHUT_WR);
      return reading;
    },
    sees: { served: MiB, peer: { size: MiB, wrongAt: null } },
  },
  {
    name: "the end is null, and stays null",
    served: async (request) => [
      text(await request.rfile.readexactly(3)),
      await request.recv(),
      await request.recv(),
      await request.rfile.line(),
      request.rfile.tryLine(),
      await request.rfile.read(),
    ],
    peer: async (socket) => {
      await socket.sendall("abc");
      await socket.shutdown(SHUT_WR);
      return socket.recv();
    },
    sees: { served: ["abc", null, null, null, null, null], peer: null },
  },
  {
    name: "half-close: we end our side and still read",
    served: async (request) => {
      await request.sendall("bye");
      await request.shutdown(SHUT_WR);
      return [
        text(await request.rfile.read()),
        await codeOf(request.sendall("more")),
        await codeOf(() => request.wfile.write("more")),
      ];
    },
    peer: async (socket) => {
      const got = [text(await socket.rfile.read())];
      await socket.sendall("still ");
      await socket.sendall("here");
      await socket.shutdown(SHUT_WR);
      return got;
    },
    sees: { served: ["still here", "EPIPE", "EPIPE"], peer: ["bye"] },
  },
  {
    name: "half-close: the peer ends its side and still reads",
    served: async (request) => {
      const got = text(await request.rfile.read());
      await request.sendall("late ");
      request.wfile.write("reply");
      return got;
    },
    peer: async (socket) => {
      await socket.sendall("ask");
      await socket.shutdown(SHUT_WR);
      return text(await socket.rfile.read());
    },
    sees: { served: "ask", peer: "late reply" },
  },
  {
    name: "back-pressure on what we send: a peer that does not read makes us wait",
    served: async (request, aside) => {
      const blockedAt = await sendUntilBlocked(request, 2 * BOUND, aside);
      return blockedAt !== null && blockedAt < BOUND;
    },
    peer: async (socket, aside) => {
      await aside.heard("blocked");
      return readPattern(socket);
    },
    sees: { served: true, peer: { size: 2 * BOUND, wrongAt: null } },
  },
  {
    name: "back-pressure on what we receive: while we do not read the peer must wait",
    served: async (request, aside) => {
      await aside.heard("blocked");
      const held = request.rfile.buffered;
      return [held <= MiB, await readPattern(request)];
    },
    peer: async (socket, aside) => {
      const blockedAt = await sendUntilBlocked(socket, 2 * BOUND, aside);
      await socket.shutdown(SHUT_WR);
      return blockedAt !== null && blockedAt < BOUND;
    },
    sees: { served: [true, { size: 2 * BOUND, wrongAt: null }], peer: true },
  },
  {
    name: "abort: reads and writes end here, and the peer sees a reset or the end",
    served: async (request) => {
      await request.rfile.line();
      const reading = codeOf(request.recv());
      request.abort();
      request.abort();
      await request.close();
      return [
        await reading,
        await codeOf(request.recv()),
        await codeOf(request.sendall("x")),
        request.closed,
      ];
    },
    peer: async (socket) => {
      await socket.sendall("go\n");
      const how = await drainAll(socket);
      return how === null || how === "ECONNRESET" ? "over" : how;
    },
    sees: { served: ["ECONNABORTED", "ECONNABORTED", "ECONNABORTED", true], peer: "over" },
  },
  {
    name: "a reset by the peer rejects the read that waits, and all later ones",
    needs: (peer) => peer.capabilities.reset,
    served: async (request, aside) => {
      await request.rfile.line();
      const reading = codeOf(request.recv());
      await aside.say("reading");
      return [await reading, await codeOf(request.recv())];
    },
    peer: async (socket, aside) => {
      await socket.sendall("go\n");
      await aside.heard("reading");
      socket.abort();
      return "reset";
    },
    sees: { served: ["ECONNRESET", "ECONNRESET"], peer: "reset" },
  },
  {
    name: "close twice is close once, and sends what was written",
    served: async (request) => {
      request.wfile.write("last ");
      request.wfile.write("words");
      await Promise.all([request.close(), request.close()]);
      await request.close();
      return [request.closed, await codeOf(request.recv()), await codeOf(request.sendall("x"))];
    },
    peer: async (socket) => text(await socket.rfile.read()),
    sees: { served: [true, "EBADF", "EBADF"], peer: "last words" },
  },
  {
    name: "close while reading cancels the read",
    served: async (request) => {
      const reading = codeOf(request.rfile.line());
      await request.close();
      return reading;
    },
    peer: async (socket) => socket.recv(),
    sees: { served: "ECANCELED", peer: null },
  },
  {
    name: "close behind a blocked write gives up when the peer takes nothing, and says so",
    served: async (request, aside) => {
      request.wfile.write(new Uint8Array(2 * BOUND));
      const blocked = request.wfile.blocked;
      const codes = [await codeOf(request.close()), await codeOf(request.close())];
      await aside.say("closed");
      return [blocked, request.closed, ...codes, request.bytesWritten < 2 * BOUND];
    },
    peer: async (socket, aside) => {
      await aside.heard("closed");
      await drainAll(socket);
      return "over";
    },
    sees: { served: [true, true, "ETIMEDOUT", "ETIMEDOUT", true], peer: "over" },
  },
  {
    name: "a peer that never reads: the write times out, and the socket can still be closed",
    served: async (request, aside) => {
      request.settimeout(50);
      let code = "no error";
      for (let i = 0; i < 2 * BOUND && code === "no error"; i += 64 * KiB) {
        code = await codeOf(request.sendall(new Uint8Array(64 * KiB)));
      }
      request.abort();
      await aside.say("timed out");
      return code;
    },
    peer: async (socket, aside) => {
      await aside.heard("timed out");
      await drainAll(socket);
      return "over";
    },
    sees: { served: "ETIMEDOUT", peer: "over" },
  },
  {
    name: "both ends speak first",
    served: async (request) => {
      request.wfile.write(`${"banner ".repeat(1200)}\n`);
      const hello = await request.rfile.line();
      return hello?.length;
    },
    peer: async (socket) => {
      socket.wfile.write(`${"hello ".repeat(1200)}\n`);
      return (await socket.rfile.line())?.length;
    },
    sees: { served: 7200, peer: 8400 },
  },
  {
    name: "both ends send first, and wait until it is sent",
    served: async (request) => {
      await request.sendall(`${"banner ".repeat(1200)}\n`);
      return (await request.rfile.line())?.length;
    },
    peer: async (socket) => {
      await socket.sendall(`${"hello ".repeat(1200)}\n`);
      return (await socket.rfile.line())?.length;
    },
    sees: { served: 7200, peer: 8400 },
  },
  {
    name: "recv, rfile and iteration mixed lose nothing",
    served: async (request) => {
      const { rfile } = request;
      const got: unknown[] = [
        await rfile.line(),
        text(await rfile.readexactly(3)),
        text(await rfile.readline()),
      ];
      const buffer = new Uint8Array(2);
      got.push(await request.recvInto(buffer), text(buffer), text(await rfile.readuntil("::")));
      let rest = "";
      for await (const bytes of request) rest += text(bytes);
      return [...got, rest];
    },
    peer: async (socket) => {
      await socket.sendall("a líne\r\nabcdef\r\nxyone::two\nthree");
      await socket.shutdown(SHUT_WR);
      return socket.recv();
    },
    sees: { served: ["a líne", "abc", "def\r\n", 2, "xy", "one::", "two\nthree"], peer: null },
  },
  {
    name: "bytes kept from earlier reads do not change later",
    served: async (request) => {
      const kept: Uint8Array[] = [];
      for await (const bytes of request) kept.push(bytes);
      let at = 0;
      for (const bytes of kept) {
        const wrong = wrongAt(bytes, at);
        if (wrong !== null) return `wrong at ${wrong}`;
        at += bytes.length;
      }
      return at;
    },
    peer: async (socket) => {
      await sendPattern(socket, 2 * MiB, (i) => 1 + ((i * 7919) % 50_000));
      await socket.shutdown(SHUT_WR);
      return socket.recv();
    },
    sees: { served: 2 * MiB, peer: null },
  },
  {
    name: "an array may be changed when sendall has resolved, small or large",
    served: async (request) => {
      for (const size of [100, 32 * KiB]) {
        const lent = new Uint8Array(size);
        for (let i = 0; i < 200; i++) {
          lent.fill(i);
          await request.sendall(lent);
        }
      }
      return "sent";
    },
    peer: async (socket) => {
      for (const size of [100, 32 * KiB]) {
        for (let i = 0; i < 200; i++) {
          const bytes = await socket.rfile.readexactly(size);
          const wrong = bytes.findIndex((byte) => byte !== i);
          if (wrong >= 0) return `array ${i} of ${size} bytes is wrong at ${wrong}: ${bytes[wrong]}`;
        }
      }
      return "all as sent";
    },
    sees: { served: "sent", peer: "all as sent" },
  },
  {
    name: "exact reads of every size give just those bytes, however they were sent",
    served: async (request) => {
      const sizes = [1, 100, 4096, 5000, 65_536, 200_000];
      let at = 0;
      for (let i = 0; at + 200_000 <= 2 * MiB; i++) {
        const bytes = await request.rfile.readexactly(sizes[i % sizes.length] as number);
        const wrong = wrongAt(bytes, at);
        if (wrong !== null) return `wrong at ${wrong}`;
        at += bytes.length;
      }
      return at + ((await request.rfile.read())?.length ?? 0);
    },
    peer: async (socket) => {
      await sendPattern(socket, 2 * MiB, (i) => [1, 3000, 70_000, 17, 128 * KiB][i % 5] as number);
      await socket.shutdown(SHUT_WR);
      return socket.recv();
    },
    sees: { served: 2 * MiB, peer: null },
  },
  {
    name: "recvInto of every size gives just those bytes, also between other reads",
    served: async (request) => {
      const arrays = [1, 100, 5000, 65_536, 300_000, MiB].map((size) => new Uint8Array(size));
      let at = 0;
      for (let i = 0; ; i++) {
        const array = arrays[i % arrays.length] as Uint8Array;
        const size = await request.recvInto(array);
        const bytes = size === null ? null : i % 5 === 4 ? await request.recv() : EMPTY;
        if (size === null || bytes === null) return at + (size ?? 0);
        for (const read of [array.subarray(0, size), bytes]) {
          const wrong = wrongAt(read, at);
          if (wrong !== null) return `wrong at ${wrong}`;
          at += read.length;
        }
      }
    },
    peer: async (socket) => {
      await sendPattern(socket, 3 * MiB, (i) => [1, 3000, 500_000, 17, 128 * KiB][i % 5] as number);
      await socket.shutdown(SHUT_WR);
      return socket.recv();
    },
    sees: { served: 3 * MiB, peer: null },
  },
  {
    name: "a read that times out leaves the stream usable",
    served: async (request, aside) => {
      request.settimeout(20);
      const code = await codeOf(request.rfile.line());
      request.settimeout(null);
      await aside.say("timed out");
      return [code, await request.rfile.line(), request.gettimeout()];
    },
    peer: async (socket, aside) => {
      await aside.heard("timed out");
      await socket.sendall("here\n");
      return socket.recv();
    },
    sees: { served: ["ETIMEDOUT", "here", null], peer: null },
  },
  {
    name: "a reply reaches the peer although its input was never read",
    served: async (request, aside) => {
      await aside.heard("sent");
      request.wfile.write("enough\n");
      return request.close();
    },
    peer: async (socket, aside) => {
      await socket.sendall(new Uint8Array(48 * KiB));
      await aside.say("sent");
      return [await socket.rfile.line(), await drainAll(socket)];
    },
    sees: { served: null, peer: ["enough", null] },
  },
  {
    name: "what is written leaves although its handler then waits for something else than input",
    served: async ({ wfile }, aside) => {
      wfile.write("at once\n");
      await aside.heard("it came");
      for (const pause of [0, 1, 10, 100, 0]) {
        wfile.write(`${pause}\n`);
        for (let i = 0; i < pause; i++) await null;
      }
      await aside.heard("all came");
      return wfile.dirty;
    },
    peer: async ({ rfile }, aside) => {
      const came = [await rfile.line()];
      await aside.say("it came");
      for (let i = 0; i < 5; i++) came.push(await rfile.line());
      await aside.say("all came");
      return came;
    },
    sees: { served: false, peer: ["at once", "0", "1", "10", "100", "0"] },
  },

  {
    name: "a line over the limit is an error that says so, and a short one after it is not",
    served: async (request) => {
      request.rfile.maxLine = 10;
      const lines = [await request.rfile.line(), await codeOf(request.rfile.line())];
      request.rfile.maxLine = 100;
      return [...lines, await request.rfile.line(), await request.rfile.line()];
    },
    peer: async (socket) => {
      await socket.sendall(`0123456789\n0123456789x\nend in mid-line`);
      await socket.shutdown(SHUT_WR);
      return socket.recv();
    },
    sees: { served: ["0123456789", "ERR_LIMIT", "0123456789x", "end in mid-line"], peer: null },
  },
  {
    name: "the end before all bytes is an error, and the bytes stay",
    served: async (request) => [
      await codeOf(request.rfile.readexactly(10)),
      await codeOf(request.rfile.readuntil("\0")),
      text(await request.rfile.read()),
    ],
    peer: async (socket) => {
      await socket.sendall("short");
      await socket.shutdown(SHUT_WR);
      return socket.recv();
    },
    sees: { served: ["ERR_INCOMPLETE_READ", "ERR_INCOMPLETE_READ", "short"], peer: null },
  },
  {
    name: "after shutdown(SHUT_RD) no read waits, and after SHUT_RDWR the peer reads the end",
    served: async (request) => {
      await request.rfile.line();
      await request.shutdown(SHUT_RD);
      const got = [await request.recv()];
      await request.sendall("read me");
      await request.shutdown(SHUT_RDWR);
      return [...got, await codeOf(request.shutdown(9)), await codeOf(request.sendall("x"))];
    },
    peer: async (socket) => {
      await socket.sendall("go\n");
      return text(await socket.rfile.read());
    },
    sees: {
      served: [null, "RangeError: shutdown takes SHUT_RD (0), SHUT_WR (1) or SHUT_RDWR (2), not 9", "EPIPE"],
      peer: "read me",
    },
  },
  {
    name: "one read at a time: a second one meanwhile is refused, the first is not disturbed",
    served: async (request, aside) => {
      const first = request.rfile.line();
      const second = await codeOf(request.recv());
      await aside.say("refused");
      return [second, await first];
    },
    peer: async (socket, aside) => {
      await aside.heard("refused");
      await socket.sendall("first\n");
      return socket.recv();
    },
    sees: { served: ["EBUSY", "first"], peer: null },
  },
  {
    name: "toWeb hands the connection over, with what was buffered",
    served: async (request) => {
      const first = await request.rfile.line();
      const web = request.toWeb();
      const codes = [
        await codeOf(request.recv()),
        await codeOf(() => request.wfile.write("x")),
        await codeOf(request.close()),
      ];
      await web.readable.pipeTo(web.writable);
      await web.closed;
      return [first, ...codes];
    },
    peer: async (socket) => {
      await socket.sendall("one\ntwo\nthree\n");
      await socket.shutdown(SHUT_WR);
      return text(await socket.rfile.read());
    },
    sees: { served: ["one", "ERR_HANDED_OVER", "ERR_HANDED_OVER", "no error"], peer: "two\nthree\n" },
  },
  {
    name: "a handler that throws still sends what it wrote",
    served: async (request) => {
      request.wfile.write("so far");
      throw new Error("crash");
    },
    peer: async (socket) => text(await socket.rfile.read()),
    sees: { served: { threw: "Error: crash" }, peer: "so far" },
  },
];
