/** Each row of the socket module inside workerd: that it works, or the error if it cannot. */

import * as worker from "socklet/worker";
import { inject, test } from "vitest";
import { rows } from "../rows/rows.ts";
import { type WorkerPlace, workerRows } from "../rows/worker.ts";

// The server is in Vitest's main process, which may stand still for longer than the default's 5 s.
const asked = { endpoint: `${inject("dohOrigin")}/dns-query`, timeout: 120_000 };

const place: WorkerPlace = {
  ...worker,
  exports: Object.keys(worker),
  echo: { hostname: "127.0.0.1", port: inject("echoPort") },
  nobody: `127.0.0.1:${inject("nobodysPort")}`,
  refused: "ERR_CONNECT_FAILED",
  gethostbyname: (name) => worker.gethostbyname(name, asked),
  gethostbynameEx: (name) => worker.gethostbynameEx(name, asked),
  gethostbyaddr: (address) => worker.gethostbyaddr(address, asked),
  getfqdn: (name) => worker.getfqdn(name, asked),
  getaddrinfo: (host, port) => worker.getaddrinfo(host, port, asked),
  getnameinfo: (address) => worker.getnameinfo(address, 0, asked),
};

for (const { id, name, worker: cell } of rows) {
  test(`${id} ${name}${"cannot" in cell ? ": cannot" : ""}`, async () => {
    const run = workerRows[id];
    if (run === undefined) throw new Error(`row ${id} has no test in test/rows/worker.ts`);
    await run(place);
  });
}
