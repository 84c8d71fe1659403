/** Options of sockets, with `koffi` and without: what CPython reads on this machine ours read, and what was set is so in the kernel. */

import {
  type Address,
  AF_INET,
  AF_INET6,
  AF_UNIX,
  type BaseSocket,
  IP_ADD_MEMBERSHIP,
  IP_MULTICAST_IF,
  IP_MULTICAST_LOOP,
  IP_MULTICAST_TTL,
  IP_TOS,
  IP_TTL,
  IPPROTO_IPV6,
  IPV6_MULTICAST_HOPS,
  IPV6_UNICAST_HOPS,
  IPV6_V6ONLY,
  SO_ACCEPTCONN,
  SO_BROADCAST,
  SO_DOMAIN,
  SO_ERROR,
  SO_KEEPALIVE,
  SO_LINGER,
  SO_PROTOCOL,
  SO_RCVBUF,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SO_SNDBUF,
  SO_TYPE,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_IP,
  SOL_SOCKET,
  SOL_TCP,
  TCP_CONGESTION,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_MAXSEG,
  TCP_NODELAY,
  TCP_USER_TIMEOUT,
} from "socklet";
import { createConnection, createServer, fromfd, type Socket, socket } from "socklet/emulator";
import { describe, expect, onTestFinished, test } from "vitest";
import { describeWith, python } from "../peers/program.ts";
import { inNativeMode } from "./native-mode.ts";

const code = (expected: string): unknown => expect.objectContaining({ code: expected });
const nameOf = (bound: { getsockname(): Address | null }): Address => bound.getsockname() as Address;
const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

/** `made`, closed when the test is over. */
const closing = <T extends { close(): unknown }>(made: T): T => {
  onTestFinished(async () => {
    await made.close();
  });
  return made;
};

const connection = async () => {
  const listener = closing(await createServer("127.0.0.1:0"));
  const near = closing(socket());
  await near.connect(nameOf(listener));
  const far = closing((await listener.accept())[0]);
  return { listener, near, far };
};

