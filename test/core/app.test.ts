/** `defineApp`: what it refuses, and how it says so. */

import { DatagramRequestHandler, defineApp, formatAddress, SocketError, StreamRequestHandler } from "socklet";
import { expect, test } from "vitest";
import { isApp } from "../../core/app/app.ts";

class Stream extends StreamRequestHandler {}
class Packet extends DatagramRequestHandler {}
const handlers = { stream: Stream, packet: Packet };
const at = "tcp://127.0.0.1:7";

test("a good app is checked, filled in and frozen", () => {
  const app = defineApp({
    handlers,
    listen: [
      { handler: "stream", address: at },
      { handler: "packet", address: "udp://127.0.0.1:7", serve: "serial", try: "nc -u {host} {port}" },
      { handler: "stream", address: ":0" },
      { handler: "stream", address: ":0" },
      { handler: "stream", address: "unix:/run/s" },
      { handler: "packet", address: { path: "/run/d" }, serve: "forking" },
    ],
    dial: { there: { handler: "stream", address: "[::1]:80" } },
    allow: ["10.0.0.0/8:6379"],
  });
  expect(isApp(app)).toBe(true);
  expect(Object.isFrozen(app)).toBe(true);
  expect(
    app.listeners.map(({ name, endpoint, carries, serve }) => [
      name,
      formatAddress(endpoint),
      carries,
      serve,
    ]),
  ).toEqual([
    ["stream", "tcp://127.0.0.1:7", "streams", "threading"],
    ["packet", "udp://127.0.0.1:7", "datagrams", "serial"],
    ["stream", "tcp://:0", "streams", "threading"],
    ["stream", "tcp://:0", "streams", "threading"],
    ["stream", "unix:/run/s", "streams", "threading"],
    ["packet", "unix:/run/d", "datagrams", "forking"],
  ]);
  expect(app.dial.there?.endpoint).toEqual({ scheme: undefined, hostname: "::1", port: 80 });
  for (const other of [null, undefined, 1, {}, { handlers }, Stream]) expect(isApp(other)).toBe(false);
});

