import { afterEach, describe, expect, test, vi } from "vitest";
import { DONE } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import { SHUT_RD, SHUT_RDWR, SHUT_WR } from "../../core/net/constants.ts";
import { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import type { StreamSink, StreamTransport } from "../../core/sockets/transport.ts";
import { type MemoryOptions, memoryPair } from "../../core/testing/index.ts";
import { codeOf, codeThrown, settled, waits } from "./outcome.ts";

const KiB = 1024;
const text = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);

/** A transport that only notes what it is told; the test holds its end. */
class Notes implements StreamTransport {
  readonly localAddress = null;
  readonly remoteAddress = null;
  readonly capabilities = { reset: false, peername: false };
  readonly unsent = 0;
  readonly calls: string[] = [];
  sink!: StreamSink;
  room: Promise<void> | undefined;
  ending: Promise<void> = DONE;
  start(sink: StreamSink): void {
    this.sink = sink;
  }
  resume(): void {}
  pause(): void {}
  write(data: Uint8Array | string): Promise<void> | undefined {
    this.calls.push(`write ${data.length}`);
    return this.room;
  }
  end(): Promise<void> {
    this.calls.push("end");
    return this.ending;
  }
  close(): void {
    this.calls.push("close");
  }
  abort(): void {
    this.calls.push("abort");
  }
  defer(task: () => void): void {
    setImmediate(task);
  }
}

afterEach(() => void vi.useRealTimers());

describe("sending and receiving", () => {
  test("send counts bytes, and both sides count all", async () => {
    const [a, b] = memoryPair();
    expect(await a.send("é€😀")).toBe(9);
    expect(await a.send(new Uint8Array(3))).toBe(3);
    expect(await a.send("")).toBe(0);
    a.wfile.write("!");
    await a.sendall("?");
    expect((await b.rfile.readexactly(14)).length).toBe(14);
    expect([a.bytesWritten, b.bytesRead, b.bytesWritten, a.bytesRead]).toEqual([14, 14, 0, 0]);
  });

  test("recv, recvInto and rfile take from one buffer", async () => {
    const [a, b] = memoryPair();
    await a.sendall("one\ntwo\nthree");
    expect(await b.rfile.line()).toBe("one");
    expect(text(await b.recv(2))).toBe("tw");
    const buffer = new Uint8Array(2);
    expect([await b.recvInto(buffer), text(buffer)]).toEqual([2, "o\n"]);
    expect(text(await b.recv())).toBe("three");
  });

  test("what was written leaves when this side waits for input", async () => {
    const [a, b] = memoryPair();
    a.wfile.write("ping\n");
    const reply = a.rfile.line();
    expect(await b.rfile.line()).toBe("ping");
    b.wfile.write("pong\n");
    void codeOf(b.recv());
    expect(await reply).toBe("pong");
  });

  test("the sender may change its bytes, the receiver keeps its own", async () => {
    const [a, b] = memoryPair();
    const first = Buffer.alloc(20 * KiB, 1); // a Buffer's slice() copies nothing
    await a.sendall(first);
    first.fill(2);
    const got = await b.rfile.readexactly(20 * KiB);
    expect(got.every((byte) => byte === 1)).toBe(true);
    expect(got.constructor).toBe(Uint8Array);
  });

  test("iteration gives the pieces to the end, and leaving it closes nothing", async () => {
    const [a, b] = memoryPair();
    await a.sendall("1");
    for await (const piece of b) {
      expect(text(piece)).toBe("1");
      break;
    }
    await a.sendall("2");
    await a.shutdown(SHUT_WR);
    const rest: unknown[] = [];
    for await (const piece of b) rest.push(text(piece));
    expect([rest, b.closed]).toEqual([["2"], false]);
    await b.sendall("still open");
    expect(text(await a.recv())).toBe("still open");
  });

  test("two ends that both write much before they read do not block each other", async () => {
    const [a, b] = memoryPair();
    const echo = async (): Promise<void> => {
      for await (const bytes of b) await b.sendall(bytes);
      await b.shutdown(SHUT_WR);
    };
    const echoing = echo();
    const size = 4096 * KiB;
    const [, got] = await Promise.all([
      (async () => {
        for (let sent = 0; sent < size; sent += 64 * KiB) await a.sendall(new Uint8Array(64 * KiB));
        await a.shutdown(SHUT_WR);
      })(),
      a.rfile.read(),
    ]);
    expect(got?.length).toBe(size);
    await echoing;
    const [c, d] = memoryPair();
    c.wfile.write(new Uint8Array(512 * KiB));
    d.wfile.write(new Uint8Array(512 * KiB));
    const both = await Promise.all([c.rfile.readexactly(512 * KiB), d.rfile.readexactly(512 * KiB)]);
    expect(both.map((bytes) => bytes.length)).toEqual([512 * KiB, 512 * KiB]);
  });

  test("a peer that asks and never reads is read no more, once 1 MiB waits for it unattended", async () => {
    const [a, b] = memoryPair();
    let answered = 0;
    const answering = codeOf(
      (async () => {
        for await (const _ of b.rfile.lines()) {
          b.wfile.write(new Uint8Array(64 * KiB));
          answered++;
        }
      })(),
    );
    for (let i = 0; i < 100; i++) await a.sendall("ask\n");
    await settled();
    expect(answered).toBeLessThan(25);
    await a.shutdown(SHUT_WR);
    expect((await a.rfile.readexactly(100 * 64 * KiB)).length).toBe(100 * 64 * KiB); // and goes on when it reads
    expect([await answering, answered]).toEqual([["no error", undefined], 100]);
  });
});

