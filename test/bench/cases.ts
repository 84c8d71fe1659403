/** What is measured: one table. To add a case, add an object; to add a peer, a program of `servers/` and a runtime. */

import type { RuntimeName } from "./runtimes.ts";

/** What a round gives of one program. Times of the load are microseconds; CPU, page faults and switches are of one unit of work. */
export type Figure =
  | "rate"
  | "cpuUs"
  | "busy"
  | "faults"
  | "switches"
  | "p50us"
  | "p99us"
  | "startMs"
  | "idleKiB";

/** What a goal may name. */
type GoalFigure = "p50us" | "p99us" | "cpuUs";

/** How a program is asked. All but `start` are done by `load.c`. */
export type Load =
  /**
   * `rate: "half"`: half as many a second as the first program of the case does at most. `peers`: the addresses that
   * datagrams come from, in turns; a multiple of `connections`.
   */
  | {
      readonly mode: "echo";
      readonly connections: number;
      readonly size: number;
      readonly udp?: true;
      readonly peers?: number;
      readonly tls?: true;
      readonly rate?: "half";
    }
  /** `window`: the bytes that may be in flight on each connection. */
  | {
      readonly mode: "bulk";
      readonly connections: number;
      readonly size: number;
      readonly window: number;
      readonly tls?: true;
    }
  /** Redis's PING, as redis-benchmark sends it. */
  | { readonly mode: "ping"; readonly connections: number; readonly pipeline: number }
  | {
      readonly mode: "lines";
      readonly connections: number;
      readonly size: number;
      readonly pipeline: number;
    }
  | {
      readonly mode: "connect";
      readonly connections: number;
      readonly size: number;
      readonly tls?: true;
    }
  | { readonly mode: "idle"; readonly connections: number; readonly size: number }
  /** The program dials the load, and reads all that it sends. */
  | { readonly mode: "source" }
  /** On one connection the program sends pieces of `size` bytes (`download`), or reads all that the load sends (`upload`). */
  | { readonly mode: "download" | "upload"; readonly size: number }
  /** From nothing to the first line that says a port. */
  | { readonly mode: "start" };

/** One program in a case. */
export interface Contender {
  readonly name: string;
  /** `bare`: the platform alone, the obvious way; `hand`: the same, at its best by hand. */
  readonly kind: "bare" | "hand" | "socklet" | "peer";
  readonly label: string;
  readonly runtime: RuntimeName;
  readonly args: readonly string[];
}

/** A goal: `of` is at least, or at most, this many times `against`. */
export interface Goal {
  readonly of: string;
  readonly against: string;
  /** What is compared, and that alone. Where it is absent: the case's figure, and the CPU must not speak against it. */
  readonly figure?: GoalFigure;
  readonly least?: number;
  readonly most?: number;
  /** The CPU ratio that is allowed, where it is more than what `least` or `most` comes to. */
  readonly cpu?: number;
}

export interface BenchCase {
  readonly name: string;
  /** As the tables call it. */
  readonly title: string;
  /** What is compared. A rate is better when it is more, all else when it is less. */
  readonly figure: "rate" | "p50us" | "startMs" | "idleKiB";
  /** What one unit of work is: rates are in it per second, CPU is microseconds for one. */
  readonly unit: "message" | "MiB" | "command" | "line" | "datagram" | "connection" | "start";
  readonly load: Load;
  /** The first is what all are compared with. */
  readonly contenders: readonly Contender[];
  readonly goals: readonly Goal[];
  /** What bounds it, and what was tried: told where a goal is missed. */
  readonly bounds?: string;
  /** How many rounds, for one that others get. Default 1. */
  readonly share?: number;
  /** Run where `--full` says so, or a word names it. */
  readonly full?: true;
  /** The least seconds of a run, where one of the usual length would not go through all that the case has. */
  readonly seconds?: number;
  /** A point of a plot. */
  readonly series?: { readonly plot: Plot; readonly at: number };
}

/** What grows in a plot. */
export type Plot = "connections" | "peers" | "lines" | "pipeline";

// ------------------------------------------------------------------------------------------------- the programs

const bare = (work: string, label = "bare Node"): Contender => ({
  name: "bare",
  kind: "bare",
  label,
  runtime: "node",
  args: ["bare.ts", work],
});