describe("with koffi", () => {
  inNativeMode(true);

  /** Kind, level, name, what is set first (or null). */
  const QUESTIONS = [
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_TYPE, null],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_DOMAIN, null],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_PROTOCOL, null],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_SNDBUF, null],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_SNDBUF, 65_535],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_RCVBUF, null],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_RCVBUF, 1],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_KEEPALIVE, 7],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_REUSEADDR, null],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, SO_REUSEPORT, 1],
    [AF_INET, SOCK_STREAM, SOL_IP, IP_TTL, null],
    [AF_INET, SOCK_STREAM, SOL_IP, IP_TTL, 32],
    [AF_INET, SOCK_STREAM, SOL_IP, IP_TTL, 999],
    [AF_INET, SOCK_STREAM, SOL_IP, IP_TOS, 0x10],
    [AF_INET, SOCK_STREAM, SOL_TCP, TCP_NODELAY, null],
    [AF_INET, SOCK_STREAM, SOL_TCP, TCP_NODELAY, 1],
    [AF_INET, SOCK_STREAM, SOL_TCP, TCP_KEEPIDLE, 60],
    [AF_INET, SOCK_STREAM, SOL_TCP, TCP_KEEPIDLE, 0],
    [AF_INET, SOCK_STREAM, SOL_TCP, TCP_KEEPINTVL, 3],
    [AF_INET, SOCK_STREAM, SOL_TCP, TCP_KEEPCNT, 4],
    [AF_INET, SOCK_STREAM, SOL_TCP, TCP_MAXSEG, null],
    [AF_INET, SOCK_STREAM, SOL_TCP, TCP_USER_TIMEOUT, 1_500],
    [AF_INET, SOCK_STREAM, SOL_TCP, 9_999, null],
    [AF_INET, SOCK_STREAM, SOL_SOCKET, 9_999, 1],
    [AF_INET, SOCK_STREAM, 77, 1, null],
    [AF_INET6, SOCK_STREAM, IPPROTO_IPV6, IPV6_V6ONLY, 1],
    [AF_INET6, SOCK_STREAM, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9],
    [AF_INET, SOCK_DGRAM, SOL_SOCKET, SO_SNDBUF, 65_535],
    [AF_INET, SOCK_DGRAM, SOL_SOCKET, SO_BROADCAST, 1],
    [AF_INET, SOCK_DGRAM, SOL_IP, IP_TTL, null],
    [AF_INET, SOCK_DGRAM, SOL_IP, IP_MULTICAST_TTL, 5],
    [AF_INET, SOCK_DGRAM, SOL_IP, IP_MULTICAST_LOOP, 0],
    [AF_INET6, SOCK_DGRAM, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 5],
    [AF_UNIX, SOCK_STREAM, SOL_SOCKET, SO_TYPE, null],
    [AF_UNIX, SOCK_STREAM, SOL_SOCKET, SO_PROTOCOL, null],
    [AF_UNIX, SOCK_DGRAM, SOL_SOCKET, SO_SNDBUF, null],
    [AF_UNIX, SOCK_STREAM, SOL_TCP, TCP_NODELAY, 1],
  ] as const;

  const ORACLE = `
import errno, json, socket, sys
def ask(family, type, level, name, value):
    with socket.socket(family, type) as s:
        try:
            if value is not None: s.setsockopt(level, name, value)
            return s.getsockopt(level, name)
        except OSError as e:
            code = errno.errorcode[e.errno]
            return {"ENOTSUP": "EOPNOTSUPP"}.get(code, code)
print(json.dumps([ask(*question) for question in json.loads(sys.argv[1])]))
`;

  describeWith(["python3"], "of fresh sockets", () => {
    test("are what CPython reads, errors, too", async () => {
      const ours = QUESTIONS.map(([family, type, level, name, value]) => {
        const made = closing(socket(family, type));
        try {
          if (value !== null) made.setsockopt(level, name, value);
          return made.getsockopt(level, name);
        } catch (error) {
          return (error as { code: string }).code;
        }
      });
      expect(ours).toEqual(JSON.parse(await python(ORACLE, [JSON.stringify(QUESTIONS)])));
    });
  });

  test("are bytes, too: as many as there are, and at most those asked for", () => {
    const made = closing(socket());
    made.setsockopt(SOL_SOCKET, SO_LINGER, new Uint8Array(Int32Array.of(1, 5).buffer));
    const linger = made.getsockopt(SOL_SOCKET, SO_LINGER, 64);
    expect([...new Int32Array(linger.slice().buffer)]).toEqual([1, 5]);
    expect(made.getsockopt(SOL_SOCKET, SO_LINGER, 4).length).toBe(4);
    expect(text(made.getsockopt(SOL_TCP, TCP_CONGESTION, 16))).toMatch(/^[a-z]+/);
    made.setsockopt(SOL_SOCKET, SO_KEEPALIVE, true);
    expect(made.getsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)).toEqual(Uint8Array.of(1));
    expect(() => made.setsockopt(SOL_SOCKET, SO_KEEPALIVE, new Uint8Array(0))).toThrow(code("EINVAL"));
  });

  test("are those of the connection, on both ends and on the listener", async () => {
    const { listener, near, far } = await connection();
    for (const made of [near, far, listener]) {
      made.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_535);
      expect(made.getsockopt(SOL_SOCKET, SO_SNDBUF)).toBe(131_070); // Linux doubles it: socket(7)
      expect(made.getsockopt(SOL_IP, IP_TTL)).toBe(64);
    }
    expect([listener, near].map((made) => made.getsockopt(SOL_SOCKET, SO_ACCEPTCONN))).toEqual([1, 0]);
    await using served = await createConnection(nameOf(listener));
    expect(served.getsockopt(SOL_IP, IP_TTL)).toBe(64);
    served.setsockopt(SOL_TCP, TCP_KEEPINTVL, 9);
    expect(served.getsockopt(SOL_TCP, TCP_KEEPINTVL)).toBe(9);
  });

  test("what was set before connect() and listen() stands", async () => {
    const listener = closing(socket());
    listener.setsockopt(SOL_TCP, TCP_NODELAY, 0);
    listener.setsockopt(SOL_SOCKET, SO_RCVBUF, 20_000);
    await listener.bind("127.0.0.1:0");
    await listener.listen();
    const near = closing(socket());
    near.setsockopt(SOL_TCP, TCP_NODELAY, 0);
    near.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1);
    await near.connect(nameOf(listener));
    const far = closing((await listener.accept())[0]);
    expect(near.getsockopt(SOL_TCP, TCP_NODELAY)).toBe(0);
    expect(near.getsockopt(SOL_SOCKET, SO_KEEPALIVE)).toBe(1);
    expect(far.getsockopt(SOL_TCP, TCP_NODELAY)).toBe(0); // Linux hands it on
    expect(far.getsockopt(SOL_SOCKET, SO_RCVBUF)).toBe(40_000);
  });

  test("TCP is bound with SO_REUSEADDR, unless that was set to 0", async () => {
    const [plain, strict] = [closing(socket()), closing(socket())];
    strict.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0);
    for (const made of [plain, strict]) await made.bind("127.0.0.1:0");
    expect([plain, strict].map((made) => made.getsockopt(SOL_SOCKET, SO_REUSEADDR))).toEqual([1, 0]);
  });
});

