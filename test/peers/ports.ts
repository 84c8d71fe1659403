/** Ports for programs that cannot let the system choose one. */

import dgram from "node:dgram";
import { once } from "node:events";
import { AF_INET, type InternetAddress, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET } from "socklet";
import { socket } from "socklet/emulator";

const held: unknown[] = []; // until this process ends

/**
 * A port of 127.0.0.1 that stays ours: a socket is bound to it, and does not listen. The kernel assigns it to no socket
 * for which it chooses the port, neither to listen nor to dial from. A socket that names the port, and sets `SO_REUSEADDR` as servers do, may listen
 * there (tcp(7); Linux). A port that is only closed again may be assigned to another program.
 */
export const reservePort = async (): Promise<number> => {
  const holder = socket(AF_INET, SOCK_STREAM);
  holder.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
  await holder.bind("127.0.0.1:0");
  held.push(holder);
  return (holder.getsockname() as InternetAddress).port;
};

/** The same for datagrams. The holder does not get them, since it is connected to port 1 of this machine. */
export const reserveUdpPort = async (): Promise<number> => {
  const holder = dgram.createSocket({ type: "udp4", reuseAddr: true }).unref();
  holder.bind(0, "127.0.0.1").connect(1, "127.0.0.1");
  await once(holder, "connect");
  held.push(holder);
  return holder.address().port;
};

/** This many ports, all different. */
export const reservePorts = (count: number): Promise<number[]> =>
  Promise.all(Array.from({ length: count }, reservePort));
export const reserveUdpPorts = (count: number): Promise<number[]> =>
  Promise.all(Array.from({ length: count }, reserveUdpPort));