describe("shutdown", () => {
  test("SHUT_WR: the peer reads the end, we still read, and sending gives EPIPE", async () => {
    const [a, b] = memoryPair();
    a.wfile.write("last");
    await a.shutdown(SHUT_WR);
    expect([text(await b.rfile.read()), await b.recv()]).toEqual(["last", null]);
    expect(await codeOf(a.sendall("x"))).toBe("EPIPE");
    expect(await codeOf(a.send("x"))).toBe("EPIPE");
    expect(codeThrown(() => a.wfile.write("x"))).toBe("EPIPE");
    await a.shutdown(SHUT_WR);
    await b.sendall("answer");
    expect([text(await a.recv()), a.closed]).toEqual(["answer", false]);
  });

  test("SHUT_WR lets a sendall that waits for room go on", async () => {
    const [a, b] = memoryPair({ capacity: 10 });
    const sent = a.sendall("more than ten bytes");
    const ended = a.shutdown(SHUT_WR);
    expect([await waits(sent), await waits(ended)]).toEqual([true, true]);
    expect(text(await b.rfile.read())).toBe("more than ten bytes");
    await Promise.all([sent, ended]);
  });

  test("SHUT_WR rejects with ETIMEDOUT where the end cannot leave in time, and is still under way", async () => {
    const [a, b] = memoryPair({ capacity: 4, timeout: 20 });
    a.wfile.write("too much");
    expect(await codeOf(a.shutdown(SHUT_WR))).toBe("ETIMEDOUT");
    b.settimeout(null);
    expect(text(await b.rfile.read())).toBe("too much");
    await a.shutdown(SHUT_WR);
  });

  test("SHUT_RD: what is buffered is read, then the end; a read that waits ends; we still send", async () => {
    const [a, b] = memoryPair();
    await a.sendall("here\nrest");
    expect(await b.rfile.line()).toBe("here");
    await b.shutdown(SHUT_RD);
    // undefined, "none is here yet": what still arrives is given, and line() looks for it before it says the end.
    expect([text(await b.recv()), await b.recv(), b.rfile.tryLine()]).toEqual(["rest", null, undefined]);
    expect(await b.rfile.line()).toBeNull();
    const waiting = a.recv();
    await a.shutdown(SHUT_RD);
    expect(await waiting).toBeNull();
    await b.sendall("sent");
    await b.shutdown(SHUT_WR);
  });

  test("SHUT_RDWR is both", async () => {
    const [a, b] = memoryPair();
    const reading = a.rfile.line();
    await a.shutdown(SHUT_RDWR);
    expect([await reading, await a.recv(), await b.recv(), await codeOf(a.sendall("x"))]).toEqual([
      null,
      null,
      null,
      "EPIPE",
    ]);
    await a.shutdown(SHUT_RDWR);
  });

  test("another `how` is a RangeError, and after close it is EBADF", async () => {
    const [a] = memoryPair();
    await expect(a.shutdown(3)).rejects.toThrow(RangeError);
    await expect(a.shutdown(-1)).rejects.toThrow(RangeError);
    await a.close();
    expect(await codeOf(a.shutdown(SHUT_WR))).toBe("EBADF");
  });
});

