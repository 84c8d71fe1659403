/** What can be found out about a descriptor: its names, and the state of one that was made elsewhere. */

import { SocketError } from "../../../core/errors.ts";
import type { Address, UnixAddress } from "../../../core/net/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  SO_ACCEPTCONN,
  SO_DOMAIN,
  SO_TYPE,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
} from "../../../core/net/constants.ts";
import { fs } from "../../builtin.ts";
import { type Libc, libc } from "./libc.ts";
import { integer } from "./options.ts";
import type { Kind } from "./plain-options.ts";

/** The paths of the two ends of a Unix connection, which Node does not tell; absent if an end has none. */
export interface UnixNames {
  readonly local?: UnixAddress | undefined;
  readonly remote?: UnixAddress | undefined;
}

/** The address of a descriptor's peer; `null` for a Unix socket without a name, and without libc. */
export const peerName = (fd: number): Address | null => libc()?.getpeername(fd) ?? null;

/** The paths of a descriptor; empty without libc. */
export const namesOf = (fd: number): UnixNames => {
  const path = (name: Address | null | undefined) => (name?.family === "unix" ? name : undefined);
  return { local: path(libc()?.getsockname(fd)), remote: path(peerName(fd)) };
};

/** The inode of a descriptor's socket, as in /proc/net; `null` if the descriptor is not a socket. Throws if there is no such descriptor, or no /proc. */
export const inodeOf = (fd: number): string | null =>
  /^socket:\[(\d+)\]$/.exec(fs.readlinkSync(`/proc/self/fd/${fd}`))?.[1] ?? null;

/** A descriptor that was made elsewhere, and its state. */
export interface Adopted {
  readonly fd: number;
  readonly state: "fresh" | "listening" | "connected";
  readonly localAddress: Address | null;
}

/**
 * What a descriptor is. Throws `EBADF`, `ENOTSOCK`, and `EINVAL` if it is not a socket of this kind. Without libc it
 * reads /proc, which does not list a stream that is neither connected nor listening.
 */
export const adopted = (fd: number, kind: Kind): Adopted => {
  const known = knownDescriptor(fd, kind);
  if (known.family === kind.family && known.type === kind.type) return { fd, ...known };
  const said = (family: number, type: number): string => `family ${family}, type ${type}`;
  throw new SocketError(
    "EINVAL",
    `descriptor ${fd} is a socket of ${said(known.family, known.type)}, not of ${said(kind.family, kind.type)}`,
  );
};

/** What is known of a descriptor. */
export type Known = Omit<Adopted, "fd"> & Pick<Kind, "family" | "type">;

/** What a descriptor is. Without libc, a stream that neither listens nor is connected is taken to be `likely`. Throws `EBADF`, `ENOTSOCK`. */
export const knownDescriptor = (fd: number, likely: Kind): Known => {
  const calls = libc();
  return calls === null ? knownByProc(fd, likely) : knownByLibc(calls, fd);
};

const knownByLibc = (calls: Libc, fd: number): Known => {
  const ask = (name: number): number => integer(calls.getsockopt(fd, SOL_SOCKET, name, 4));
  const [type, family] = [ask(SO_TYPE), ask(SO_DOMAIN)];
  let state: Known["state"] = ask(SO_ACCEPTCONN) === 1 ? "listening" : "connected";
  try {
    if (state === "connected") calls.getpeername(fd);
  } catch {
    state = "fresh";
  }
  return { family, type, state, localAddress: calls.getsockname(fd) };
};

const PROC: readonly (readonly [file: string, family: number, type: number])[] = [
  ["tcp", AF_INET, SOCK_STREAM],
  ["tcp6", AF_INET6, SOCK_STREAM],
  ["udp", AF_INET, SOCK_DGRAM],
  ["udp6", AF_INET6, SOCK_DGRAM],
];

/** /proc/net/tcp and its like, proc_pid_net(5): a line for each socket, with its state and its inode. */
const knownByProc = (fd: number, kind: Kind): Known => {
  let inode: string | null;
  try {
    inode = inodeOf(fd);
  } catch {
    throw new SocketError("EBADF", `there is no descriptor ${fd}`);
  }
  if (inode === null) throw new SocketError("ENOTSOCK", `descriptor ${fd} is no socket`);
  const lines = (file: string): string[][] =>
    fs
      .readFileSync(`/proc/self/net/${file}`, "latin1")
      .split("\n")
      .map((line) => line.trim().split(/\s+/));
  for (const [file, family, type] of PROC) {
    const state = lines(file).find((line) => line[9] === inode)?.[3];
    if (state === undefined) continue;
    const known = state === "0A" ? "listening" : state === "07" ? "fresh" : "connected"; // TCP_LISTEN, TCP_CLOSE
    return { family, type, state: known, localAddress: null };
  }
  const [, , , flags, type, state, , path] = lines("unix").find((line) => line[6] === inode) ?? [];
  if (state === undefined) return { ...kind, state: "fresh", localAddress: null };
  const listens = (Number.parseInt(flags ?? "", 16) & 0x1_0000) !== 0; // __SO_ACCEPTCON
  return {
    family: AF_UNIX,
    type: Number(type),
    state: listens ? "listening" : state === "03" ? "connected" : "fresh", // SS_CONNECTED
    localAddress: path === undefined ? null : { family: "unix", path: path.replace(/^@/, "\0") },
  };
};
