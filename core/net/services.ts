/** Services and protocols by name: from /etc/services and /etc/protocols, or from a small built-in table. */

import { SocketError } from "../errors.ts";

interface Service {
  /** Its official name, then its aliases. */
  readonly names: readonly string[];
  readonly port: number;
  /** `"tcp"`, `"udp"`, … */
  readonly protocol: string;
}

/** The fields of each line of a file of names, without its comment. White space is C's isspace(3). */
export const fieldsOf = (text: string): string[][] =>
  text.split("\n").map((line) =>
    line
      .replace(/#.*/s, "")
      .split(/[ \t\v\f\r]+/)
      .filter((field) => field !== ""),
  );

/**
 * A table of services. If several match, the first in the text counts, as in services(5), so a lookup
 * without a protocol mostly finds TCP.
 */
export class Services {
  readonly #services: readonly Service[];

  /** `text`: in the form of services(5), `name port/protocol alias…`; lines in another form are ignored. */
  constructor(text: string) {
    this.#services = fieldsOf(text).flatMap(([name = "", place = "", ...aliases]) => {
      const [, port, protocol = ""] = /^([0-9]+)\/(.*)$/s.exec(place) ?? [];
      if (port === undefined || Number(port) > MAX_PORT) return [];
      return [{ names: [name, ...aliases], port: Number(port), protocol }];
    });
  }

  /** The port of a service, by its name or an alias; `undefined` if there is none. */
  port(name: string, protocol?: string): number | undefined {
    return this.#find(({ names }) => names.includes(name), protocol)?.port;
  }

  /** The official name of the service at a port; `undefined` if there is none. */
  name(port: number, protocol?: string): string | undefined {
    return this.#find((service) => service.port === port, protocol)?.names[0];
  }

  /** As the function of this name. */
  getservbyname(name: string, protocol?: string): number {
    checkText("the name of a service", name);
    checkProtocol(protocol);
    const port = this.port(name, protocol);
    return port ?? unknown(`there is no service ${JSON.stringify(name)}`, protocol);
  }

  /** As the function of this name. */
  getservbyport(port: number, protocol?: string): string {
    checkPort(port);
    checkProtocol(protocol);
    return this.name(port, protocol) ?? unknown(`no service has the port ${port}`, protocol);
  }

  #find(fits: (service: Service) => boolean, protocol: string | undefined): Service | undefined {
    return this.#services.find(
      (service) => (protocol === undefined || service.protocol === protocol) && fits(service),
    );
  }
}

/** A table of protocols. */
export class Protocols {
  readonly #numbers: ReadonlyMap<string, number>;

  /** `text`: in the form of protocols(5), `name number alias…`; lines in another form are ignored. */
  constructor(text: string) {
    const numbers = new Map<string, number>();
    for (const [name = "", number = "", ...aliases] of fieldsOf(text)) {
      if (!/^[0-9]+$/.test(number)) continue;
      for (const one of [name, ...aliases]) if (!numbers.has(one)) numbers.set(one, Number(number));
    }
    this.#numbers = numbers;
  }

  /** As the function of this name. */
  getprotobyname(name: string): number {
    checkText("the name of a protocol", name);
    return this.#numbers.get(name) ?? unknown(`there is no protocol ${JSON.stringify(name)}`);
  }
}

let services: Services | undefined;
let protocols: Protocols | undefined;

/** The built-in table of services, made on first use. */
export const builtInServices = (): Services => {
  services ??= new Services(COMMON_SERVICES.replace(WITHOUT_PROTOCOL, "$1/tcp$2\n$1/udp$2"));
  return services;
};

/** The built-in table of protocols, made on first use. */
export const builtInProtocols = (): Protocols => {
  protocols ??= new Protocols(COMMON_PROTOCOLS);
  return protocols;
};

/**
 * The port of a service (`"http"` is 80), by its name or an alias (`"www"`), over `protocol` (`"tcp"`, `"udp"`)
 * or whichever comes first. Case-sensitive. CPython's `getservbyname`; getservbyname(3).
 *
 * @throws SocketError `ERR_NAME` if there is none; TypeError if an argument is not a string.
 */
export const getservbyname = (name: string, protocol?: string): number =>
  builtInServices().getservbyname(name, protocol);

/**
 * The official name of the service at a port (80 is `"http"`), over `protocol` (`"tcp"`, `"udp"`) or whichever
 * comes first. CPython's `getservbyport`; getservbyport(3).
 *
 * @throws SocketError `ERR_NAME` if there is none; RangeError if the port is not 0 to 65535; TypeError
 *   if it is not an integer, or the protocol is not a string.
 */
export const getservbyport = (port: number, protocol?: string): string =>
  builtInServices().getservbyport(port, protocol);

/**
 * The number of a protocol (`"tcp"` is 6), by its name or an alias (`"TCP"`). CPython's `getprotobyname`;
 * getprotobyname(3).
 *
 * @throws SocketError `ERR_NAME` if there is none; TypeError if the name is not a string.
 */
export const getprotobyname = (name: string): number => builtInProtocols().getprotobyname(name);

// --- Arguments ---------------------------------------------------------------------------------------------

const MAX_PORT = 65_535; // 16 bits: RFC 9293, RFC 768

/** Returns `port` if it is valid. Else throws `TypeError` or `RangeError`. */
export const checkPort = (port: number): number => {
  if (!Number.isInteger(port)) throw new TypeError(`a port is an integer, not ${String(port)}`);
  if (port >= 0 && port <= MAX_PORT) return port + 0; // −0 is 0
  throw new RangeError(`a port is 0 to ${MAX_PORT}, not ${port}`);
};