describe("close", () => {
  test("sends what was written, then the end; twice is once", async () => {
    const [a, b] = memoryPair();
    a.wfile.write("last words");
    expect(a.closed).toBe(false);
    const closing = a.close();
    expect([a.closed, a.close() === closing]).toEqual([true, true]);
    expect([text(await b.rfile.read()), await b.recv()]).toEqual(["last words", null]);
    await closing;
    await a.close();
  });

  test("a read that waits gives ECANCELED, all later calls EBADF", async () => {
    const [a] = memoryPair();
    const reading = codeOf(a.recv());
    const closing = a.close();
    expect(await reading).toBe("ECANCELED");
    expect(await codeOf(a.recv())).toBe("EBADF");
    expect(await codeOf(a.recvInto(new Uint8Array(1)))).toBe("EBADF");
    expect(await codeOf(a.rfile.line())).toBe("EBADF");
    expect(codeThrown(() => a.rfile.tryLine())).toBe("EBADF");
    expect(await codeOf(a.sendall("x"))).toBe("EBADF");
    expect(await codeOf(a.wfile.flush())).toBe("EBADF");
    expect(codeThrown(() => a.wfile.write("x"))).toBe("EBADF");
    expect(codeThrown(() => a.toWeb())).toBe("EBADF");
    expect(await codeOf(a[Symbol.asyncIterator]().next())).toBe("EBADF");
    await closing;
  });

  test("what had come and was not read is dropped", async () => {
    const [a, b] = memoryPair();
    await a.sendall("line\nmore");
    expect(await b.rfile.line()).toBe("line");
    await b.close();
    expect(await codeOf(b.recv())).toBe("EBADF");
  });

  test("a read that output holds back ends, too, and none is held back afterwards", async () => {
    const [a] = memoryPair();
    a.wfile.write(new Uint8Array(2048 * KiB));
    expect(a.wfile.unattended).toBe(true);
    const reading = codeOf(a.recv());
    const closing = a.close();
    expect([await reading, await codeOf(a.recv())]).toEqual(["ECANCELED", "EBADF"]);
    a.abort();
    expect(await codeOf(closing)).toBe("ECONNABORTED");
  });

  test("behind a blocked write it gives up at closeTimeout: ECANCELED there, a reset for the peer", async () => {
    vi.useFakeTimers();
    const [a, b] = memoryPair({ closeTimeout: 100 });
    const sending = codeOf(a.sendall(new Uint8Array(100 * KiB)));
    const closing = a.close();
    expect(await sending).toBe("ECANCELED");
    await vi.advanceTimersByTimeAsync(99);
    expect(a.closed).toBe(true);
    await vi.advanceTimersByTimeAsync(1);
    await closing;
    expect(await codeOf(b.recv())).toBe("ECONNRESET");
    expect(vi.getTimerCount()).toBe(0);
  });

  test("a peer that takes it in time gets all", async () => {
    const [a, b] = memoryPair();
    a.wfile.write(new Uint8Array(100 * KiB));
    const closing = a.close();
    expect((await b.rfile.read())?.length).toBe(100 * KiB);
    await closing;
  });

  test("`await using` closes", async () => {
    const [a, b] = memoryPair();
    {
      await using socket = a;
      socket.wfile.write("bye");
    }
    expect([a.closed, text(await b.rfile.read())]).toEqual([true, "bye"]);
  });
});