const socklet = (work: string, name = "socklet", label = "Socklet"): Contender => ({
  name,
  kind: "socklet",
  label,
  runtime: "node",
  args: ["socklet.ts", work],
});

const peers = (work: "echo" | "resp" | "udp"): readonly Contender[] =>
  (
    [
      ["socketserver", "python", ["socketserver", work], "Python socketserver"],
      ["asyncio", "python", ["asyncio", work], "Python asyncio"],
      ["uvloop", "uvloop", ["uvloop", work], "Python uvloop"],
      ["bun", "bun", ["bun.js", work], "Bun"],
      ["deno", "deno", ["deno.js", work], "Deno"],
      ["go", "go", [work], "Go"],
    ] as const
  ).map(([name, runtime, args, label]) => ({ name, kind: "peer", label, runtime, args }));

const workerd = (name: string, kind: "bare" | "hand", work: string, label: string): Contender => ({
  name,
  kind,
  label,
  runtime: "workerd",
  args: ["workerd-bare.js", work],
});

const onWorkerd = (work: string, name = "socklet", label = "Socklet"): Contender => ({
  name,
  kind: "socklet",
  label,
  runtime: "workerd",
  args: ["workerd-socklet.js", work],
});

const LOOPS = [
  ["await", "`await line()`"],
  ["lines", "`lines()`"],
  ["try", "`tryLine() ?? await line()`"],
] as const;

/** A write for each reply, the best by hand, and each way to write the loop here. */
const respOnNode: readonly Contender[] = [
  bare("resp-each", "bare Node, a write a reply"),
  {
    ...bare("resp-gathered"),
    name: "gathered",
    kind: "hand",
    label: "bare Node, the best by hand: a write a chunk",
  },
  ...LOOPS.map(([loop, code]) => socklet(`resp-${loop}`, loop, `Socklet, ${code}`)),
];

// ---------------------------------------------------------------------------------------------------- the cases

