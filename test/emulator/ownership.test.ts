/** Using a connection that another request made fails in a Worker, and on request in Node: the same app in both. */

import { type InternetAddress, StreamRequestHandler, type StreamSocket } from "socklet";
import { controlClient } from "socklet/control";
import { createConnection, type ServeOptions, serveApp, ThreadingTCPServer } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { asRequest, guardConnections } from "../../emulator/sockets/dialling/ownership.ts";
import { type Keeping, keeperApp } from "../conformance/keeper.ts";
import { Authority } from "../peers/authority.ts";
import { ownAddress, reservePort } from "../peers/ports.ts";
import { runWorker } from "./workerd.ts";

class Echo extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const piece of this.request) await this.request.sendall(piece);
  }
}

const echo = new ThreadingTCPServer("127.0.0.1:0", Echo);
let upstream: string;

beforeAll(async () => {
  const address = await echo.listen();
  upstream = `tcp://127.0.0.1:${address?.family === "unix" ? 0 : address?.port}`;
  void echo.serveForever();
});
afterAll(() => echo.serverClose());

/** One request of the app: sends lines, and returns the answers. */
const requestOf = async (port: number) => {
  const stream = await createConnection({ hostname: "127.0.0.1", port });
  onTestFinished(() => stream.abort());
  const ask = async (line: string): Promise<string | null> => {
    await stream.sendall(`${line}\n`);
    return stream.rfile.line();
  };
  return Object.assign(ask, { end: () => stream.close() });
};

const REFUSED = /^ERR_UNSUPPORTED .*this connection was made by another request.*a pool \(docs\/pools\.md\)/;
const USES = ["ask", "read", "send", "gather", "large"];

describe("in workerd", () => {
  let port: number;
  let worker: Awaited<ReturnType<typeof runWorker>>;

  beforeAll(async () => {
    port = await reservePort();
    const vars = { PORT: port, UPSTREAM: upstream };
    worker = await runWorker({ main: "test/worker/keeper-main.ts", ports: [port], classes: {}, vars });
  });
  afterAll(() => worker.close());

  test("what context() dialled is the first request's", async () => {
    const first = await requestOf(port);
    expect(await first("early")).toBe("ok undefined");
    expect(await first("ask")).toBe("ok hello");
    const second = await requestOf(port);
    expect(await second("ask")).toMatch(REFUSED);
  });

  test.each([...USES, "end", "secure"])("%s by another request", async (use) => {
    const first = await requestOf(port);
    expect(await first(use === "secure" ? "dialStarttls" : "dial")).toBe("ok undefined");
    expect(await first("ask")).toBe("ok hello");
    const second = await requestOf(port);
    expect(await second(use)).toMatch(REFUSED);
  });
});

describe.each([true, false])("in Node, with the option: %s", (guardConnections) => {
  const serve = async (
    options: Partial<Keeping> = {},
    serving: Partial<ServeOptions> = {},
  ): Promise<number> => {
    const app = keeperApp({ upstream, port: 0, createConnection, ...options });
    const server = await serveApp(app, { guardConnections, ...serving });
    onTestFinished(() => server.close());
    return Number(new URL(server.listeners[0]?.url ?? "").port);
  };
  const refused = guardConnections ? REFUSED : /^ok (hello|0|undefined)$/;

  test.each([...USES, "end"])("%s by another request", async (use) => {
    const port = await serve();
    const first = await requestOf(port);
    expect(await first("dial")).toBe("ok undefined");
    for (const own of ["ask", "send", "gather"]) expect(await first(own)).toBe("ok hello");
    const second = await requestOf(port);
    if (guardConnections || use !== "read") expect(await second(use)).toMatch(refused); // else nothing comes
  });

  test("what context() dialled is no request's", async () => {
    const request = await requestOf(await serve({ early: true }));
    expect(await request("early")).toBe("ok undefined");
    expect(await request("ask")).toMatch(refused);
  });

  test("a pool's connections are everybody's", async () => {
    const port = await serve({ pool: true });
    for (let requests = 0; requests < 3; requests++) {
      const request = await requestOf(port);
      expect(await request("pool")).toBe("ok hello");
      expect(await request("pool")).toBe("ok hello");
    }
  });

  test("in a child of a forking listener", async () => {
    process.env.UPSTREAM = upstream;
    const module = new URL("fixtures/keeper-app.ts", import.meta.url).href;
    const { app } = await import(module);
    const server = await serveApp(app, { guardConnections, module });
    onTestFinished(() => server.close());
    const port = Number(new URL(server.listeners[0]?.url ?? "").port);
    const first = await requestOf(port);
    expect(await first("dial")).toBe("ok undefined");
    expect(await first("ask")).toBe("ok hello");
    expect(await first("pool")).toBe("ok hello");
    await first.end(); // a child serves one after the other
    const second = await requestOf(port);
    expect(await second("pool")).toBe("ok hello");
    expect(await second("ask")).toMatch(refused);
  });
});

describe("a connection", () => {
  const authority = new Authority();
  afterAll(() => authority.remove());
  const [a, b] = [{}, {}];

  test.skipIf(!authority.isHere)("that is secured belongs to the request that dialled it", async () => {
    guardConnections();
    class StartsTls extends StreamRequestHandler {
      override async handle(): Promise<void> {
        await this.rfile.line();
        await this.request.sendall("ready\n");
        await this.request.startTls();
        for await (const piece of this.request) await this.request.sendall(piece);
      }
    }
    const { cert, key } = authority.issue("localhost");
    const options = { secureTransport: "starttls", tls: { cert, key } } as const;
    const secured = new ThreadingTCPServer(await ownAddress(), StartsTls, options);
    onTestFinished(() => secured.serverClose());
    const { port } = (await secured.listen()) as InternetAddress;
    void secured.serveForever();
    const address = { hostname: "localhost", port };
    const tls = { ca: authority.ca };
    const dialled = async (): Promise<StreamSocket> => {
      const stream = await asRequest(a, () =>
        createConnection(address, { secureTransport: "starttls", tls }),
      );
      onTestFinished(() => stream.abort());
      await asRequest(a, () => stream.sendall("secure\n"));
      expect(await asRequest(a, () => stream.rfile.line())).toBe("ready");
      return stream;
    };

    const plain = await dialled();
    await expect(asRequest(b, () => plain.startTls())).rejects.toThrow("made by another request");
    const stream = await dialled();
    await asRequest(a, () => stream.startTls());
    await asRequest(a, () => stream.sendall("hello\n"));
    expect(await asRequest(a, () => stream.rfile.line())).toBe("hello");
    await expect(asRequest(b, () => stream.sendall("hello\n"))).rejects.toThrow("made by another request");
  });
});

test("a session of the control routes is a request of its own", async () => {
  const server = await serveApp(keeperApp({ upstream, port: 0, createConnection }), {
    guardConnections: true,
    control: { port: 0, tokens: "a-token-for-the-tests" },
  });
  onTestFinished(() => server.close());
  const control = controlClient(server.control?.url ?? "", { token: "a-token-for-the-tests" });
  const { id } = await control.sessions.start({ dial: "visit", params: "keep" });
  for await (const { type } of control.sessions.follow(id)) if (type === "handler") break; // it has its echo
  expect(await control.sessions.run({ dial: "visit", params: "use" })).toMatchObject({
    state: "failed",
    error: { code: "ERR_UNSUPPORTED", message: expect.stringContaining("made by another request") },
  });
});
