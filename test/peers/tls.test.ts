/** TLS with programs that nobody here wrote, in both roles: openssl, Python, curl, swaks, redis-cli, sslscan. */

import { type SockletEvent, streamHandler } from "socklet";
import { createConnection, type TCPServerOptions, ThreadingTCPServer } from "socklet/emulator";
import { afterAll, expect, test } from "vitest";
import { KeyStore, RespServer } from "../../examples/resp.ts";
import { Authority, type Issued } from "./authority.ts";
import { describeWith, python, run, start } from "./program.ts";

const authority = new Authority();
const here = authority.isHere;
const NONE: Issued = { cert: "", key: "", certFile: "", keyFile: "" };
const own = here ? authority.issue("localhost") : NONE;
const client = here ? authority.issue("a client", { use: "clientAuth" }) : NONE;
const pair = { cert: own.cert, key: own.key };
const { caFile, ca } = authority;
afterAll(() => authority.remove());

const Upper = streamHandler(async ({ request, rfile, wfile }) => {
  for await (const line of rfile.lines()) {
    wfile.write(
      `${line.toUpperCase()} ${request.tls?.version} ${request.tls?.certificate?.commonName ?? "-"}\n`,
    );
  }
});

/** SMTP as far as a sink speaks it, over TLS from the first byte or after STARTTLS. */
const Sink = (received: string[]) =>
  streamHandler(async ({ request, rfile, wfile }) => {
    wfile.write("220 sink\r\n");
    for await (const line of rfile.lines()) {
      const verb = line.slice(0, 4).toUpperCase();
      if (verb === "EHLO")
        wfile.write(request.tls === null ? "250-sink\r\n250 STARTTLS\r\n" : "250 sink\r\n");
      else if (verb === "STAR") {
        wfile.write("220 go ahead\r\n");
        await request.startTls();
      } else if (verb === "DATA") {
        wfile.write("354 go on\r\n");
        let text = "";
        for await (const part of rfile.lines()) {
          if (part === ".") break;
          text += `${part}\n`;
        }
        received.push(`${request.tls?.version}: ${text}`);
        wfile.write("250 taken\r\n");
      } else if (verb === "QUIT") {
        wfile.write("221 bye\r\n");
        return;
      } else wfile.write("250 ok\r\n");
    }
  });

const serve = async (Handler: ReturnType<typeof streamHandler>, options: TCPServerOptions<unknown>) => {
  const events: SockletEvent[] = [];
  const server = new ThreadingTCPServer("127.0.0.1:0", Handler, {
    ...options,
    onEvent: (event) => events.push(event),
  });
  const at = (await server.listen()) as { port: number };
  void server.serveForever();
  const stop = async (): Promise<void> => {
    server.abort();
    await server.serverClose();
  };
  return { server, events, port: at.port, [Symbol.asyncDispose]: stop };
};

describeWith(["openssl"], "openssl s_client", () => {
  test.each(["-tls1_2", "-tls1_3"])("speaks %s, with a client certificate", async (version) => {
    await using place = await serve(Upper, { tls: { ...pair, ca, clientCertificate: "require" } });
    const to = [
      "s_client",
      "-connect",
      `localhost:${place.port}`,
      "-CAfile",
      caFile,
      "-verify_return_error",
      "-quiet",
    ];
    const who = ["-cert", client.certFile, "-key", client.keyFile];
    await using program = start("openssl", [...to, ...who, version, "-no_ign_eof"]);
    program.write("hello\n");
    const spoken = version.replace("-tls1_", "TLSv1.");
    expect(await program.line(/HELLO/)).toBe(`HELLO ${spoken} a client`);
  });

  test("cannot renegotiate", async () => {
    await using place = await serve(Upper, { tls: pair });
    await using program = start("openssl", [
      "s_client",
      "-connect",
      `localhost:${place.port}`,
      "-tls1_2",
      "-CAfile",
      caFile,
    ]);
    await program.line(/Verify return code: 0/);
    program.write("R\n");
    const { stderr } = await program.ended;
    expect(stderr).toMatch(/no renegotiation/);
    expect(place.events.filter(({ type }) => type === "error").length).toBeLessThanOrEqual(1);
  });

  test("as a server, asks what dials for its certificate", async () => {
    const who = ["-cert", own.certFile, "-key", own.keyFile, "-CAfile", caFile, "-Verify", "1"];
    await using program = start("openssl", [
      "s_server",
      "-accept",
      "127.0.0.1:0",
      ...who,
      "-verify_return_error",
      "-rev",
    ]);
    const port = Number(/:(\d+)$/.exec(await program.line(/^ACCEPT/))?.[1]);
    const tls = { ca, cert: client.cert, key: client.key };
    await using socket = await createConnection(`tls://localhost:${port}`, { tls });
    await socket.sendall("hello\n");
    expect(await socket.rfile.line()).toBe("olleh");
    await socket.close();
    const bare = await createConnection(`tls://localhost:${port}`, { tls: { ca } })
      .then((made) => made.rfile.line().finally(() => made.abort()))
      .catch((error) => error);
    expect(bare).toMatchObject({ code: expect.stringMatching(/^(ERR_TLS|ECONNRESET)$/) });
  });
});

