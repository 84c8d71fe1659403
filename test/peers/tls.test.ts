/** TLS with third-party programs, in both roles: openssl, Python, curl, swaks, redis-cli, sslscan, testssl.sh. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type SockletEvent, streamHandler } from "socklet";
import { createConnection, type TCPServerOptions, ThreadingTCPServer } from "socklet/emulator";
import { MemoryStorage } from "socklet/testing";
import { afterAll, expect, test } from "vitest";
import { type MailContext, MailRequestHandler } from "../../examples/mail.ts";
import { KeyStore, RespServer } from "../../examples/resp.ts";
import { Authority, type Issued } from "./authority.ts";
import { ownAddress, reservePort } from "./ports.ts";
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

const serve = async (Handler: ReturnType<typeof streamHandler>, options: TCPServerOptions<unknown>) => {
  const events: SockletEvent[] = [];
  const server = new ThreadingTCPServer(await ownAddress(), Handler, {
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
    const port = await reservePort();
    await using program = start("openssl", [
      "s_server",
      "-accept",
      `127.0.0.1:${port}`,
      ...who,
      "-verify_return_error",
      "-rev",
    ]);
    await program.line(/^ACCEPT/);
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

/** The mail sink of the examples, with its certificate: from the first byte, or after STARTTLS. */
const sink = async (options: TCPServerOptions<unknown>) => {
  const storage = new MemoryStorage();
  const context: MailContext = { storage, startTls: {} };
  const place = await serve(MailRequestHandler as never, { tls: pair, ...options, context });
  /** The subjects of the mails that were kept, in their order. */
  const subjects = async (): Promise<(string | undefined)[]> => {
    const names = (await storage.list()).toSorted();
    const mails = await Promise.all(
      names.map(async (name) => String(Buffer.from((await storage.get(name)) ?? []))),
    );
    return mails.map((mail) => /^Subject: (.*?)\r$/m.exec(mail)?.[1]).toSorted();
  };
  return Object.assign(place, { subjects });
};

const SMTPLIB = `
import smtplib, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
with smtplib.SMTP("localhost", port, timeout=120) as smtp:
    smtp.ehlo()
    before = smtp.has_extn("starttls")
    smtp.starttls(context=context)
    unknown = smtp.docmd("MAIL", "FROM:<a@example.com>")[0]
    smtp.ehlo()
    again = smtp.docmd("STARTTLS")[0]
    smtp.sendmail("a@example.com", ["b@example.com"], b"Subject: by smtplib\\r\\n\\r\\nhello\\r\\n")
    print(before, smtp.sock.version(), unknown, smtp.has_extn("starttls"), again)
`;

/** What stands between client and server puts commands behind the client's STARTTLS. */
const INJECTS = `
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as raw:
    raw.sendall(b"EHLO x\\r\\nSTARTTLS\\r\\nMAIL FROM:<forged@example.com>\\r\\n")
    said = b""
    try:
        while part := raw.recv(1000): said += part
    except ConnectionResetError: pass
    print(said.decode().splitlines()[-1])
`;

describeWith(["curl", "swaks", "openssl", "python3"], "a mail sink with STARTTLS and implicit TLS", () => {
  const mail = ["--to", "b@example.com", "--from", "a@example.com", "--hide-all"];
  const verified = [...mail, "--tls-verify", "--tls-ca-path", caFile];
  const server = (port: number) => ["--server", "localhost", "--port", port];

  test("curl by smtps, swaks by --tlsc", async () => {
    await using place = await sink({ secureTransport: "on" });
    const to = ["--mail-from", "a@example.com", "--mail-rcpt", "b@example.com", "-T", "-"];
    const by = ["-sS", "--cacert", caFile, "--url", `smtps://localhost:${place.port}`];
    const curl = await run("curl", [...by, ...to], "Subject: by curl\r\n\r\nhello\r\n");
    expect({ code: curl.code, stderr: curl.stderr }).toEqual({ code: 0, stderr: "" });
    const subject = ["--header", "Subject: by swaks"];
    const swaks = await run("swaks", [...verified, ...server(place.port), "--tlsc", ...subject]);
    expect(swaks.code).toBe(0);
    expect(await place.subjects()).toEqual(["by curl", "by swaks"]);
  });

  test("swaks by --tls, smtplib by starttls(), openssl by -starttls smtp", async () => {
    await using place = await sink({ secureTransport: "starttls" });
    const subject = ["--header", "Subject: by swaks"];
    const swaks = await run("swaks", [...verified, ...server(place.port), "--tls", ...subject]);
    expect(swaks.code).toBe(0);
    // The state from before TLS is discarded, and a secured connection is not secured again.
    expect(await python(SMTPLIB, [place.port, caFile])).toBe("True TLSv1.3 503 False 503\n");
    const to = ["s_client", "-connect", `localhost:${place.port}`, "-starttls", "smtp", "-CAfile", caFile];
    const said = await run("openssl", [...to, "-verify_return_error", "-quiet"], "QUIT\r\n");
    expect({ code: said.code, said: String(said.stdout) }).toEqual({
      code: 0,
      said: expect.stringMatching(/^221 .*\r\n$/m),
    });
    expect(await place.subjects()).toEqual(["by smtplib", "by swaks"]);
  });

  test("what comes before the handshake ends the connection", async () => {
    await using place = await sink({ secureTransport: "starttls" });
    expect(await python(INJECTS, [place.port])).toBe("220 Go ahead\n");
    expect(place.events.find(({ type }) => type === "error")).toMatchObject({
      error: { code: "ERR_TLS", message: expect.stringContaining("cannot be trusted") },
    });
    expect(await place.subjects()).toEqual([]);
  });

  test("without a certificate it is not offered", async () => {
    const context: MailContext = { storage: new MemoryStorage() };
    await using place = await serve(MailRequestHandler as never, { context });
    const { code } = await run("swaks", [...verified, ...server(place.port), "--tls"]);
    expect(code).toBe(29); // swaks: TLS was asked for, and not offered
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

describeWith(["testssl", "openssl"], "testssl.sh", () => {
  test("finds no weakness but the CBC ciphers of TLS 1.2, which are among Node's defaults", async () => {
    // It asks for a page first, to find out what is served, and waits 5 s for a server that does not end then.
    const Line = streamHandler(async ({ rfile, wfile }) => void wfile.write(`${await rfile.line()}\n`));
    await using place = await serve(Line, { tls: pair });
    const file = join(authority.folder, "testssl.json");
    const how = ["--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--jsonfile", file];
    // 7 s of CPU, of which 3 before it connects (it starts awk for each cipher that it knows): 43 s at a load of 20.
    await run("testssl", [...how, "--vulnerable", `127.0.0.1:${place.port}`], "", 280_000);
    const found: readonly Record<"id" | "severity", string>[] = JSON.parse(readFileSync(file, "utf8"));
    const said = new Map(found.map(({ id, severity }) => [id, severity]));
    for (const id of ["heartbleed", "CCS", "ROBOT", "secure_client_renego", "POODLE_SSL", "RC4"])
      expect([id, said.get(id)]).toEqual([id, "OK"]);
    const weak = found.filter(({ severity }) => ["LOW", "MEDIUM", "HIGH", "CRITICAL"].includes(severity));
    expect(weak.map(({ id }) => id)).toEqual(["LUCKY13"]);
  });
});
