/** How a listener is secured: checks its options. Separate from `tls.ts`, so that a Worker, which has no such listener, does not carry it. */

import { quoted } from "../../describe.ts";
import { checkCount, checkOptions, checkTime, checkWord, isObject } from "../../options.ts";
import {
  CERTIFICATE_NAMES,
  checkCertificate,
  checkProtocols,
  checkShared,
  type ListenerSecurity,
  protocolsOf,
  SECURE_TRANSPORTS,
  SERVER_TLS_NAMES,
  type SecureTransport,
  type ServerTlsOptions,
  securedAs,
} from "./tls.ts";

const TICKET_KEYS = 48; // bytes; Node's

const LABEL = "[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?";
const SERVER_NAME = new RegExp(`^(\\*\\.)?${LABEL}(\\.${LABEL})*$`, "i");

/** Checks the values of a listener. Throws `TypeError` and `RangeError`. */
export const checkServerTls = (options: ServerTlsOptions, path = "tls."): void => {
  checkOptions("a listener's tls", options, SERVER_TLS_NAMES);
  checkShared(path, options);
  const {
    cert,
    serverNames,
    clientCertificate = "none",
    alpn,
    sessionTimeout,
    ticketKeys,
    maxHandshakes,
  } = options;
  checkWord(`${path}clientCertificate`, clientCertificate, ["none", "ask", "require"]);
  if (clientCertificate === "none" && options.ca !== undefined) {
    throw new TypeError(
      `${path}ca is for client certificates: say ${path}clientCertificate "ask" or "require"; the certificates between yours and its authority go into ${path}cert`,
    );
  }
  if (clientCertificate !== "none" && options.ca === undefined) {
    throw new TypeError(
      `${path}clientCertificate "${clientCertificate}" needs ${path}ca: the authorities that vouch for clients`,
    );
  }
  if (serverNames !== undefined) {
    if (!isObject(serverNames))
      throw new TypeError(`${path}serverNames is an object of certificates by name`);
    for (const [name, certificate] of Object.entries(serverNames)) {
      const where = `${path}serverNames[${quoted(name)}]`;
      if (!SERVER_NAME.test(name))
        throw new TypeError(`${where}: a name is "example.com", or "*.example.com"`);
      checkOptions(where, certificate, CERTIFICATE_NAMES);
      checkCertificate(`${where}.`, certificate);
      if (certificate.cert === undefined) throw new TypeError(`${where} has no cert and no key`);
    }
  }
  if (cert === undefined && Object.keys(serverNames ?? {}).length === 0) {
    throw new TypeError(
      `${path}cert and ${path}key are needed, or ${path}serverNames: a TLS server shows a certificate`,
    );
  }
  if (alpn !== undefined) {
    if (!Array.isArray(alpn) && !isObject(alpn))
      throw new TypeError(`${path}alpn is a list of protocols, or an object of handlers by protocol`);
    checkProtocols(`${path}alpn`, protocolsOf(alpn) ?? []);
  }
  if (sessionTimeout !== undefined) checkTime(`${path}sessionTimeout`, sessionTimeout, 1_000, true);
  if (ticketKeys !== undefined && !(ticketKeys instanceof Uint8Array && ticketKeys.length === TICKET_KEYS)) {
    throw new TypeError(`${path}ticketKeys is a Uint8Array of ${TICKET_KEYS} random bytes`);
  }
  if (maxHandshakes !== undefined) checkCount(`${path}maxHandshakes`, maxHandshakes, 1);
};

/**
 * When the connections of a listener with this scheme are secured. Throws `TypeError` or `RangeError`: a listener that was given TLS
 * never serves in plain text.
 */
export const securedWhen = (
  scheme: string | undefined,
  { tls, secureTransport }: ListenerSecurity,
): SecureTransport => {
  if (secureTransport !== undefined) checkWord("secureTransport", secureTransport, SECURE_TRANSPORTS);
  if (tls !== undefined) checkServerTls(tls);
  if (scheme === "tls") {
    if (secureTransport !== undefined && secureTransport !== "on") {
      throw new TypeError(
        `tls:// is secured from its first byte, and secureTransport is "${secureTransport}"; write tcp://, or leave it out`,
      );
    }
    if (tls === undefined) throw new TypeError("a tls:// listener needs tls: { cert, key }");
    return "on";
  }
  if (tls === undefined) {
    if (secureTransport === undefined || secureTransport === "off") return "off";
    throw new TypeError(`secureTransport "${secureTransport}" of a listener needs tls: { cert, key }`);
  }
  return securedAs(secureTransport);
};
