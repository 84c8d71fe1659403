/**
 * TLS as its users see it: the options of both roles, and what is known of a secured connection. A listener, `startTls()` and a
 * connector use the same words; a platform does the work.
 */

import { quoted } from "../../describe.ts";
import { checkOptions, checkWord, isObject, type OptionNames, optionNamesOf } from "../../options.ts";

/** How a connection is secured: not at all, from its first byte (TLS), or later by `startTls()` (the Web platform's words). */
export const SECURE_TRANSPORTS = ["off", "on", "starttls"] as const;
/** One of `SECURE_TRANSPORTS`. */
export type SecureTransport = (typeof SECURE_TRANSPORTS)[number];

/** How what is given `tls` is secured. Throws `TypeError` if it is said not to be. */
export const securedAs = (secureTransport: SecureTransport | undefined): SecureTransport => {
  if (secureTransport !== "off") return secureTransport ?? "on";
  throw new TypeError('secureTransport is "off", and tls is given; leave one of them out');
};

/** Certificates or keys in PEM: as text, as the bytes of a file, or as a file that a listener watches for changes (Node). */
export type Pem = string | Uint8Array | { readonly file: string };

/** A certificate and its private key. */
export interface CertificateOptions {
  /** The certificate, followed by the intermediate ones up to an authority that peers trust, in PEM. */
  readonly cert?: Pem | undefined;
  /** Its private key, in PEM. */
  readonly key?: Pem | undefined;
  /** The passphrase of the key, if it is encrypted. */
  readonly passphrase?: string | undefined;
}

export const CERTIFICATE_NAMES = optionNamesOf<CertificateOptions>()({
  cert: true,
  key: true,
  passphrase: "string",
});

/** The versions of TLS that may be the lowest. TLS 1.0 and 1.1 are deprecated (RFC 8996), and absent. */
const TLS_VERSIONS = ["TLSv1.2", "TLSv1.3"] as const;
/** One of `TLS_VERSIONS`. */
export type TlsVersion = (typeof TLS_VERSIONS)[number];

/** The options of both roles. */
interface SharedTlsOptions extends CertificateOptions {
  /** The authorities to trust, in PEM. A connector trusts these instead of the system's; a listener trusts them for client certificates. Not on workerd, which trusts its platform's. */
  readonly ca?: Pem | readonly Pem[] | undefined;
  /** Revocation lists of those authorities, in PEM. If they are given, a certificate without a list of its issuer is not trusted either. */
  readonly crl?: Pem | readonly Pem[] | undefined;
  /** The lowest version that is accepted. Default `"TLSv1.2"`, Node's. */
  readonly minVersion?: TlsVersion | undefined;
}

/** Whom to trust in a TLS handshake, and this side's own certificate. For connectors. */
export interface TlsOptions extends SharedTlsOptions {
  /** The name that the peer's certificate must have, also sent as SNI. Default: the host that was dialled. */
  readonly serverName?: string | undefined;
  /** The protocols to offer, preferred ones first (ALPN, RFC 7301). `request.tls.alpn` is the one that the peer chose. */
  readonly alpn?: readonly string[] | undefined;
}

export const TLS_NAMES = optionNamesOf<TlsOptions>("what dials by TLS")({
  ...CERTIFICATE_NAMES,
  ca: true,
  crl: true,
  minVersion: true,
  serverName: "string",
  alpn: "strings",
});

/** Whether clients are asked for a certificate. */
export type ClientCertificate = "none" | "ask" | "require";

/**
 * How a listener secures its connections, and `startTls()` on an accepted connection. Ciphers, curves and everything else not here are
 * the platform's defaults: in Node those of `tls.createServer()`. A client cannot renegotiate.
 *
 * `Handler` is what may serve one protocol: for a server a class, in an app the name of a handler.
 */
