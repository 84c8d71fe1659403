/** Real proxies in front: HAProxy (versions 1 and 2, with everything that it sends about TLS), nginx, and dnsdist before the DNS example. */

import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import {
  type Address,
  defineApp,
  type InternetAddress,
  type ProxyHeader,
  type ProxyProtocolOptions,
  StreamRequestHandler,
  streamHandler,
} from "socklet";
import {
  serveApp,
  ThreadingTCPServer,
  ThreadingUDPServer,
  ThreadingUnixStreamServer,
} from "socklet/emulator";
import { expect, onTestFinished, test } from "vitest";
import { DnsDatagram, DnsStream } from "../../examples/dns.ts";
import { Told } from "../core/told.ts";
import { blocksOf } from "../pages/markdown.ts";
import { ownCertificates } from "./certificates.ts";
import { reservePort } from "./ports.ts";
import { describeWith, type Program, run, start } from "./program.ts";

interface Served {
  readonly address: Address | null;
  readonly proxy: ProxyHeader | null;
}

/** A server behind a proxy on this machine, what its handlers got, and its events. */
const behind = async (
  Server: typeof ThreadingTCPServer,
  at: string,
  options: Partial<ProxyProtocolOptions> = {},
) => {
  const told = new Told();
  const served: Served[] = [];
  class Echo extends StreamRequestHandler {
    override async handle() {
      served.push({ address: this.clientAddress, proxy: this.request.proxy });
      for await (const line of this.rfile.lines()) this.wfile.write(`${line}\n`);
    }
  }
  const from = at.startsWith("unix:") ? ["unix"] : ["127.0.0.1"];
  const proxyProtocol = { from, timeout: 120_000, ...options }; // a proxy may stand still before it sends its header
  const server = new Server(at, Echo, { onEvent: told.on, proxyProtocol });
  onTestFinished(() => server.serverClose());
  await server.listen();
  void server.serveForever();
  return { server, told, served, address: server.serverAddress as InternetAddress };
};

const folderOfTest = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "socklet-proxy-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
};

