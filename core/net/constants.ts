/**
 * The numbers of the socket world, as CPython's `socket` module has them on Linux.
 *
 * They are names to pass to this library, the same on every platform: on another system the same option may
 * have another number. Only what a socket programmer uses is here.
 */

// Address families. Linux bits/socket.h; address_families(7).
export const AF_UNSPEC = 0;
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;

// Socket types, and the two flags that may be or-ed to one. Linux bits/socket_type.h; socket(2).
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_SEQPACKET = 5;
export const SOCK_NONBLOCK = 0x800;
export const SOCK_CLOEXEC = 0x8_0000;

// Protocols, the third argument of socket(). IANA protocol-numbers; Linux netinet/in.h.
export const IPPROTO_IP = 0;
export const IPPROTO_ICMP = 1;
export const IPPROTO_IGMP = 2;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_IPV6 = 41;
export const IPPROTO_ICMPV6 = 58;
export const IPPROTO_RAW = 255;

// Levels of getsockopt() and setsockopt(); IPv6's is IPPROTO_IPV6. Linux bits/socket.h; ip(7), tcp(7).
export const SOL_IP = 0;
export const SOL_SOCKET = 1;
export const SOL_TCP = 6;
export const SOL_UDP = 17;

// Options at SOL_SOCKET. Linux asm-generic/socket.h; socket(7).
export const SO_DEBUG = 1;
export const SO_REUSEADDR = 2;
export const SO_TYPE = 3;
export const SO_ERROR = 4;
export const SO_DONTROUTE = 5;
export const SO_BROADCAST = 6;
export const SO_SNDBUF = 7; // bytes; Linux doubles the value that is set
export const SO_RCVBUF = 8; // bytes; Linux doubles the value that is set
export const SO_KEEPALIVE = 9;
export const SO_OOBINLINE = 10;
export const SO_PRIORITY = 12;
export const SO_LINGER = 13; // struct linger: on or off, seconds
export const SO_REUSEPORT = 15;
export const SO_PASSCRED = 16;
export const SO_PEERCRED = 17;
export const SO_RCVLOWAT = 18; // bytes
export const SO_SNDLOWAT = 19; // bytes
export const SO_RCVTIMEO = 20; // struct timeval
export const SO_SNDTIMEO = 21; // struct timeval
export const SO_BINDTODEVICE = 25;
export const SO_ACCEPTCONN = 30;
export const SO_MARK = 36;
export const SO_PROTOCOL = 38;
export const SO_DOMAIN = 39;

// Options at SOL_TCP. Linux netinet/tcp.h; tcp(7).
export const TCP_NODELAY = 1;
export const TCP_MAXSEG = 2; // bytes
export const TCP_CORK = 3;
export const TCP_KEEPIDLE = 4; // seconds
export const TCP_KEEPINTVL = 5; // seconds
export const TCP_KEEPCNT = 6; // probes
export const TCP_SYNCNT = 7; // retransmits
export const TCP_LINGER2 = 8; // seconds
export const TCP_DEFER_ACCEPT = 9; // seconds
export const TCP_WINDOW_CLAMP = 10; // bytes
export const TCP_INFO = 11;
export const TCP_QUICKACK = 12;
export const TCP_CONGESTION = 13;
export const TCP_USER_TIMEOUT = 18; // milliseconds
export const TCP_FASTOPEN = 23;
export const TCP_NOTSENT_LOWAT = 25; // bytes

// Options at SOL_IP. Linux bits/in.h; ip(7).
export const IP_TOS = 1;
export const IP_TTL = 2; // hops
export const IP_HDRINCL = 3;
export const IP_OPTIONS = 4;
export const IP_RECVTOS = 13;
export const IP_TRANSPARENT = 19;
export const IP_BIND_ADDRESS_NO_PORT = 24;
export const IP_MULTICAST_IF = 32;
export const IP_MULTICAST_TTL = 33; // hops
export const IP_MULTICAST_LOOP = 34;
export const IP_ADD_MEMBERSHIP = 35; // struct ip_mreq
export const IP_DROP_MEMBERSHIP = 36; // struct ip_mreq

