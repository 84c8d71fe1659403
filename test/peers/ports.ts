/** Ports for programs that cannot let the system choose one, and ports where nobody listens. */

import {
  AF_INET,
  AF_INET6,
  type DatagramSocket,
  type InternetAddress,
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
} from "socklet";
import { type Socket, socket } from "socklet/emulator";
import { runtime } from "../../emulator/runtime.ts";

const held: (Socket | DatagramSocket)[] = []; // until this process ends

/**
 * A port that stays ours, over IPv4 and IPv6: a socket is bound to it, and does not listen, so a connection to it is refused. The
 * kernel assigns it to no socket for which it chooses the port, neither to listen nor to dial from. A socket that names
 * the port, and sets `SO_REUSEADDR` as servers do, may listen there (tcp(7); Linux). The port of a server that has
 * closed may be assigned to another program: a test that expects a refusal there has the server listen on this one.
 */
export const reservePort = async (): Promise<number> => {
  const holder = socket(AF_INET6, SOCK_STREAM);
  holder.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
  await holder.bind("[::]:0");
  held.push(holder);
  return (holder.getsockname() as InternetAddress).port;
};

/**
 * The same for datagrams, over IPv4. The holder does not get them, since it is connected to port 1 of this machine: a
 * datagram to the port is refused, too, until somebody binds it by its number, and with `SO_REUSEADDR`.
 */
export const reserveUdpPort = async (): Promise<number> => {
  const holder = socket(AF_INET, SOCK_DGRAM);
  await holder.bind("127.0.0.1:0"); // not yet with SO_REUSEADDR: the kernel lets two such sockets have one port
  holder.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
  await holder.connect("127.0.0.1:1");
  held.push(holder);
  return (holder.getsockname() as InternetAddress).port;
};

/**
 * A port for a server of this process, which is reserved: a client that dials it at `localhost` finds nobody else at `::1`, and
 * when the server has closed, nobody at all. On Bun and Deno it is 0, since what is bound listens there.
 */
export const ownPort = (): Promise<number> => (runtime === "Node" ? reservePort() : Promise.resolve(0));

export const ownAddress = async (): Promise<string> => `127.0.0.1:${await ownPort()}`;

/** This many ports, all different. */
export const reservePorts = (count: number): Promise<number[]> =>
  Promise.all(Array.from({ length: count }, reservePort));
export const reserveUdpPorts = (count: number): Promise<number[]> =>
  Promise.all(Array.from({ length: count }, reserveUdpPort));
