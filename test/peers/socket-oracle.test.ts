// The socket module compared with CPython: the same calls, made by both, must have the same bytes, errors and
// readiness. If ours differs by design the table says so, with the reason; a difference that no longer exists is reported.

import {
  IP_TOS,
  IP_TTL,
  IPPROTO_IPV6,
  IPV6_V6ONLY,
  MSG_DONTWAIT,
  MSG_OOB,
  MSG_PEEK,
  MSG_WAITALL,
  POLLHUP,
  POLLIN,
  POLLOUT,
  POLLPRI,
  SO_ACCEPTCONN,
  SO_BROADCAST,
  SO_DOMAIN,
  SO_DONTROUTE,
  SO_ERROR,
  SO_KEEPALIVE,
  SO_LINGER,
  SO_OOBINLINE,
  SO_PRIORITY,
  SO_PROTOCOL,
  SO_RCVBUF,
  SO_RCVLOWAT,
  SO_RCVTIMEO,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SO_SNDBUF,
  SO_TYPE,
  SOL_IP,
  SOL_SOCKET,
  SOL_TCP,
  TCP_CONGESTION,
  TCP_CORK,
  TCP_DEFER_ACCEPT,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_LINGER2,
  TCP_MAXSEG,
  TCP_NODELAY,
  TCP_QUICKACK,
  TCP_SYNCNT,
  TCP_USER_TIMEOUT,
} from "socklet";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fc } from "../conformance/properties.ts";
import { describeWith } from "./program.ts";
import { Across, CPython, Ours, trace } from "./socket-script.ts";

/** What ours answers instead to one call (`b.send("x") 2`: to its second): a code, or a value; why; and where, if not in both. */
type Difference = readonly [call: string, ours: unknown, why: string, where?: "native" | "off"];

/** A listener `a`; with `b`, that is connected; with `c`, the same connection's other end. */
const LISTENING = 'a=tcp; a.bind("127.0.0.1:0"); a.listen();';
const CONNECTED = `${LISTENING} b=tcp; b.connect("@a"); c=a.accept();`;
const REFUSED = 'a=tcp; a.setblocking(false); a.connect("#tcp"); select(["a"],["a"],[],1000);';
const UNIX = 'a=unix; a.bind("$/a"); a.listen(); b=unix; b.connect("$/a");';

const ARGUMENT = "a wrong argument is no SocketError";
const METHOD = "what is of no use to this kind of socket is no method of it";
const NO_DESCRIPTOR = "without koffi there is no descriptor before bind()";
const KOFFI = "Node has no word for it";
const LINGER = "close() lingers, so that no reset overtakes its last bytes";
const BROKEN = "a connection that was reset stays so";
const KNOWN = "the address of a connection that was is still told";
const FLAG = "a flag that means nothing is refused by name";
const PENDING = "what became of connect() is told by getsockopt() and connect() alone";
const LATER = "Node's event loop connects, also where the kernel would answer at once";