/** A connection to a proxy that may just be starting. */
const dialled = async (
  proxy: Program,
  port: number,
  options: tls.ConnectionOptions | null = null,
): Promise<net.Socket> => {
  const ended = proxy.ended.then(({ stdout, stderr }) => {
    throw new Error(`the proxy ended: ${stdout}${stderr}`);
  });
  ended.catch(() => {}); // as it does after the test
  for (;;) {
    const at = { host: "127.0.0.1", port, allowHalfOpen: true };
    const socket = options === null ? net.connect(at) : tls.connect({ ...at, ...options });
    onTestFinished(() => void socket.destroy());
    try {
      await Promise.race([ended, once(socket, options === null ? "connect" : "secureConnect")]);
      return socket;
    } catch (error) {
      if ((error as { code?: string }).code !== "ECONNREFUSED") throw error;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
};

/** Sends a line by a proxy, and returns the line that comes back. */
const echoed = async (socket: net.Socket): Promise<string> => {
  const line = once(socket, "data") as Promise<[Buffer]>;
  socket.write("hello\n");
  return String((await line)[0]);
};

/** The client's address from its own socket, which the server must get. */
const ownAddress = ({ localPort = 0 }: net.Socket): InternetAddress => ({
  family: "IPv4",
  hostname: "127.0.0.1",
  port: localPort,
});

describeWith(["haproxy", "socat"], "HAProxy", () => {
  const haproxy = (config: string): Program => {
    const path = join(folderOfTest(), "haproxy.cfg");
    writeFileSync(path, config);
    const program = start("haproxy", ["-db", "-f", path]);
    onTestFinished(() => program[Symbol.asyncDispose]());
    return program;
  };
  const config = (bind: string, server: string, frontend = ""): string => `
defaults
  mode tcp
  timeout connect 1m
  timeout client 1m
  timeout server 1m
frontend one
  bind ${bind}
  ${frontend}
  default_backend two
backend two
  server s ${server}
`;

  test.each([
    ["send-proxy", 1],
    ["send-proxy-v2", 2],
    ["send-proxy-v2 proxy-v2-options crc32c", 2],
  ] as const)("%s", async (sends, version) => {
    const { told, served, address } = await behind(ThreadingTCPServer, "127.0.0.1:0");
    const port = await reservePort();
    const proxy = haproxy(config(`127.0.0.1:${port}`, `127.0.0.1:${address.port} ${sends}`));
    const socket = await dialled(proxy, port);
    expect(await echoed(socket)).toBe("hello\n");
    const client = ownAddress(socket);
    const destination = { family: "IPv4", hostname: "127.0.0.1", port };
    const of = served.find(({ address }) => (address as InternetAddress).port === client.port);
    expect(of).toMatchObject({
      address: client,
      proxy: {
        version,
        command: "PROXY",
        carries: "stream",
        source: client,
        destination,
        checksum: sends.endsWith("crc32c"),
      },
    });
    expect(told.of("refused")).toEqual([]);
  });

  test("to a path", async () => {
    const path = join(folderOfTest(), "s");
    const { served } = await behind(ThreadingUnixStreamServer as never, `unix:${path}`);
    const port = await reservePort();
    const proxy = haproxy(config(`127.0.0.1:${port}`, `unix@${path} send-proxy-v2`));
    const socket = await dialled(proxy, port);
    expect(await echoed(socket)).toBe("hello\n");
    expect(served).toMatchObject([{ address: ownAddress(socket), proxy: { version: 2 } }]);
  });

  const certificates = ownCertificates();
  test.skipIf(certificates === null)(
    "TLS, the client's certificate, SNI, ALPN, a unique id and a checksum",
    async () => {
      const { told, served, address } = await behind(ThreadingTCPServer, "127.0.0.1:0");
      const port = await reservePort();
      const { ca, cert, key } = certificates as NonNullable<typeof certificates>;
      const folder = folderOfTest();
      writeFileSync(join(folder, "server.pem"), cert + key);
      writeFileSync(join(folder, "ca.pem"), ca);
      const all = "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id";
      const secure = `ssl crt ${folder}/server.pem ca-file ${folder}/ca.pem verify optional alpn h2,http/1.1`;
      const proxy = haproxy(
        config(
          `127.0.0.1:${port} ${secure}`,
          `127.0.0.1:${address.port} send-proxy-v2 proxy-v2-options ${all}`,
          "unique-id-format id-%pid-%rt",
        ),
      );
      const asks = { ca, servername: "localhost", ALPNProtocols: ["h2"] };
      const known = await dialled(proxy, port, { ...asks, cert, key });
      expect(await echoed(known)).toBe("hello\n");
      const other = await dialled(proxy, port, asks);
      expect(await echoed(other)).toBe("hello\n");
      const [first, second] = served as [Served, Served];
      expect(first).toMatchObject({
        address: ownAddress(known),
        proxy: {
          version: 2,
          alpn: "h2",
          authority: "localhost",
          checksum: true,
          ssl: {
            tls: true,
            certificate: "connection",
            verified: true,
            verify: 0,
            version: "TLSv1.3",
            commonName: "localhost",
            cipher: (known as tls.TLSSocket).getCipher().name,
            signatureAlgorithm: "ecdsa-with-SHA256",
            keyAlgorithm: "EC256",
          },
        },
      });
      expect(String(Buffer.from(first.proxy?.uniqueId as Uint8Array))).toMatch(/^id-\d+-/);
      // Its result is 0 for a client without a certificate, too: nothing was verified.
      expect(second.proxy?.ssl).toMatchObject({ tls: true, certificate: "none", verified: false, verify: 0 });
      expect(told.of("refused")).toEqual([]);
    },
  );

  test("its health checks start no handler; or they do, for a check that waits for a greeting", async () => {
    const { told, address } = await behind(ThreadingTCPServer, "127.0.0.1:0");
    const port = await reservePort();
    haproxy(config(`127.0.0.1:${port}`, `127.0.0.1:${address.port} send-proxy-v2 check inter 50ms`));
    await told.next("checked", 3);
    expect(told.of("begin")).toEqual([]);
    expect(told.of("refused")).toEqual([]);
    class Greets extends StreamRequestHandler {
      override handle() {
        commands.push(this.request.proxy?.command);
        this.wfile.write("220 ready\r\n");
      }
    }
    const commands: unknown[] = [];
    const greeted = new Told();
    await using greeting = new ThreadingTCPServer("127.0.0.1:0", Greets, {
      onEvent: greeted.on,
      proxyProtocol: { from: ["127.0.0.1"], local: "serve" },
    });
    const at = (await greeting.listen()) as InternetAddress;
    void greeting.serveForever();
    const check = "send-proxy-v2 check inter 50ms\n  option tcp-check\n  tcp-check expect rstring ^220";
    haproxy(config(`127.0.0.1:${await reservePort()}`, `127.0.0.1:${at.port} ${check}`));
    await greeted.next("end", 2);
    expect(commands.slice(0, 2)).toEqual(["LOCAL", "LOCAL"]);
  });

  test("asks /v1/ready: with drainDelay its clients go elsewhere before the listener closes", async () => {
    const app = (name: string, port: number) =>
      defineApp({
        handlers: { hello: streamHandler(({ wfile }) => void wfile.write(`${name}\n`)) },
        listen: [{ handler: "hello", address: `127.0.0.1:${port}` }],
      });
    const serving = async (name: string, drainDelay: number) => {
      const port = await reservePort();
      const server = await serveApp(app(name, port), {
        control: { port: 0, tokens: "a-token-for-the-tests" },
        drainDelay,
      });
      onTestFinished(async () => {
        server.abort();
        await server.close();
      });
      const { port: control } = new URL(String(server.control?.url));
      return { server, port, line: `server ${name} 127.0.0.1:${port} check inter 20ms port ${control}` };
    };
    const going = await serving("going", 86_400_000);
    const staying = await serving("staying", 0);
    const port = await reservePort();
    const folder = folderOfTest();
    const health = `timeout check 1m
  option httpchk GET /v1/ready
  http-check send hdr Host localhost
  ${going.line}
  ${staying.line} backup`;
    const proxy = haproxy(
      `global\n  stats socket ${folder}/stats\n${config(`127.0.0.1:${port}`, "")}`.replace(
        /server s .*/,
        health,
      ),
    );
    const hears = async (at: number): Promise<string> => {
      const socket = await dialled(proxy, at);
      return String(((await once(socket, "data")) as [Buffer])[0]);
    };
    const state = async (): Promise<string | undefined> => {
      const { stdout } = await run("socat", ["-", `${folder}/stats`], "show stat\n");
      return /^two,going,(?:[^,]*,){15}(\w+)/m.exec(String(stdout))?.[1];
    };
    expect(await hears(port)).toBe("going\n");
    const closed = going.server.close();
    while ((await state()) !== "DOWN");
    expect(await hears(port)).toBe("staying\n");
    expect(await hears(going.port)).toBe("going\n"); // a client that was sent here a moment before
    going.server.abort();
    await closed;
    const [error] = await once(net.connect(going.port, "127.0.0.1"), "error");
    expect(error).toMatchObject({ code: "ECONNREFUSED" });
  });

  test("a proxy that does not speak the protocol is refused, and its client with it", async () => {
    const { told, address } = await behind(ThreadingTCPServer, "127.0.0.1:0");
    const port = await reservePort();
    const proxy = haproxy(config(`127.0.0.1:${port}`, `127.0.0.1:${address.port}`));
    const socket = await dialled(proxy, port);
    socket.on("error", () => {}).write("hello\n");
    const { reason, error } = await told.next("refused");
    expect([reason, error?.code]).toEqual(["proxy", "ERR_PROXY"]);
    expect(error?.message).toMatch(/check that the proxy sends one/);
  });

  test("the recipe of docs/proxy-protocol.md", async () => {
    const block = blocksOf("docs/proxy-protocol.md").find(({ name }) => name === "haproxy.cfg");
    const recipe = block?.code as string;
    const { told, served, address } = await behind(ThreadingTCPServer, "127.0.0.1:0");
    const port = await reservePort();
    const [bind, server] = ["bind :7007", "server one 127.0.0.1:7107"] as const;
    expect(recipe).toContain(bind);
    expect(recipe).toContain(server);
    const proxy = haproxy(
      recipe.replace(bind, `bind 127.0.0.1:${port}`).replace(server, `server one 127.0.0.1:${address.port}`),
    );
    const socket = await dialled(proxy, port);
    expect(await echoed(socket)).toBe("hello\n");
    expect(served).toMatchObject([{ address: ownAddress(socket), proxy: { version: 2, checksum: true } }]);
    await told.next("checked");
  });
});

describeWith(["nginx"], "nginx", () => {
  test("its stream module, version 1", async () => {
    const { told, served, address } = await behind(ThreadingTCPServer, "127.0.0.1:0");
    const port = await reservePort();
    const folder = folderOfTest();
    writeFileSync(
      join(folder, "nginx.conf"),
      `
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid ${folder}/pid;
error_log stderr notice;
events {}
stream {
  server { listen 127.0.0.1:${port}; proxy_pass 127.0.0.1:${address.port}; proxy_protocol on; }
}
`,
    );
    const proxy = start("nginx", ["-c", join(folder, "nginx.conf"), "-p", folder, "-e", "stderr"]);
    onTestFinished(() => proxy[Symbol.asyncDispose]());
    const socket = await dialled(proxy, port);
    expect(await echoed(socket)).toBe("hello\n");
    const client = ownAddress(socket);
    expect(served).toMatchObject([
      { address: client, proxy: { version: 1, command: "PROXY", source: client } },
    ]);
    expect(told.of("refused")).toEqual([]);
  });
});

/** Two servers on one port number, which dnsdist asks over datagrams and over streams: the first one's port, if the second can have it. */
const onOneNumber = async (make: (at: string) => [ThreadingTCPServer, ThreadingUDPServer]) => {
  for (;;) {
    const [tcp] = make("127.0.0.1:0");
    const at = (await tcp.listen()) as InternetAddress;
    const [, udp] = make(`127.0.0.1:${at.port}`);
    const close = async (): Promise<void> => void (await Promise.all([tcp.serverClose(), udp.serverClose()]));
    try {
      await udp.listen();
    } catch (error) {
      await close();
      if ((error as { code?: string }).code === "EADDRINUSE") continue; // somebody has it over UDP
      throw error;
    }
    void tcp.serveForever();
    void udp.serveForever();
    return { at, close };
  }
};

describeWith(["dnsdist", "dig"], "dnsdist before the DNS example", () => {
  test("datagrams and streams, each client by its own address", async () => {
    const served: Served[] = [];
    const notes = ({ address, proxy }: Served): number => served.push({ address, proxy });
    class Datagrams extends DnsDatagram {
      override handle(): void {
        notes({ address: this.clientAddress, proxy: this.request.proxy });
        super.handle();
      }
    }
    class Streams extends DnsStream {
      override handle(): Promise<void> {
        notes({ address: this.clientAddress, proxy: this.request.proxy });
        return super.handle();
      }
    }
    const told = new Told();
    const options = { onEvent: told.on, proxyProtocol: { from: ["127.0.0.1"] } };
    const { at, close } = await onOneNumber((at) => [
      new ThreadingTCPServer(at, Streams, options),
      new ThreadingUDPServer(at, Datagrams, options),
    ]);
    onTestFinished(close);
    const port = await reservePort();
    const folder = folderOfTest();
    writeFileSync(
      join(folder, "dnsdist.conf"),
      `
setLocal("127.0.0.1:${port}")
setSecurityPollSuffix("")
setUDPTimeout(120)
setTCPRecvTimeout(120)
setTCPSendTimeout(120)
s = newServer{address="127.0.0.1:${at.port}", useProxyProtocol=true}
s:setUp()
addAction(AllRule(), SetProxyProtocolValuesAction({ ["226"] = "from dnsdist" }))
`,
    );
    const program = start("dnsdist", [
      "-C",
      join(folder, "dnsdist.conf"),
      "--supervised",
      "--disable-syslog",
    ]);
    onTestFinished(() => program[Symbol.asyncDispose]());
    await program.line(/Listening on/);
    for (const way of ["+notcp", "+tcp"]) {
      const once = ["+tries=1", "+time=120"]; // what it asks again is served again
      const args = ["@127.0.0.1", "-p", port, way, ...once, "+short", "www.example.test", "A"];
      const { stdout } = await run("dig", args);
      expect(String(stdout)).toBe("192.0.2.80\n");
    }
    const asked = served.filter(({ proxy }) => proxy?.command === "PROXY");
    const destination = { family: "IPv4", hostname: "127.0.0.1", port };
    const tlvs = [{ type: 226, value: new Uint8Array(Buffer.from("from dnsdist")) }];
    const proxy = { version: 2, command: "PROXY", destination, tlvs };
    expect(asked).toMatchObject([
      { address: { hostname: "127.0.0.1" }, proxy: { ...proxy, carries: "datagram" } },
      { address: { hostname: "127.0.0.1" }, proxy: { ...proxy, carries: "stream" } },
    ]);
    expect(told.of("refused")).toEqual([]);
  });
});