const BOUNDS = {
  echo: `two system calls are four fifths of a message, and bare Node makes the same two. Socklet adds the handler's two promises, and the
  way through reader and writer. Accepted connections use Node's handle, without a \`net.Socket\` (emulator/kernel/transports/handle-transport.ts);
  before, the CPU was 1.15 times bare Node's.`,
  many: `with 500 connections, what a message touches of each connection no longer fits into this machine's second-level cache. Bare Node's
  echo shows the same: with 4 KiB of small objects for each connection, all read at each message, it is at 0.99 of its rate with 50
  connections and at 0.90 with 500. Socklet's connection had 5 KiB and was at 0.82; now it has 2.5. Tried, and no better: other sizes of
  the collector's young generation (1, 2, 4 and 64 MiB).`,
  bulk: `the caller of \`recv()\` keeps its memory, so each read takes new memory, as in bare Node. V8 counts that memory, and used to start a
  full collection after each 64 MiB, which marks 8 MiB of objects that never die: 14 % of all CPU, most of it on another thread, and 20 to
  80 page faults a MiB, as 64 MiB are freed at once. A young collection frees the same memory in 0.2 ms, but buffers do not fill the
  young generation. Now each buffer leaves some litter there, and full collections are rare: 256 KiB take 9 µs, before 38. An echo's CPU
  is 0.65 to 0.85 of what it was with 256 KiB to 4 MiB in flight, and its page faults are gone. Four fifths of what is left is the
  kernel's. Reads of 256 KiB, not 64, save system calls. With 64 KiB in flight on one connection, both ends take turns waiting (16
  switches a MiB), also on bare Node, and the cost of a read hardly shows. Tried, and no better: copies out of one buffer for reads that
  fill it, litter of 64 KiB and more for each read (the caches suffer), an allocator that keeps freed memory, the same memory
  for copies of 64 KiB (129 page faults a MiB on 8 connections, and half the rate). \`recvInto()\` takes no new memory and copies once: Node has
  no call that gives it the buffer of the next read. Tried, and no better: a way around that, by which the kernel reads into the caller's
  memory.`,
  resp: `a command is three lines here. Each is found, cut out and handed to an async function: 0.02 µs
  a command more than a parser that owns its buffer, and 0.6 µs for each chunk that arrives (a promise, and a copy of what the first line
  left). With one command at once, a message costs an echo and three lines. \`tryLine()\` was at 0.65 of the best by hand at -P 16. Three things
  changed that: its fast path became small enough to be compiled into the handler's loop, and gathered output leaves at the end of the
  loop's turn, not by \`process.nextTick\`. And short replies are stored as bytes when they are written, in memory that all writers share:
  joined as strings, to be flattened and encoded when they leave, each took 0.04 µs more. Tried, and no better: replies as Latin-1, not
  UTF-8; another decoder.`,
  udp: `the system calls are two thirds of a datagram. Datagrams are received and sent by their handle, past the look-up and the events of
  \`node:dgram\`, which gains 1 µs. Socklet's handler, its record and the hooks in CPython's order take about 1.5 µs, most of it for
  memory: 623 bytes a datagram, with \`wfile\` and its writer 1,104, bare Node 482. A reply gathers in memory that is used again: new memory for one
  of 1,200 bytes took 0.6 µs. Done: no queue where nobody waits, no closures on the way (1 µs less), no function contexts (it was 738 and
  1,412 bytes). Tried, and no better: one record for all datagrams whose handlers do not wait.`,
  connect: `a connection has a reader, a writer, a transport and a handler; bare Node's echo has all of them in one object. Without a
  \`net.Socket\`, with one timer for all, and with a close that sends no end if the peer has ended, the CPU is 1.05 times bare Node's
  (before, 1.6).`,
  tls: `nearly all of an echo is OpenSSL's work and the system call, which are bare Node's, too. Socklet reads and writes by Node's TLS handle, past
  the streams of the \`TLSSocket\`, and puts the records of large writes together, so that bulk wakes its handler once for 64 KiB. The handshake is
  a \`TLSSocket\`'s, as bare Node's is, of which the cryptography is three quarters; to that come a reader, a writer, three transports (before,
  in and after the handshake) and a handler. All handshakes of a listener share one timer, a close whose peer has ended waits for nothing, and the
  peer's address is asked for once.`,
  idle: `the objects of a connection, as above. It holds no buffers. Without a \`net.Socket\` and a timer of its own it is half of what it was;
  what few connections need is made when it is needed, so that the heap of an idle one, which was 2.6 KiB, is 2.2: a third of that are the promises
  and functions with which its handler waits.`,
  start: `it was 3.2 times. Node's modules, koffi and the control plane are loaded when they are needed, and the package is a few files. What
  is left is V8's reading of 505 KB: 13 of the 23 ms of CPU beyond bare Node's. Code that is not read at all, since an earlier start has compiled it
  (\`NODE_COMPILE_CACHE\`), gives 1.3 times bare Node's CPU. Shortened names and blank space gain 2 ms, but make the code unreadable in a debugger.`,
  bun: `of an echo 80 % is the kernel's. Of the 0.37 µs beyond a program by hand, 0.21 are a promise for each read and the handler's two turns.
  By \`node:net\` the CPU was 2.5 times that of one by hand. In bulk Bun makes new memory for each piece, in both programs, and collects for it: each
  collection also marks the objects of the package, which by hand are not there (a sixth of the CPU, by \`perf\`). Tried, and no better: reading on
  while a write waits for the kernel.`,
  deno: `a connection is read and written by the handle of Deno's \`node:net\`, which costs what \`Deno.listen()\` does; most of it is the
  system calls. \`recv()\` takes new memory for each large read, which Deno fills with zeros; the program by hand reads into one buffer. What
  is written Deno copies: in pieces of 64 KiB here, since each page of a larger copy was a fault (23 a MiB).`,
  download: `\`readAtLeast(1 MiB)\` waits for a whole MiB in one buffer; \`recv()\` must not wait, and its caller keeps the memory. Both are the
  platform's price, which the program by hand that keeps each piece pays, too: by hand a read that does not wait takes 1.15 times the CPU,
  one whose bytes are kept 1.5 times, and \`readAtLeast(1 MiB)\` itself 1.3 times where its bytes are kept. \`recvInto()\` copies out of one buffer,
  which costs no more than the read. Done: one buffer that grows to 1 MiB and lends out what was read; copies whose memory V8 does not fill
  with zeros first (0.96 of the CPU). Tried, and no better: buffers given away, not copied; reads of 256 KiB; litter that lets V8
  collect earlier, which helps in Node.`,
  workerdResp: `a chunk takes a promise, a line at a time, and with \`lines()\` a promise for each line. A read and a write at once are dear here: by hand,
  1.25 times the CPU of a program that waits for its write before it reads again. So a read here waits, too, for at most 16 KiB of
  output and at most 100 ms, since a peer that takes nothing must still be read: that took the CPU from 1.3 times the program by hand to 1.1, with \`lines()\`
  from 1.4 to 1.3. What a handler writes leaves also where it then waits for something other than its peer. That was a timer for each chunk of
  replies; now the transport follows the handler from microtask to microtask, and sets the timer only if output is still gathered after
  32 of them in which nothing was written.`,
  writing: `it is the writing half of the bulk echo: a system call for each piece, as bare Node makes it, and the promise of \`sendall()\`.`,
  reading: `it is the reading half of the bulk echo. The caller of \`recv()\` keeps its memory, so each read takes new memory; \`recvInto()\` takes none, and
  copies once.`,
  recorded: `a recorded message is two entries, one for each direction: its bytes are copied into the memory of the recorder, behind
  a header with the time and the place in the conversation. Beside an echo of 64 bytes, two system calls, that is what shows; the more
  bytes a message has, the less. Without a recording a connection has no tap.`,
} as const;

