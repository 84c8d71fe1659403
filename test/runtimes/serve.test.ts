/** `socklet serve`, as a user of this runtime starts it; and what is said of what only Node can do. */

import { fileURLToPath } from "node:url";
import { type Address, AF_INET, AF_UNIX, SOCK_DGRAM, SOCK_STREAM, SOL_TCP } from "socklet";
import {
  createConnection,
  ForkingTCPServer,
  ForkingUDPServer,
  fromfd,
  handlerFrom,
  serveCluster,
  socket,
  ThreadingTCPServer,
  UnixDatagramServer,
} from "socklet/emulator";
import { describe, expect, onTestFinished, test } from "vitest";
import { runtime } from "../../emulator/runtime.ts";
import { Echo, EchoDatagram } from "../../examples/echo.ts";
import { Authority } from "../peers/authority.ts";
import { run, start } from "../peers/program.ts";

const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const SOCKLET = [
  ...(runtime === "Deno" ? ["run", "-A"] : []),
  "--conditions=socklet:source",
  file("../../emulator/command/cli.ts"),
];
const APP = file("../../examples/app.ts");

describe("socklet serve", () => {
  test("serves until SIGTERM; SIGUSR2 is refused, and says why", async () => {
    await using program = start(process.execPath, [...SOCKLET, "serve", APP, "--any-port"]);
    const [, address = ""] = /(tcp:\S+)$/.exec(await program.line(/^echo /)) ?? [];
    await using client = await createConnection(address);
    await client.sendall("hello\n");
    expect(await client.rfile.line()).toBe("hello");
    program.kill("SIGUSR2");
    await client.sendall("still here\n");
    expect(await client.rfile.line()).toBe("still here");
    await client.close();
    program.kill("SIGTERM");
    const { code, stderr } = await program.ended;
    expect(stderr).toContain(`a restart needs Node, and this is ${runtime}`);
    expect(code).toBe(0);
  });

  test("--workers says that it needs Node, and ends with 1", async () => {
    const { code, stderr } = await run(process.execPath, [...SOCKLET, "serve", APP, "--workers", "2"]);
    expect(stderr).toContain(
      `needs Node, and this is ${runtime}: they share the listening sockets; serve by one`,
    );
    expect(code).toBe(1);
  });
});

test("an option that this runtime's TLS ignores is refused", async () => {
  const authority = new Authority();
  onTestFinished(() => authority.remove());
  const { cert, key } = authority.issue("localhost");
  const { ca } = authority;
  const unsupported = (option: string) => ({
    code: "ERR_UNSUPPORTED",
    message: expect.stringMatching(new RegExp(`${option} needs Node.*, and this is ${runtime}`)),
  });
  const server = (more: object) =>
    new ThreadingTCPServer("127.0.0.1:0", Echo, { tls: { cert, key, ...more } });
  const keys = { ticketKeys: new Uint8Array(48) };
  expect(() => server(keys)).toThrow(expect.objectContaining(unsupported("tls.ticketKeys")));
  if (runtime === "Bun") return;
  const revoking = { ca, clientCertificate: "require", crl: authority.crl() };
  expect(() => server(revoking)).toThrow(expect.objectContaining(unsupported("tls.crl")));
  await using plain = server({});
  expect(() => plain.replaceCertificate({ crl: authority.crl() })).toThrow();
  const address = (await plain.listen()) as Address;
  const tls = { ca, crl: authority.crl(), serverName: "localhost" };
  await expect(createConnection(address, { secureTransport: "on", tls })).rejects.toMatchObject(
    unsupported("tls.crl"),
  );
});

describe("what needs Node says so", () => {
  const Handler = handlerFrom(new URL("../../examples/echo.ts", import.meta.url).href, "Echo");
  const backlog = () => new ThreadingTCPServer("127.0.0.1:0", Echo, { backlog: 7 }).listen();
  const unsupported: readonly (readonly [what: string, ask: () => unknown])[] = [
    ["a forking server of streams", () => new ForkingTCPServer("127.0.0.1:0", Handler)],
    ["a forking server of datagrams", () => new ForkingUDPServer("127.0.0.1:0", Handler)],
    ["a cluster", () => serveCluster(new URL("../../examples/app.ts", import.meta.url).href)],
    ["a server of datagrams on a path", () => new UnixDatagramServer("unix:/tmp/never", EchoDatagram)],
    ["a socket of datagrams on a path", () => socket(AF_UNIX, SOCK_DGRAM)],
    ["a descriptor that was made elsewhere", () => fromfd(0, AF_INET, SOCK_STREAM)],
    ...(runtime === "Bun" ? [["how many may wait in the kernel", backlog] as const] : []),
    ["an option that Node's modules have no call for", () => socket(AF_INET).setsockopt(SOL_TCP, 18, 1)],
  ];

  test.each(unsupported)("%s", async (_, ask) => {
    const asked = async (): Promise<unknown> => ask();
    await expect(asked()).rejects.toMatchObject({
      code: "ERR_UNSUPPORTED",
      message: expect.stringMatching(new RegExp(`needs Node.*${runtime}`)),
    });
  });
});
