/** Descriptors that an app is given to listen on, and which listener each is for. */

import type { Listener } from "../../../core/app/app.ts";
import { SocketError } from "../../../core/errors.ts";
import { type Address, type Endpoint, formatAddress } from "../../../core/net/address.ts";
import { AF_INET, AF_INET6, AF_UNIX, SOCK_DGRAM, SOCK_STREAM } from "../../../core/net/constants.ts";
import { checkCount, checkOptions, optionNamesOf } from "../../../core/options.ts";
import { knownDescriptor } from "../../kernel/descriptors/adopted.ts";

/** A descriptor that is bound, or listens, for one of an app's listeners. */
export interface ListenDescriptor {
  /** Its listener's name. If several listeners have that name, or none, the descriptor's kind and address decide. */
  readonly name: string;
  readonly fd: number;
  /** Whether the file of a socket on a path is removed when the app is closed. Default `false`: it belongs to whoever made the descriptor. */
  readonly removePath?: boolean;
}

const DESCRIPTOR_NAMES = optionNamesOf<ListenDescriptor>("a descriptor")({
  name: "string",
  fd: true,
  removePath: "boolean",
});

type Kind = "tcp" | "udp" | "unix streams" | "unix datagrams";

const kindOf = ({ endpoint, carries }: Listener): Kind =>
  endpoint.scheme === "unix" ? `unix ${carries}` : endpoint.scheme === "udp" ? "udp" : "tcp";

/** What a descriptor is; the address is `null` if unknown. */
const examined = (fd: number): { readonly kind: Kind; readonly address: Address | null } => {
  const { family, type, state, localAddress } = knownDescriptor(fd, {
    family: AF_INET,
    type: SOCK_STREAM,
    proto: 0,
  });
  const inet = family === AF_INET || family === AF_INET6;
  if (state === "connected" || !(inet || family === AF_UNIX) || ![SOCK_STREAM, SOCK_DGRAM].includes(type)) {
    const what = state === "connected" ? "is connected" : `is of family ${family}, type ${type}`;
    throw new SocketError("EINVAL", `descriptor ${fd} ${what}: nothing can be served on it`);
  }
  const streams = type === SOCK_STREAM;
  return {
    kind: inet ? (streams ? "tcp" : "udp") : streams ? "unix streams" : "unix datagrams",
    address: localAddress,
  };
};

/** Whether a listener belongs at that address. */
const isAt = (endpoint: Endpoint, address: Address | null): boolean => {
  if (address === null) return false;
  if (endpoint.scheme === "unix" || address.family === "unix")
    return endpoint.scheme === "unix" && address.family === "unix" && endpoint.path === address.path;
  return endpoint.port === address.port;
};

/** Descriptors in groups: those with the same name and address, as with `reusePort`, are together. */
export const byPlace = (descriptors: readonly ListenDescriptor[]): ListenDescriptor[][] => {
  const groups = new Map<string, ListenDescriptor[]>();
  for (const descriptor of descriptors) {
    const { kind, address } = examined(checkCount("fd", descriptor.fd, 0));
    const at = address === null ? `descriptor ${descriptor.fd}` : formatAddress(address);
    const place = [descriptor.name, kind, at].join(" ");
    groups.set(place, [...(groups.get(place) ?? []), descriptor]);
  }
  return [...groups.values()];
};

/**
 * Which listener each descriptor is for. Throws `EINVAL` for one without a listener, `EBADF`, `ENOTSOCK`; with `spare`, descriptors
 * without a listener are passed to it instead.
 */
export const assigned = <Context>(
  listeners: readonly Listener<Context>[],
  descriptors: readonly ListenDescriptor[],
  spare?: (descriptor: ListenDescriptor) => void,
): Map<Listener<Context>, ListenDescriptor> => {
  const given = new Map<Listener<Context>, ListenDescriptor>();
  const known = descriptors.map((descriptor) => {
    checkOptions("a descriptor", descriptor, DESCRIPTOR_NAMES);
    return { descriptor, ...examined(checkCount("fd", descriptor.fd, 0)) };
  });
  const left = (kind: Kind): Listener<Context>[] =>
    listeners.filter((one) => !given.has(one) && kindOf(one as Listener) === kind);
  const named = (name: string): boolean => listeners.some((one) => one.name === name);
  // First those whose name and address fit, so that a match by name only does not take another's place.
  const rounds: ((one: (typeof known)[number]) => Listener<Context> | undefined)[] = [
    ({ descriptor: { name }, kind, address }) =>
      left(kind).find((one) => one.name === name && isAt(one.endpoint, address)),
    ({ descriptor: { name }, kind }) => left(kind).find((one) => one.name === name),
    ({ descriptor: { name }, kind, address }) =>
      named(name) ? undefined : left(kind).find((one) => isAt(one.endpoint, address)),
    ({ descriptor: { name }, kind }) => {
      const all = left(kind);
      return named(name) || all.length > 1 ? undefined : all[0];
    },
  ];
  const open = new Set(known);
  for (const round of rounds) {
    for (const one of [...open]) {
      const listener = round(one);
      if (listener === undefined) continue;
      given.set(listener, one.descriptor);
      open.delete(one);
    }
  }
  for (const { descriptor, kind, address } of open) {
    if (spare !== undefined) {
      spare(descriptor);
      continue;
    }
    const at = address === null ? "" : ` at ${formatAddress(address)}`;
    const has = listeners.map(({ name, endpoint }) => `${name} (${formatAddress(endpoint)})`).join(", ");
    throw new SocketError(
      "EINVAL",
      `descriptor ${descriptor.fd}, "${descriptor.name}", is of ${kind}${at}, and no listener that has none yet is for it; the app has: ${has}`,
    );
  }
  return given;
};
