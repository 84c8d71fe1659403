/**
 * Calls of the socket module as text, made by CPython (`socket_oracle.py`) and by ours, with answers of one shape.
 *
 *     a=tcp; a.bind("127.0.0.1:0"); a.listen(); b=tcp; b.connect("@a"); c=a.accept(); c.send("x"); b.recv(9)
 *
 * Arguments are JSON. `@a` is where `a` is bound, `$` a folder of the side's own, `#tcp` and `#udp` are where nobody is. In
 * the answers ports are numbered as they appear, bytes are text, and the end of a stream is no bytes.
 */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  type Address,
  type AddressLike,
  AF_INET,
  AF_INET6,
  AF_UNIX,
  type DatagramSocket,
  poll,
  SOCK_DGRAM,
  SOCK_STREAM,
  SocketError,
  type StreamSocket,
  select,
} from "socklet";
import { type Socket, socket } from "socklet/emulator";
import { reservePort, reserveUdpPort } from "./ports.ts";
import { type Program, start } from "./program.ts";

/** One call: of which socket (`""` for `select`), which, and with what. */
export type Call = readonly [name: string, what: string, args: readonly unknown[]];

/** Makes calls, and reports the outcome of each. */
export interface Side extends AsyncDisposable {
  call(call: Call): Promise<unknown>;
}

/** The calls of a script. */
export const calls = (script: string): Call[] =>
  script.split(/;\s*|\n\s*/).flatMap((statement): Call[] => {
    const text = statement.trim();
    if (text === "") return [];
    const made = /^(\w+)=(\w+)$/.exec(text);
    if (made !== null) return [[made[1] as string, "socket", [made[2]]]];
    const call = /^(?:(\w+)=)?(?:(\w+)\.)?((?:file\.)?\w+)\((.*)\)$/.exec(text);
    if (call === null) throw new Error(`no call: ${text}`);
    const [, into, name = "", what = "", args = ""] = call;
    return [[name, what, into === undefined ? JSON.parse(`[${args}]`) : [into]]];
  });

const NOBODY: Readonly<Record<string, string>> = {
  "#tcp": `127.0.0.1:${await reservePort()}`,
  "#udp": `127.0.0.1:${await reserveUdpPort()}`,
};

/** Runs a script on one side; returns each call with its answer, independent of which side chose the ports. */
export const trace = async (side: Side, script: string): Promise<string[]> => {
  await side.call(["", "new", []]);
  const ports = new Map<number, string>();
  const lines: string[] = [];
  for (const [name, what, args] of calls(script)) {
    const given = args.map((arg) => NOBODY[arg as string] ?? arg);
    const answer = JSON.stringify(await side.call([name, what, given]), (key, value) => {
      if (key !== "at") return value;
      const [host, port] = value as [string, number];
      if (port !== 0 && !ports.has(port)) ports.set(port, `port ${ports.size + 1}`);
      return `${host} ${ports.get(port) ?? 0}`;
    });
    lines.push(`${name}.${what}(${JSON.stringify(args).slice(1, -1)}): ${answer}`);
  }
  return lines;
};

/** A folder of one's own. */
const folder = () => {
  const path = mkdtempSync(join(tmpdir(), "socklet-oracle-"));
  const gone = (): void => rmSync(path, { recursive: true, force: true });
  const empty = (): void => {
    gone();
    mkdirSync(path);
  };
  return { path, gone, empty };
};

/** `$` in the arguments as the folder, and back in the answer. */
const inFolder = (args: readonly unknown[], path: string): unknown[] =>
  args.map((arg) => (typeof arg === "string" ? arg.replace(/^\$/, path) : arg));

const outOfFolder = (answer: unknown, path: string): unknown =>
  JSON.parse(JSON.stringify(answer ?? null).replaceAll(path, "$"));

// ---- CPython ----

/** A separate CPython process, which lives until it is disposed of. */
export class CPython implements Side {
  readonly #program: Program;
  readonly #folder = folder();

  constructor() {
    this.#program = start("python3", ["-u", fileURLToPath(new URL("socket_oracle.py", import.meta.url))]);
  }