export interface ServerTlsOptions<Handler = unknown> extends SharedTlsOptions {
  /**
   * Certificates by the name that the client asks for (SNI): `"example.com"`, or `"*.example.com"` for all names with one label more.
   * An exact name wins. `cert` is for other names, and for clients that ask for none; without a `cert` these are refused.
   */
  readonly serverNames?: Readonly<Record<string, CertificateOptions>> | undefined;
  /**
   * `"ask"`: a client may present a certificate, and `request.tls` says whether `ca` vouches for it. `"require"`: a client without a
   * trusted certificate is refused in the handshake. Default `"none"`.
   */
  readonly clientCertificate?: ClientCertificate | undefined;
  /**
   * The protocols to accept, preferred ones first (ALPN, RFC 7301): a list, or handlers by protocol, of which the chosen one serves the
   * connection. A client that offers none gets the server's own handler; one that offers only others is refused.
   */
  readonly alpn?: readonly string[] | Readonly<Record<string, Handler>> | undefined;
  /** How long a session can be resumed, in milliseconds; `null`: not at all. Default 300 000, Node's. */
  readonly sessionTimeout?: number | null | undefined;
  /** 48 random bytes that encrypt session tickets. Servers with the same bytes resume each other's sessions. Default: this listener's own bytes, new at each start. */
  readonly ticketKeys?: Uint8Array | undefined;
  /** How many handshakes may go on at once. Up to `requestQueueSize` further clients wait for theirs, and any more are refused. Default 1 000. In a cluster (`--workers`) each worker has this limit. */
  readonly maxHandshakes?: number | undefined;
}

export const SERVER_TLS_NAMES = optionNamesOf<ServerTlsOptions>("a listener that has TLS")({
  ...CERTIFICATE_NAMES,
  ca: true,
  crl: true,
  minVersion: true,
  serverNames: "entries",
  clientCertificate: true,
  alpn: true,
  sessionTimeout: true,
  ticketKeys: true,
  maxHandshakes: true,
});

/** What `startTls()` takes: the options of the role that the connection has. */
export type StartTlsOptions = TlsOptions | ServerTlsOptions;

export const START_TLS_NAMES: OptionNames = { ...TLS_NAMES, ...SERVER_TLS_NAMES };

/** The default of `maxHandshakes`. */
export const MAX_HANDSHAKES = 1_000;

/** The default of `sessionTimeout`, in ms: Node's. */
export const SESSION_TIMEOUT = 300_000;

const startsPem = (bytes: Uint8Array): boolean => {
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, 64 * 1024));
  return text.includes("-----BEGIN ");
};

/** Throws `TypeError` if `value` is not PEM. */
const checkPem = (name: string, value: unknown): void => {
  const right = `${name} is PEM text ("-----BEGIN …"), its bytes, or { file: "path" }`;
  if (typeof value === "string") {
    if (value.includes("-----BEGIN ")) return;
    const path = /^[^\n]{1,200}$/.test(value) ? `; for a file write { file: ${quoted(value)} }` : "";
    throw new TypeError(`${right}, and this text is not PEM${path}`);
  }
  if (value instanceof Uint8Array) {
    if (startsPem(value)) return;
    throw new TypeError(
      `${right}; these ${value.length} bytes are not PEM (to convert DER: openssl x509 -inform der)`,
    );
  }
  if (isObject(value)) {
    checkOptions(name, value, { file: true });
    if (typeof value.file === "string" && value.file !== "") return;
  }
  throw new TypeError(right);
};

const checkPems = (name: string, value: unknown): void => {
  if (!Array.isArray(value)) checkPem(name, value);
  else if (value.length === 0)
    throw new TypeError(`${name} is an empty list; leave it out, or name a certificate`);
  else value.forEach((one, i) => void checkPem(`${name}[${i}]`, one));
};

export const checkCertificate = (path: string, { cert, key, passphrase }: CertificateOptions): void => {
  if (cert !== undefined) checkPem(`${path}cert`, cert);
  if (key !== undefined) checkPem(`${path}key`, key);
  if ((cert === undefined) !== (key === undefined)) {
    const [has, lacks] = cert === undefined ? ["key", "cert"] : ["cert", "key"];
    throw new TypeError(`${path}${has} is given without ${path}${lacks}: a cert and a key go together`);
  }
  if (passphrase === undefined) return;
  if (typeof passphrase !== "string") throw new TypeError(`${path}passphrase is a string`);
  if (key === undefined) throw new TypeError(`${path}passphrase is for ${path}key, which is not given`);
};

/** Throws `TypeError` if `protocols` is not a list for ALPN. */
export const checkProtocols = (name: string, protocols: readonly unknown[]): void => {
  if (protocols.length === 0) throw new TypeError(`${name} names no protocol; leave it out, or name one`);
  for (const protocol of protocols) {
    if (typeof protocol === "string" && /^[\x21-\x7e]{1,255}$/.test(protocol)) continue; // RFC 7301: 1 to 255 bytes
    throw new TypeError(
      `${name} has names of 1 to 255 ASCII characters, such as "imap", not ${quoted(String(protocol))}`,
    );
  }
};