const CASES: readonly (readonly [script: string, ...differences: Difference[]])[] = [
  // Of one socket.
  ["a=tcp; a.accept()"],
  ['a=tcp; a.bind("127.0.0.1:0"); a.accept()'],
  ["a=tcp; a.setblocking(false); a.accept()"],
  ["a=tcp; a.listen(); a.getsockname(); a.getpeername(); a.setblocking(false); a.accept()"],
  [
    "a=tcp; a.getsockname(); a.getpeername(); a.fileno()",
    ["a.fileno()", "ERR_UNSUPPORTED", NO_DESCRIPTOR, "off"],
  ],
  ['a=tcp; a.bind("127.0.0.1:0"); a.getsockname(); a.bind("127.0.0.1:0"); a.getpeername(); a.bind("@a")'],
  [`${LISTENING} a.bind("127.0.0.1:0"); a.listen(); a.listen(5)`],
  [`${LISTENING} a.connect("@a"); a.send("x"); a.recv(1); a.recvfrom(1); a.recv(1,${MSG_PEEK})`],
  [`${LISTENING} a.shutdown(1); b=tcp; b.connect("@a"); c=a.accept()`],
  [`${LISTENING} a.shutdown(0); a.accept()`],
  [`a=tcp; a.send("x"); a.sendall("x"); a.recv(1); a.recv(1,${MSG_PEEK}); a.recv_into(1); a.recvfrom(1)`],
  ['a=tcp; a.send(""); a.recv(0)'],
  [
    "a=tcp; a.shutdown(0); a.shutdown(1); a.shutdown(2); a.shutdown(3)",
    ["a.shutdown(3)", "RangeError", ARGUMENT],
  ],
  [
    'a=tcp; a.bind("127.0.0.1:0"); a.shutdown(2); a.send("x"); a.recv(1)',
    ["a.recv(1)", "ENOTCONN", "a shutdown() that was refused has no effect"],
  ],
  ['a=tcp; a.connect("#tcp"); a.getpeername(); a.recv(1)'],
  [`a=tcp; a.connect_ex("#tcp"); a.connect_ex("#tcp"); a.getsockopt(1,${SO_ERROR})`],
  [
    `a=tcp; a.close(); a.recv(1); a.send("x"); a.getsockname(); a.getpeername(); a.bind("127.0.0.1:0"); a.listen();
     a.accept(); a.connect("#tcp"); a.connect_ex("#tcp"); a.shutdown(0); a.fileno(); a.getsockopt(1,3);
     a.setsockopt(1,2,1); a.close(); a.gettimeout(); a.settimeout(5)`,
    ["a.settimeout(5)", null, "a time-out is this object's own, and none of the kernel's"],
  ],
  [`${LISTENING} b=tcp; b.bind("@a")`],
  [
    'a=tcp; a.bind("127.0.0.1:0"); b=tcp; b.bind("@a"); a.listen(); b.listen()',
    ['b.bind("@a")', null, "SO_REUSEADDR is set: who listens first has the port"],
    ["b.listen()", "EADDRINUSE", "the same: CPython's second one is not bound, and gets a port of its own"],
  ],
  ['a=tcp; a.bind("192.0.2.1:0"); a.getsockname(); a.bind("127.0.0.1:0")'],
  ['a=tcp; a.bind("name.invalid:0"); a.connect("name.invalid:80"); a.bind("127.0.0.1:70000")'],
  ['a=tcp; a.bind("127.0.0.1:0"); a.getsockname(); a.connect("#tcp"); a.getsockname()'],
  ['a=tcp; a.bind("[::1]:0"); a.connect("[::1]:80"); b=udp; b.bind("[::1]:0"); b.sendto("x","[::1]:9")'],
  [
    `${LISTENING} a.settimeout(10); a.accept(); a.gettimeout(); a.getblocking(); a.settimeout(null); a.getblocking();
     a.settimeout(0); a.getblocking(); a.settimeout(-1); a.recv(-1)`,
  ],
  ["a=tcp; a.listen(-1)", ["a.listen(-1)", "RangeError", ARGUMENT]],

  // Of a connection.
  [
    `${LISTENING} b=tcp; b.connect("@a"); b.connect("@a"); b.connect_ex("@a"); b.listen(); b.bind("127.0.0.1:0"); b.accept()`,
  ],
  [`${CONNECTED} c.connect("@a"); c.listen(); c.bind("127.0.0.1:0"); c.accept()`],
  [
    `${CONNECTED} c.getsockname(); c.getpeername(); b.getsockname(); b.getpeername(); a.getsockname(); a.getpeername()`,
  ],
  [`${LISTENING} b=tcp; b.bind("127.0.0.1:0"); b.connect("@a"); b.getsockname(); c=a.accept()`],
  [`${CONNECTED} b.sendto("hi","127.0.0.1:9"); c.recv_into(4); c.send("ho"); b.recvfrom(9)`],
  ['a=tcp; a.sendto("hi","127.0.0.1:9")'],
  [
    `${CONNECTED} b.shutdown(1); b.send("x"); c.recv(9); c.recv(9); c.send("y"); b.recv(9); c.shutdown(2); b.recv(9);
     c.recv(1); c.send("z"); b.shutdown(0); b.getpeername(); c.getpeername()`,
    ["b.shutdown(0)", null, KNOWN],
    ["b.getpeername()", { at: "127.0.0.1 port 2" }, KNOWN],
    ["c.getpeername()", { at: "127.0.0.1 port 1" }, KNOWN],
  ],
  [`${CONNECTED} b.shutdown(0); b.recv(9); c.send("late"); b.recv(9); b.recv(9)`],
  [`${CONNECTED} c.send("queued"); b.shutdown(0); b.recv(9); b.recv(9)`],
  [`${CONNECTED} c.send("queued"); b.recv(1); b.shutdown(0); b.recv(9); b.recv(9)`],
  [
    `${CONNECTED} b.setblocking(false); b.recv(9); b.recv(9,${MSG_PEEK}); c.send("hello"); select(["b"],[],[],1000);
     b.recv(3,${MSG_PEEK}); b.recv(2); b.recv(9); b.recv(9)`,
  ],
  [
    `${CONNECTED} b.settimeout(20); b.recv(9); b.recv(9,${MSG_WAITALL}); c.send("ab"); b.recv(1,${MSG_DONTWAIT}); b.recv(9,${MSG_WAITALL}); b.recv(9)`,
    [`b.recv(9,${MSG_WAITALL}) 2`, "ETIMEDOUT", "MSG_WAITALL means all, also with a time-out"],
    ["b.recv(9) 2", { bytes: "b" }, "the same: nothing was taken"],
  ],
  [
    `${LISTENING} b=tcp; b.setblocking(false); b.connect("@a"); select([],["b"],[],1000); b.getsockopt(1,${SO_ERROR});
     b.connect_ex("@a"); b.connect_ex("@a"); b.getpeername()`,
  ],
  [`${REFUSED} a.getsockopt(1,${SO_ERROR}); a.getsockopt(1,${SO_ERROR})`],
  [`${REFUSED} a.connect_ex("#tcp"); a.recv(1)`],
  [`${REFUSED} a.recv(1)`, ["a.recv(1)", "ENOTCONN", PENDING]],
  [`${REFUSED} a.send("x"); a.send("x")`, ['a.send("x")', "EPIPE", PENDING]],
  [
    `${CONNECTED} c.reset(); b.recv(9); b.recv(9); b.send("x"); b.getpeername()`,
    ["b.recv(9) 2", "ECONNRESET", BROKEN],
    ['b.send("x")', "ECONNRESET", BROKEN],
    ["b.getpeername()", { at: "127.0.0.1 port 2" }, KNOWN],
  ],
  [
    `${CONNECTED} b.send("unread"); select(["c"],[],[],1000); c.close(); b.recv(9)`,
    ["b.recv(9)", { bytes: "" }, LINGER],
  ],
  [`${CONNECTED} c.send("last"); select(["b"],[],[],1000); c.reset(); b.recv(9); b.recv(9)`],
  [`${CONNECTED} b.close(); c.recv(9); c.send("x")`],
  [`${LISTENING} b=tcp; b.connect("@a"); b.send("early"); b.close(); c=a.accept(); c.recv(9); c.recv(9)`],
  [`${LISTENING} b=tcp; b.connect("@a"); a.close(); b.recv(9)`],
  [`${CONNECTED} a.close(); b.send("x"); c.recv(9)`],
  [`${CONNECTED} b.recv(0); b.recv(0,${MSG_PEEK}); b.recv_into(0); b.send(""); c.settimeout(10); c.recv(1)`],
  [
    `${CONNECTED} b.recv(1,${MSG_OOB}); c.send("x"); b.recv(1,${MSG_OOB}); b.recv(1)`,
    [`b.recv(1,${MSG_OOB})`, "ERR_UNSUPPORTED", KOFFI, "off"],
    [`b.recv(1,${MSG_OOB}) 2`, "ERR_UNSUPPORTED", KOFFI, "off"],
  ],

  // Datagrams.
  [
    'a=udp; a.getsockname(); a.getpeername(); a.send("x"); a.shutdown(2); a.fileno()',
    ["a.fileno()", "ERR_UNSUPPORTED", NO_DESCRIPTOR, "off"],
  ],
  ["a=udp; a.listen(); a.accept()", ["a.listen()", "TypeError", METHOD], ["a.accept()", "TypeError", METHOD]],
  ['a=udp; a.bind("127.0.0.1:0"); a.bind("127.0.0.1:0"); a.bind("@a")'],
  ['a=udp; a.bind("127.0.0.1:0"); b=udp; b.bind("@a"); b.bind("127.0.0.1:0")'],
  [
    `a=udp; a.bind("192.0.2.1:0"); a.bind("name.invalid:0"); a.bind("127.0.0.1:70000"); a.sendto("x","name.invalid:9");
     a.connect("name.invalid:9"); a.connect_ex("127.0.0.1:9")`,
  ],
  [
    'a=udp; a.bind("127.0.0.1:0"); b=udp; b.sendto(65507,"@a"); b.sendto(65508,"@a"); a.recv_into(5); b.getpeername()',
  ],
  [
    `a=udp; a.bind("127.0.0.1:0"); b=udp; b.bind("127.0.0.1:0"); b.sendto("one","@a"); b.sendto("","@a"); b.sendto("three","@a");
     a.recvfrom(2); a.recvfrom(9); a.recvfrom(9,${MSG_PEEK}); a.recvfrom(9); a.recvfrom(9,${MSG_DONTWAIT})`,
  ],
  [
    `a=udp; a.bind("127.0.0.1:0"); c=udp; c.bind("127.0.0.1:0"); c.settimeout(30); b=udp; b.connect("@a"); b.getpeername();
     b.send("to a"); b.sendto("to c","@c"); a.recv(9); c.recv(9); b.getpeername(); b.connect("@c"); b.send("c2"); c.recv(9)`,
    ['b.sendto("to c","@c")', "ERR_UNSUPPORTED", "a connected dgram.Socket sends to its peer alone", "off"],
    ["c.recv(9)", "ETIMEDOUT", "the same", "off"],
  ],
  [
    `a=udp; a.bind("127.0.0.1:0"); b=udp; b.bind("127.0.0.1:0"); c=udp; c.bind("127.0.0.1:0"); b.connect("@a");
     c.sendto("stranger","@b"); a.sendto("peer","@b"); b.recvfrom(20)`,
  ],
  ['a=udp; a.connect("#udp"); a.send("x"); select(["a"],[],[],1000); a.recv(9); a.settimeout(10); a.recv(9)'],
  [
    `a=udp; a.connect("#udp"); a.send("x"); select(["a"],[],[],1000); a.send("y"); a.send("z"); select(["a"],[],[],1000);
     a.recv(9); a.settimeout(10); a.recv(9)`,
  ],
  ['a=udp; a.connect("#udp"); a.send("x"); a.recv(9)'],
  ['a=udp; a.sendto("x","#udp"); a.settimeout(30); a.recv(9)'],
  [
    `a=udp; a.bind("127.0.0.1:0"); a.setblocking(false); a.recv(9); a.recvfrom(9); a.recv_into(9); a.settimeout(10); a.recv(9);
     a.gettimeout(); a.recvfrom(-1)`,
  ],
  [
    `a=udp; a.bind("127.0.0.1:0"); a.connect("@a"); a.send("self"); a.recv(9); a.shutdown(1); a.send("x"); a.shutdown(0);
     a.recv(9); a.getpeername()`,
  ],
  ['a=udp; a.connect("127.0.0.1:9"); a.shutdown(0); a.recv(9)'],
  [
    `a=udp; a.close(); a.recv(9); a.send("x"); a.sendto("x","127.0.0.1:9"); a.bind("127.0.0.1:0"); a.connect("127.0.0.1:9");
     a.getsockname(); a.getpeername(); a.shutdown(0); a.fileno(); a.getsockopt(1,3); a.close()`,
  ],
  ['a=udp; a.sendto("x","127.0.0.1:0")', ['a.sendto("x","127.0.0.1:0")', "RangeError", ARGUMENT, "off"]],
  [
    `a=udp; a.bind("127.0.0.1:0"); a.sendto("x",${MSG_OOB},"@a")`,
    [`a.sendto("x",${MSG_OOB},"@a")`, "ERR_UNSUPPORTED", FLAG],
  ],
  ['a=udp6; a.bind("[::1]:0"); b=udp6; b.sendto("six","@a"); a.recv(9); b.sendto("x","127.0.0.1:9")'],
  [
    'a=tcp6; a.bind("[::1]:0"); a.listen(); a.getsockname(); b=tcp6; b.connect("@a"); c=a.accept(); c.getpeername(); d=tcp6; d.getsockname()',
  ],
  ['a=tcp6; a.bind("127.0.0.1:0"); a.connect("127.0.0.1:1")'],

  // Paths.
  ['a=unix; a.getsockname(); a.getpeername(); a.accept(); a.listen(); a.sendto("x","$/none")'],
  ['a=unix; a.send("x"); a.recv(1); a.shutdown(2)'],
  [
    `a=unix; a.bind("$/a"); a.getsockname(); a.bind("$/b"); a.listen(); b=unix; b.bind("$/a"); b.connect("$/a");
     b.getpeername(); b.getsockname(); c=a.accept(); c.getsockname(); c.getpeername(); b.connect("$/a");
     b.sendto("x","$/a"); b.send("hi"); c.recv(9)`,
  ],
  [
    'a=unix; a.connect("$/none"); a.connect_ex("$/none"); touch("$/plain"); a.connect("$/plain"); a.connect_ex("$/plain"); a.bind("$/plain")',
  ],
  ['a=unix; a.bind("$/deep/er")'],
  ['a=unix; a.bind("$/deaf"); b=unix; b.connect("$/deaf"); a.connect("$/deaf")'],
  [
    'a=unix; a.bind("$/left"); a.listen(); a.close(); b=unix; b.connect("$/left"); b.bind("$/left")',
    ['b.connect("$/left")', "ENOENT", "Node removes the path of a listener that closes", "off"],
    ['b.bind("$/left")', null, "the same", "off"],
  ],
  [
    'a=unix; a.bind("$/a"); a.listen(); b=unix; b.bind("$/b"); b.connect("$/a"); c=a.accept(); b.getsockname(); c.getpeername(); c.getsockname()',
    ['a.accept("c")', null, "Node does not tell a peer's path", "off"],
    ["c.getpeername()", null, "the same", "off"],
  ],
  [`${UNIX} a.close(); b.recv(9)`, ["b.recv(9)", { bytes: "" }, "Node has no reset for a Unix socket"]],
  [
    `${UNIX} c=a.accept(); b.send("unread"); select(["c"],[],[],1000); c.close(); b.recv(9); b.send("x")`,
    ["b.recv(9)", { bytes: "" }, LINGER],
    ['b.send("x")', 1, LINGER],
  ],
  [
    'a=unix; a.bind("$/a"); a.listen(); b=unix; b.setblocking(false); b.connect("$/a"); select([],["b"],[],1000); b.getpeername()',
    ['b.connect("$/a")', "EINPROGRESS", LATER],
  ],
  ['a=unix; a.setblocking(false); a.connect("$/none")', ['a.connect("$/none")', "EINPROGRESS", LATER]],
];