describe("without", () => {
  inNativeMode(false);

  /** The kernel's value, which koffi reads through another descriptor. */
  const kernel = (made: BaseSocket, level: number, name: number): number => {
    process.env.SOCKLET_NATIVE = "";
    try {
      return closing(fromfd(made.fileno(), made.family, made.type)).getsockopt(level, name);
    } finally {
      process.env.SOCKLET_NATIVE = "off";
    }
  };

  const unsupported = (call: () => unknown): void => expect(call).toThrow(/ERR_UNSUPPORTED.* at .*koffi/);

  test("a socket tells what it is", async () => {
    const { listener, near } = await connection();
    const ask = (made: Socket) =>
      [SO_DOMAIN, SO_TYPE, SO_PROTOCOL, SO_ACCEPTCONN, SO_ERROR].map((name) =>
        made.getsockopt(SOL_SOCKET, name),
      );
    expect(ask(listener)).toEqual([AF_INET, SOCK_STREAM, 6, 1, 0]);
    expect(ask(near)).toEqual([AF_INET, SOCK_STREAM, 6, 0, 0]);
    expect(near.getsockopt(SOL_SOCKET, SO_TYPE, 4)).toEqual(Uint8Array.of(1, 0, 0, 0));
    const datagrams = closing(socket(AF_INET6, SOCK_DGRAM));
    expect(datagrams.getsockopt(SOL_SOCKET, SO_PROTOCOL)).toBe(17);
    expect(closing(socket(AF_UNIX)).getsockopt(SOL_SOCKET, SO_PROTOCOL)).toBe(0);
  });

  test("what Node cannot set or read is said, with the package that can", async () => {
    const { near, listener } = await connection();
    for (const made of [near, closing(socket())]) {
      unsupported(() => made.getsockopt(SOL_IP, IP_TTL));
      unsupported(() => made.getsockopt(SOL_SOCKET, SO_SNDBUF));
      unsupported(() => made.setsockopt(SOL_SOCKET, SO_SNDBUF, 65_535));
      unsupported(() => made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)); // libuv sets it
    }
    unsupported(() => near.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)); // too late for Node
    unsupported(() => listener.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1));
    const datagrams = closing(socket(AF_INET, SOCK_DGRAM));
    unsupported(() => datagrams.getsockopt(SOL_SOCKET, SO_SNDBUF)); // before it is there
    unsupported(() => datagrams.getsockopt(SOL_IP, IP_TTL));
  });

  test("keep-alive and Nagle, set before, after, and on a listener, are so in the kernel", async () => {
    const listener = closing(socket());
    listener.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1);
    listener.setsockopt(SOL_TCP, TCP_KEEPIDLE, 120);
    await listener.bind("127.0.0.1:0");
    await listener.listen();
    expect(listener.getsockopt(SOL_SOCKET, SO_REUSEADDR)).toBe(kernel(listener, SOL_SOCKET, SO_REUSEADDR));
    const near = closing(socket());
    near.setsockopt(SOL_SOCKET, SO_KEEPALIVE, true);
    near.setsockopt(SOL_TCP, TCP_KEEPIDLE, 60);
    near.setsockopt(SOL_TCP, TCP_NODELAY, 0);
    await near.connect(nameOf(listener));
    const far = closing((await listener.accept())[0]);
    for (const [made, idle, nodelay] of [
      [near, 60, 0],
      [far, 120, 1],
    ] as const) {
      for (const [level, name, value] of [
        [SOL_SOCKET, SO_KEEPALIVE, 1],
        [SOL_TCP, TCP_KEEPIDLE, idle],
        [SOL_TCP, TCP_NODELAY, nodelay],
      ] as const) {
        expect([made.getsockopt(level, name), kernel(made, level, name)]).toEqual([value, value]);
      }
    }
    near.setsockopt(SOL_TCP, TCP_NODELAY, 7);
    near.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 0);
    expect([near.getsockopt(SOL_TCP, TCP_NODELAY), kernel(near, SOL_TCP, TCP_NODELAY)]).toEqual([1, 1]);
    expect([near.getsockopt(SOL_SOCKET, SO_KEEPALIVE), kernel(near, SOL_SOCKET, SO_KEEPALIVE)]).toEqual([
      0, 0,
    ]);
    expect(() => near.setsockopt(SOL_TCP, TCP_KEEPIDLE, 0)).toThrow(code("EINVAL"));
  });

  test("a fresh connection's are known: TCP_NODELAY is on, since output is gathered", async () => {
    const { near, far } = await connection();
    for (const made of [near, far]) {
      expect(made.getsockopt(SOL_TCP, TCP_NODELAY)).toBe(kernel(made, SOL_TCP, TCP_NODELAY));
      expect(made.getsockopt(SOL_SOCKET, SO_KEEPALIVE)).toBe(kernel(made, SOL_SOCKET, SO_KEEPALIVE));
    }
  });

  test.each([
    ["before bind()", false],
    ["after", true],
  ])("UDP's, set %s, are so in the kernel", async (_, bound) => {
    const made = closing(socket(AF_INET, SOCK_DGRAM));
    if (bound) await made.bind("127.0.0.1:0");
    const values = [
      [SOL_SOCKET, SO_BROADCAST, 1],
      [SOL_SOCKET, SO_SNDBUF, 65_535],
      [SOL_SOCKET, SO_RCVBUF, 30_000],
      [SOL_IP, IP_TTL, 9],
      [SOL_IP, IP_MULTICAST_TTL, 3],
      [SOL_IP, IP_MULTICAST_LOOP, 0],
    ] as const;
    for (const [level, name, value] of values) made.setsockopt(level, name, value);
    made.setsockopt(SOL_IP, IP_MULTICAST_IF, Uint8Array.of(127, 0, 0, 1));
    if (!bound) await made.bind("127.0.0.1:0");
    for (const [level, name, value] of values) {
      const read = name === SO_SNDBUF || name === SO_RCVBUF ? 2 * value : value;
      if (level === SOL_SOCKET && (name === SO_SNDBUF || name === SO_RCVBUF)) {
        expect([made.getsockopt(level, name), kernel(made, level, name)]).toEqual([read, read]);
      } else {
        expect([made.getsockopt(level, name), kernel(made, level, name)]).toEqual([value, value]);
      }
    }
    const six = closing(socket(AF_INET6, SOCK_DGRAM));
    six.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1);
    six.setsockopt(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 7);
    await six.bind("[::]:0");
    expect([IPV6_V6ONLY, IPV6_UNICAST_HOPS].map((name) => kernel(six, IPPROTO_IPV6, name))).toEqual([1, 7]);
  });
});