const sizeText = (bytes: number): string =>
  bytes >= 2 ** 20 ? `${bytes / 2 ** 20} MiB` : bytes >= 1024 ? `${bytes / 1024} KiB` : `${bytes} B`;

const least = (of: string, least: number, against = "bare"): Goal => ({ of, against, least });

const atMost = (of: string, most: number, figure?: GoalFigure): Goal => ({
  of,
  against: "bare",
  most,
  ...(figure && { figure }),
});

const connectionsText = (count: number): string => `${count} connection${count === 1 ? "" : "s"}`;

const echo = (connections: number, goal: number): BenchCase => ({
  name: `echo-64B-${connections}`,
  title: `TCP echo, 64 B, ${connectionsText(connections)}`,
  figure: "rate",
  unit: "message",
  load: { mode: "echo", connections, size: 64 },
  contenders: [bare("echo"), socklet("echo"), ...peers("echo")],
  goals: [least("socklet", goal)],
  bounds: connections < 100 ? BOUNDS.echo : BOUNDS.many,
});

const BULK_WINDOW = 2 ** 20; // bytes in flight where a case says nothing else

/** Bytes that are sent back, on each connection up to `window` at once; `goal` is what `recvInto()` must do. */
const bulk = (connections: number, goal: number, window = BULK_WINDOW): BenchCase => ({
  ...echo(connections, 1),
  name: `bulk-64KiB-${connections}${window === BULK_WINDOW ? "" : `-${sizeText(window).replace(" ", "")}`}`,
  title: `bulk echo, ${connectionsText(connections)}, ${sizeText(window)} in flight${connections === 1 ? "" : " on each"}`,
  unit: "MiB",
  load: { mode: "bulk", connections, size: 65_536, window },
  contenders: [
    bare("echo"),
    socklet("echo"),
    socklet("echo-into", "into", "Socklet, `recvInto()`"),
    ...(window === BULK_WINDOW ? peers("echo") : []),
  ],
  goals: [least("socklet", 1), least("into", goal)],
  bounds: BOUNDS.bulk,
  ...(window !== BULK_WINDOW && { full: true }),
});

const resp = (pipeline: number, goals: readonly Goal[]): BenchCase => ({
  name: `resp-P${pipeline}`,
  title: `RESP PING -P ${pipeline}`,
  figure: "rate",
  unit: "command",
  load: { mode: "ping", connections: 50, pipeline },
  contenders: [
    ...respOnNode,
    { name: "redis", kind: "peer", label: "redis-server", runtime: "redis", args: [] },
    ...peers("resp"),
  ],
  goals,
  bounds: BOUNDS.resp,
});

const half = (name: string, title: string, of: BenchCase): BenchCase => ({
  ...of,
  name,
  title,
  figure: "p50us",
  load: { ...of.load, rate: "half" } as Load,
  goals: [atMost("socklet", 1.05, "p50us"), atMost("socklet", 1.05, "p99us")],
});