describe("abort and resets", () => {
  test("ECONNABORTED here, ECONNRESET there, for reads that wait and all later calls", async () => {
    const [a, b] = memoryPair();
    const [here, there] = [codeOf(a.recv()), codeOf(b.rfile.line())];
    a.abort();
    a.abort();
    expect([await here, await there]).toEqual(["ECONNABORTED", "ECONNRESET"]);
    expect([await codeOf(a.recv()), await codeOf(a.sendall("x")), a.closed]).toEqual([
      "ECONNABORTED",
      "ECONNABORTED",
      true,
    ]);
    expect([await codeOf(b.recv()), await codeOf(b.sendall("x")), b.closed]).toEqual([
      "ECONNRESET",
      "ECONNRESET",
      false,
    ]);
    await Promise.all([a.close(), b.close()]);
  });

  test("abort(reason): reads and writes, waiting or later, name the reason", async () => {
    const late = new SocketError("ETIMEDOUT", "it took too long");
    const [a] = memoryPair({ capacity: 1 });
    const calls = [a.rfile.line(), a.sendall("abc")];
    a.abort(late);
    a.abort("again");
    for (const call of [...calls, a.recv(), a.sendall("x"), a.wfile.flush()]) {
      await expect(call).rejects.toMatchObject({
        code: "ECONNABORTED",
        message: "ECONNABORTED: the connection was aborted on this side: ETIMEDOUT: it took too long",
        cause: late,
      });
    }
    const stopped = new SocketError("ECONNABORTED", "the server was stopped");
    const [b] = memoryPair();
    b.abort(stopped);
    await expect(b.recv()).rejects.toBe(stopped);
  });

  test("a sendall that waits for room is told, on both sides", async () => {
    const [a, b] = memoryPair({ capacity: 1 });
    const [here, there] = [codeOf(a.sendall("abc")), codeOf(b.sendall("abc"))];
    a.abort();
    expect([await here, await there]).toEqual(["ECONNABORTED", "ECONNRESET"]);
  });

  test("a reset comes after what had been received", async () => {
    const notes = new Notes();
    const socket = new StreamSocket(notes);
    notes.sink.data(new TextEncoder().encode("kept"));
    notes.sink.error(new SocketError("ECONNRESET"));
    expect([text(await socket.recv()), await codeOf(socket.recv())]).toEqual(["kept", "ECONNRESET"]);
    await socket.close();
    expect(notes.calls).toEqual(["abort"]); // nothing can be ended any more
  });

  test("a read that output holds back sees the reset", async () => {
    const [a, b] = memoryPair();
    a.wfile.write(new Uint8Array(2048 * KiB));
    const reading = codeOf(a.recv());
    b.abort();
    expect(await reading).toBe("ECONNRESET");
  });

  test("a closed peer that is written to breaks nothing", async () => {
    const [a, b] = memoryPair();
    await b.close();
    expect(await a.recv()).toBeNull();
    await a.sendall("into the void");
    await a.close();
  });

  test("the transport is told to end, close and abort once each, however it goes", async () => {
    const quick = async (steps: (socket: StreamSocket, notes: Notes) => unknown): Promise<string[]> => {
      const notes = new Notes();
      const socket = new StreamSocket(notes, { closeTimeout: 5 });
      await steps(socket, notes);
      await socket.close().catch(() => {});
      await settled();
      return notes.calls;
    };
    expect(await quick((socket) => [socket.close(), socket.close()])).toEqual(["end", "close"]);
    expect(await quick((socket) => [socket.abort(), socket.abort(), socket.close()])).toEqual(["abort"]);
    expect(await quick((socket) => socket.shutdown(SHUT_WR))).toEqual(["end", "close"]);
    expect(
      await quick(async (socket) => {
        await socket.shutdown(SHUT_WR);
        await socket.toWeb().close();
      }),
    ).toEqual(["end", "close"]);
    const never = new Promise<void>(() => {});
    expect(
      await quick((socket, notes) => {
        notes.ending = never;
        void socket.close();
        socket.abort();
      }),
    ).toEqual(["end", "abort"]);
    expect(
      await quick(async (socket, notes) => {
        notes.ending = never;
        expect(await codeOf(socket.close())).toBe("ETIMEDOUT");
        socket.abort();
      }),
    ).toEqual(["end", "abort"]);
    expect(
      await quick((_, notes) => {
        notes.ending = Promise.reject(new SocketError("EPIPE"));
      }),
    ).toEqual(["end", "abort"]);
    expect(
      await quick((socket, notes) => {
        void socket.close();
        notes.sink.error(new SocketError("ECONNRESET"));
        notes.sink.data(new Uint8Array(1));
        notes.sink.end();
      }),
    ).toEqual(["end", "abort"]);
  });
});