/** Returns `text` if it is a string. Else throws `TypeError`. */
export const checkText = (what: string, text: string): string => {
  if (typeof text === "string") return text;
  throw new TypeError(`${what} is a string, not ${String(text)}`);
};

const checkProtocol = (protocol: string | undefined): void => {
  if (protocol !== undefined) checkText("a protocol", protocol);
};

const unknown = (what: string, protocol?: string): never => {
  throw new SocketError(
    "ERR_NAME",
    protocol === undefined ? what : `${what} over ${JSON.stringify(protocol)}`,
  );
};

// --- The tables --------------------------------------------------------------------------------------------

// The services in common use, from IANA's registry of service names and ports, with the names and aliases that
// Debian's /etc/services has. In the form of services(5), except that a port without a protocol is for TCP and UDP.
const WITHOUT_PROTOCOL = /^(\S+ \d+)( .*)?$/gm;
const COMMON_SERVICES = `tcpmux 1/tcp
echo 7
discard 9 sink null
systat 11/tcp users
daytime 13
netstat 15/tcp
qotd 17/tcp quote
chargen 19 ttytst source
ftp-data 20/tcp
ftp 21/tcp
ssh 22/tcp
telnet 23/tcp
smtp 25/tcp mail
time 37 timserver
whois 43/tcp nicname
tacacs 49
domain 53
bootps 67/udp
bootpc 68/udp
tftp 69/udp
gopher 70/tcp
finger 79/tcp
http 80/tcp www
kerberos 88 kerberos5 krb5 kerberos-sec
pop3 110/tcp pop-3
sunrpc 111 portmapper
auth 113/tcp authentication tap ident
nntp 119/tcp readnews untp
ntp 123/udp
epmap 135/tcp loc-srv
netbios-ns 137/udp
netbios-dgm 138/udp
netbios-ssn 139/tcp
imap2 143/tcp imap
snmp 161
snmp-trap 162 snmptrap
xdmcp 177/udp
bgp 179/tcp
ldap 389
svrloc 427
https 443
microsoft-ds 445/tcp
kpasswd 464
submissions 465/tcp ssmtp smtps urd
isakmp 500/udp
rtsp 554
ipp 631/tcp
exec 512/tcp
biff 512/udp comsat
login 513/tcp
who 513/udp whod
shell 514/tcp cmd syslog
syslog 514/udp
printer 515/tcp spooler
talk 517/udp
ntalk 518/udp
route 520/udp router routed
uucp 540/tcp uucpd
dhcpv6-client 546/udp
dhcpv6-server 547/udp
afpovertcp 548/tcp
nntps 563/tcp snntp
submission 587/tcp
ldaps 636
kerberos-adm 749/tcp
domain-s 853
rsync 873/tcp
ftps-data 989/tcp
ftps 990/tcp
telnets 992/tcp
imaps 993/tcp
pop3s 995/tcp
socks 1080/tcp
openvpn 1194
ms-sql-s 1433/tcp
ms-sql-m 1434/udp
l2f 1701/udp l2tp
radius 1812
radius-acct 1813 radacct
nfs 2049
cvspserver 2401/tcp
dict 2628/tcp
iscsi-target 3260/tcp
mysql 3306/tcp
ms-wbt-server 3389/tcp
svn 3690/tcp subversion
sieve 4190/tcp
epmd 4369/tcp
ipsec-nat-t 4500/udp
iax 4569/udp
sip 5060
sip-tls 5061
xmpp-client 5222/tcp jabber-client
xmpp-server 5269/tcp jabber-server
mdns 5353/udp
postgresql 5432/tcp postgres
amqps 5671/tcp
amqp 5672/tcp
amqp 5672/sctp
x11 6000/tcp x11-0
redis 6379/tcp
ircs-u 6697/tcp
http-alt 8080/tcp webcache
syslog-tls 6514/tcp
ircd 6667/tcp
git 9418/tcp`;

// IANA's protocol numbers that are in use, with the names and aliases of Debian's /etc/protocols; protocols(5).
const COMMON_PROTOCOLS = `ip 0 IP
hopopt 0 HOPOPT
icmp 1 ICMP
igmp 2 IGMP
ipencap 4 IP-ENCAP
tcp 6 TCP
egp 8 EGP
igp 9 IGP
udp 17 UDP
dccp 33 DCCP
ipv6 41 IPv6
ipv6-route 43 IPv6-Route
ipv6-frag 44 IPv6-Frag
rsvp 46 RSVP
gre 47 GRE
esp 50 IPSEC-ESP
ah 51 IPSEC-AH
ipv6-icmp 58 IPv6-ICMP
ipv6-nonxt 59 IPv6-NoNxt
ipv6-opts 60 IPv6-Opts
eigrp 88 EIGRP
ospf 89 OSPFIGP
ipip 94 IPIP
etherip 97 ETHERIP
encap 98 ENCAP
pim 103 PIM
ipcomp 108 IPCOMP
vrrp 112 VRRP
l2tp 115 L2TP
isis 124 ISIS
sctp 132 SCTP
mobility-header 135 Mobility-Header
udplite 136 UDPLite
mpls-in-ip 137 MPLS-in-IP
hip 139 HIP
mptcp 262 MPTCP`;
