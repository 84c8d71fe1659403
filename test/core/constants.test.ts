import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import * as constants from "../../core/net/constants.ts";
import { peer } from "../peers/peer.ts";

const NAMES = Object.keys(constants);

test("the numbers that the tutorial and POSIX fix", () => {
  expect(constants).toMatchObject({
    AF_UNIX: 1,
    AF_INET: 2,
    AF_INET6: 10,
    SOCK_STREAM: 1,
    SOCK_DGRAM: 2,
    IPPROTO_TCP: 6,
    IPPROTO_RAW: 255,
    SOL_SOCKET: 1,
    SOL_TCP: 6,
    SOL_IP: 0,
    SOL_UDP: 17,
    MSG_OOB: 1,
    MSG_PEEK: 2,
    MSG_DONTROUTE: 4,
    MSG_DONTWAIT: 64,
    MSG_WAITALL: 256,
    MSG_NOSIGNAL: 16384,
    SHUT_RD: 0,
    SHUT_WR: 1,
    SHUT_RDWR: 2,
    INADDR_ANY: 0,
    INADDR_LOOPBACK: 2130706433,
    INADDR_BROADCAST: 4294967295,
    INADDR_NONE: 4294967295,
    INADDR_UNSPEC_GROUP: 3758096384,
    INADDR_ALLHOSTS_GROUP: 3758096385,
    INADDR_MAX_LOCAL_GROUP: 3758096639,
    SOMAXCONN: 4096,
    IPPORT_RESERVED: 1024,
    IPPORT_USERRESERVED: 5000,
  });
});

test("every one is an unsigned 32-bit integer of a known group; those of EAI_ are negative", () => {
  const group =
    /^(AF|SOCK|IPPROTO|SOL|SO|TCP|IP|IPV6|MSG|SHUT|INADDR|IPPORT|AI|NI|EAI)_[A-Z0-9_]+$|^POLL[A-Z]+$|^SOMAXCONN$/;
  for (const [name, value] of Object.entries(constants)) {
    expect(name).toMatch(group);
    expect(value, name).toBe(name.startsWith("EAI_") ? value | 0 : value >>> 0);
  }
});

const python3 = peer("python3");
const ASK = `
import json, select, socket, sys
has = {name: int(value) for module in (select, socket) for name, value in vars(module).items() if name.isupper() and isinstance(value, int)}
print(json.dumps({name: has[name] for name in json.load(sys.stdin) if name in has}))
`;

// The numbers are Linux's: another system's Python has others.
const oracle = process.platform === "linux" ? python3 : null;

describe.skipIf(oracle === null)(
  oracle
    ? "as CPython's socket and select modules have them"
    : "SKIPPED, no python3 on Linux: constants were NOT compared",
  () => {
    test("name by name, and none that it has not", () => {
      const asked = execFileSync(oracle!, ["-c", ASK], { input: JSON.stringify(NAMES), encoding: "utf8" });
      expect({ ...constants }).toEqual(JSON.parse(asked));
    });
  },
);
