/**
 * The rows of the socket module: what each part of CPython's `socket` does here, in Node and in a Worker. From this
 * table and the tests of node.ts and worker.ts `npm run docs` makes docs/socket-module.md: a cell that has no test
 * is an error.
 */

/** Where a row is tested. */
export type Place = "node" | "worker";

/** `works`, with what is to be known of it; or `cannot`, with the reason and what to use instead. A test shows either. */
export type Cell = { readonly works: string } | { readonly cannot: string };

export interface Row {
  /** Its number in the tutorial's order. */
  readonly id: `S${number}` | `S${number}b`;
  /** CPython's name, or the thing. */
  readonly python: string;
  /** Our name. */
  readonly name: string;
  /** What it does. */
  readonly what: string;
  readonly node: Cell;
  readonly worker: Cell;
}

const both = (works = ""): Pick<Row, "node" | "worker"> => ({ node: { works }, worker: { works } });

export const rows: readonly Row[] = [
  // Concepts, names and DNS
  {
    id: "S1",
    python: "addresses and ports",
    name: "`parseAddress`",
    what: "An address is four numbers of 0 to 255 (or IPv6), a port 0 to 65535; a larger port is a `RangeError`. Listening on port 0 lets the system choose.",
    node: { works: "" },
    worker: { works: "port 0 cannot be dialled: `RangeError`" },
  },
  {
    id: "S2",
    python: "IPPORT_RESERVED",
    name: "`IPPORT_RESERVED`, `IPPORT_USERRESERVED`",
    what: "1024: the first port that needs no privilege. 5000: the first that BSD leaves to other servers.",
    ...both(),
  },
  {
    id: "S3",
    python: "ipaddress: is_private, is_loopback",
    name: "`isPrivate`, `isLoopback`, `isReserved`",
    what: "The kind of an address, in any spelling: hexadecimal, octal, short or IPv4-mapped.",
    ...both(),
  },
  {
    id: "S4",
    python: "TCP and UDP",
    name: "`SOCK_STREAM`, `SOCK_DGRAM`",
    what: "A stream arrives whole and in order; a datagram arrives whole, or not at all.",
    node: { works: "" },
    worker: { works: "streams; datagrams only as a server (`WorkerDatagramServer`)" },
  },
  {
    id: "S5",
    python: "gethostname()",
    name: "`gethostname`",
    what: "This machine's name.",
    node: { works: "" },
    worker: { works: "always `localhost`: a Worker has no name" },
  },
  {
    id: "S6",
    python: "gethostbyname(name)",
    name: "`gethostbyname`",
    what: 'A name\'s IPv4 address; `""` is 0.0.0.0, `<broadcast>` 255.255.255.255.',
    node: { works: "by the system's resolver" },
    worker: { works: "by DNS over HTTPS" },
  },
  {
    id: "S7",
    python: "IPv4 text",
    name: "`inetAton`",
    what: "IPv4 text to 4 bytes; white space within the text is an error.",
    ...both(),
  },
  {
    id: "S8",
    python: "gethostbyname_ex(name)",
    name: "`gethostbynameEx`",
    what: "`[name, aliases, addresses]`: all IPv4 addresses.",
    node: { works: "/etc/hosts and the resolver" },
    worker: { works: "aliases are the CNAME records" },
  },
  {
    id: "S9",
    python: "a name with aliases and many addresses",
    name: "`gethostbynameEx`",
    what: "Follows the aliases, and returns every address.",
    node: { works: "with the aliases of /etc/hosts" },
    worker: { works: "" },
  },
  {
    id: "S10",
    python: "gethostbyaddr(ip)",
    name: "`gethostbyaddr`",
    what: "The same triple, for an address.",
    node: { works: "" },
    worker: { works: "by the PTR record" },
  },
  {
    id: "S11",
    python: "getservbyname(name, protocol)",
    name: "`getservbyname`",
    what: "A service's port: http is 80, telnet 23; names are case-sensitive, aliases count.",
    node: { works: "/etc/services, otherwise the built-in table" },
    worker: { works: "the built-in table" },
  },
  {
    id: "S11b",
    python: "getservbyport(port, protocol)",
    name: "`getservbyport`",
    what: "A port's service: 80 is http.",
    node: { works: "/etc/services, otherwise the built-in table" },
    worker: { works: "the built-in table" },
  },
  {
    id: "S12",
    python: "getfqdn([name])",
    name: "`getfqdn`",
    what: "The full name; never throws.",
    node: { works: "" },
    worker: { works: "by the PTR record" },
  },
  {
    id: "S13",
    python: "resolvers",
    name: "`getaddrinfo`, `getnameinfo`",
    what: "Names and services to addresses and back.",
    node: { works: "by the system's resolver" },
    worker: { works: "by an endpoint of your choice (RFC 8484)" },
  },
  // Address conversion
  {
    id: "S14",
    python: "inet_aton(text)",
    name: "`inetAton`",
    what: "IPv4 text to 4 bytes, in every form that glibc accepts; `{ strict: true }` takes only four decimal numbers.",
    ...both(),
  },
  { id: "S15", python: "inet_ntoa(bytes)", name: "`inetNtoa`", what: "4 bytes to IPv4 text.", ...both() },
  { id: "S16", python: "packed addresses", name: "`Uint8Array`", what: "Bytes in network order.", ...both() },
  {
    id: "S17",
    python: "inet_pton, inet_ntop",
    name: "`inetPton`, `inetNtop`",
    what: "The same for IPv4 and IPv6, strict.",
    ...both(),
  },
  {
    id: "S18",
    python: "INADDR_…",
    name: "`INADDR_ANY`, `INADDR_LOOPBACK`, `INADDR_BROADCAST`…",
    what: "Addresses as numbers in host order (not bytes).",
    ...both(),
  },
  // Byte order
  {
    id: "S19",
    python: "htons, htonl, ntohs, ntohl",
    name: "`htons`, `htonl`, `ntohs`, `ntohl`",
    what: "Host to network byte order and back: 20000 is 8270 and 541982720. A number that does not fit is a `RangeError`.",
    ...both(),
  },
  {
    id: "S20",
    python: "nthol",
    name: "none",
    what: "Does not exist: a well-known misprint of `ntohl`.",
    ...both(),
  },
  {
    id: "S21",
    python: "import socket",
    name: '`import … from "socklet/emulator"`',
    what: "The module of the place. Constants and pure functions are in `socklet`.",
    node: { works: "" },
    worker: { works: "`socklet/worker`" },
  },
  // The socket object
  {
    id: "S22",
    python: "socket(family, type, proto)",
    name: "`socket`",
    what: "A socket that is neither bound nor connected.",
    node: { works: "" },
    worker: { works: "streams that dial" },
  },
  {
    id: "S23",
    python: "AF_INET, AF_INET6, AF_UNIX; SOCK_STREAM, SOCK_DGRAM",
    name: "the same",
    what: "Families and types.",
    node: { works: "Unix datagrams with `koffi`" },
    worker: { cannot: "there is no UDP out of a Worker, and no Unix socket: UDP needs a relay" },
  },
  {
    id: "S24",
    python: "IPPROTO_TCP, IPPROTO_RAW",
    name: "the same",
    what: "Protocols: 6 and 255. This library has no raw sockets.",
    node: { cannot: "raw sockets need root and native code; use a packet library" },
    worker: { cannot: "the platform has only streams" },
  },
  {
    id: "S25",
    python: "getprotobyname(name)",
    name: "`getprotobyname`",
    what: "A protocol's number: tcp is 6.",
    node: { works: "/etc/protocols, otherwise the built-in table" },
    worker: { works: "the built-in table" },
  },
  {
    id: "S26",
    python: "fromfd(fd, family, type)",
    name: "`fromfd`",
    what: "A socket for a descriptor, which is duplicated.",
    node: { works: "with `koffi`; `socket(…, { fileno })` takes one over without" },
    worker: { cannot: "there are no descriptors: not in this entry" },
  },
  {
    id: "S27",
    python: "fileno()",
    name: "`fileno`",
    what: "The descriptor; -1 after `close()`.",
    node: { works: "" },
    worker: { cannot: "there are no descriptors" },
  },
  {
    id: "S28",
    python: "close()",
    name: "`close`, `await using`",
    what: "Sends what was written, then the end. Every later call rejects with `EBADF`.",
    ...both(),
  },
  {
    id: "S29",
    python: "shutdown(how)",
    name: "`shutdown`",
    what: "Ends one direction or both: the peer reads the end, and sending rejects with `EPIPE`.",
    ...both(),
  },
  {
    id: "S30",
    python: "bind(address)",
    name: "`bind`",
    what: "Takes an address of this machine.",
    node: { works: "" },
    worker: { cannot: "the platform chooses where it dials from, and binds where requests arrive" },
  },
  {
    id: "S31",
    python: "listen([backlog])",
    name: "`listen`",
    what: "Lets others connect.",
    node: { works: "" },
    worker: { cannot: "the platform listens; `WorkerServer` serves what arrives" },
  },
  {
    id: "S32",
    python: "a full queue",
    name: "`requestQueueSize`",
    what: "A connection for which the queue has no room is refused, so that its client notices (Linux drops it silently).",
    node: { works: "a reset" },
    worker: { cannot: "the platform queues; each request is its own" },
  },
  {
    id: "S33",
    python: "SOMAXCONN",
    name: "`SOMAXCONN`",
    what: "4096: the most that `listen` lets wait.",
    ...both(),
  },
  {
    id: "S34",
    python: "accept()",
    name: "`accept`, `connections()`",
    what: "The next connection, and its address.",
    node: { works: "" },
    worker: { cannot: "the platform accepts; `WorkerServer` serves what arrives" },
  },
  {
    id: "S35",
    python: "both ends' addresses",
    name: "`getsockname`, `getpeername`",
    what: "Each end's name is the other's peer name; the client's port is its own.",
    node: { works: "" },
    worker: { works: "the peer's; the platform does not report its own" },
  },
  {
    id: "S36",
    python: "connect(address)",
    name: "`connect`",
    what: "Connects, or rejects with the reason.",
    node: { works: "`ECONNREFUSED` and the like" },
    worker: { works: "`ERR_CONNECT_FAILED`: the platform does not say why" },
  },
  {
    id: "S37",
    python: "connect_ex(address)",
    name: "`connectEx`",
    what: "0, or the number of the error; a name's error is still thrown.",
    node: { works: "111" },
    worker: { works: "`ERR_CONNECT_FAILED`, which has no number" },
  },
  {
    id: "S38",
    python: "connect() of a datagram socket",
    name: "`connect`",
    what: "`send()` goes to that peer, and only its datagrams are received.",
    node: { works: "" },
    worker: { cannot: "there is no UDP out of a Worker; where datagrams arrive, each flow has one peer" },
  },
  {
    id: "S39",
    python: "send(bytes)",
    name: "`send`",
    what: "Sends all, and returns the number of bytes.",
    ...both("text is sent as UTF-8"),
  },
  {
    id: "S40",
    python: "sendto(bytes, address)",
    name: "`sendto`",
    what: "One datagram; more than 65507 bytes are `EMSGSIZE`.",
    node: { works: "" },
    worker: {
      cannot:
        "there is no UDP out of a Worker (a stream has it, as `send`); where datagrams arrive, `reply()` answers",
    },
  },
  {
    id: "S41",
    python: "sendall(bytes)",
    name: "`sendall`",
    what: "Sends all; no loop around `send` is needed.",
    ...both(),
  },
  {
    id: "S42",
    python: "recv(bufsize)",
    name: "`recv`, `recvInto`, `for await`",
    what: "At least one byte, at most `bufsize`; `null` at the end.",
    ...both(),
  },
  {
    id: "S43",
    python: "recvfrom(bufsize)",
    name: "`recvfrom`",
    what: "The bytes, and the sender's address.",
    node: { works: "" },
    worker: {
      cannot:
        "there is no UDP out of a Worker (a stream has it, as `recv`); a datagram server does not get the sender's address",
    },
  },
  {
    id: "S44",
    python: "MSG_OOB",
    name: "`MSG_OOB`",
    what: "One urgent byte, ahead of the others.",
    node: { works: "with `koffi`" },
    worker: { cannot: "the platform has no urgent data; send it in the stream" },
  },
  {
    id: "S45",
    python: "MSG_PEEK",
    name: "`MSG_PEEK`",
    what: "Returns bytes without taking them.",
    ...both(),
  },
  {
    id: "S46",
    python: "MSG_DONTROUTE",
    name: "`MSG_DONTROUTE`",
    what: "Sends without a gateway.",
    node: { works: "with `koffi`" },
    worker: { cannot: "the platform routes" },
  },
  {
    id: "S46b",
    python: "MSG_WAITALL, MSG_DONTWAIT, MSG_NOSIGNAL",
    name: "the same",
    what: "Wait for all bytes; do not wait (`EWOULDBLOCK`); send no signal (always the case here). Other flags are `ERR_UNSUPPORTED`.",
    ...both(),
  },
  {
    id: "S47",
    python: "makefile(mode, bufsize)",
    name: "`makefile`",
    what: "The socket as a file: binary modes are its own reader and writer, text modes wrap them.",
    ...both(),
  },
  // Options
  {
    id: "S48",
    python: "getpeername(), getsockname()",
    name: "the same",
    what: "The addresses of the two ends; `ENOTCONN` without a peer.",
    node: { works: "" },
    worker: { works: "what the platform reports, otherwise `null`" },
  },
  {
    id: "S49",
    python: "setblocking, settimeout; select, poll",
    name: "the same",
    what: "A call that would wait rejects with `EWOULDBLOCK`, or with `ETIMEDOUT` after a time. `select` and `poll` wait for several sockets.",
    ...both(),
  },
  {
    id: "S50",
    python: "setsockopt(level, name, value)",
    name: "`setsockopt`",
    what: "Sets an option, as an integer or bytes.",
    node: { works: "all with `koffi`; the common ones without" },
    worker: { cannot: "the platform has no options" },
  },
  {
    id: "S51",
    python: "getsockopt(level, name[, buflen])",
    name: "`getsockopt`",
    what: "Reads one, as an integer or bytes.",
    node: { works: "all with `koffi`; a few without" },
    worker: { cannot: "the platform has no options" },
  },
  {
    id: "S52",
    python: "SO_SNDBUF",
    name: "`SO_SNDBUF`",
    what: "Linux doubles the value: 65535 is read back as 131070.",
    node: { works: "with `koffi`; for datagram sockets also without" },
    worker: { cannot: "the platform has no options" },
  },
  {
    id: "S53",
    python: "SOL_IP, IP_TTL",
    name: "`IP_TTL`",
    what: "How many routers a packet passes: 64 on Linux.",
    node: { works: "with `koffi`" },
    worker: { cannot: "the platform has no options" },
  },
  {
    id: "S54",
    python: "SOL_SOCKET, SOL_TCP…",
    name: "the same",
    what: "The levels of options, as numbers.",
    ...both(),
  },
];