/** Only with koffi: without it these calls do not exist. */
const UNIX_DATAGRAMS: readonly (readonly [script: string, ...differences: Difference[]])[] = [
  ['a=unixgram; a.getsockname(); a.getpeername(); a.send("x"); a.fileno()'],
  ['a=unixgram; a.bind("$/a"); a.shutdown(2); a.send("x"); a.sendto("x","$/a"); a.recv(9); a.poll(5,0)'],
  [
    `a=unixgram; a.bind("$/a"); a.getsockname(); a.bind("$/b"); b=unixgram; b.bind("$/a"); b.bind("$/deep/er"); b.sendto("hi","$/a");
     a.recvfrom(9); b.bind("$/b"); b.sendto("named","$/a"); a.recvfrom(9); a.sendto("back","$/b"); b.recv(9)`,
  ],
  [
    `a=unixgram; a.connect("$/none"); a.connect_ex("$/none"); a.sendto("x","$/none"); touch("$/plain"); a.connect("$/plain");
     a.sendto("x","$/plain"); a.bind("$/plain")`,
  ],
  [
    `a=unixgram; a.bind("$/a"); b=unixgram; b.connect("$/a"); b.getpeername(); b.send("x"); b.sendall("y"); b.sendto("z","$/a");
     a.recv(9,${MSG_PEEK}); a.recv(9); a.recv_into(9); a.recvfrom(1); a.setblocking(false); a.recv(9); a.close(); b.send("x")`,
  ],
  [
    `a=unixgram; a.bind("$/a"); b=unixgram; b.bind("$/b"); a.connect("$/b"); c=unixgram; c.sendto("stranger","$/a"); c.connect("$/a");
     b.sendto("peer","$/a"); a.recvfrom(9)`,
  ],
  [
    `a=unixgram; a.bind("$/a"); a.connect("$/a"); a.shutdown(1); a.send("x"); a.shutdown(0); a.recv(9); a.getpeername(); a.poll(1,0)`,
  ],
  ['a=unix; a.bind("$/s"); a.listen(); b=unixgram; b.connect("$/s"); b.sendto("x","$/s")'],
  [
    'a=unixgram; a.bind("$/d"); b=unix; b.connect("$/d"); b.connect_ex("$/d"); a.bind("$/d/x"); c=unixgram; c.bind("$/d/x")',
  ],
  [
    'a=unixgram; a.bind("$/a"); a.close(); b=unixgram; b.sendto("x","$/a"); b.connect("$/a"); b.bind("$/a"); a.send("x")',
  ],
];

