/** `socklet proxy`: stands between clients and a server, shows what passes, and records it. */

import { printableJson } from "../../../core/describe.ts";
import { type Endpoint, formatAddress, packAddress, parseAddress } from "../../../core/net/address.ts";
import { FaultRules } from "../../../core/testing/faults/rules.ts";
import { fs } from "../../builtin.ts";
import { clientContext } from "../../kernel/tls/tls.ts";
import { listenerUrl } from "../../servers/tcp.ts";
import { openDatagramProxy } from "../../wire/datagrams.ts";
import { openProxy } from "../../wire/proxy.ts";
import type { StartTlsProtocol } from "../../wire/starttls.ts";
import { Outlet } from "../../wire/transcripts/outlet.ts";
import { Tape } from "../../wire/transcripts/tape.ts";
import { asked, describe, say, UsageError } from "../terminal/output.ts";
import { onStop } from "../terminal/signals.ts";
import { issuedFor } from "./authority.ts";
import { ruleOf } from "./rules.ts";

interface ProxyFlags {
  listen: string;
  record?: string;
  json?: boolean;
  quiet?: boolean;
  ca?: string;
  starttls?: StartTlsProtocol;
  fault?: readonly string[];
  seed: number;
}

/** Where clients connect: `--listen`. Throws `UsageError`. */
export const listenEndpoint = (text: string): { readonly hostname: string; readonly port: number } => {
  const endpoint = asked(`--listen ${text}`, () => parseAddress(text));
  if (endpoint.scheme !== undefined)
    throw new UsageError(`--listen ${text}: give host:port, without a scheme`);
  return endpoint;
};

/** The server: the address that is proxied. Throws `UsageError`. */
const targetOf = (address: string): Endpoint => {
  const endpoint = asked(address, () => parseAddress(address));
  if (endpoint.scheme !== "unix" && (endpoint.port === 0 || endpoint.hostname === "")) {
    throw new UsageError(`${address} cannot be dialled: it names no host, or port 0`);
  }
  return { ...endpoint, scheme: endpoint.scheme ?? "tcp" } as Endpoint;
};

const DELAY = 50; // ms that a few lines for a file wait, so that more are written together

/** The writers of files, by their descriptors: waiting lines are written when the process ends, however it ends. */
const files = new Map<Outlet, number>();
const finish = (): void => {
  for (const [outlet, fd] of files) {
    try {
      fs.writeFileSync(fd, outlet.take());
    } catch {} // the disk is full, which was reported
  }
};

/** Writes to a file, which it empties first. Throws if it cannot. */
export const toFile = (path: string, failed: (error: Error) => void): Outlet => {
  let fd: number;
  try {
    fd = fs.openSync(path, "w");
  } catch (error) {
    throw new Error(`--record ${path}: ${(error as Error).message}`, { cause: error });
  }
  const write = (bytes: Uint8Array, done: (error?: Error | null) => void): void =>
    fs.write(fd, bytes, 0, bytes.length, null, (error, written) => {
      if (error || written === bytes.length) done(error);
      else write(bytes.subarray(written), done);
    });
  const outlet = new Outlet((text, done) => write(Buffer.from(text), done), failed, DELAY);
  if (files.size === 0) process.once("exit", finish);
  files.set(outlet, fd);
  return outlet;
};

export const proxy = async (address: string, flags: ProxyFlags): Promise<void> => {
  const listen = listenEndpoint(flags.listen);
  const target = targetOf(address);
  const { scheme } = target;
  const { starttls } = flags;
  if (starttls !== undefined && scheme !== "tcp")
    throw new UsageError("--starttls is for a server at tcp://, which begins in plain text");
  const { fault: faults = [] } = flags;
  if (starttls !== undefined && faults.length > 0)
    throw new UsageError(
      "give --starttls or --fault, not both: rules of faults hold for one connection's bytes",
    );
  if (flags.ca !== undefined && scheme !== "tls" && starttls === undefined)
    throw new UsageError("--ca is for a server at tls://, or with --starttls");
  const tls = flags.ca === undefined ? undefined : { ca: { file: flags.ca } };
  if (tls !== undefined) asked("--ca", () => clientContext(tls)); // before anything listens or is written
  if (flags.json && flags.quiet) throw new UsageError("give --json or --quiet, not both");
  const stopped = new Promise<void>((resolve) => void onStop({ stop: () => resolve() }));
  const lost = (what: string) => (error: Error) => {
    process.exitCode = 1;
    say(`${what}: ${error.message}; what passes from now on is not in it`);
  };
  // The tape escapes what a peer sent, so that a transcript can be printed safely, too.
  const stdout = new Outlet(
    (text, done) => process.stdout.write(flags.json ? printableJson(text) : text, done),
    () => {}, // its reader may leave (`| head -1`), and the proxy continues
  );
  const outlets = {
    record: flags.record === undefined ? undefined : toFile(flags.record, lost(`--record ${flags.record}`)),
    json: flags.json ? stdout : undefined,
    show: flags.json || flags.quiet ? undefined : stdout,
  };
  const tape =
    outlets.record === undefined && flags.quiet
      ? undefined
      : new Tape(
          { kind: scheme === "udp" ? "datagrams" : "stream", address: formatAddress(target) },
          outlets,
        );
  const failed = (client: Parameters<typeof formatAddress>[0], error: unknown): void =>
    say(`${formatAddress(client)}  ${describe(error)}`);
  const security =
    scheme === "tls" || (scheme === "tcp" && starttls !== undefined)
      ? issuedFor(target.hostname, packAddress(target.hostname) !== null)
      : undefined;
  const kind = scheme === "udp" ? "datagrams" : "stream";
  const rules = new FaultRules(kind, {
    seed: flags.seed,
    did: ({ rule, fault, from, connection }) => tape?.faulted(connection, from, fault, rule),
  });
  for (const text of faults) asked(`--fault "${text}"`, () => rules.add(ruleOf(text)));
  const ruled = faults.length > 0 ? { rules } : {};
  const open = scheme === "udp" ? openDatagramProxy : openProxy;
  const up = await open({ listen, target, tape, failed, security, tls, startTls: starttls, ...ruled });
  const at = listenerUrl(scheme === "udp" || scheme === "tls" ? scheme : "tcp", up.address);
  say(`${at} forwards to ${formatAddress(target)}`);
  await stopped;
  await up.close();
  for (const { name, applied } of rules.list()) {
    if (applied === 0) say(`the rule "${name}" did nothing: what it waits for never happened`);
  }
  rules.clear();
  await tape?.written();
};