test.each<[string, unknown, RegExp]>([
  ["no handlers", {}, /handlers must be an object of handler classes/],
  [
    "a function for a handler",
    { handlers: { f: () => {} } },
    /handlers\.f: a handler is a class.*streamHandler/,
  ],
  ["another class for a handler", { handlers: { f: Map } }, /handlers\.f: a handler is a class/],
  [
    "an unknown handler",
    { handlers, listen: [{ handler: "steam", address: at }] },
    /listen\[0\].handler is "steam"; the app declares: stream, packet/,
  ],
  [
    "a handler of every object",
    { handlers, listen: [{ handler: "toString", address: at }] },
    /"toString"; the app declares/,
  ],
  [
    "no port",
    { handlers, listen: [{ handler: "stream", address: "localhost" }] },
    /listen\[0\]\.address: .*port/,
  ],
  [
    "a port over the last",
    { handlers, listen: [{ handler: "stream", address: "localhost:70000" }] },
    /listen\[0\]\.address: .*65535, not 70000/,
  ],
  [
    "datagrams over TCP",
    { handlers, listen: [{ handler: "stream", address: at, carries: "datagrams" }] },
    /listen\[0\]\.carries is "datagrams"; tcp:\/\/ carries streams/,
  ],
  [
    "a word that a path cannot carry",
    { handlers, listen: [{ handler: "stream", address: "unix:/x", carries: "both" }] },
    /carries is "both"; it may be "streams" or "datagrams"/,
  ],
  [
    "a stream handler of datagrams on a path",
    { handlers, listen: [{ handler: "stream", address: "unix:/x", carries: "datagrams" }] },
    /StreamRequestHandler, which cannot serve datagrams on a path/,
  ],
  [
    "rules by network on a path",
    { handlers, listen: [{ handler: "stream", address: "unix:/x", options: { access: {} } }] },
    /listen\[0\]\.options: access is by IP address, .*permissions of its file .*proxyProtocol/,
  ],
  [
    "one path twice",
    {
      handlers,
      listen: [
        { handler: "stream", address: "unix:/x" },
        { handler: "packet", address: { path: "/x" } },
      ],
    },
    /listen\[1\] and listen\[0\] both listen on unix:\/x/,
  ],
  [
    "a stream handler over UDP",
    { handlers, listen: [{ handler: "stream", address: "udp://127.0.0.1:7" }] },
    /StreamRequestHandler, which cannot serve udp/,
  ],
  [
    "a datagram handler over TCP",
    { handlers, listen: [{ handler: "packet", address: at }] },
    /DatagramRequestHandler, which cannot serve tcp/,
  ],
  [
    "an unknown way to serve",
    { handlers, listen: [{ handler: "stream", address: at, serve: "fast" }] },
    /serve is "fast"; it may be "serial", "threading" or "forking"/,
  ],
  [
    "options that are none",
    { handlers, listen: [{ handler: "stream", address: at, options: 5 }] },
    /listen\[0\]\.options of .* takes an object of options, not 5/,
  ],
  [
    "an option that is none",
    { handlers, listen: [{ handler: "stream", address: at, options: { maxRequest: 5 } }] },
    /listen\[0\]\.options of a threading tcp:\/\/ listener has no option maxRequest; did you mean maxRequests/,
  ],
  [
    "an option of datagrams over TCP",
    { handlers, listen: [{ handler: "stream", address: at, options: { amplification: 3 } }] },
    /threading tcp:.* no option amplification \(it is an option of a server of datagrams\)/,
  ],
  [
    "an option of forking where nothing forks",
    { handlers, listen: [{ handler: "stream", address: at, options: { maxChildren: 3 } }] },
    /threading tcp:.* no option maxChildren \(it is an option of a forking server\)/,
  ],
  [
    "an option of its streams that is none",
    { handlers, listen: [{ handler: "stream", address: at, options: { stream: { maxLines: 5 } } }] },
    /threading tcp:.* no option stream\.maxLines; did you mean stream\.maxLine\?/,
  ],
  [
    "a part of the definition that is none",
    { handlers, listeners: [] },
    /defineApp\(\) has no option listeners; did you mean listen/,
  ],
  [
    "a part of an entry that is none",
    { handlers, listen: [{ handler: "stream", adress: at }] },
    /listen\[0\] has no option adress; did you mean address\?/,
  ],
  [
    "TLS beside the options of a listener",
    { handlers, listen: [{ handler: "stream", address: at, secureTransport: "on" }] },
    /listen\[0\] has no option secureTransport \(.*an app's listener has it in its options/,
  ],
  [
    "TLS of datagrams",
    { handlers, listen: [{ handler: "packet", address: "udp://:0", options: { tls: {} } }] },
    /listen\[0\]\.options of a threading udp:\/\/ listener has no option tls/,
  ],
  [
    "a handler of a protocol that is none",
    {
      handlers,
      listen: [{ handler: "stream", address: "tls://:0", options: { tls: { alpn: { x: "nobody" } } } }],
    },
    /listen\[0\]\.options\.tls\.alpn\["x"\]\.handler is "nobody"/,
  ],
  [
    "TLS and not, on one port",
    {
      handlers,
      listen: [
        { handler: "stream", address: "tls://:9" },
        { handler: "stream", address: ":9" },
      ],
    },
    /both listen on tcp:\/\/:9/,
  ],
  [
    "an authority to trust that is none",
    { handlers, dial: { x: { handler: "stream", address: at, tls: { ca: 1 } } } },
    /dial\.x: tls\.ca is PEM/,
  ],
  [
    "a part of an entry to dial that is none",
    { handlers, dial: { x: { handler: "stream", address: at, tsl: {} } } },
    /dial\.x has no option tsl.*did you mean tls/,
  ],
  ...(
    [
      [{ maxRequests: 0 }, "maxRequests must be a whole number of 1 or more, not 0"],
      [{ access: { allow: ["10.0.0.1/8"] } }, "bits set beyond its prefix"],
      [{ rate: { perSecond: 0 } }, "rate.perSecond is more than 0"],
      [{ blockTimeout: 0 }, "blockTimeout must be 1 to"],
    ] as const
  ).map(([options, says]): [string, unknown, RegExp] => [
    `an option that cannot be: ${JSON.stringify(options)}`,
    { handlers, listen: [{ handler: "stream", address: at, serve: "forking", options }] },
    new RegExp(`listen\\[0\\]\\.options: .*${says.replaceAll(".", "\\.")}`),
  ]),
  [
    "an amplification that cannot be",
    {
      handlers,
      listen: [{ handler: "packet", address: "udp://127.0.0.1:7", options: { amplification: 0 } }],
    },
    /options: amplification is more than 0/,
  ],
  [
    "one address twice",
    {
      handlers,
      listen: [
        { handler: "stream", address: at },
        { handler: "stream", address: at },
      ],
    },
    /listen\[1\] and listen\[0\] both listen on tcp:\/\/127\.0\.0\.1:7/,
  ],
  [
    "an unknown handler to dial",
    { handlers, dial: { x: { handler: "y", address: at } } },
    /dial\.x\.handler is "y"/,
  ],
  ["a rule that is none", { handlers, allow: ["10.0.0.0/8"] }, /10\.0\.0\.0\/8.*port/],
])("refused with ERR_APP: %s", (_, definition, message) => {
  expect(() => defineApp(definition as never)).toThrow(SocketError);
  expect(() => defineApp(definition as never)).toThrow(message);
  expect(() => defineApp(definition as never)).toThrow(/^ERR_APP: /);
});