const READY: readonly (readonly [script: string, ...differences: Difference[]])[] = [
  ['a=tcp; a.poll(5,0); select(["a"],["a"],[],0)'],
  [
    `${LISTENING} select(["a"],["a"],[],0); a.poll(5,0); b=tcp; b.connect("@a"); select(["a"],["a"],[],1000); a.poll(5,0); c=a.accept(); select(["a"],[],[],0)`,
  ],
  [
    `${CONNECTED} select(["b","c"],["b","c"],[],0); b.poll(1,0); b.send("x"); select(["c","b"],[],[],1000); c.poll(5,0); c.recv(9); select(["c"],[],[],5)`,
  ],
  [`${CONNECTED} c.close(); select(["b"],["b"],[],1000); b.poll(1,1000); b.poll(5,0)`],
  [
    `${CONNECTED} c.shutdown(1); select(["b"],["b"],[],1000); b.poll(5,1000); select(["c"],["c"],[],0); c.poll(5,0)`,
  ],
  [
    `${CONNECTED} b.shutdown(1); b.poll(5,0); select(["b"],["b"],[],0); c.shutdown(1); select(["b"],["b"],[],1000); b.poll(5,1000)`,
  ],
  [`${CONNECTED} b.shutdown(0); b.poll(5,0); select(["b"],["b"],[],0)`],
  [`${CONNECTED} c.reset(); b.poll(1,1000); b.recv(1)`],
  [
    `${REFUSED} a.poll(5,0); a.getsockopt(1,${SO_ERROR}); a.poll(5,0)`,
    [
      "a.poll(5,0) 2",
      [POLLOUT | POLLHUP],
      "after a connect() that failed it is as one that nobody connected",
    ],
  ],
  [
    'a=udp; a.poll(5,0); select(["a"],["a"],[],0); a.bind("127.0.0.1:0"); a.poll(5,0); b=udp; b.sendto("x","@a"); a.poll(1,1000); a.recv(9); a.poll(1,5)',
  ],
  ['a=udp; a.connect("#udp"); a.send("x"); a.poll(5,1000); select(["a"],["a"],[],1000)'],
  [
    'a=udp; a.connect("127.0.0.1:9"); a.shutdown(0); a.poll(1,0); a.shutdown(1); a.poll(5,0); select(["a"],["a"],[],0)',
  ],
  [
    'a=tcp; b=tcp; b.close(); select(["a"],["b"],[],0)',
    ['.select(["a"],["b"],[],0)', "EBADF", "what select(2) says; CPython's own check says ValueError"],
  ],
];

