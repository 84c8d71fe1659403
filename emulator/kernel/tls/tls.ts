/**
 * TLS through `node:tls`: the contexts that listeners and connectors make from their options, the handshake, and its result.
 * Node decides what the peer is told; the error messages for a failed handshake are made here.
 */

import type { X509Certificate } from "node:crypto";
import net from "node:net";
import type tls from "node:tls";
import { printable } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import {
  type CertificateOptions,
  type PeerCertificate,
  type Pem,
  protocolsOf,
  SESSION_TIMEOUT,
  type ServerTlsOptions,
  type TlsInfo,
  type TlsOptions,
} from "../../../core/sockets/tls/tls.ts";
import { checkServerTls } from "../../../core/sockets/tls/tls-listener.ts";
import { fs, lazy } from "../../builtin.ts";
import { runtime } from "../../runtime.ts";
import { addressOf } from "../addresses.ts";
import { distrustOf, leaveDistrusted, tellLaterErrors } from "../handles/handles.ts";
import { handshakes, type TracedHandshake, traced } from "../tracing.ts";
import { logKeysOf } from "./key-log.ts";

// ---- PEM ----

type Text = string | Buffer;

/** A certificate and its key, as read. */
interface Pair {
  /** The prefix of its options in messages, such as `tls.`. */
  readonly path: string;
  readonly cert: Text;
  readonly key: Text;
  readonly passphrase: string | undefined;
}

/** The text or bytes of a PEM; a file is read now. Throws a `TypeError` that names the option. */
const read = (name: string, pem: Pem): Text => {
  if (typeof pem === "string") return pem;
  if (pem instanceof Uint8Array) return Buffer.from(pem.buffer, pem.byteOffset, pem.byteLength);
  try {
    return fs.readFileSync(pem.file);
  } catch (cause) {
    throw new TypeError(`${name}: ${(cause as Error).message}`, { cause });
  }
};

const listOf = (pems: Pem | readonly Pem[] | undefined): readonly Pem[] =>
  pems === undefined ? [] : Array.isArray(pems) ? pems : [pems as Pem];

const readAll = (name: string, pems: Pem | readonly Pem[] | undefined): Text[] =>
  listOf(pems).map((pem, i) => read(Array.isArray(pems) ? `${name}[${i}]` : name, pem));

const reasonOf = (error: unknown): string => {
  const { reason, message } = error as Error & { reason?: string };
  return printable(reason ?? message, true);
};

/** The result of `make`; if that throws, throws a `TypeError` that begins with `name`. */
const soundly = <T>(name: string, what: string, make: () => T): T => {
  try {
    return make();
  } catch (cause) {
    throw new TypeError(`${name} ${what} (${reasonOf(cause)})`, { cause });
  }
};

/** The certificates of a PEM text. */
const certificatesIn = (name: string, pem: Text): X509Certificate[] => {
  const parts =
    String(pem).match(/-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[^-]*-----END [^-]*-----/g) ?? [];
  const { X509Certificate } = lazy.crypto;
  if (parts.length === 0) throw new TypeError(`${name} has no certificate in it`);
  return parts.map((part) =>
    soundly(name, "is not a certificate that can be read", () => new X509Certificate(part)),
  );
};

/** Reads a certificate and its key, and checks that they belong together. */
const readPair = (path: string, { cert, key, passphrase }: CertificateOptions): Pair | null => {
  if (cert === undefined || key === undefined) return null;
  const pair = { path, cert: read(`${path}cert`, cert), key: read(`${path}key`, key), passphrase };
  const [leaf] = certificatesIn(`${path}cert`, pair.cert) as [X509Certificate];
  const secret = soundly(
    `${path}key`,
    "cannot be read: is it a private key, and the passphrase its own?",
    () => lazy.crypto.createPrivateKey({ key: pair.key, ...(passphrase !== undefined && { passphrase }) }),
  );
  if (leaf.checkPrivateKey(secret)) return pair;
  throw new TypeError(
    `${path}key is not the key of the first certificate in ${path}cert, ${subjectOf(leaf)}`,
  );
};

/** The first certificate of a pair. */
const leafOf = ({ path, cert }: Pair): X509Certificate =>
  certificatesIn(`${path}cert`, cert)[0] as X509Certificate;

const subjectOf = ({ subject }: X509Certificate): string => subject?.replaceAll("\n", ", ") ?? "";