describeWith(["python3", "openssl"], "Python's ssl", () => {
  test("shows its certificate, chooses a protocol, and resumes", async () => {
    await using place = await serve(Upper, {
      tls: { ...pair, ca, clientCertificate: "require", alpn: ["imap", "smtp"] },
    });
    const said = await python(
      `
import json, socket, ssl, sys
port, ca, cert, key = int(sys.argv[1]), *sys.argv[2:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
context.set_alpn_protocols(["smtp"])
told = []
session = None
for _ in range(2):
    with socket.create_connection(("127.0.0.1", port)) as raw:
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as secured:
            secured.sendall(b"hello\\n")
            reply = secured.recv(100).decode()
            told.append([reply.strip(), secured.selected_alpn_protocol(), secured.session_reused])
            session = secured.session
print(json.dumps(told))
`,
      [place.port, caFile, client.certFile, client.keyFile],
    );
    const reply = "HELLO TLSv1.3 a client";
    expect(JSON.parse(said)).toEqual([
      [reply, "smtp", false],
      [reply, "smtp", true],
    ]);
  });
});

describeWith(["curl", "swaks", "openssl"], "a mail sink with STARTTLS and implicit TLS", () => {
  test("curl by smtps, swaks by both", async () => {
    const received: string[] = [];
    await using implicit = await serve(Sink(received), { tls: pair });
    await using later = await serve(Sink(received), { tls: pair, secureTransport: "starttls" });
    const to = ["--mail-from", "a@example.com", "--mail-rcpt", "b@example.com", "-T", "-"];
    const by = ["-sS", "--cacert", caFile, "--url", `smtps://localhost:${implicit.port}`];
    const curl = await run("curl", [...by, ...to], "Subject: by curl\r\n\r\nhello\r\n");
    expect({ code: curl.code, stderr: curl.stderr }).toEqual({ code: 0, stderr: "" });
    const mail = [
      "--to",
      "b@example.com",
      "--from",
      "a@example.com",
      "--tls-verify",
      "--tls-ca-path",
      caFile,
      "--hide-all",
    ];
    const server = (port: number) => ["--server", "localhost", "--port", port];
    const wrapped = await run("swaks", [
      ...mail,
      ...server(implicit.port),
      "--tlsc",
      "--header",
      "Subject: by swaks",
    ]);
    expect(wrapped.code).toBe(0);
    const started = await run("swaks", [
      ...mail,
      ...server(later.port),
      "--tls",
      "--header",
      "Subject: by STARTTLS",
    ]);
    expect(started.code).toBe(0);
    expect(received.map((text) => /^(TLSv1\.3): [\s\S]*?Subject: (.*)$/m.exec(text)?.slice(1))).toEqual([
      ["TLSv1.3", "by curl"],
      ["TLSv1.3", "by swaks"],
      ["TLSv1.3", "by STARTTLS"],
    ]);
  });
});

describeWith(["redis-cli", "openssl"], "redis-cli --tls", () => {
  test("speaks with the RESP example", async () => {
    await using place = await serve(RespServer as never, { tls: pair, context: { keys: new KeyStore() } });
    const to = ["--tls", "--cacert", caFile, "-h", "localhost", "-p", place.port];
    const { stdout, stderr } = await run("redis-cli", [...to, "ping"]);
    expect({ stdout: String(stdout), stderr }).toEqual({ stdout: "PONG\n", stderr: "" });
  });
});

describeWith(["sslscan", "openssl"], "sslscan", () => {
  test("finds TLS 1.2 and 1.3, nothing older, and no renegotiation", async () => {
    await using place = await serve(Upper, { tls: pair });
    const { stdout } = await run("sslscan", [
      "--no-colour",
      "--no-check-certificate",
      `127.0.0.1:${place.port}`,
    ]);
    const text = String(stdout);
    for (const old of ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"])
      expect(text).toMatch(new RegExp(`${old} +disabled`));
    for (const spoken of ["TLSv1.2", "TLSv1.3"]) expect(text).toMatch(new RegExp(`${spoken} +enabled`));
    expect(text).toMatch(/Session renegotiation not supported/);
    expect(text).not.toMatch(/Compression enabled|vulnerable to heartbleed(?<!not vulnerable to heartbleed)/);
  });
});