const answerOf = (ours: unknown): string => JSON.stringify(typeof ours === "string" ? { error: ours } : ours);

/** CPython's trace with the differences applied. Throws if one of them is no difference. */
const expected = (right: readonly string[], differences: readonly Difference[]): string[] => {
  const left = new Map(differences.map(([call, ours]) => [call, answerOf(ours)]));
  const seen = new Map<string, number>();
  const lines = right.map((line) => {
    const call = line.slice(0, line.indexOf(": "));
    const count = (seen.get(call) ?? 0) + 1;
    seen.set(call, count);
    const key = count === 1 ? call : `${call} ${count}`;
    const ours = left.get(key);
    if (ours === undefined) return line;
    left.delete(key);
    if (line === `${call}: ${ours}`) throw new Error(`no difference: ${line}`);
    return `${call}: ${ours}`;
  });
  if (left.size > 0) throw new Error(`no such call: ${[...left.keys()]}`);
  return lines;
};

const PLACES = [
  ["with koffi", "native"],
  ["without", "off"],
] as const;

/** Runs `body` with the optional packages, or without. */
const inPlace = (place: "native" | "off"): void => {
  const before = process.env.SOCKLET_NATIVE;
  beforeAll(() => {
    process.env.SOCKLET_NATIVE = place === "off" ? "off" : "";
  });
  afterAll(() => {
    if (before === undefined) delete process.env.SOCKLET_NATIVE;
    else process.env.SOCKLET_NATIVE = before;
  });
};

