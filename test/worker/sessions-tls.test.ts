/** TLS from workerd: which certificates it trusts, and for which name. places.test.ts tests the transfer of bytes. */

import { SocketError, type TlsOptions } from "socklet";
import { createConnection } from "socklet/worker";
import { expect, inject, test } from "vitest";

const port = inject("tlsPort");
const localhost = { hostname: "localhost", port };
const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "no error",
    (error) => (error instanceof SocketError ? error.code : String(error)),
  );

const startTls = async (hostname: string, options?: TlsOptions, at = port): Promise<unknown> => {
  const socket = await createConnection({ hostname, port: at }, { secureTransport: "starttls" });
  const code = await codeOf(socket.startTls(options));
  expect(socket.closed).toBe(code !== "no error"); // one that failed is of no more use
  socket.abort();
  return code;
};

if (port === 0) test.skip("TLS from workerd: SKIPPED, not on PATH: openssl", () => {});
else {
  test("startTls() expects the host that was dialled, or the name that it is given", async () => {
    expect(await startTls("localhost")).toBe("no error");
    expect(await startTls("127.0.0.1")).toBe("no error");
    expect(await startTls("127.0.0.1", { serverName: "localhost" })).toBe("no error");
    expect(await startTls("localhost", { serverName: "other.example" })).toBe("ERR_TLS");
  });

  test("startTls() with a peer that speaks no TLS", async () => {
    expect(await startTls("127.0.0.1", {}, inject("echoPort"))).toBe("ERR_TLS");
  });

  test("startTls() with a peer that has ended, seen or not, fails: it does not wait for the handshake's time", async () => {
    const address = `127.0.0.1:${inject("conformancePort")}`;
    for (const seen of [true, false]) {
      const socket = await createConnection(address, { secureTransport: "starttls" });
      await socket.sendall(`put ended${seen} yes\n`); // upon which it ends
      if (seen) expect(await socket.recv()).toBeNull();
      const { code, message } = await socket.startTls().catch((error) => error);
      expect(code).toBe("ERR_TLS");
      if (seen) expect(message).toMatch(/the peer has ended its side/);
      expect(socket.closed).toBe(true);
    }
  });

  test("startTls() where the connection was not dialled for it says so", async () => {
    await using socket = await createConnection(localhost);
    await expect(socket.startTls()).rejects.toThrow(/ERR_UNSUPPORTED: .*starttls/);
  });

  test("from the first byte, only the host that was dialled can be expected", async () => {
    const dial = (tls: TlsOptions) => createConnection(localhost, { secureTransport: "on", tls });
    await (await dial({ serverName: "localhost" })).close();
    expect(await codeOf(dial({ serverName: "other.example" }))).toBe("ERR_UNSUPPORTED");
  });

  test("what connect() cannot do of TLS says so, by name, before anything is dialled", async () => {
    const pem = "-----BEGIN CERTIFICATE-----";
    const lacking: TlsOptions[] = [
      { ca: pem },
      { ca: pem, crl: pem },
      { cert: pem, key: pem },
      { alpn: ["imap"] },
      { minVersion: "TLSv1.3" },
    ];
    for (const tls of lacking) {
      const dialling = createConnection(localhost, { secureTransport: "on", tls });
      await expect(dialling).rejects.toThrow(/ERR_UNSUPPORTED: a Worker has no tls\.\w+: /);
      expect(await startTls("localhost", tls)).toBe("ERR_UNSUPPORTED");
    }
    const accepted = { clientCertificate: "ask" } as TlsOptions;
    await using socket = await createConnection(localhost, { secureTransport: "starttls" });
    await expect(socket.startTls(accepted)).rejects.toThrow(
      /a Worker has no tls\.clientCertificate: it accepts no TLS/,
    );
  });

  test("tls:// is secured from its first byte; request.tls says what the platform tells", async () => {
    const url = `tls://${localhost.hostname}:${localhost.port}`;
    await using socket = await createConnection(url);
    expect(socket.tls).toMatchObject({
      serverName: "localhost",
      trusted: true,
      version: null,
      closedCleanly: null,
    });
    await using plain = await createConnection(localhost, { secureTransport: "starttls" });
    expect(plain.tls).toBeNull();
  });

  test("a peer that speaks no TLS is a dial that failed", async () => {
    const address = `127.0.0.1:${inject("echoPort")}`;
    expect(await codeOf(createConnection(address, { secureTransport: "on" }))).toBe("ERR_CONNECT_FAILED");
  });
}
