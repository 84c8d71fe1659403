/** A datagram proxy between clients and one server. Each client gets its own socket towards the server, as behind a NAT. */

import type dgram from "node:dgram";
import { SocketError } from "../../core/errors.ts";
import type { Speaker } from "../../core/handlers/fault-rule.ts";
import { type Address, type Endpoint, formatAddress, type InternetAddress } from "../../core/net/address.ts";
import { Unsent } from "../../core/sockets/datagram.ts";
import type { FaultRules } from "../../core/testing/faults/rules.ts";
import { lazy } from "../builtin.ts";
import { addressOf, networkError } from "../kernel/addresses.ts";
import { datagramPost } from "../kernel/handles/datagram-handle.ts";
import { numericSocket } from "../sockets/datagrams/node-datagrams.ts";
import { zoned } from "../sockets/names/names.ts";
import type { ProxyOptions, WireProxy } from "./proxy.ts";

const IDLE = 60_000; // ms after which a silent client is forgotten (RFC 4787, section 4.3, wants 2 minutes of a NAT; DNS needs seconds)
const MOST = 1_024; // clients at once, each with a descriptor. One more replaces the one that has been silent longest

type Internet = Exclude<Endpoint, { readonly scheme: "unix" }>;

/** One client, and its socket to the server. */
interface Flow {
  readonly number: number;
  readonly socket: dgram.Socket;
  /** Sends to the server. */
  readonly ask: (bytes: Uint8Array, to: null) => void;
  /** These pass on what each side sends, and apply the fault rules to it. */
  readonly asks: Passage;
  readonly answers: Passage;
  /** When it last sent or received something. */
  last: number;
}

type Passage = ReturnType<FaultRules["link"]>;

/** Calls `tell` for the first datagram of each series of losses. Returns a function to call for every datagram: whether it is lost. */
const firstOf = <Args extends unknown[]>(
  tell: (...args: Args) => void,
): ((lost: boolean, ...args: Args) => void) => {
  let told = false;
  return (lost, ...args) => {
    if (lost && !told) tell(...args);
    told = lost;
  };
};

/** `passage`, bounded. Calls `full` for the first datagram of each series that is lost because the rules hold up too many. */
const bounded = (passage: Passage, full: () => void): Passage => {
  const passed = firstOf(full);
  return {
    pass(bytes, deliver) {
      let lost = false;
      passage.pass(bytes, deliver, (fault) => {
        lost ||= fault === "full";
      });
      passed(lost);
    },
    close: () => passage.close(),
  };
};

const ignore = (): void => {};

const UNRULED: Passage = { pass: (bytes, deliver) => deliver(bytes), close: ignore };

/** Sends from `socket`. Calls `full` for the first datagram of each series that is lost because the system has no room. */
const sender = <To extends InternetAddress | null>(
  socket: dgram.Socket,
  full: (to: To) => void,
): ((bytes: Uint8Array, to: To) => void) => {
  const post = datagramPost<To>(socket, new Unsent(), ignore);
  const sent = firstOf(full);
  return (bytes, to) => sent(post(bytes, to) === "full", to);
};

/** Opens a proxy between clients and the server at `target`. Rejects as a listener does. */
export const openDatagramProxy = async (options: ProxyOptions): Promise<WireProxy> => {
  const { listen, tape, failed, rules } = options;
  const target = options.target as Internet;
  const said = formatAddress({ scheme: "udp", ...listen });
  const resolved = async (host: string, whose: string): Promise<{ address: string; family: number }> =>
    lazy.dns.promises.lookup(zoned(host, whose)).catch((error) => {
      throw networkError(error, whose);
    });
  const own = await resolved(listen.hostname || "0.0.0.0", said);
  const server = await resolved(target.hostname, formatAddress(target));
  const flows = new Map<string, Flow>(); // the one silent longest comes first
  let count = 0;
  let closed = false;

  const front = numericSocket(own.family === 6 ? 6 : 4);
  await new Promise<void>((resolve, reject) => {
    front.once("error", (error) => reject(networkError(error, said)));
    front.bind({ address: own.address, port: listen.port }, resolve);
  });
  front.removeAllListeners("error");
  front.on("error", ignore); // a reply that one client's host refused
  const full = (client: Address, to: string): void =>
    failed?.(client, new SocketError("ENOBUFS", `the system has no room for what goes to ${to}: it is lost`));
  const heldUp = (client: Address, to: string): void =>
    failed?.(
      client,
      new SocketError("ENOBUFS", `the faults hold up 1 MiB that goes to ${to}: what comes then is lost`),
    );
  const ruled = (side: Speaker, number: number, full: () => void): Passage =>
    rules === undefined ? UNRULED : bounded(rules.link(side, number), full);
  const answer = sender(front, (to: InternetAddress) => full(to, "this client"));
  const forget = (name: string, flow: Flow): void => {
    flows.delete(name);
    flow.asks.close();
    flow.answers.close();
    flow.socket.close();
  };
  const flowOf = (client: dgram.RemoteInfo): Flow => {
    const name = nameOf(client);
    const known = flows.get(name);
    if (known !== undefined) {
      flows.delete(name); // to be added again behind all others
      flows.set(name, known);
      return known;
    }
    const [silent] = flows;
    if (flows.size >= MOST && silent !== undefined) forget(...silent);
    count++;
    const peer = addressOf(client.address, client.port, client.family) as InternetAddress;
    const socket = numericSocket(server.family === 6 ? 6 : 4);
    const flow: Flow = {
      number: count,
      asks: ruled("client", count, () => heldUp(peer, "the server")),
      answers: ruled("server", count, () => heldUp(peer, "this client")),
      socket,
      ask: sender<null>(socket, () => full(peer, "the server")),
      last: 0,
    };
    flows.set(name, flow);
    socket.on("message", (bytes) => {
      if (tape?.room !== undefined) return; // dropped, as when a kernel's buffer is full
      flow.last = performance.now();
      tape?.said(flow.number, "server", bytes);
      flow.answers.pass(bytes, (own) => {
        if (!closed) answer(own, peer);
      });
    });
    socket.on("error", (error) => {
      // The client would learn by ICMP that the server's kernel refused it; ICMP cannot be passed on.
      failed?.(peer, networkError(error, formatAddress(target)));
    });
    socket.connect(target.port, server.address);
    tape?.note(flow.number, `${formatAddress(peer)} came`);
    return flow;
  };
  front.on("message", (bytes, client) => {
    if (tape?.room !== undefined) return;
    const flow = flowOf(client);
    flow.last = performance.now();
    tape?.said(flow.number, "client", bytes);
    const send = (): void =>
      flow.asks.pass(bytes, (own) => {
        if (flows.get(nameOf(client)) === flow) flow.ask(own, null);
      });
    if (isConnected(flow.socket)) send();
    else flow.socket.once("connect", send);
  });
  const sweep = setInterval(() => {
    const now = performance.now();
    for (const [name, flow] of flows) if (now - flow.last > IDLE) forget(name, flow);
  }, IDLE / 4);
  const { address, port, family } = front.address();
  return {
    address: addressOf(address, port, family) as Address,
    async close() {
      closed = true;
      clearInterval(sweep);
      for (const [name, flow] of flows) forget(name, flow);
      await new Promise<void>((resolve) => front.close(() => resolve()));
    },
  };
};

const nameOf = ({ address, port }: dgram.RemoteInfo): string => `${address} ${port}`;

const isConnected = (socket: dgram.Socket): boolean => {
  try {
    socket.remoteAddress();
    return true;
  } catch {
    return false; // not yet
  }
};