describeWith(["python3"], "the same calls in CPython and in ours", () => {
  let python: CPython;
  beforeAll(() => {
    python = new CPython();
  });
  afterAll(() => python[Symbol.asyncDispose]());

  describe.each(PLACES)("%s", (_, place) => {
    inPlace(place);

    const here = place === "native" ? [...CASES, ...READY, ...UNIX_DATAGRAMS] : [...CASES, ...READY];
    test.each(here.map(([script, ...differences]) => ({ script, differences })))(
      "$script",
      async ({ script, differences }) => {
        await using ours = new Ours();
        const right = await trace(python, script);
        const ownHere = differences.filter(([, , , where]) => where === undefined || where === place);
        expect(await trace(ours, script)).toEqual(expected(right, ownHere));
      },
    );
  });

  describe("options, with koffi", () => {
    inPlace("native");

    const INTEGERS: readonly (readonly [level: number, name: number])[] = [
      ...[
        SO_ACCEPTCONN,
        SO_BROADCAST,
        SO_DOMAIN,
        SO_DONTROUTE,
        SO_ERROR,
        SO_KEEPALIVE,
        SO_OOBINLINE,
        SO_PRIORITY,
      ],
      ...[SO_PROTOCOL, SO_RCVLOWAT, SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF, SO_RCVBUF, SO_TYPE],
    ].map((name) => [SOL_SOCKET, name] as const);
    const TCP = [
      TCP_NODELAY,
      TCP_MAXSEG,
      TCP_CORK,
      TCP_KEEPIDLE,
      TCP_KEEPINTVL,
      TCP_KEEPCNT,
      TCP_SYNCNT,
      TCP_LINGER2,
    ];
    const MORE = [TCP_DEFER_ACCEPT, TCP_USER_TIMEOUT, 9999];
    const ALL = [
      ...INTEGERS,
      [SOL_IP, IP_TTL],
      [SOL_IP, IP_TOS],
      ...[...TCP, ...MORE].map((name) => [SOL_TCP, name]),
    ];
    const read = (name: string): string =>
      [
        ...ALL.map(([level, option]) => `${name}.getsockopt(${level},${option})`),
        `${name}.getsockopt(${SOL_SOCKET},${SO_LINGER},8)`,
        `${name}.getsockopt(${SOL_SOCKET},${SO_RCVTIMEO},16)`,
        `${name}.getsockopt(${SOL_TCP},${TCP_CONGESTION},16)`,
        `${name}.getsockopt(${IPPROTO_IPV6},${IPV6_V6ONLY})`,
      ].join("; ");
    // The options that Node sets by itself (SO_REUSEADDR at bind(), TCP_NODELAY when connected) are set here in both.
    const AS_NODE = `a=tcp; a.setsockopt(${SOL_SOCKET},${SO_REUSEADDR},1); a.setsockopt(${SOL_TCP},${TCP_NODELAY},1);`;
    const OPEN = `${AS_NODE} a.bind("127.0.0.1:0"); a.listen();
      b=tcp; b.setsockopt(${SOL_TCP},${TCP_NODELAY},1); b.connect("@a"); c=a.accept();`;
    const write = (name: string): string =>
      [
        `${name}.setsockopt(${SOL_SOCKET},${SO_KEEPALIVE},1)`,
        `${name}.setsockopt(${SOL_SOCKET},${SO_SNDBUF},65535)`,
        `${name}.setsockopt(${SOL_SOCKET},${SO_RCVBUF},10000)`,
        `${name}.setsockopt(${SOL_SOCKET},${SO_LINGER},"\\u0001\\u0000\\u0000\\u0000\\u0005\\u0000\\u0000\\u0000")`,
        `${name}.setsockopt(${SOL_SOCKET},${SO_LINGER},1)`,
        `${name}.setsockopt(${SOL_TCP},${TCP_KEEPIDLE},77)`,
        `${name}.setsockopt(${SOL_TCP},${TCP_KEEPIDLE},0)`,
        `${name}.setsockopt(${SOL_TCP},${TCP_QUICKACK},0)`,
        `${name}.setsockopt(${SOL_IP},${IP_TTL},32)`,
        `${name}.setsockopt(${SOL_IP},${IP_TTL},256)`,
        `${name}.setsockopt(${SOL_TCP},9999,1)`,
        `${name}.setsockopt(${SOL_SOCKET},${SO_ERROR},1)`,
        `${name}.setsockopt(${SOL_TCP},${TCP_CONGESTION},"reno")`,
      ].join("; ");

    test.each([
      ["fresh, TCP", `a=tcp; ${read("a")}; ${write("a")}; ${read("a")}`],
      ["bound", `${AS_NODE} a.bind("127.0.0.1:0"); ${read("a")}`],
      [
        "listening",
        `${AS_NODE} a.bind("127.0.0.1:0"); a.listen(); ${read("a")}; ${write("a")}; ${read("a")}`,
      ],
      ["connected", `${OPEN} ${read("b")}; ${write("b")}; ${read("b")}`],
      ["accepted", `${OPEN} ${read("c")}; ${write("c")}; ${read("c")}`],
      [
        "UDP, fresh and bound",
        `a=udp; ${read("a")}; a.bind("127.0.0.1:0"); ${read("a")}; ${write("a")}; ${read("a")}`,
      ],
      ["IPv6", `a=tcp6; ${read("a")}; b=udp6; ${read("b")}`],
      ["Unix", `${UNIX} c=a.accept(); ${read("a")}; ${read("b")}; ${read("c")}`],
    ])("%s: each value, and each refusal", async (_, script) => {
      await using ours = new Ours();
      expect(await trace(ours, script)).toEqual(await trace(python, script));
    });
  });
});

