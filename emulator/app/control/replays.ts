/** Replays a conversation to a server that this process dials, for `POST /v1/replays`. */

import type { X509Certificate } from "node:crypto";
import type { Replayed, ReplaySpec, ReplayTarget } from "../../../core/control/plane.ts";
import {
  type ReplayHearer,
  type ReplaySocket,
  replayByDatagrams,
  replayOnStream,
} from "../../../core/control/recording/replay.ts";
import { formatAddress } from "../../../core/net/address.ts";
import type { TlsOptions } from "../../../core/sockets/tls/tls.ts";
import { lazy, once } from "../../builtin.ts";
import { createConnection } from "../../sockets/dialling/connector.ts";

/** The options to trust a certificate of this process's own server at `hostname`: as its own authority if it is self-signed, and by a name that it has. */
export const trusting = (certificate: X509Certificate, hostname: string): TlsOptions => {
  const known = certificate.checkIP(hostname) ?? certificate.checkHost(hostname);
  const [, name] = /DNS:([^,]+)/.exec(certificate.subjectAltName ?? "") ?? [];
  return {
    ...(known === undefined && name !== undefined && { serverName: name.replace(/^\*/, "any") }),
    ...(certificate.checkIssued(certificate) && { ca: certificate.toString() }),
  };
};

/** Replays it, and returns what both sides sent. Rejects if the server cannot be reached; later failures are in the answer. */
export const replayTo = ({ endpoint, ...how }: ReplayTarget, spec: ReplaySpec): Promise<Replayed> => {
  const address = formatAddress(endpoint);
  if (endpoint.scheme === "udp") {
    return replayByDatagrams(address, spec, (hearer) => connected(endpoint, hearer));
  }
  return replayOnStream(address, spec, (signal) => createConnection(endpoint, { ...how, signal }));
};

/** A datagram socket to one server. */
const connected = async (
  { hostname, port }: { readonly hostname: string; readonly port: number },
  { came, failed }: ReplayHearer,
): Promise<ReplaySocket> => {
  const { address, family } = await lazy.dns.promises.lookup(hostname);
  const socket = lazy.dgram.createSocket(family === 6 ? "udp6" : "udp4");
  socket.on("message", came);
  socket.on("error", failed);
  const opened = once(socket, "connect");
  try {
    socket.connect(port, address);
    await opened;
  } catch (error) {
    socket.close();
    throw error;
  }
  return socket;
};
