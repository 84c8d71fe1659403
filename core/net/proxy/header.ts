/** Headers of the PROXY protocol: what a proxy says about its client, and which request a header came before. */

import type { Address } from "../address.ts";

/** What a proxy said about its client's TLS connection (`PP2_TYPE_SSL`). `undefined`: it did not say. */
export interface ProxySsl {
  /** Whether the client connected by TLS. */
  readonly tls: boolean;
  /** Whether the client presented a certificate, on this connection or earlier in its TLS session. */
  readonly certificate: "connection" | "session" | "none";
  /** Whether it presented one that the proxy verified. */
  readonly verified: boolean;
  /** The result of that verification as the proxy gives it (OpenSSL's `X509_V_…`); also 0 if no certificate was presented. */
  readonly verify: number;
  /** `"TLSv1.3"`. */
  readonly version?: string;
  /** The common name in the client's certificate. */
  readonly commonName?: string;
  /** `"TLS_AES_256_GCM_SHA384"`. */
  readonly cipher?: string;
  /** The algorithm that the proxy's certificate is signed with: `"RSA-SHA256"`. */
  readonly signatureAlgorithm?: string;
  /** The algorithm of the proxy's key: `"RSA2048"`. */
  readonly keyAlgorithm?: string;
  /** The group of the key exchange: `"x25519"`. */
  readonly group?: string;
  /** The signature of the proxy's handshake: `"rsa_pss_rsae_sha256"`. */
  readonly signatureScheme?: string;
  /** The client's certificate, DER. */
  readonly clientCertificate?: Uint8Array;
}

/** One type-length-value vector of a version 2 header. */
export interface ProxyTlv {
  /** 0 to 255; 0xE0 to 0xEF are free for applications. */
  readonly type: number;
  /** At most 65 535 bytes. */
  readonly value: Uint8Array;
}

/** What a proxy said about its client: a handler's `this.request.proxy`. */
export interface ProxyHeader {
  /** `1` and `2` of the PROXY protocol; `"simple"` is Cloudflare Spectrum's Simple Proxy Protocol. */
  readonly version: 1 | 2 | "simple";
  /** `"PROXY"`: it speaks for a client. `"LOCAL"`: for itself, as in a health check. */
  readonly command: "PROXY" | "LOCAL";
  /** What the client's connection to the proxy carries; `null` if the proxy does not say. */
  readonly carries: "stream" | "datagram" | null;
  /** The client; `null` if the proxy does not say, and for a Unix socket without a name. */
  readonly source: Address | null;
  /** Where the client connected: the proxy's address, as the client sees it. */
  readonly destination: Address | null;
  /** The protocol negotiated in the client's TLS handshake (`PP2_TYPE_ALPN`): `"h2"`. */
  readonly alpn?: string;
  /** The host that the client named, usually by SNI (`PP2_TYPE_AUTHORITY`). */
  readonly authority?: string;
  /** The connection's number at the proxy, up to 128 bytes of any kind (`PP2_TYPE_UNIQUE_ID`). */
  readonly uniqueId?: Uint8Array;
  /** The name of the proxy's network namespace (`PP2_TYPE_NETNS`). */
  readonly netns?: string;
  /** The client's TLS connection (`PP2_TYPE_SSL`). */
  readonly ssl?: ProxySsl;
  /** Whether the header had a checksum; one that does not match is refused (`PP2_TYPE_CRC32C`). */
  readonly checksum: boolean;
  /** All vectors in their order, including those above and those of unknown types. Only version 2. */
  readonly tlvs: readonly ProxyTlv[];
}

/** A header, and how many bytes at the beginning of the input it takes. */
export interface ParsedProxyHeader {
  readonly header: ProxyHeader;
  readonly size: number;
}

const headers = new WeakMap<object, ProxyHeader>();

/** The header that came before `request`; `null` if none did. */
export const proxyOf = (request: object): ProxyHeader | null => headers.get(request) ?? null;

/** Notes that this header came before `request`. */
export const cameThrough = (request: object, header: ProxyHeader): void => void headers.set(request, header);
