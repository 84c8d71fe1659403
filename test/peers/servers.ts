/** Real servers, each on its own port, ended with its scope. */

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Certificates } from "./certificates.ts";
import { temporaryFolder } from "./children.ts";
import { peer } from "./peer.ts";
import { reservePort } from "./ports.ts";
import { type Program, run, start } from "./program.ts";

/** A server that runs; leaving its scope ends it. */
export interface Server extends AsyncDisposable {
  readonly port: number;
  readonly program: Program;
}

const TRIES = 5;

/** These servers cannot let the system choose their port. Of datagrams somebody may have it: then another is tried. */
const serverOn = async (
  begin: (port: number) => Program,
  ready: RegExp,
  taken: RegExp,
  after: () => void = () => {},
): Promise<Server> => {
  for (let tries = 1; ; tries++) {
    const port = await reservePort();
    const program = begin(port);
    const end = async (): Promise<void> => {
      await program[Symbol.asyncDispose]();
      after();
    };
    try {
      const said = await program.line(new RegExp(`${ready.source}|${taken.source}`));
      if (ready.test(said)) return { port, program, [Symbol.asyncDispose]: end };
      if (tries === TRIES) throw new Error(`no port was free for it: ${said}`);
      await program[Symbol.asyncDispose]();
    } catch (error) {
      await end();
      throw error;
    }
  }
};

/** Its standard error is read with its output, and neither waits in a buffer of Python's. */
const shell = (command: string, args: readonly (string | number)[], timeout?: number): Program =>
  start("sh", ["-c", 'PYTHONUNBUFFERED=1 exec "$0" "$@" 2>&1', command, ...args], timeout);

/** `aiosmtpd`, which demands STARTTLS and prints each message. */
export const smtp = ({ folder }: Certificates): Promise<Server> => {
  const tls = ["--tlscert", join(folder, "cert.pem"), "--tlskey", join(folder, "key.pem")];
  const rest = ["-d", "-c", "aiosmtpd.handlers.Debugging", "stdout"];
  const begin = (port: number): Program =>
    shell("aiosmtpd", ["-n", ...tls, "-l", `127.0.0.1:${port}`, ...rest]);
  return serverOn(begin, /Server is listening/, /address already in use|Cannot start/);
};

/** PostgreSQL's commands, which Debian keeps beside the path; `null` if they are not here. */
export const postgresCommand = (name: "initdb" | "postgres"): string | null => {
  const root = "/usr/lib/postgresql";
  const folders = existsSync(root)
    ? readdirSync(root).map((version) => join(root, version, "bin", name))
    : [];
  return folders.find((path) => existsSync(path)) ?? peer(name);
};

export const postgresPassword = "it's: a päßword, longer than 8";

/** A server that can be killed (`kill -9`) and started again, on the same port and with the same data. */
export interface Mortal extends AsyncDisposable {
  readonly port: number;
  restart(): Promise<void>;
}

const BIRTHS = 200; // how often a server that was killed is started, until what it left behind is gone

/** Runs `begin` again and again, until its output has `ready`. */
const born = async (begin: () => Program, ready: RegExp): Promise<Program> => {
  for (let tries = 1; ; tries++) {
    const program = begin();
    try {
      await program.line(ready);
      return program;
    } catch (error) {
      await program[Symbol.asyncDispose]();
      if (tries === BIRTHS) throw error;
    }
  }
};

const mortal = (
  port: number,
  first: Program,
  begin: () => Program,
  ready: RegExp,
  gone: () => void,
): Mortal => {
  let program = first;
  return {
    port,
    async restart() {
      program.kill("SIGKILL");
      await program.ended;
      program = await born(begin, ready);
    },
    async [Symbol.asyncDispose]() {
      await program[Symbol.asyncDispose]();
      gone();
    },
  };
};

/** Redis that stores each write before it confirms it, and so survives a kill. */
export const mortalRedis = async (): Promise<Mortal> => {
  const { path: folder, remove: gone } = temporaryFolder("redis");
  const options = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", folder];
  const port = await reservePort();
  const begin = (): Program => start("redis-server", ["--port", port, "--bind", "127.0.0.1", ...options]);
  const ready = /Ready to accept connections/;
  return mortal(port, await born(begin, ready), begin, ready, gone);
};

/** PostgreSQL with a database cluster of its own, whose user `postgres` has to prove its password by SCRAM. */
export const postgres = async (certificates: Certificates): Promise<Server & Mortal> => {
  const { folder: from } = certificates;
  const { path: folder, remove: gone } = temporaryFolder("postgres");
  // It refuses to run as root; any other user runs it directly.
  const root = process.getuid?.() === 0;
  const as = (command: string | null): [string, ...string[]] =>
    root
      ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", command ?? ""]
      : [command ?? ""];
  try {
    writeFileSync(join(folder, "password"), postgresPassword);
    for (const name of ["cert.pem", "key.pem"]) copyFileSync(join(from, name), join(folder, name));
    spawnSync("chmod", ["600", join(folder, "key.pem")]);
    if (root) spawnSync("chown", ["-R", "postgres:postgres", folder]);
    const data = join(folder, "data");
    const [command, ...args] = as(postgresCommand("initdb"));
    const made = await run(command, [
      ...args,
      ...["-D", data, "-U", "postgres", "-A", "scram-sha-256", `--pwfile=${join(folder, "password")}`],
      ...["-N", "-E", "UTF8", "--no-locale"],
    ]);
    if (made.code !== 0) throw new Error(`initdb ended with ${made.code}: ${made.stderr}`);
    const settings = {
      listen_addresses: "127.0.0.1",
      unix_socket_directories: "",
      fsync: "off",
      ssl: "on",
      ssl_cert_file: join(folder, "cert.pem"),
      ssl_key_file: join(folder, "key.pem"),
      lc_messages: "C",
    };
    const options = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    const [server, ...first] = as(postgresCommand("postgres"));
    const begin = (port: number): Program => shell(server, [...first, "-D", data, "-p", port, ...options], 0);
    const ready = /ready to accept connections/;
    const { port, program } = await serverOn(begin, ready, /could not bind|could not create/);
    return { program, ...mortal(port, program, () => begin(port), ready, gone) };
  } catch (error) {
    gone();
    throw error;
  }
};

/** BIND's name server, over UDP and TCP, with authority over `zone` and over nothing else. */
export const bind = async (origin: string, zone: string): Promise<Server> => {
  const { path: folder, remove: gone } = temporaryFolder("bind");
  const config = join(folder, "named.conf");
  writeFileSync(join(folder, "zone"), zone);
  const begin = (port: number): Program => {
    writeFileSync(
      config,
      `options {
  directory "${folder}"; pid-file none;
  listen-on port ${port} { 127.0.0.1; }; listen-on-v6 { none; };
  recursion no; minimal-responses yes; notify no; dnssec-validation no;
};
controls { };
zone "${origin}" { type primary; file "zone"; };
`,
    );
    return shell("named", ["-g", "-4", "-n", "1", "-c", config]);
  };
  return serverOn(begin, / running$/, /address in use|could not listen/, gone);
};

/** A listener that never accepts, and whose queue is full: a client that dials it gets no answer at all. */
export const fullBacklog = async (): Promise<Server> => {
  const source = `
import socket, sys
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen(0)
fill = []
for _ in range(4):
    client = socket.socket()
    client.setblocking(False)
    try: client.connect(server.getsockname())
    except BlockingIOError: pass
    fill.append(client)
print(server.getsockname()[1], flush=True)
sys.stdin.read()
`;
  const program = start("python3", ["-c", source]);
  const port = Number(await program.line());
  return { port, program, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
};
