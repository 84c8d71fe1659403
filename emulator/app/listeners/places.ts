/** Where an app listens, and where what it dials leads if that is a listener of its own. */

import type { Listener } from "../../../core/app/app.ts";
import { type Address, type Endpoint, isLoopback, packAddress } from "../../../core/net/address.ts";

/** An open listener: where the app declared it, and where it is. */
export interface Placed {
  readonly declared: Endpoint;
  readonly at: Address | null;
}

/** Listeners in groups that must share a port: those with the same declared port, with `anyPort`; else each is alone. */
export const together = <Context>(
  all: readonly Listener<Context>[],
  { anyPort, host }: { readonly anyPort?: boolean; readonly host?: string },
): Listener<Context>[][] => {
  const groups: { readonly port: number; readonly places: Set<string>; readonly of: Listener<Context>[] }[] =
    [];
  for (const listener of all) {
    const { endpoint } = listener;
    const port = endpoint.scheme === "unix" ? 0 : endpoint.port;
    // Two that cannot share a port are not kept together.
    const place = endpoint.scheme === "unix" ? "" : `${endpoint.scheme}://${host ?? endpoint.hostname}`;
    const group = anyPort && port !== 0 && groups.find((one) => one.port === port && !one.places.has(place));
    if (group) {
      group.places.add(place);
      group.of.push(listener);
    } else groups.push({ port, places: new Set([place]), of: [listener] });
  }
  return groups.map(({ of }) => of);
};

/** A host in its canonical spelling. */
const hostKey = (host: string): string => String(packAddress(host) ?? host.toLowerCase());

const LOCALHOST: readonly string[] = ["localhost", "127.0.0.1", "::1"].map(hostKey);

/** Every address of this machine. */
const isAny = (host: string): boolean =>
  host === "" || packAddress(host)?.every((byte) => byte === 0) === true;

/** Whether a connection to `to` reaches a listener on `at`. */
const leadsTo = (to: Endpoint, at: Endpoint): boolean => {
  if (to.scheme === "unix" || at.scheme === "unix" || at.scheme === "udp" || to.port !== at.port)
    return false;
  const [dialled, listening] = [hostKey(to.hostname), hostKey(at.hostname)];
  if (dialled === listening) return true;
  const local = LOCALHOST.includes(dialled);
  if (isAny(at.hostname)) return local || (packAddress(to.hostname) !== null && isLoopback(to.hostname));
  return local && LOCALHOST.includes(listening) && (dialled === "localhost" || listening === "localhost");
};

/** Where an entry of the app's `dial` leads now that the listeners are open: the actual address, if it is one of them. */
export const moved = (to: Endpoint, placed: readonly Placed[], host: string | undefined): Endpoint => {
  const at = placed.find(({ declared }) => leadsTo(to, declared))?.at;
  if (to.scheme === "unix" || at == null || at.family === "unix") return to;
  const hostname = host === undefined || isAny(at.hostname) ? to.hostname : at.hostname;
  return { ...to, hostname, port: at.port };
};

/** Where this process dials a listener of its own. */
export const dialledAt = (declared: Endpoint, at: Address | null): Endpoint => {
  if (at === null || at.family === "unix" || declared.scheme === "unix") return declared;
  const { family, port } = at;
  const hostname = isAny(at.hostname) ? (family === "IPv6" ? "::1" : "127.0.0.1") : at.hostname;
  return { ...declared, hostname, port };
};