/** Bytes in one direction, on one connection. */
const oneWay = (mode: "download" | "upload", title: string, ours: readonly Contender[]): BenchCase => ({
  name: mode,
  title: `${mode}: ${title}`,
  figure: "rate",
  unit: "MiB",
  load: { mode, size: 65_536 },
  contenders: [bare(mode), ...ours],
  goals: ours.map(({ name }) => least(name, 1)),
  bounds: mode === "download" ? BOUNDS.writing : BOUNDS.reading,
});

const udp = (size: number): BenchCase => ({
  name: `udp-${size}B-32`,
  title: `UDP, ${size.toLocaleString("en")} B, 32 sockets`,
  figure: "rate",
  unit: "datagram",
  load: { mode: "echo", connections: 32, size, udp: true },
  contenders: [
    bare("udp", "bare Node, a lookup that does nothing"),
    socklet("udp", "socklet", "Socklet, `request.reply()`"),
    socklet("udp-wfile", "wfile", "Socklet, `wfile`"),
    ...(size === 64 ? peers("udp") : []),
  ],
  goals: [least("socklet", 1), least("wfile", 0.95)],
  bounds: BOUNDS.udp,
});

/** An echo of an app, by what its control plane keeps of the connections. */
const recorded: BenchCase = {
  name: "recorded",
  title: "a recorded connection: echo of an app, 64 B, 50 connections",
  figure: "rate",
  unit: "message",
  load: { mode: "echo", connections: 50, size: 64 },
  contenders: (
    [
      ["bare", "bare", "plain", "Socklet, no control plane"],
      ["control", "socklet", "control", "Socklet, control plane on"],
      ["socklet", "socklet", "recorded", "Socklet, and what passes is recorded"],
    ] as const
  ).map(([name, kind, work, label]) => ({ name, kind, label, runtime: "node", args: ["app.ts", work] })),
  goals: [atMost("control", 1.1, "cpuUs"), atMost("socklet", 1.1, "cpuUs")],
  bounds: BOUNDS.recorded,
};

const connect: BenchCase = {
  ...echo(50, 1),
  name: "connect",
  bounds: BOUNDS.connect,
  title: "connections a second, a message each",
  unit: "connection",
  load: { mode: "connect", connections: 50, size: 64 },
};

/** The same by TLS, beside `node:tls`. */
const secured = (name: string, title: string, { load, ...of }: BenchCase, goal: number): BenchCase => ({
  ...of,
  name,
  title,
  load: { ...load, tls: true } as Load,
  contenders: [bare("tls-echo", "bare `node:tls`"), socklet("tls-echo")],
  goals: [least("socklet", goal)],
  bounds: BOUNDS.tls,
});

const BY_HAND = {
  "bun-tcp": "`Bun.listen()` by hand",
  "bun-udp": "`Bun.udpSocket()` by hand",
  "deno-tcp": "`Deno.listen()` by hand",
  "deno-udp": "`Deno.listenDatagram()` by hand",
} as const;

/** The same on another runtime, beside what one writes there by hand, and beside Node. */
const elsewhere = (
  runtime: "bun" | "deno",
  of: BenchCase,
  hand: "echo" | "resp" | "udp",
  work: string,
  goal: number,
  more: readonly Goal[] = [],
): BenchCase => ({
  ...of,
  name: `${runtime}-${of.name}`,
  title: `${runtime === "bun" ? "Bun" : "Deno"}: ${of.title}`,
  contenders: [
    {
      name: "hand",
      kind: "hand",
      label: BY_HAND[`${runtime}-${hand === "udp" ? "udp" : "tcp"}`],
      runtime,
      args: [`${runtime}.js`, hand],
    },
    { ...socklet(work), runtime },
    ...of.contenders.filter(({ name }) => name === "bare" || name === "gathered"),
  ],
  goals: [least("socklet", goal, "hand"), ...more],
  full: true,
  bounds: BOUNDS[runtime],
});

const growing = (
  plot: Plot,
  at: number,
  of: Pick<BenchCase, "title" | "unit" | "load" | "contenders" | "seconds" | "bounds">,
  goals: readonly Goal[] = [],
): BenchCase => ({
  ...of,
  name: `grows-${plot}-${at}`,
  figure: "rate",
  goals,
  ...(goals.length === 0 && { share: 0.5 }),
  series: { plot, at },
});