// ---- Between two processes ----

/** A connection of `near`'s and `far`'s, which dials or listens. */
const MEET = {
  "TCP, we dial":
    'far=tcp; far.bind("127.0.0.1:0"); far.listen(); near1=tcp; near1.connect("@far"); far1=far.accept();',
  "TCP, we listen":
    'near=tcp; near.bind("127.0.0.1:0"); near.listen(); far1=tcp; far1.connect("@near"); near1=near.accept();',
  "Unix, we dial":
    'far=unix; far.bind("$/s"); far.listen(); near1=unix; near1.connect("$/s"); far1=far.accept();',
  "Unix, we listen":
    'near=unix; near.bind("$/s"); near.listen(); far1=unix; far1.connect("$/s"); near1=near.accept();',
} as const;

const DATAGRAMS = {
  UDP: 'near=udp; near.bind("127.0.0.1:0"); far=udp; far.bind("127.0.0.1:0");',
  "Unix datagrams": 'near=unixgram; near.bind("$/near"); far=unixgram; far.bind("$/far");',
} as const;

/** The actions on a connection, one number for each choice. */
const choices = fc.array(fc.nat(1_000_000), { minLength: 4, maxLength: 14 });

/**
 * Calls on both ends of a connection, none of which waits for ever: the bytes under way are counted. If several
 * pieces are under way, a read asks only for as many bytes as TCP must return at once.
 */
const streamScript = (numbers: readonly number[]): string => {
  const lines: string[] = [];
  let pieces: number[] = []; // bytes that the far end sent, and we have not read
  let ended = false;
  let weEnded = false;
  let returned = 0; // bytes that we sent, and the far end has not read
  const waiting = (): number => pieces.reduce((sum, size) => sum + size, 0);
  const take = (size: number): void => {
    let left = size;
    pieces = pieces.flatMap((piece) => {
      const taken = Math.min(left, piece);
      left -= taken;
      return piece > taken ? [piece - taken] : [];
    });
  };
  for (const number of numbers) {
    const size = 1 + (number % 9);
    const sure = pieces.length <= 1 ? size : Math.min(size, pieces[0] as number);
    const here = waiting() > 0;
    switch (Math.floor(number / 9) % 11) {
      case 0:
      case 1:
      case 2:
        if (ended) break;
        lines.push(`far1.sendall("${"abcdefghi".slice(0, size)}")`);
        pieces.push(size);
        break;
      case 3:
        lines.push(here || ended ? `near1.recv(${sure})` : `near1.recv(${size},${MSG_DONTWAIT})`);
        take(sure);
        break;
      case 4:
        lines.push(here || ended ? `near1.recv(${sure},${MSG_PEEK})` : `near1.recv(0)`);
        break;
      case 5:
        if (waiting() < size && !ended) break;
        lines.push(`near1.recv(${size},${MSG_WAITALL})`);
        take(size);
        break;
      case 6:
        if (here || ended) break;
        lines.push(`near1.settimeout(${size})`, `near1.recv(${size})`, "near1.settimeout(null)");
        break;
      case 7:
        if (weEnded) lines.push('near1.send("x")');
        else {
          lines.push(`near1.sendall("${"ABCDEFGHI".slice(0, size)}")`);
          returned += size;
        }
        break;
      case 8:
        if (returned === 0) break;
        lines.push(`far1.recv(${returned},${MSG_WAITALL})`);
        returned = 0;
        break;
      case 9:
        if (ended || number % 2 === 0) break;
        lines.push("far1.shutdown(1)");
        ended = true;
        break;
      default:
        if (weEnded || number % 2 === 0) break;
        lines.push("near1.shutdown(1)", `far1.recv(${returned + 1},${MSG_WAITALL})`);
        weEnded = true;
        returned = 0;
    }
  }
  lines.push(
    "far1.shutdown(1)",
    `near1.recv(${waiting() + 9},${MSG_WAITALL})`,
    "near1.recv(9)",
    "near1.close()",
  );
  lines.push(weEnded ? "far1.recv(9)" : `far1.recv(${returned + 1},${MSG_WAITALL})`);
  return lines.join("; ");
};