export const checkShared = (path: string, options: SharedTlsOptions): void => {
  checkCertificate(path, options);
  if (options.ca !== undefined) checkPems(`${path}ca`, options.ca);
  if (options.crl !== undefined) {
    checkPems(`${path}crl`, options.crl);
    if (options.ca === undefined)
      throw new TypeError(`${path}crl is a list of ${path}ca, which is not given`);
  }
  if (options.minVersion !== undefined) checkWord(`${path}minVersion`, options.minVersion, TLS_VERSIONS);
};

/** Checks the values of a connector's options. Throws `TypeError`. `TLS_NAMES` checks the names. */
export const checkTls = (options: TlsOptions, path = "tls."): void => {
  checkShared(path, options);
  const { serverName, alpn } = options;
  if (serverName !== undefined && (typeof serverName !== "string" || serverName === "")) {
    throw new TypeError(`${path}serverName is the name in the peer's certificate, such as "example.com"`);
  }
  if (alpn === undefined) return;
  if (!Array.isArray(alpn)) throw new TypeError(`${path}alpn of what dials is a list of protocols`);
  checkProtocols(`${path}alpn`, alpn);
};

/** The protocols of `alpn`, preferred ones first. */
export const protocolsOf = (alpn: ServerTlsOptions["alpn"]): readonly string[] | undefined =>
  alpn === undefined || isList(alpn) ? alpn : Object.keys(alpn);

const isList = (alpn: NonNullable<ServerTlsOptions["alpn"]>): alpn is readonly string[] =>
  Array.isArray(alpn);

/** The handlers of `alpn` by protocol; none if it is a list. */
export const alpnHandlers = <Handler>(
  options: ServerTlsOptions<Handler> | undefined,
): readonly (readonly [string, Handler])[] => {
  const alpn = options?.alpn;
  return alpn === undefined || isList(alpn) ? [] : Object.entries(alpn);
};

/** When a listener's connections are secured. */
export interface ListenerSecurity<Handler = unknown> {
  /** How connections are secured, and with which certificates. If it is given, connections are TLS from their first byte. */
  readonly tls?: ServerTlsOptions<Handler> | undefined;
  /** `"on"`: from its first byte. `"starttls"`: a connection begins in plain text, and its handler's `startTls()` secures it with the options in `tls`. Default `"on"` if `tls` is given. */
  readonly secureTransport?: SecureTransport | undefined;
}

/** A peer's certificate. */
export interface PeerCertificate {
  /** Its subject, as text: `"CN=client, O=Example"`. */
  readonly subject: string;
  /** Its issuer, as text. */
  readonly issuer: string;
  /** The common name in `subject`; `null` if it has none. */
  readonly commonName: string | null;
  /** The names it is for: `"DNS:example.com"`, `"IP Address:127.0.0.1"`, `"email:a@example.com"`. */
  readonly names: readonly string[];
  /** Its serial number, in hexadecimal. */
  readonly serialNumber: string;
  /** SHA-256 of `raw`, in hexadecimal with colons. */
  readonly fingerprint256: string;
  readonly validFrom: Date;
  readonly validTo: Date;
  /** The whole certificate, in DER. */
  readonly raw: Uint8Array;
}

/** What is known of a secured connection: `request.tls`. A field is `null` if there is no such thing, or if the platform does not tell. */
export interface TlsInfo {
  /** `"TLSv1.2"`, `"TLSv1.3"`. */
  readonly version: string | null;
  /** The cipher's standard name: `"TLS_AES_256_GCM_SHA384"`. */
  readonly cipher: string | null;
  /** The protocol that both agreed on. */
  readonly alpn: string | null;
  /** The name that the client asked for (SNI). */
  readonly serverName: string | null;
  /** The peer's certificate. A client has one only if it was asked for one and presented it. */
  readonly certificate: PeerCertificate | null;
  /** Whether an authority vouches for that certificate; `null` if there is none. A connector accepts only trusted ones. */
  readonly trusted: boolean | null;
  /** Why it is not trusted, as OpenSSL's code: `"CERT_HAS_EXPIRED"`. */
  readonly distrust: string | null;
  /** Whether an earlier session was resumed. */
  readonly resumed: boolean | null;
  /**
   * Whether the peer ended the connection with TLS's own end (close_notify), so that nobody in between can have cut it short. `null`
   * before the end, and always on Node and workerd, which report the same end either way.
   */
  readonly closedCleanly: boolean | null;
}