describe("timeouts", () => {
  test("settimeout bounds reads and writes, from the next on", async () => {
    vi.useFakeTimers();
    const [a, b] = memoryPair({ capacity: 1 });
    expect(a.gettimeout()).toBe(300_000);
    a.settimeout(50);
    expect([a.gettimeout(), b.gettimeout()]).toEqual([50, 300_000]);
    const outcomes = [codeOf(a.recv()), codeOf(a.sendall("abc"))];
    await vi.advanceTimersByTimeAsync(50);
    expect(await Promise.all(outcomes)).toEqual(["ETIMEDOUT", "ETIMEDOUT"]);
    expect(text(await b.recv())).toBe("abc");
    await b.sendall("d");
    expect(text(await a.recv())).toBe("d");
    a.settimeout(null);
    const forever = codeOf(a.recv());
    await vi.advanceTimersByTimeAsync(10_000_000);
    expect(vi.getTimerCount()).toBe(0);
    a.abort();
    expect(await forever).toBe("ECONNABORTED");
    for (const wrong of [-1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31]) {
      expect(() => a.settimeout(wrong)).toThrow(RangeError);
    }
  });

  test("no timer is left after a close, an abort or a reset", async () => {
    vi.useFakeTimers();
    for (const over of [
      ([a]: StreamSocket[]) => a?.close(),
      ([a]: StreamSocket[]) => a?.abort(),
      ([, b]: StreamSocket[]) => b?.abort(),
    ]) {
      const pair = memoryPair({ capacity: 1 });
      const [a, b] = pair;
      const outcomes = [codeOf(a.recv()), codeOf(a.sendall("abc"))];
      void over(pair);
      void codeOf(b.recv());
      await Promise.all(outcomes);
      await a.close();
      await b.close();
      expect(vi.getTimerCount()).toBe(0);
    }
  });
});

