/** TLS by the command: `socklet serve --tls self-signed`, and certificates that a SIGHUP has it read again. */

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createConnection } from "socklet/emulator";
import { afterAll, expect, test } from "vitest";
import { Authority } from "../peers/authority.ts";
import { describeWith, start } from "../peers/program.ts";

const cli = fileURLToPath(new URL("../../emulator/command/cli.ts", import.meta.url));
const app = fileURLToPath(new URL("./fixtures/tls-app.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "socklet-tls-command-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Starts `socklet` in the folder; no terminal, and so a SIGHUP reloads. */
const socklet = (env: string, ...args: readonly string[]) =>
  start("sh", [
    "-c",
    `cd ${folder} && exec env ${env} "$@" 2>&1`,
    "sh",
    process.execPath,
    "--conditions=socklet:source",
    cli,
    ...args,
  ]);

const dial = (url: string, ca: string, secureTransport: "on" | "starttls") => {
  const { hostname, port } = new URL(url.replace(/^t(ls|cp):/, "http:"));
  return createConnection(
    { hostname, port: Number(port) },
    { secureTransport, tls: { ca, serverName: "localhost" } },
  );
};

describeWith(["openssl"], "socklet serve, with TLS", () => {
  test("--tls self-signed makes a certificate, keeps it, and shows it everywhere", async () => {
    const serve = ["serve", app, "--no-control", "--tls", "self-signed"] as const;
    let before = "";
    for (const round of ["made", "kept"]) {
      await using program = socklet("A=1", ...serve);
      expect(await program.line(/self-signed/)).toMatch(
        /for development.*\.socklet\/self-signed\/cert\.pem \(SHA-256 [0-9A-F:]{95}\)/,
      );
      const tls = /tls:\/\/\S+/.exec(await program.line(/tls:\/\//))?.[0] as string;
      const tcp = /tcp:\/\/\S+/.exec(await program.line(/tcp:\/\//))?.[0] as string;
      const file = join(folder, ".socklet/self-signed/cert.pem");
      const ca = readFileSync(file, "utf8");
      expect(statSync(file.replace("cert", "key")).mode & 0o077).toBe(0);
      if (round === "kept") expect(ca).toBe(before);
      before = ca;
      await using secured = await dial(tls, ca, "on");
      expect(await secured.rfile.line()).toContain('"version":"TLSv1.3"');
      await using later = await dial(tcp, ca, "starttls");
      await later.rfile.line();
      await later.sendall("STARTTLS\n");
      await later.rfile.line();
      await later.startTls();
      expect(await later.rfile.line()).toContain('"version":"TLSv1.3"');
      program.kill("SIGTERM");
    }
  });

  test("is refused in production, and without a certificate", async () => {
    await using production = socklet(
      "NODE_ENV=production",
      "serve",
      app,
      "--no-control",
      "--tls",
      "self-signed",
    );
    expect((await production.ended).code).toBe(2);
    expect(String((await production.ended).stdout)).toContain("NODE_ENV is production");
    await using bare = socklet("A=1", "serve", app, "--no-control");
    expect((await bare.ended).code).toBe(2);
    expect(String((await bare.ended).stdout)).toMatch(
      /the listener "tell" at tls:\/\/127\.0\.0\.1:0 needs TLS, and has no certificate.*--tls self-signed/,
    );
  });

  test("a SIGHUP has the certificates read again; a bad one is told, and the former one stays", async () => {
    const authority = new Authority();
    const [first, second] = [authority.issue("first"), authority.issue("second")];
    const put = (cert: string, key: string): void => {
      writeFileSync(join(folder, "cert.pem"), cert);
      writeFileSync(join(folder, "key.pem"), key);
    };
    put(first.cert, first.key);
    await using program = socklet(`TLS_FOLDER=${folder}`, "serve", app, "--no-control");
    const tls = /tls:\/\/\S+/.exec(await program.line(/tls:\/\//))?.[0] as string;
    await program.line(/tcp:\/\//);
    const shown = async () => {
      await using socket = await dial(tls, authority.ca, "on");
      await socket.rfile.line();
      return socket.tls?.certificate?.commonName;
    };
    expect(await shown()).toBe("first");
    put(second.cert, second.key);
    program.kill("SIGHUP");
    expect(await program.line(/tell {2}the certificate was read again/)).toContain("CN=second, until ");
    expect(await program.line(/SIGHUP/)).toContain("the certificates of 2 listeners are read again");
    expect(await shown()).toBe("second");
    put(first.cert, second.key);
    program.kill("SIGHUP");
    expect(await program.line(/tell {2}the new certificate/)).toMatch(
      /is not used: .*tls\.key is not the key of the first certificate.*; the old one stays in use: CN=second/,
    );
    expect(await shown()).toBe("second");
    authority.remove();
  });
});
