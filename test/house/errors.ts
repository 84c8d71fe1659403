/**
 * docs/errors.md: every code of `SocketError`, what happened, and what to do. The meanings come from the table in
 * core/errors.ts; the remedies are here, so that no program has to carry them.
 */

import { SocketError, type SocketErrorCode } from "socklet";

/** What to do, by code; the groups and their order are the page's. */
const GROUPS: readonly (readonly [title: string, remedies: Partial<Record<SocketErrorCode, string>>])[] = [
  [
    "The peer, the network and the system",
    {
      ECONNREFUSED: "Check the host and the port, and that the server runs and listens on that address.",
      ECONNRESET:
        "The peer is gone or refused to continue: it crashed, closed with unread input, or turned this client away. Dial again after a pause.",
      ECONNABORTED:
        "Something on this side aborted the connection: a limit, a stop whose drain time was over, or your code. The message says which.",
      EPIPE:
        "Do not write after `shutdown(SHUT_WR)` or after the peer has left; treat it as the end of the conversation.",
      ETIMEDOUT:
        "The message names the wait and its limit. If the wait is legitimate, raise the limit; `null` removes it.",
      EHOSTUNREACH: "Check the address, the route and the firewall.",
      ENETUNREACH:
        "Check that this machine has a route for that address family. The usual cause is an IPv6 address on a machine without IPv6.",
      EADDRINUSE:
        "Another program, or another of your listeners, has it. Stop that one, choose another port, or use port 0.",
      EADDRNOTAVAIL:
        "Listen on an address that this machine has: `127.0.0.1`, `0.0.0.0`, or one that `ip address` lists.",
      EACCES:
        "Ports below 1024 and some paths need privileges. Use a higher port, or change the path's permissions.",
      ENOENT: "Check the path and, for a Unix socket, that its server is running.",
      ENOTDIR: "Check the path: one of its parents is a file.",
      EROFS: "Choose a path on a file system that can be written to.",
      ENODEV: "Check the interface's name, in an IPv6 zone (`%eth0`) or a multicast option.",
      ENETDOWN: "Bring the interface up.",
      EMFILE: "Close what you no longer use, lower `maxRequests`, or raise the limit (`ulimit -n`).",
      ENFILE: "The whole machine is out of descriptors: find the program that holds them.",
      EPERM:
        "The system does not allow it: check for a firewall rule, or a socket option that needs privileges.",
    },
  ],
  [
    "A call at the wrong moment",
    {
      EBADF: "The socket was closed before this call. Do not use it after `close()`, or make a new one.",
      ECANCELED:
        "The call was still waiting when this side closed the socket. There is nothing to do unless the close was a mistake.",
      ENOTCONN: "Call `connect()` first, and await it.",
      EWOULDBLOCK: "The socket is non-blocking. Wait with `select()` or `poll()`, or call again later.",
      EINPROGRESS: "Wait until the socket is writable, then look at `SO_ERROR`.",
      EALREADY: "Await the `connect()` that is under way.",
      EISCONN: "Use the existing connection, or make a new socket for another one.",
      EDESTADDRREQ: "Use `sendto()` with an address, or `connect()` the datagram socket first.",
      EBUSY:
        "Await the first call before you make another of its kind. Two readers of one stream would each lose bytes.",
    },
  ],
  [
    "Things that do not fit",
    {
      EMSGSIZE: "Send less in one datagram: UDP carries 65 507 bytes.",
      ENOBUFS:
        "The peer reads more slowly than you write. `await flush()` between writes, or raise `maxPending`.",
      EAFNOSUPPORT: "Use an address of the socket's own family.",
      EPROTONOSUPPORT: "Use protocol 0, or the one that belongs to the family and type.",
      EPROTOTYPE: "The socket at that path is of the other type: streams and datagrams do not mix.",
      EOPNOTSUPP: "Use a socket of the right type for this call.",
      ENOPROTOOPT: "Check the option's level and name.",
      ENOTSOCK: "Pass the descriptor of a socket, not of a file.",
      EILSEQ: 'Open the file with the right `encoding`, or with `errors: "replace"`.',
      EINVAL: "The message names the argument and its valid values.",
    },
  ],
  [
    "Errors that POSIX has no number for",
    {
      ERR_NAME: "Check the name's spelling and the resolver. `errno` has the reason, such as `EAI_NONAME`.",
      ERR_INVALID_ADDRESS: "The message shows the text, and the forms of valid addresses.",
      ERR_CONNECT_FAILED:
        "The Workers platform does not say why. The message lists the likely causes; check them in that order.",
      ERR_INCOMPLETE_READ: "The peer ended in the middle of a message. Treat that message as lost.",
      ERR_LIMIT:
        "The message names the limit. If such input is legitimate, raise it; otherwise the peer is at fault.",
      ERR_REFUSED:
        "A rule of the app turned it away. Add the address to the app's `allow`, or to the server's `access`.",
      ERR_CALL_LOST:
        "Ask the server what became of the call. Or make the call safe to repeat, and pass `repeatable: true`.",
      ERR_HANDED_OVER: "After `toWeb()`, use the socket that it returned instead of this one.",
      ERR_TLS:
        "The message has the reason: an untrusted certificate, a wrong name, no common version, or a peer that does not speak TLS (see docs/tls.md).",
      ERR_PROXY:
        "The message says what came instead of a PROXY protocol header. Make the proxy send one (`send-proxy-v2`), or remove its address from `proxyProtocol.from`.",
      ERR_APP: "The message names the entry of `defineApp()` and its valid values.",
      ERR_HANDLER: "The handler itself threw: `cause` is its error.",
      ERR_PLATFORM:
        "The platform failed, not your code. Try again after a pause; a session's record says what became of it.",
      ERR_INTERNAL: "This is a fault of Socklet or of its platform. Please report it, with `cause`.",
      ERR_UNSUPPORTED: "The message names what to use instead, or the optional package to install.",
    },
  ],
];

/** The codes of the page, in its order. */
export const documentedCodes = (): string[] => GROUPS.flatMap(([, remedies]) => Object.keys(remedies));

/** The text of docs/errors.md. */
export const errorsPage = (): string => {
  const lines = [
    "# Errors",
    "",
    "Errors of sockets, servers and names are instances of `SocketError`. Match on `code`, which is stable, and never on the",
    "message. If POSIX has a code for an error, Socklet uses it, and `errno` is Linux's number for it. The other codes begin",
    "with `ERR_`, and their `errno` is 0. `cause` is the platform's own error, if there is one, and `address` is the address",
    "concerned. A wrong argument is not a `SocketError`: it throws a `TypeError` or a `RangeError` at once.",
    "",
    "`npm run docs` generates this page from the table of codes.",
  ];
  for (const [title, remedies] of GROUPS) {
    lines.push("", `## ${title}`, "", "| code | errno | what happened | what to do |", "|---|---|---|---|");
    for (const [code, remedy] of Object.entries(remedies)) {
      const { errno, message } = new SocketError(code as SocketErrorCode);
      lines.push(`| \`${code}\` | ${errno || "–"} | ${message.slice(code.length + 2)} | ${remedy} |`);
    }
  }
  return `${lines.join("\n")}\n`;
};