  /** One call at a time. */
  async call([name, what, args]: Call): Promise<unknown> {
    if (what === "new") this.#folder.empty();
    this.#program.write(`${JSON.stringify([name, what, inFolder(args, this.#folder.path)])}\n`);
    return outOfFolder(JSON.parse(await this.#program.line()), this.#folder.path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program[Symbol.asyncDispose]();
    this.#folder.gone();
  }
}

// ---- Ours ----

/** Two sides: sockets whose names begin with `far` are of the one, all others of the other. */
export class Across implements Side {
  readonly #near: Side;
  readonly #far: Side;
  readonly #folder = folder();

  constructor(near: Side, far: Side) {
    this.#near = near;
    this.#far = far;
  }

  async call([name, what, args]: Call): Promise<unknown> {
    if (what === "new") {
      this.#folder.empty();
      await this.#near.call([name, what, args]);
      return this.#far.call([name, what, args]);
    }
    const given = await Promise.all(inFolder(args, this.#folder.path).map((arg) => this.#addressOf(arg)));
    return outOfFolder(await this.#sideOf(name).call([name, what, given]), this.#folder.path);
  }

  /** Closes the sockets of both processes, which keep running. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.call(["", "new", []]);
    this.#folder.gone();
  }

  #sideOf(name: string): Side {
    return name.startsWith("far") ? this.#far : this.#near;
  }

  /** `@name` as what both sides understand. */
  async #addressOf(arg: unknown): Promise<unknown> {
    if (typeof arg !== "string" || !arg.startsWith("@")) return arg;
    const name = arg.slice(1);
    const bound = (await this.#sideOf(name).call([name, "getsockname", []])) as {
      at?: [string, number];
      path?: string;
    };
    return bound.at === undefined ? bound.path : `${bound.at[0]}:${bound.at[1]}`;
  }
}

const FAMILIES: Readonly<Record<string, readonly [family: number, type: number]>> = {
  tcp: [AF_INET, SOCK_STREAM],
  tcp6: [AF_INET6, SOCK_STREAM],
  udp: [AF_INET, SOCK_DGRAM],
  udp6: [AF_INET6, SOCK_DGRAM],
  unix: [AF_UNIX, SOCK_STREAM],
  unixgram: [AF_UNIX, SOCK_DGRAM],
};

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");

const shown = (value: unknown): unknown => {
  if (value instanceof Uint8Array) return { bytes: latin1(value) };
  const address = value as Address | undefined;
  if (address?.family === "unix") return { path: address.path };
  return address?.family === undefined ? value : { at: [address.hostname, address.port] };
};

/** The result of a read: the end is zero bytes, as in CPython. */
const received = (bytes: Uint8Array | null): unknown => shown(bytes ?? new Uint8Array(0));

const data = (given: unknown): Uint8Array =>
  typeof given === "number" ? new Uint8Array(given) : Buffer.from(given as string, "latin1");

const told = (error: unknown): { error: string } => {
  if (error instanceof SocketError) return { error: error.code };
  return { error: (error as Error).name };
};

/** Stream or datagram: a script may call any method. */
type Any = Socket & DatagramSocket & StreamSocket;

interface File {
  readline(size?: number): Promise<string | null>;
  read(size?: number): Promise<string | null>;
  write(text: string): number;
  flush(): Promise<void>;
  close(): Promise<void>;
}

export class Ours implements Side {
  readonly sockets = new Map<string, Any>();
  readonly #files = new Map<string, File>();
  readonly #folder = folder();

  async call([name, what, args]: Call): Promise<unknown> {
    try {
      return outOfFolder(await this.#call(name, what, inFolder(args, this.#folder.path)), this.#folder.path);
    } catch (error) {
      return told(error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end();
    this.#folder.gone();
  }

  #own(name: string): Any {
    const found = this.sockets.get(name);
    if (found === undefined) throw new Error(`no socket is called ${name}`);
    return found;
  }

  #named(found: readonly Any[]): (string | undefined)[] {
    return found.map((one) => [...this.sockets].find(([, own]) => own === one)?.[0]);
  }

  #address(given: string): AddressLike {
    if (given.startsWith("@")) return this.#own(given.slice(1)).getsockname() as Address;
    return given.startsWith("/") || given.startsWith("\0") ? { path: given } : given;
  }

  async #end(): Promise<void> {
    const ending = [...this.sockets.values()].map((one) => one.close());
    this.sockets.clear();
    this.#files.clear();
    await Promise.all(ending);
  }

  async #call(name: string, what: string, args: unknown[]): Promise<unknown> {
    const [first, second] = args as [string, number];
    if (what === "new") {
      await this.#end();
      return this.#folder.empty();
    }
    if (what === "socket") {
      const [family, type] = FAMILIES[first] as [number, number];
      this.sockets.set(name, socket(family, type) as Any);
      return null;
    }
    if (what === "touch") return writeFileSync(first, "");
    if (what === "select") {
      const [r, w, x] = args.slice(0, 3).map((names) => (names as string[]).map((one) => this.#own(one)));
      const ready = await select(r as Any[], w as Any[], x as Any[], args[3] as number | null);
      return ready.map((list) => this.#named(list));
    }
    const own = this.#own(name);
    switch (what) {
      case "poll": {
        const watched = poll<Any>();
        watched.register(own, args[0] as number);
        return (await watched.poll(second)).map(([, bits]) => bits);
      }
      case "accept": {
        const [connection, peer] = await own.accept();
        this.sockets.set(first, connection as Any);
        return shown(peer);
      }
      case "bind":
      case "connect":
        return own[what](this.#address(first));
      case "connect_ex": {
        const number = await own.connectEx(this.#address(first));
        return number === 0 ? 0 : { error: nameOf(number) };
      }
      case "sendto":
        return own.sendto(
          data(first),
          (args.length > 2 ? args[1] : 0) as number,
          this.#address(args.at(-1) as string),
        );
      case "send":
        return own.send(data(first), second);
      case "sendall":
        return own.sendall(data(first), second);
      case "recv":
        return received(await own.recv(args[0] as number, second));
      case "recvfrom": {
        const [bytes, sender] = await own.recvfrom(args[0] as number, second);
        return [received(bytes), shown(sender)];
      }
      case "recv_into": {
        const buffer = new Uint8Array(args[0] as number);
        const got = (await own.recvInto(buffer, second)) ?? 0;
        return [got, shown(buffer.subarray(0, got))];
      }
      case "setsockopt":
        return own.setsockopt(Number(first), second, typeof args[2] === "number" ? args[2] : data(args[2]));
      case "getsockopt":
        return shown(
          args.length > 2
            ? own.getsockopt(Number(first), second, args[2] as number)
            : own.getsockopt(Number(first), second),
        );
      case "fileno":
        return own.fileno() >= 0;
      case "reset":
        return own.abort();
      case "makefile":
        this.#files.set(
          name,
          own.makefile(first as "rw", { newline: args[1] as "\n" | null }) as unknown as File,
        );
        return null;
      case "file.readline":
      case "file.read": {
        const text = await this.#file(name)[what === "file.read" ? "read" : "readline"](args[0] as number);
        return { text: text ?? "" };
      }
      case "file.write":
        return this.#file(name).write(first);
      case "file.flush":
        return this.#file(name).flush();
      case "getpeername":
      case "getsockname":
      case "gettimeout":
      case "getblocking":
      case "listen":
      case "close":
      case "shutdown":
      case "settimeout":
      case "setblocking":
        return shown(await (own[what] as (...args: unknown[]) => unknown)(...args));
      default:
        throw new Error(`no call: ${what}`);
    }
  }

  #file(name: string): File {
    return this.#files.get(name) as File;
  }
}

const NUMBERS: Readonly<Record<number, string>> = Object.fromEntries(
  (
    [
      "EINPROGRESS",
      "EALREADY",
      "EISCONN",
      "ECONNREFUSED",
      "ENOENT",
      "EWOULDBLOCK",
      "EBADF",
      "EINVAL",
      "ETIMEDOUT",
      "EAFNOSUPPORT",
      "EPROTOTYPE",
      "EADDRNOTAVAIL",
      "EACCES",
      "ENETUNREACH",
    ] as const
  ).map((code) => [new SocketError(code).errno, code]),
);

const nameOf = (number: number | string): string =>
  typeof number === "string" ? number : (NUMBERS[number] ?? String(number));