// ---- A listener's side ----

/** The files that `options` name. */
export const filesOf = ({ cert, key, ca, crl, serverNames = {} }: ServerTlsOptions): readonly string[] => {
  const pairs = Object.values(serverNames).flatMap((pair) => [pair.cert, pair.key]);
  const all = [cert, key, ...listOf(ca), ...listOf(crl), ...pairs];
  const files = all.flatMap((pem) => (typeof pem === "object" && "file" in pem ? [pem.file] : []));
  return [...new Set(files)];
};

/** What `replaceCertificate()` can replace. */
export type Replacement = Pick<
  ServerTlsOptions,
  "cert" | "key" | "passphrase" | "serverNames" | "ca" | "crl"
>;

/** The context of one set of certificates. */
interface Contexts {
  readonly main: tls.SecureContext;
  /** The context for the name that a client asks for; `null` if there are no names, and all clients get `main`. */
  readonly select: ((name: string) => tls.SecureContext | null) | null;
}

/** What a listener shows its clients and asks of them. Certificates can be replaced; connections keep those that they began with. */
export class ServerSecurity {
  #options: ServerTlsOptions;
  #contexts: Contexts;
  #read: ServerTlsOptions;
  readonly #ticketKeys: Buffer;

  /** Throws a `TypeError` or `RangeError` that names the wrong option. */
  constructor(options: ServerTlsOptions) {
    checkServerTls(options);
    mustHeed(options);
    this.#ticketKeys = Buffer.from(options.ticketKeys ?? lazy.crypto.randomBytes(48));
    this.#options = options;
    [this.#contexts, this.#read] = this.#make(options);
  }

  static readonly #known = new WeakMap<object, ServerSecurity>();

  /** The instance for these options, so that what a handler passes again for each connection is read once. */
  static of(options: ServerTlsOptions): ServerSecurity {
    let one = ServerSecurity.#known.get(options);
    if (one === undefined) {
      one = new ServerSecurity(options);
      ServerSecurity.#known.set(options, one);
    }
    return one;
  }

  /** The current options with files read and with ticket keys: what a child process needs to do the same. */
  get read(): ServerTlsOptions {
    return this.#read;
  }

  /** The options as given, with any replacements. */
  get options(): ServerTlsOptions {
    return this.#options;
  }

  /** The files that its certificates are in. */
  get files(): readonly string[] {
    return filesOf(this.#options);
  }

  /** The first certificate of each pair. */
  get certificates(): readonly X509Certificate[] {
    const { cert, key, serverNames = {} } = this.#read;
    const pairs = [{ cert, key }, ...Object.values(serverNames)];
    return pairs.flatMap((pair) => readPair("tls.", pair) ?? []).map(leafOf);
  }

  /**
   * Replaces its certificates by `next`; without that, reads its files again. Throws `TypeError` if they cannot be used or a
   * certificate has expired; it then keeps what it had.
   */
  replace(next: Replacement = {}): void {
    const options = { ...this.#options, ...next };
    if (next.cert !== undefined && next.passphrase === undefined)
      delete (options as { passphrase?: string }).passphrase;
    checkServerTls(options);
    mustHeed(options);
    const made = this.#make(options, true);
    [this.#contexts, this.#read] = made;
    this.#options = options;
  }

  #make(options: ServerTlsOptions, unexpired = false): [Contexts, ServerTlsOptions] {
    const {
      serverNames = {},
      clientCertificate = "none",
      minVersion,
      sessionTimeout = SESSION_TIMEOUT,
    } = options;
    const ca = readAll("tls.ca", options.ca);
    const crl = readAll("tls.crl", options.crl);
    checkAuthorities(ca, crl);
    const main = readPair("tls.", options);
    const named = Object.entries(serverNames).map(([name, certificate]) => {
      return [name, readPair(`tls.serverNames["${name}"].`, certificate) as Pair] as const;
    });
    if (unexpired) {
      for (const pair of [...(main === null ? [] : [main]), ...named.map(([, pair]) => pair)]) {
        const { validTo } = leafOf(pair);
        if (Date.parse(validTo) < Date.now())
          throw new TypeError(`${pair.path}cert has expired, on ${validTo}`);
      }
    }
    const { constants, createHash } = lazy.crypto;
    // A client that was trusted under other rules must not return with a ticket.
    const rules = createHash("sha256").update(
      JSON.stringify([clientCertificate, ca.map(String), crl.map(String)]),
    );
    const shared: tls.SecureContextOptions = {
      ...(minVersion !== undefined && { minVersion }),
      ...(ca.length > 0 && { ca }),
      ...(crl.length > 0 && { crl }),
      sessionIdContext: rules.digest("hex").slice(0, 32),
      sessionTimeout: Math.max(1, Math.round((sessionTimeout ?? 1_000) / 1_000)),
      ticketKeys: this.#ticketKeys,
      secureOptions:
        constants.SSL_OP_NO_RENEGOTIATION | (sessionTimeout === null ? constants.SSL_OP_NO_TICKET : 0),
    };
    const contextOf = (pair: Pair | null): tls.SecureContext => {
      const { cert, key, passphrase, path = "tls." } = pair ?? {};
      const own = { ...shared, cert, key, ...(passphrase !== undefined && { passphrase }) };
      return soundly(`${path}cert`, "cannot be used", () => lazy.tls.createSecureContext(own));
    };
    const exact = new Map<string, tls.SecureContext>();
    for (const [name, pair] of named) exact.set(name.toLowerCase(), contextOf(pair));
    const whole = main === null ? null : contextOf(main);
    const select = (name: string): tls.SecureContext | null => {
      const asked = name.toLowerCase().replace(/\.$/, "");
      return exact.get(asked) ?? exact.get(asked.replace(/^[^.]+/, "*")) ?? whole;
    };
    const readPem = ({ cert, key, passphrase }: Pair): CertificateOptions => ({
      cert: String(cert),
      key: String(key),
      passphrase,
    });
    const { alpn: _, maxHandshakes: __, ...rest } = options;
    return [
      { main: whole ?? contextOf(null), select: exact.size === 0 ? null : select },
      {
        ...rest,
        ...(main !== null && readPem(main)),
        ...(options.alpn !== undefined && { alpn: protocolsOf(options.alpn) }),
        ...(options.serverNames !== undefined && {
          serverNames: Object.fromEntries(named.map(([name, pair]) => [name, readPem(pair)])),
        }),
        ...(ca.length > 0 && { ca: ca.map(String) }),
        ...(crl.length > 0 && { crl: crl.map(String) }),
        ticketKeys: new Uint8Array(this.#ticketKeys),
      },
    ];
  }

  /** Whether it asks clients for a certificate. */
  get asks(): boolean {
    return (this.#options.clientCertificate ?? "none") !== "none";
  }

  /** Begins a handshake with a client. */
  accept(socket: net.Socket): tls.TLSSocket {
    const { main, select } = this.#contexts;
    const { clientCertificate = "none", alpn } = this.#options;
    const protocols = protocolsOf(alpn);
    const secured = new lazy.tls.TLSSocket(socket, {
      isServer: true,
      secureContext: main,
      requestCert: this.asks,
      rejectUnauthorized: clientCertificate === "require",
      ...(protocols !== undefined && { ALPNProtocols: [...protocols] }),
      ...(select !== null && {
        SNICallback: (name, told) => {
          const context = select(name);
          if (context !== null) told(null, context);
          else told(new Error(`no certificate is for the name ${JSON.stringify(name)}`));
        },
      }),
    });
    leaveDistrusted(secured);
    return logKeysOf(secured);
  }

  /** After the handshake, why the client is refused; `null` if it is not. */
  refusal({ certificate, distrust }: TlsInfo): string | null {
    const { clientCertificate = "none" } = this.#options;
    if (clientCertificate !== "require" || (certificate !== null && distrust === null)) return null;
    if (certificate === null) return "the client gave no certificate";
    return `the client's certificate, ${certificate.subject}, is not trusted: ${DISTRUST[distrust ?? ""] ?? distrust}`;
  }
}

/** Throws `ERR_UNSUPPORTED` for an option that this runtime's TLS accepts and ignores. */
const mustHeed = (options: { readonly crl?: unknown; readonly ticketKeys?: unknown }): void => {
  const refuse = (said: string): never => {
    throw new SocketError("ERR_UNSUPPORTED", said);
  };
  if (runtime === "Deno" && options.crl !== undefined)
    refuse(
      "tls.crl needs Node or Bun, and this is Deno: its TLS checks no revocation lists; remove the authority from ca",
    );
  if (runtime !== "Node" && options.ticketKeys !== undefined) {
    const why = runtime === "Bun" ? "ignores them" : "resumes no sessions";
    refuse(`tls.ticketKeys needs Node, and this is ${runtime}: its TLS ${why}; leave it out`);
  }
};

/** Throws `TypeError` if they cannot be read. */
const checkAuthorities = (ca: readonly Text[], crl: readonly Text[]): void => {
  for (const one of ca) certificatesIn("tls.ca", one);
  for (const list of crl) {
    soundly("tls.crl", "is not a revocation list that can be read", () =>
      lazy.tls.createSecureContext({ crl: list }),
    );
  }
};

// ---- A connector's side ----

/** The last session of a connector, to resume. */
export interface LastSession {
  session?: Buffer | undefined;
}

const contexts = new WeakMap<object, { readonly said: string; readonly context: tls.SecureContext }>();

/** The context of a connector: made once, and again if a file has changed. Throws `TypeError`, `ERR_UNSUPPORTED`. */
export const clientContext = (options: TlsOptions): tls.SecureContext => {
  mustHeed(options);
  const ca = readAll("tls.ca", options.ca);
  const crl = readAll("tls.crl", options.crl);
  const cert = options.cert === undefined ? undefined : read("tls.cert", options.cert);
  const key = options.key === undefined ? undefined : read("tls.key", options.key);
  const { passphrase, minVersion } = options;
  const said = JSON.stringify([ca.map(String), crl.map(String), `${cert}`, `${key}`]);
  const known = contexts.get(options);
  if (known?.said === said) return known.context;
  readPair("tls.", options);
  checkAuthorities(ca, crl);
  const context = lazy.tls.createSecureContext({
    ...(ca.length > 0 && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(passphrase !== undefined && { passphrase }),
    ...(minVersion !== undefined && { minVersion }),
    ...(crl.length > 0 && { crl }),
  });
  contexts.set(options, { said, context });
  return context;
};

/** Begins a handshake with a server. Throws `TypeError`. */
export const secureDialled = (
  socket: net.Socket,
  hostname: string,
  options: TlsOptions,
  last: LastSession | undefined,
): tls.TLSSocket => {
  const { serverName = hostname, alpn } = options;
  const secured = lazy.tls.connect({
    socket,
    secureContext: clientContext(options),
    host: serverName,
    ...(alpn !== undefined && { ALPNProtocols: [...alpn] }),
    ...(last?.session !== undefined && { session: last.session }),
    // The certificate must have the address, but SNI must not carry one (RFC 6066, section 3).
    ...(net.isIP(serverName) === 0 && { servername: serverName }),
  });
  logKeysOf(secured);
  if (last !== undefined) {
    secured.on("session", (session: Buffer) => {
      last.session = session;
    });
  }
  return secured;
};

// ---- The handshake ----

/** OpenSSL's reasons, and what they mean to a person who reads a log. */
const REASONS: Readonly<Record<string, string>> = {
  "http request": "the peer speaks HTTP in plain text, and this port is TLS from its first byte (https://)",
  "https proxy request":
    "the peer speaks HTTP in plain text (CONNECT), and this port is TLS from its first byte",
  "wrong version number": "the peer's first bytes are not TLS",
  "packet length too long": "the peer's bytes are not TLS, or a record is longer than may be",
  "encrypted length too long": "the peer's bytes are not TLS, or a record is longer than may be",
  "data length too long": "the peer's bytes are not TLS, or a record is longer than may be",
  "bad record type": "the peer's bytes are not TLS",
  "unsupported protocol": "no version in common: the peer speaks only versions of TLS that are too old here",
  "no protocols available": "no version in common",
  "no shared cipher": "no cipher in common, or no certificate for what the peer speaks",
  "no suitable signature algorithm": "no signature algorithm in common",
  "no application protocol": "no protocol in common (ALPN)",
  "peer did not return a certificate": "the client gave no certificate",
  "unexpected eof while reading": "the peer left in the TLS handshake",
  "tlsv1 alert protocol version": "no version in common: the peer says that this side's is not spoken there",
  "sslv3 alert handshake failure": "the peer found nothing in common, or asks for a certificate",
  "tlsv1 alert unknown ca": "the peer does not trust the authority of this side's certificate",
  "sslv3 alert certificate expired": "the peer says that this side's certificate has expired",
  "sslv3 alert certificate revoked": "the peer says that this side's certificate was revoked",
  "sslv3 alert bad certificate": "the peer does not accept this side's certificate",
  "sslv3 alert certificate unknown": "the peer does not accept this side's certificate",
  "tlsv1 alert no application protocol": "no protocol in common (ALPN)",
  "tlsv13 alert certificate required": "the peer asks for a certificate, and this side gave none",
};

/** The same for rustls, Deno's TLS: its errors have no reason, but these words in their message. */
const RUSTLS: Readonly<Record<string, string>> = {
  InvalidContentType: "the peer's first bytes are not TLS",
  MessageTooLarge: "the peer's bytes are not TLS, or a record is longer than may be",
  Tls12NotOfferedOrEnabled:
    "no version in common: the peer speaks only versions of TLS that are too old here",
  ProtocolVersion: "no version in common: the peer says that this side's is not spoken there",
  NoCipherSuitesInCommon: "no cipher in common",
  NoApplicationProtocol: "no protocol in common (ALPN)",
  "peer doesn't support any known protocol": "no protocol in common (ALPN)",
  "peer sent no certificates": "the client gave no certificate",
  CertificateRequired: "the peer asks for a certificate, and this side gave none",
  HandshakeFailure: "the peer found nothing in common, or asks for a certificate",
  UnknownCA: "the peer does not trust the authority of this side's certificate",
  CertificateExpired: "the peer says that this side's certificate has expired",
  CertificateRevoked: "the peer says that this side's certificate was revoked",
  BadCertificate: "the peer does not accept this side's certificate",
  CertificateUnknown: "the peer does not accept this side's certificate",
};

const DISTRUST: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: "it has expired",
  CERT_NOT_YET_VALID: "it is not valid yet",
  CERT_REVOKED: "it was revoked",
  DEPTH_ZERO_SELF_SIGNED_CERT: "it is signed by itself, and not by an authority in ca",
  SELF_SIGNED_CERT_IN_CHAIN: "its authority is none of ca",
  UNABLE_TO_GET_ISSUER_CERT: "its authority is none of ca",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "its authority is none of ca, or a certificate between is missing",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "its authority is none of ca, or a certificate between is missing",
  UNABLE_TO_GET_CRL: "crl has no list of its authority",
  CRL_HAS_EXPIRED: "the list of its authority in crl has expired",
  INVALID_PURPOSE: "it is not for clients",
};

const wordsOf = (error: Error & { reason?: string; code?: string }): string => {
  const { reason, code = "", message } = error;
  if (code in DISTRUST) return `the peer's certificate is not trusted: ${DISTRUST[code]} (${code})`;
  if (reason === undefined) {
    const [said, words] = Object.entries(RUSTLS).find(([said]) => message.includes(said)) ?? [];
    return words === undefined ? message : `${words} (${said})`;
  }
  const known = reason.toLowerCase().replaceAll("_", " "); // BoringSSL, Bun's TLS, spells OpenSSL's reasons that way
  return Object.hasOwn(REASONS, known) ? `${REASONS[known]} (${reason})` : reason;
};

/** A TLS error as a `SocketError`: `ERR_TLS` in a handshake; later `ERR_TLS` only for TLS's own errors, otherwise that of the connection. */
export const tlsError = (error: Error & { reason?: string; code?: string }, later = false): SocketError => {
  if (later && !/^ERR_(SSL|TLS|OSSL)/.test(error.code ?? "")) return SocketError.from(error, "ECONNRESET");
  const what = later ? "the connection was ended by TLS" : "the TLS handshake failed";
  return new SocketError("ERR_TLS", `${what}: ${wordsOf(error)}`, { cause: error });
};

const left = (): SocketError => new SocketError("ERR_TLS", "the peer left in the TLS handshake");

/** Resolves when the handshake is done; rejects with `ERR_TLS`. `security`: the listener's, for an accepted connection. */
export const handshake = (secured: tls.TLSSocket, security: ServerSecurity | null): Promise<TlsState> => {
  if (!handshakes.hasSubscribers) return shakeHands(secured, security);
  const { remoteAddress, remotePort, remoteFamily } = secured;
  const context: TracedHandshake = {
    role: security === null ? "client" : "server",
    address: addressOf(remoteAddress, remotePort, remoteFamily),
  };
  return traced(handshakes, context, () => shakeHands(secured, security));
};

const shakeHands = async (secured: tls.TLSSocket, security: ServerSecurity | null): Promise<TlsState> => {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const gone = (): void => reject(left());
  secured.once(security === null ? "secureConnect" : "secure", resolve);
  // This listener stays: an error after the handshake is for the reader or writer at that time.
  secured.on("error", (error: Error & { reason?: string }) =>
    reject(isLeft(error) ? left() : tlsError(error)),
  );
  secured.once("end", gone).once("close", gone);
  try {
    await promise;
  } finally {
    secured.removeListener("end", gone).removeListener("close", gone);
  }
  const state = new TlsState(secured, security);
  if (security === null) return state;
  tellLaterErrors(secured);
  const refusal = security.refusal(state);
  if (refusal !== null) throw new SocketError("ERR_TLS", `the TLS handshake failed: ${refusal}`);
  // A server that ends in the same turn as its handshake sends no close_notify (Node 24, TLS 1.3): many peers see a reset.
  await new Promise((resolve) => setImmediate(resolve));
  return state;
};

/**
 * Resets the connection `plain` under `secured`, which closes both. Node destroys a TLS socket when the connection under it is closed.
 * Destroyed before that, on a connection that was reset, it frees OpenSSL's state at once; and a handler may be called while OpenSSL
 * reads, at the end of its handshake: that ended the process (SIGSEGV, Node 24).
 */
export const resetUnder = (plain: net.Socket, secured: net.Socket): void => {
  try {
    plain.resetAndDestroy();
  } catch {
    secured.destroy(); // a Unix socket has no reset
    return;
  }
  if (runtime !== "Node") secured.destroy();
};

const isLeft = ({ code }: NodeJS.ErrnoException): boolean => code === "ECONNRESET" || code === "EPIPE";

// ---- The result ----

const NAMES = /(?:[^,"]|"(?:\\.|[^"\\])*")+/g; // names in subjectAltName: one with a comma is in quotes

const describeCertificate = (x509: X509Certificate): PeerCertificate => ({
  subject: subjectOf(x509),
  issuer: x509.issuer.replaceAll("\n", ", "),
  commonName: /^CN=(.*)$/m.exec(x509.subject ?? "")?.[1] ?? null,
  names: (x509.subjectAltName?.match(NAMES) ?? []).map((name) => name.trim()),
  serialNumber: x509.serialNumber,
  fingerprint256: x509.fingerprint256,
  validFrom: new Date(x509.validFrom),
  validTo: new Date(x509.validTo),
  raw: new Uint8Array(x509.raw),
});

/** Why a client's certificate is not trusted, as an OpenSSL code; `null` if it is trusted. Deno has one code for all causes, so the dates are checked here. */
const whyDistrusted = (secured: tls.TLSSocket, { validFrom, validTo }: X509Certificate): string | null => {
  const code = distrustOf(secured);
  if (runtime !== "Deno" || code === null) return code;
  if (Date.parse(validTo) < Date.now()) return "CERT_HAS_EXPIRED";
  return Date.parse(validFrom) > Date.now() ? "CERT_NOT_YET_VALID" : code;
};

/** The result of a handshake. The certificate is described when it is first asked for. */
class TlsState implements TlsInfo {
  readonly version: string | null;
  readonly cipher: string | null;
  readonly alpn: string | null;
  readonly serverName: string | null;
  readonly distrust: string | null;
  readonly resumed: boolean;
  readonly closedCleanly = null;
  readonly #x509: X509Certificate | undefined;
  #certificate: PeerCertificate | undefined;

  /** `security`: the listener's, for an accepted connection. */
  constructor(secured: tls.TLSSocket, security: ServerSecurity | null) {
    const { servername } = secured as { readonly servername?: string | false | null };
    this.version = secured.getProtocol();
    this.cipher = secured.getCipher()?.standardName ?? null;
    this.alpn = secured.alpnProtocol || null;
    this.serverName = servername || null;
    this.resumed = secured.isSessionReused();
    this.#x509 = security?.asks === false ? undefined : secured.getPeerX509Certificate();
    this.distrust = security !== null && this.#x509 !== undefined ? whyDistrusted(secured, this.#x509) : null;
  }

  get certificate(): PeerCertificate | null {
    if (this.#x509 === undefined) return null;
    this.#certificate ??= describeCertificate(this.#x509);
    return this.#certificate;
  }

  get trusted(): boolean | null {
    return this.#x509 === undefined ? null : this.distrust === null;
  }
}