// Options at IPPROTO_IPV6. Linux bits/in.h; ipv6(7), RFC 3493, RFC 3542.
export const IPV6_UNICAST_HOPS = 16; // hops
export const IPV6_MULTICAST_IF = 17;
export const IPV6_MULTICAST_HOPS = 18; // hops
export const IPV6_MULTICAST_LOOP = 19;
export const IPV6_JOIN_GROUP = 20; // struct ipv6_mreq
export const IPV6_LEAVE_GROUP = 21; // struct ipv6_mreq
export const IPV6_V6ONLY = 26;
export const IPV6_RECVPKTINFO = 49;
export const IPV6_PKTINFO = 50;
export const IPV6_RECVHOPLIMIT = 51;
export const IPV6_HOPLIMIT = 52;
export const IPV6_DONTFRAG = 62;
export const IPV6_RECVTCLASS = 66;
export const IPV6_TCLASS = 67;

// Flags of recv() and send(), to be or-ed. Linux bits/socket.h; recv(2), send(2).
export const MSG_OOB = 0x1;
export const MSG_PEEK = 0x2;
export const MSG_DONTROUTE = 0x4;
export const MSG_CTRUNC = 0x8;
export const MSG_TRUNC = 0x20;
export const MSG_DONTWAIT = 0x40;
export const MSG_EOR = 0x80;
export const MSG_WAITALL = 0x100;
export const MSG_CONFIRM = 0x800;
export const MSG_ERRQUEUE = 0x2000;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_MORE = 0x8000;
export const MSG_FASTOPEN = 0x2000_0000;

// What shutdown() ends. POSIX sys/socket.h; shutdown(2).
export const SHUT_RD = 0;
export const SHUT_WR = 1;
export const SHUT_RDWR = 2;

// IPv4 addresses as numbers in host byte order: not packed bytes. Linux netinet/in.h; ip(7).
export const INADDR_ANY = 0x0000_0000; // 0.0.0.0
export const INADDR_LOOPBACK = 0x7f00_0001; // 127.0.0.1
export const INADDR_UNSPEC_GROUP = 0xe000_0000; // 224.0.0.0
export const INADDR_ALLHOSTS_GROUP = 0xe000_0001; // 224.0.0.1
export const INADDR_MAX_LOCAL_GROUP = 0xe000_00ff; // 224.0.0.255
export const INADDR_BROADCAST = 0xffff_ffff; // 255.255.255.255
export const INADDR_NONE = 0xffff_ffff; // inet_addr(3)'s error

// The largest backlog of listen(). Linux since 5.4; listen(2).
export const SOMAXCONN = 4096; // connections

// The first port that needs no privileges, and BSD's first port for user servers. Linux netinet/in.h.
export const IPPORT_RESERVED = 1024;
export const IPPORT_USERRESERVED = 5000;

// Flags of getaddrinfo(), to be or-ed. Linux netdb.h; getaddrinfo(3).
export const AI_PASSIVE = 0x1;
export const AI_CANONNAME = 0x2;
export const AI_NUMERICHOST = 0x4;
export const AI_V4MAPPED = 0x8;
export const AI_ALL = 0x10;
export const AI_ADDRCONFIG = 0x20;
export const AI_NUMERICSERV = 0x400;

// Flags of getnameinfo(), to be or-ed. Linux netdb.h; getnameinfo(3).
export const NI_NUMERICHOST = 0x1;
export const NI_NUMERICSERV = 0x2;
export const NI_NOFQDN = 0x4;
export const NI_NAMEREQD = 0x8;
export const NI_DGRAM = 0x10;

// Why a name could not be resolved. Linux netdb.h; gai_strerror(3).
export const EAI_BADFLAGS = -1;
export const EAI_NONAME = -2;
export const EAI_AGAIN = -3;
export const EAI_FAIL = -4;
export const EAI_NODATA = -5;
export const EAI_FAMILY = -6;
export const EAI_SOCKTYPE = -7;
export const EAI_SERVICE = -8;
export const EAI_ADDRFAMILY = -9;
export const EAI_MEMORY = -10;
export const EAI_SYSTEM = -11;
export const EAI_OVERFLOW = -12;

// Events of poll(), to be or-ed. Linux bits/poll.h; poll(2), CPython's select module.
export const POLLIN = 0x1;
export const POLLPRI = 0x2;
export const POLLOUT = 0x4;
export const POLLERR = 0x8; // only in results
export const POLLHUP = 0x10; // only in results
export const POLLNVAL = 0x20; // only in results
