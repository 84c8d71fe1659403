/** Options have one vocabulary: docs/options.md lists it, and one name has one type. */

import { expect, test } from "vitest";
import { allOptions, optionsPage } from "./options.ts";

test("docs/options.md is what the sources have (npm run docs writes it)", async () => {
  await expect(optionsPage()).toMatchFileSnapshot("../../docs/options.md");
});

/** Names of which each taker needs its own type, and why. */
const SEVERAL = {
  address: "a pool has one, as its errors name it",
  alpn: "what dials has a list, a listener handlers by protocol, too; a proxy's header the one that was chosen",
  carries: "a listener carries streams or datagrams, a proxy's header one of them",
  certificate: "serveApp() shows one, a proxy's header says of what its client's was",
  clientCertificate: "a listener asks for it, a proxy's header has it",
  context: "an app makes it of its platform, a test anew for each run; a server is given it",
  encoding: "a file has every encoding of TextDecoder, a conversation three",
  faults: "an app's entry has rules, a plane what sets them",
  fetch: "a Hono app's fits the control client",
  from: "of the PROXY protocol who is a proxy, of a rule of faults whose words",
  group: "a path's file has one, by number or name; a proxy's header tells that of its client's key exchange",
  incoming: "faults of datagrams are not those of streams",
  metrics: "of a Worker the code, of a plane what it counts",
  outgoing: "as incoming",
  params: "a session's come as JSON",
  pools: "an app has entries, a Worker what poolsFor() makes of them",
  rate: "a listener has one of requests by address, faults one of bytes",
  recording: "a Worker is given all of it, its pools what dials, which is a part",
  server: "a check of framing is given what makes a server, a check of a pool the handlers of one",
  stream: "streams in memory have a capacity, too",
  tls: "what dials says whom to trust, a listener what it shows, a proxy's header whether its client came by TLS",
  version: "of the proxy's header, and of the TLS that it tells of",
};

test("one name has one type wherever it is taken, but where each taker needs its own", () => {
  const types = new Map<string, Set<string>>();
  for (const { name, type } of allOptions()) types.set(name, (types.get(name) ?? new Set()).add(type));
  const several = [...types].flatMap(([name, { size }]) => (size > 1 ? [name] : []));
  expect(several.sort()).toEqual(Object.keys(SEVERAL));
});