export const cases: readonly BenchCase[] = [
  echo(50, 1.1),
  echo(500, 1),
  ...[1, 10, 100, 1000, 5000, 10_000, 16_000].map((connections) =>
    growing(
      "connections",
      connections,
      {
        title: `TCP echo, 64 B, ${connectionsText(connections)}`,
        unit: "message",
        load: { mode: "echo", connections, size: 64 },
        contenders: [bare("echo"), socklet("echo")],
        bounds: connections < 100 ? BOUNDS.echo : BOUNDS.many,
        ...(connections > 10_000 && { seconds: 1 }),
      },
      connections === 1 || connections === 5000 ? [least("socklet", 1)] : [],
    ),
  ),
  bulk(1, 1.4),
  bulk(8, 1.4),
  ...[64, 256, 4096].flatMap((KiB) => [bulk(1, 1.4, KiB * 1024), bulk(8, 1.4, KiB * 1024)]),
  oneWay("download", "the server sends 64 KiB at a time", [
    socklet("download", "socklet", "Socklet, `sendall()`"),
  ]),
  oneWay("upload", "the server reads", [
    socklet("upload", "socklet", "Socklet, `recv()`"),
    socklet("upload-into", "into", "Socklet, `recvInto()`"),
  ]),
  resp(1, [least("await", 0.95), least("lines", 0.95), least("try", 0.95)]),
  resp(16, [least("await", 2.5), least("lines", 2.5), least("try", 0.95, "gathered")]),
  resp(64, [
    least("await", 4),
    least("lines", 4),
    least("try", 0.95, "gathered"),
    least("try", 1, "redis"), // ahead of it
  ]),
  udp(64),
  udp(1200),
  connect,
  secured("tls-echo-64B-50", "TLS echo, 64 B, 50 connections", echo(50, 1), 1),
  secured("tls-bulk-64KiB-8", "TLS bulk echo, 8 connections, 1 MiB in flight on each", bulk(8, 1.4), 1),
  { ...secured("tls-connect", "TLS connections a second, a message each", connect, 0.95), seconds: 0.5 },
  {
    ...echo(50, 0),
    name: "idle",
    bounds: BOUNDS.idle,
    title: "memory of an idle connection",
    figure: "idleKiB",
    unit: "connection",
    load: { mode: "idle", connections: 5000, size: 64 },
    goals: [atMost("socklet", 1.5)],
    share: 0.5,
  },
  {
    name: "start",
    bounds: BOUNDS.start,
    title: "start: import a server class, listen",
    figure: "startMs",
    unit: "start",
    load: { mode: "start" },
    contenders: [
      { ...bare("start"), args: ["start-bare.mjs"] },
      { ...socklet("start"), args: ["start-socklet.mjs"] },
      ...peers("echo"),
    ],
    goals: [atMost("socklet", 1.3)],
    share: 1.5,
  },

  {
    name: "workerd-bulk",
    title: "workerd, inbound: bulk echo, 64 KiB, 8 connections",
    figure: "rate",
    unit: "MiB",
    load: { mode: "bulk", connections: 8, size: 65_536, window: BULK_WINDOW },
    contenders: [
      workerd("bare", "bare", "echo-default", "bare workerd, the default reader"),
      workerd("byob", "hand", "echo-byob", "bare workerd, BYOB 64 KiB by hand"),
      workerd("pipe", "hand", "echo-pipe", "bare workerd, `pipeTo()`: no JavaScript"),
      onWorkerd("echo"),
    ],
    goals: [least("socklet", 5)],
  },
  {
    name: "workerd-resp-P16",
    title: "workerd, inbound: RESP PING -P 16",
    figure: "rate",
    unit: "command",
    load: { mode: "ping", connections: 50, pipeline: 16 },
    contenders: [
      workerd("bare", "bare", "resp-each", "bare workerd, a write a reply"),
      workerd("gathered", "hand", "resp-gathered", "bare workerd, BYOB and a write a chunk by hand"),
      onWorkerd("resp-lines", "lines", "Socklet, `lines()`"),
      onWorkerd("resp-try", "try", "Socklet, `tryLine() ?? await line()`"),
    ],
    bounds: BOUNDS.workerdResp,
    goals: [
      least("lines", 5),
      least("try", 5),
      least("lines", 0.9, "gathered"),
      least("try", 0.9, "gathered"),
    ],
  },
  {
    name: "workerd-download",
    bounds: BOUNDS.download,
    title: "workerd, outbound: download",
    figure: "rate",
    unit: "MiB",
    load: { mode: "source" },
    contenders: [
      workerd("atleast", "hand", "download-atleast", "bare workerd, `readAtLeast(1 MiB)` by hand"),
      workerd("byob", "hand", "download-byob", "bare workerd, BYOB 256 KiB by hand"),
      workerd("kept", "hand", "download-kept", "bare workerd, BYOB 1 MiB by hand, each piece kept"),
      workerd("bare", "bare", "download-default", "bare workerd, the default reader"),
      onWorkerd("download", "socklet", "Socklet, `recv()`"),
      onWorkerd("download-into", "into", "Socklet, `recvInto()`"),
    ],
    goals: [
      { ...least("socklet", 0.95, "atleast"), cpu: 1.2 },
      least("socklet", 0.9, "byob"),
      least("socklet", 0.95, "kept"),
      { ...least("into", 0.95, "atleast"), cpu: 1.2 },
      least("into", 0.9, "byob"),
    ],
  },

  ...(["bun", "deno"] as const).flatMap((runtime) => [
    elsewhere(runtime, echo(50, 1), "echo", "echo", 0.95, runtime === "bun" ? [least("socklet", 1.5)] : []),
    elsewhere(runtime, bulk(8, 1.4), "echo", "echo", 1),
    elsewhere(runtime, resp(16, []), "resp", "resp-try", 0.95),
  ]),
  elsewhere("bun", udp(64), "udp", "udp", 0.95),

  half("latency-tcp", "TCP echo, 64 B, 50 connections, at half of what bare Node does", echo(50, 1)),
  half("latency-udp", "UDP, 64 B, 32 sockets, at half of what bare Node does", {
    ...udp(64),
    contenders: udp(64).contenders.filter(({ kind }) => kind !== "peer"),
  }),
  recorded,

  ...[20, 1000, 10_000, 100_000].map((peers) =>
    growing("peers", peers, {
      title: `UDP, 64 B, ${peers} peers`,
      unit: "datagram",
      load: { mode: "echo", connections: 20, size: 64, udp: true, peers },
      contenders: udp(64).contenders.filter(({ name }) => name === "bare" || name === "socklet"),
      ...(peers > 10_000 && { seconds: 2 }),
    }),
  ),
  ...[10, 100, 1024, 32_768, 2 ** 20, 2 ** 24].map((size) =>
    growing("lines", size, {
      title: `lines of ${sizeText(size)}`,
      unit: "line",
      load: {
        mode: "lines",
        connections: 8,
        size,
        pipeline: Math.min(1000, Math.max(1, Math.floor(65_536 / size))),
      },
      contenders: [
        bare("lines", "bare Node, the best by hand"),
        socklet("lines", "socklet", "Socklet, `lines()`"),
      ],
      ...(size > 2 ** 20 && { seconds: 2 }),
    }),
  ),
  // With 10,000 at once, half a million commands from 50 connections would take bare Node 5 seconds a turn.
  ...[1, 10, 100, 1000, 10_000].map((pipeline) =>
    growing("pipeline", pipeline, {
      title: `RESP PING, ${pipeline} at once${pipeline > 1000 ? ", 5 connections" : ""}`,
      unit: "command",
      load: { mode: "ping", connections: pipeline > 1000 ? 5 : 50, pipeline },
      contenders: respOnNode.filter(({ name }) => name !== "await"),
      ...(pipeline > 1000 && { seconds: 2 }),
    }),
  ),
];

/** How often `contender` takes part when a case has `rounds`: a peer in every second, where that leaves six or more. */
export const takesPart = ({ kind }: Contender, round: number, rounds: number): boolean =>
  kind !== "peer" || rounds < 12 || round % 2 === 0;

/** How many rounds a case gets of `rounds`. */
export const roundsOf = ({ share = 1 }: BenchCase, rounds: number): number =>
  Math.max(1, Math.round(rounds * share));

/** How long one run of a case is, in seconds, where others have `seconds`. */
export const secondsOf = ({ seconds: least = 0 }: BenchCase, seconds: number): number =>
  Math.max(seconds, least);