describe("toWeb", () => {
  const web = (options?: MemoryOptions): [ReturnType<StreamSocket["toWeb"]>, StreamSocket, StreamSocket] => {
    const [a, b] = memoryPair(options);
    return [a.toWeb(), b, a];
  };

  test("opened tells the addresses", async () => {
    const [a] = memoryPair();
    const { port } = a.getpeername() as { port: number };
    const opened = await a.toWeb().opened;
    expect(opened.remoteAddress).toBe(`127.0.0.1:${port}`);
    expect(opened.localAddress).toMatch(/^127\.0\.0\.1:\d+$/);
  });

  test("the old socket is of no more use", async () => {
    const [a, b] = memoryPair();
    const reading = codeOf(a.recv());
    const { rfile, wfile } = a;
    const socket = a.toWeb();
    expect(await reading).toBe("ERR_HANDED_OVER");
    for (const outcome of [
      codeOf(a.recv()),
      codeOf(a.recvInto(new Uint8Array(1))),
      codeOf(a.send("x")),
      codeOf(a.sendall("x")),
      codeOf(a.shutdown(SHUT_WR)),
      codeOf(a[Symbol.asyncIterator]().next()),
      codeOf(rfile.recv()),
      codeOf(rfile.read()),
      codeOf(rfile.readexactly(1)),
      codeOf(rfile.readuntil("x")),
      codeOf(rfile.readline()),
      codeOf(rfile.line()),
      codeOf(rfile.lines().next()),
      codeThrown(() => rfile.tryLine()),
      codeThrown(() => wfile.write("x")),
      codeOf(wfile.flush()),
      codeOf(wfile.sendall("x")),
      codeThrown(() => a.toWeb()),
    ]) {
      expect(await outcome).toBe("ERR_HANDED_OVER");
    }
    // What lets go of it does nothing: who it was handed to does that now.
    expect(a.closed).toBe(true);
    a.abort();
    await a.close();
    const writer = socket.writable.getWriter();
    await writer.write(new TextEncoder().encode("alive"));
    expect(text(await b.recv())).toBe("alive");
  });

  test("what was buffered, written and ended carries over", async () => {
    const [a, b] = memoryPair();
    await b.sendall("line\nrest");
    await b.shutdown(SHUT_WR);
    expect(await a.rfile.line()).toBe("line");
    a.wfile.write("gathered");
    await a.shutdown(SHUT_WR);
    const socket = a.toWeb();
    expect(text(await b.rfile.read())).toBe("gathered");
    const got: unknown[] = [];
    for await (const bytes of socket.readable) got.push(text(bytes));
    expect(got).toEqual(["rest"]);
    await expect(socket.writable.getWriter().write(new Uint8Array(1))).rejects.toMatchObject({
      code: "EPIPE",
    });
  });

  test("an end that was read carries over", async () => {
    const [a, b] = memoryPair();
    await b.shutdown(SHUT_WR);
    expect(await a.recv()).toBeNull();
    const { value, done } = await a.toWeb().readable.getReader().read();
    expect([value, done]).toEqual([undefined, true]);
  });

  test("an error that was told carries over, behind what is buffered", async () => {
    const notes = new Notes();
    const socket = new StreamSocket(notes);
    notes.sink.data(new TextEncoder().encode("kept"));
    notes.sink.error(new SocketError("ECONNRESET"));
    const { readable, closed } = socket.toWeb();
    expect(await codeOf(closed)).toBe("ECONNRESET");
    const reader = readable.getReader();
    expect(text((await reader.read()).value ?? null)).toBe("kept");
    expect(await codeOf(reader.read())).toBe("ECONNRESET");
  });

  test("with a write that waits for room: its bytes arrive, and its caller is told", async () => {
    const [a, b] = memoryPair({ capacity: 4 });
    const sending = codeOf(a.sendall("more than four"));
    const writer = a.toWeb().writable.getWriter();
    expect(await sending).toBe("ERR_HANDED_OVER");
    const written = writer.write(new TextEncoder().encode("!"));
    expect(await waits(written)).toBe(true);
    expect(text(await b.rfile.readexactly(15))).toBe("more than four!");
    await written;
  });

  test("half-closes, and closes when both ends have come", async () => {
    const [socket, b] = web();
    const writer = socket.writable.getWriter();
    await writer.write(new TextEncoder().encode("question"));
    await writer.close();
    expect(text(await b.rfile.read())).toBe("question");
    expect(await waits(socket.closed)).toBe(true);
    await b.sendall("answer");
    await b.close();
    let answer = "";
    for await (const part of socket.readable.pipeThrough(
      new TextDecoderStream() as unknown as TransformStream<Uint8Array, string>,
    )) {
      answer += part;
    }
    expect(answer).toBe("answer");
    await socket.closed;
  });

  test("pipes both ways", async () => {
    const [socket, b] = web();
    const piping = socket.readable.pipeTo(socket.writable);
    b.wfile.write(new Uint8Array(500 * KiB).fill(7));
    const ended = b.shutdown(SHUT_WR);
    const all = await b.rfile.read();
    expect([all?.length, all?.every((byte) => byte === 7)]).toEqual([500 * KiB, true]);
    await Promise.all([piping, ended, socket.closed]);
  });

  test("reads nothing that is not asked for", async () => {
    const [socket, b] = web({ capacity: 4 });
    const sending = b.sendall("more than four");
    expect(await waits(sending)).toBe(true);
    const reader = socket.readable.getReader();
    expect(text((await reader.read()).value ?? null)).toBe("more than four");
    await sending;
  });

  test("close ends reads that wait, resolves closed, and sends what was written", async () => {
    const [socket, b] = web();
    const reader = socket.readable.getReader();
    const reading = reader.read();
    const writer = socket.writable.getWriter();
    await writer.write(new TextEncoder().encode("last"));
    await Promise.all([socket.close(), socket.close()]);
    expect((await reading).done).toBe(true);
    await socket.closed;
    expect(text(await b.rfile.read())).toBe("last");
    expect((await reader.read()).done).toBe(true);
    await reader.cancel();
    expect(await codeOf(writer.write(new Uint8Array(1)))).toBe("EBADF");
  });

  test("close while a write waits for room still sends it", async () => {
    const [socket, b] = web({ capacity: 4 });
    const writer = socket.writable.getWriter();
    const writing = codeOf(writer.write(new TextEncoder().encode("more than four")));
    await settled();
    const closing = socket.close();
    expect(await writing).toBe("ECANCELED");
    expect(text(await b.rfile.read())).toBe("more than four");
    await closing;
    await socket.closed;
  });

  test("close of an idle one, then its streams", async () => {
    const [socket] = web();
    await socket.close();
    await socket.readable.cancel();
    await socket.writable.getWriter().close();
    await socket.closed;
  });

  test("a reset reaches closed without a read, and both streams", async () => {
    const [socket, b] = web();
    const closed = codeOf(socket.closed);
    b.abort();
    expect(await closed).toBe("ECONNRESET");
    expect(await codeOf(socket.readable.getReader().read())).toBe("ECONNRESET");
    expect(await codeOf(socket.writable.getWriter().write(new Uint8Array(1)))).toBe("ECONNRESET");
    await socket.close();
  });

  test("a read that waits sees the reset", async () => {
    const [socket, b] = web();
    const reading = codeOf(socket.readable.getReader().read());
    await settled();
    b.abort();
    expect([await reading, await codeOf(socket.closed)]).toEqual(["ECONNRESET", "ECONNRESET"]);
  });

  test("a timeout breaks it: the stream that failed is of no more use", async () => {
    const [a, b] = memoryPair();
    a.settimeout(1);
    const socket = a.toWeb();
    expect(await codeOf(socket.readable.getReader().read())).toBe("ETIMEDOUT");
    expect([await codeOf(socket.closed), await codeOf(b.recv())]).toEqual(["ETIMEDOUT", "ECONNRESET"]);
  });

  test("aborting the writable aborts at once, also behind a write that waits", async () => {
    for (const writes of [true, false]) {
      const [socket, b] = web({ capacity: 4 });
      const writer = socket.writable.getWriter();
      writer.closed.catch(() => {});
      const writing = writes ? codeOf(writer.write(new Uint8Array(10))) : undefined;
      await settled();
      await writer.abort(new Error("enough"));
      await writing;
      expect(await codeOf(b.recv())).toBe("ECONNRESET");
      expect(await codeOf(socket.closed)).toBe("ECONNABORTED");
    }
  });

  test("cancelling the readable is SHUT_RD, also while a read waits, and counts as its end", async () => {
    for (const reads of [true, false]) {
      const [socket, b] = web();
      const reader = socket.readable.getReader();
      const reading = reads ? reader.read() : undefined;
      await settled();
      await reader.cancel();
      expect((await reading)?.done).toBe(reads || undefined);
      const writer = socket.writable.getWriter();
      await writer.write(new TextEncoder().encode("still"));
      expect(text(await b.recv())).toBe("still");
      expect(await waits(socket.closed)).toBe(true);
      await writer.close();
      await socket.closed;
      expect(await b.recv()).toBeNull();
    }
  });
});