const datagramScript = (numbers: readonly number[], far: string): string => {
  const lines: string[] = [];
  let waiting = 0;
  for (const number of numbers) {
    const size = number % 9;
    const flags = [0, MSG_PEEK, waiting === 0 ? MSG_DONTWAIT : 0][number % 3] as number;
    const call = number % 2 === 0 ? "recv" : "recvfrom";
    switch (Math.floor(number / 9) % 6) {
      case 0:
      case 1:
        lines.push(`far.sendto("${"abcdefghi".slice(0, size)}","@near")`);
        waiting++;
        break;
      case 2:
      case 3:
        if (waiting === 0 && flags !== MSG_DONTWAIT) break;
        lines.push(`near.${call}(${size},${flags})`);
        if (flags !== MSG_PEEK && waiting > 0) waiting--;
        break;
      case 4:
        lines.push(`near.sendto("${"ABCDEFGHI".slice(0, size)}","${far}")`, "far.recvfrom(9)");
        break;
      default:
        if (waiting === 0) lines.push("near.settimeout(2)", "near.recv(9)", "near.settimeout(null)");
        else {
          lines.push("near.recv_into(4)");
          waiting--;
        }
    }
  }
  return lines.join("; ");
};

describeWith(["python3"], "between a CPython and ours, as between two CPythons", () => {
  let near: CPython;
  let far: CPython;
  beforeAll(() => {
    [near, far] = [new CPython(), new CPython()];
  });
  afterAll(async () => {
    await near[Symbol.asyncDispose]();
    await far[Symbol.asyncDispose]();
  });

  /** The script's traces: with CPython as `near`, and with ours. */
  const both = async (script: string): Promise<[right: string[], ours: string[]]> => {
    await using right = new Across(near, far);
    const asked = await trace(right, script);
    await using own = new Ours();
    await using across = new Across(own, far);
    return [asked, await trace(across, script)];
  };

  const same = async (script: string): Promise<void> => {
    const [right, ours] = await both(script);
    expect(ours).toEqual(right);
  };

  describe.each(PLACES)("%s", (_, place) => {
    inPlace(place);

    test.each(Object.entries(MEET))("%s: generated calls, the same trace", async (_, meet) => {
      await fc.assert(
        fc.asyncProperty(choices, (numbers) => same(`${meet} ${streamScript(numbers)}`)),
        { numRuns: 30, seed: 20 },
      );
    });

    const datagrams = Object.entries(DATAGRAMS).filter(([name]) => place === "native" || name === "UDP"); // Unix ones need koffi
    test.each(datagrams)("%s: generated calls, the same trace", async (name, meet) => {
      await fc.assert(
        fc.asyncProperty(choices, (numbers) =>
          same(`${meet} ${datagramScript(numbers, name === "UDP" ? "@far" : "$/far")}`),
        ),
        { numRuns: 30, seed: 21 },
      );
    });

    test("a file of text over a connection, newlines of every kind, both ways", async () => {
      const text = ["one\\n", "two\\r\\n", "three\\r", "four\\n\\n", "fünf"];
      for (const newline of ['""', "null", '"\\n"', '"\\r\\n"']) {
        const files = `near1.makefile("rw",${newline}); far1.makefile("rw",${newline});`;
        const there = `${text.map((piece) => `far1.file.write("${piece}")`).join("; ")}; far1.file.flush(); far1.shutdown(1);`;
        const read = "; near1.file.readline()".repeat(8).slice(2);
        const back = `${text.map((piece) => `near1.file.write("${piece}")`).join("; ")}; near1.file.flush(); near1.shutdown(1); far1.file.read()`;
        await same(`${MEET["TCP, we dial"]} ${files} ${there} ${read}; ${back}`);
      }
    });
  });

  describe("urgent data, with koffi", () => {
    inPlace("native");
    const meet = MEET["TCP, we dial"];

    test.each([
      [
        "to us",
        `far1.send("a"); far1.send("!",${MSG_OOB}); far1.send("b"); select([],[],["near1"],2000);
        near1.poll(${POLLPRI},0); near1.recv(1,${MSG_OOB}); near1.recv(1,${MSG_OOB}); near1.recv(1); near1.recv(1)`,
      ],
      [
        "from us",
        `near1.send("a"); near1.send("xy!",${MSG_OOB}); near1.send("b"); far1.poll(${POLLPRI},2000);
        far1.recv(1,${MSG_OOB}); far1.recv(3,${MSG_WAITALL}); far1.recv(9)`,
      ],
      ["none", `near1.recv(1,${MSG_OOB}); near1.poll(${POLLPRI | POLLIN | POLLOUT},0)`],
      [
        "in line",
        `near1.setsockopt(${SOL_SOCKET},${SO_OOBINLINE},1); far1.send("a"); far1.send("!",${MSG_OOB});
        near1.recv(1,${MSG_OOB}); near1.recv(1); near1.recv(1)`,
      ],
    ])("%s", (_, script) => same(`${meet} ${script}`));
  });
});