describe.each([
  ["with koffi", true],
  ["without", false],
])("%s: a wrong argument", (_, native) => {
  inNativeMode(native);

  test("is said at once", () => {
    const made = closing(socket());
    expect(() => made.getsockopt("1" as never, 2)).toThrow(TypeError);
    expect(() => made.getsockopt(SOL_SOCKET, 1.5)).toThrow(TypeError);
    expect(() => made.getsockopt(SOL_SOCKET, SO_TYPE, 0)).toThrow(RangeError);
    expect(() => made.getsockopt(SOL_SOCKET, SO_TYPE, 1_025)).toThrow(RangeError); // CPython's limit
    expect(() => made.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 2 ** 31)).toThrow(RangeError);
    expect(() => made.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 0.5)).toThrow(TypeError);
    expect(() => made.setsockopt(SOL_SOCKET, SO_KEEPALIVE, "1" as never)).toThrow(TypeError);
  });

  test("and an option is said by its name, with what is wrong", async () => {
    const made = closing(socket());
    const idle = (): void => made.setsockopt(SOL_TCP, TCP_KEEPIDLE, 0);
    expect(idle).toThrow("EINVAL: TCP_KEEPIDLE (4) at SOL_TCP (6) cannot be 0");
    const datagrams = closing(socket(AF_INET, SOCK_DGRAM));
    await datagrams.bind("127.0.0.1:0");
    const joined = (): void => datagrams.setsockopt(SOL_IP, IP_ADD_MEMBERSHIP, new Uint8Array(8));
    expect(joined).toThrow("EINVAL: IP_ADD_MEMBERSHIP (35) at SOL_IP (0) cannot be 8 bytes");
    const set = (level: number, name: number) => () => made.setsockopt(level, name, 1);
    if (!native) {
      expect(set(SOL_SOCKET, SO_SNDBUF)).toThrow(
        /^ERR_UNSUPPORTED: SO_SNDBUF \(7\) at SOL_SOCKET \(1\) needs .* koffi/,
      );
      expect(set(77, 9)).toThrow(/^ERR_UNSUPPORTED: the option 9 at level 77 needs .* koffi/);
      return;
    }
    const none = "ENOPROTOOPT: the option 9999 at SOL_TCP (6) cannot be";
    expect(set(SOL_TCP, 9999)).toThrow(`${none} set on this socket`);
    expect(() => made.getsockopt(SOL_TCP, 9999)).toThrow(`${none} read on this socket`);
    expect(set(SOL_SOCKET, SO_TYPE)).toThrow("ENOPROTOOPT: SO_TYPE (3) at SOL_SOCKET (1) cannot be set");
    const far = Uint8Array.of(239, 255, 77, 1, 192, 0, 2, 1); // by an interface that is not this machine's
    expect(() => datagrams.setsockopt(SOL_IP, IP_ADD_MEMBERSHIP, far)).toThrow(code("ENODEV"));
  });

  test("and so is a socket that is closed", async () => {
    const made = socket();
    await made.close();
    expect(() => made.getsockopt(SOL_SOCKET, SO_TYPE)).toThrow(code("EBADF"));
    expect(() => made.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)).toThrow(code("EBADF"));
  });
});
