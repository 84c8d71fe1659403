/** `socklet proxy`, `replay` and `diff` with third-party programs on both sides: none of them notices. */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { formatTranscript, parseTranscript, type Transcript } from "socklet/testing";
import { afterAll, expect, test } from "vitest";
import { ownCertificates } from "./certificates.ts";
import { serverOf } from "./node-server.ts";
import { reservePort } from "./ports.ts";
import { describeWith, type Ended, type Program, redis, run, start } from "./program.ts";
import { bind, postgres, postgresPassword, smtp } from "./servers.ts";

const cli = fileURLToPath(new URL("../../emulator/command/cli.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "socklet-wire-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The command, in its own folder. */
const words = (args: readonly (string | number)[]): [string, string[]] => [
  "sh",
  [
    "-c",
    'cd "$0" && exec "$@"',
    folder,
    process.execPath,
    "--conditions=socklet:source",
    cli,
    ...args.map(String),
  ],
];
const socklet = (...args: readonly (string | number)[]): Promise<Ended> => run(...words(args));

interface Up extends AsyncDisposable {
  readonly port: number;
  readonly program: Program;
  /** Stops it as Ctrl-C does. */
  stop(): Promise<Ended>;
}

/** The command, which prints its address on stderr. */
const up = async (...args: readonly (string | number)[]): Promise<Up> => {
  const [command, given] = words(args);
  const program = start("sh", ["-c", 'exec "$0" "$@" 2>&1', command, ...given]);
  const line = await program.line(/^socklet: \w+:\/\/\S+ (forwards to|answers)/);
  const port = Number(/:(\d+) (?:forwards|answers)/.exec(line)?.[1]);
  const stop = (): Promise<Ended> => {
    program.kill("SIGINT");
    return program.ended;
  };
  return { port, program, stop, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
};

const proxy = (address: string, ...more: readonly string[]): Promise<Up> =>
  up("proxy", address, "--listen", "127.0.0.1:0", ...more);

let files = 0;
const file = (): string => join(folder, `${++files}.jsonl`);
const recorded = (path: string): Transcript => parseTranscript(readFileSync(path, "utf8"));

/** Everything that one side sent in a recording. */
const saidBy = (side: "client" | "server", { events }: Transcript): Buffer =>
  Buffer.concat(events.flatMap((event) => ("data" in event && event.from === side ? [event.data] : [])));

describeWith(["redis-server", "redis-cli"], "redis-cli through socklet proxy", () => {
  test("notices nothing; what it said is shown, recorded, and replayed as its client and as its server", async () => {
    const path = file();
    const { port, program } = await redis();
    await using _ = program;
    await using between = await proxy(`tcp://127.0.0.1:${port}`, "--record", path);
    const cliOf = (...args: string[]): Promise<Ended> => run("redis-cli", ["-p", between.port, ...args]);
    expect((await cliOf("SET", "key", "\u001b[31mvalue")).stdout.toString()).toBe("OK\n");
    expect((await cliOf("GET", "key")).stdout.toString()).toContain("[31mvalue");
    const { stdout, code } = await between.stop();
    expect(code).toBe(0);
    // Nothing that a peer sent reaches the terminal unescaped.
    expect(stdout.toString()).toMatch(/#1 C: "\*3\\r\\n\$3\\r\\nSET\\r\\n.*\\x1b\[31mvalue/);
    // Redis may end the first connection later than it answers on the second.
    expect(stdout.toString()).toMatch(/#2 S: ".*value\\r\\n"\n(?:.*#1 .*\n)*.*#2 C: \(half-close\)/);

    const transcript = recorded(path);
    expect(transcript).toMatchObject({ kind: "stream", address: `tcp://127.0.0.1:${port}` });
    expect(new Set(transcript.events.map(({ peer = 1 }) => peer))).toEqual(new Set([1, 2]));

    const asClient = await socklet("replay", path, "--to", `tcp://127.0.0.1:${port}`);
    expect([asClient.code, asClient.stdout.toString()]).toEqual([0, "2 connections: as recorded\n"]);
    await using server = await up("replay", path, "--listen", "127.0.0.1:0");
    const again = (...args: string[]): Promise<Ended> => run("redis-cli", ["-p", server.port, ...args]);
    expect((await again("SET", "key", "\u001b[31mvalue")).stdout.toString()).toBe("OK\n");
    expect((await again("GET", "key")).stdout.toString()).toContain("[31mvalue");
    expect((await server.program.ended).code).toBe(0);
  });

  test("socklet diff: two recordings of one conversation are alike, and another one is not", async () => {
    const [one, same, other] = [file(), file(), file()];
    const { port, program } = await redis();
    await using _ = program;
    for (const [path, value] of [
      [one, "a"],
      [same, "a"],
      [other, "b"],
    ] as const) {
      await using between = await proxy(`tcp://127.0.0.1:${port}`, "--record", path, "--quiet");
      await run("redis-cli", ["-p", between.port, "SET", "key", value]);
      await between.stop();
    }
    const alike = await socklet("diff", one, same);
    expect([alike.code, alike.stdout.toString()]).toEqual([0, ""]);
    const differ = await socklet("diff", one, other);
    expect(differ.code).toBe(1);
    expect(differ.stdout.toString()).toMatch(/turn 1 is another.*\n.*expected 61 "a", got 62 "b"/);
    const wrong = await socklet(
      "replay",
      other,
      "--to",
      `tcp://127.0.0.1:${port}`,
      "--listen",
      "127.0.0.1:0",
    );
    expect([wrong.code, wrong.stderr]).toEqual([
      2,
      "socklet: give --to, to be its client, or --listen, to be its server\n",
    ]);
  });

  test("--json prints the transcript; a server that is not there is told, and the client is reset", async () => {
    const { port, program } = await redis();
    await using between = await proxy(`tcp://127.0.0.1:${port}`, "--json");
    await run("redis-cli", ["-p", between.port, "PING"]);
    await program[Symbol.asyncDispose]();
    const reset = await run("redis-cli", ["-p", between.port, "PING"]);
    expect(reset.stderr + reset.stdout).toMatch(/reset|closed/i);
    const { stdout } = await between.stop();
    const lines = stdout.toString().split("\n");
    expect(lines.filter((line) => line.startsWith("socklet:")).join("\n")).toMatch(/ECONNREFUSED/);
    const transcript = parseTranscript(
      lines
        .filter((line) => line.startsWith("{"))
        .map((line) => `${line}\n`)
        .join(""),
    );
    expect(saidBy("server", transcript).toString()).toBe("+PONG\r\n");
  });
});

describeWith(["dig", "named"], "dig through socklet proxy udp://", () => {
  test("notices nothing; each client is one of the recording, which is replayed", async () => {
    const path = file();
    const zone = "$TTL 60\n@ IN SOA ns h 1 2 3 4 5\n@ IN NS ns\nns IN A 192.0.2.1\nwww IN A 192.0.2.80\n";
    await using server = await bind("wire.test", zone);
    await using between = await proxy(`udp://127.0.0.1:${server.port}`, "--record", path, "--quiet");
    const ask = (port: number): Promise<Ended> =>
      run("dig", [
        "@127.0.0.1",
        "-p",
        port,
        "+short",
        "+qid=7",
        "+nocookie",
        "+tries=1",
        "+time=120",
        "www.wire.test",
      ]);
    for (let i = 0; i < 2; i++) expect((await ask(between.port)).stdout.toString()).toBe("192.0.2.80\n");
    await between.stop();
    const { kind, events } = recorded(path);
    expect([kind, events.map(({ peer = 1 }) => peer)]).toEqual(["datagrams", [1, 1, 2, 2]]);
    const asClient = await socklet("replay", path, "--to", `udp://127.0.0.1:${server.port}`);
    expect([asClient.code, asClient.stderr]).toEqual([0, ""]);
    await using answers = await up("replay", path, "--listen", "127.0.0.1:0", "--connection", 1);
    expect((await ask(answers.port)).stdout.toString()).toBe("192.0.2.80\n");
    expect((await answers.program.ended).code).toBe(0);
  });
});

const certificates = ownCertificates();
if (certificates !== null) {
  describeWith(["swaks", "aiosmtpd"], "swaks through socklet proxy", () => {
    test("sends its mail, by STARTTLS too, which passes as it is", async () => {
      await using server = await smtp(certificates);
      await using between = await proxy(`tcp://127.0.0.1:${server.port}`);
      const { code } = await run("swaks", [
        ...["--server", `127.0.0.1:${between.port}`, "--to", "you@mail.test", "--from", "me@mail.test"],
        ...["--tls", "--body", "through the proxy"],
      ]);
      expect(code).toBe(0);
      await server.program.line(/through the proxy/);
      expect((await between.stop()).stdout.toString()).toMatch(/S: "220 .*ESMTP|S: "220 /);
    });
  });

  describeWith(["psql", "setpriv"], "psql through socklet proxy", () => {
    test("notices nothing, in plain text and by TLS", async () => {
      await using server = await postgres(certificates);
      await using between = await proxy(`tcp://127.0.0.1:${server.port}`, "--quiet");
      for (const mode of ["disable", "require"]) {
        const secret = encodeURIComponent(postgresPassword);
        const url = `postgresql://postgres:${secret}@127.0.0.1:${between.port}/postgres?sslmode=${mode}`;
        const { stdout, stderr } = await run("psql", [
          url,
          "-At",
          "-c",
          "select sum(i) from generate_series(1,100000) i",
        ]);
        expect([mode, stdout.toString(), stderr]).toEqual([mode, "5000050000\n", ""]);
      }
    });
  });

  const ca = join(certificates.folder, "ca.pem");

  describeWith(["swaks", "aiosmtpd"], "swaks through socklet proxy --starttls smtp", () => {
    test("speaks TLS with the proxy, and what is said in it is seen; who asks for none is answered as ever", async () => {
      const path = file();
      await using server = await smtp(certificates);
      const address = `tcp://127.0.0.1:${server.port}`;
      await using between = await proxy(address, "--starttls", "smtp", "--ca", ca, "--record", path);
      for (const secured of [true, false]) {
        const { code, stdout } = await run("swaks", [
          ...["--server", `127.0.0.1:${between.port}`, "--to", "you@mail.test", "--from", "me@mail.test"],
          ...(secured ? ["--tls"] : []),
          ...["--body", "said in TLS"],
        ]);
        expect([code === 0, stdout.includes("=== TLS started")]).toEqual([secured, secured]);
        if (secured) await server.program.line(/said in TLS/);
      }
      const { stdout } = await between.stop();
      expect(stdout.toString()).toMatch(/#1 -- TLS has begun \(TLSv1\.\d\)/);
      expect(stdout.toString()).not.toMatch(/#2 -- TLS has begun/);
      const said = saidBy("client", recorded(path)).toString();
      expect(said).toMatch(/STARTTLS\r\nEHLO .*MAIL FROM:<me@mail\.test>.*said in TLS.*QUIT/s);
      expect(saidBy("server", recorded(path)).toString()).toContain("530 "); // to a client that does not ask for TLS
    });
  });

  describeWith(["swaks", "aiosmtpd"], "a recording of a mail by STARTTLS", () => {
    test("is said again with its upgrade, to a server and by a client that nobody here wrote", async () => {
      const path = file();
      const mail = (port: number, ...more: readonly string[]) => [
        ...["--server", `127.0.0.1:${port}`, "--to", "you@mail.test", "--from", "me@mail.test", "--tls"],
        ...["--ehlo", "client.test", "--data", "Subject: secret\n\nsaid in TLS\n", ...more],
      ];
      await using server = await smtp(certificates);
      const to = `tcp://127.0.0.1:${server.port}`;
      {
        await using between = await proxy(to, "--starttls", "smtp", "--ca", ca, "--quiet", "--record", path);
        expect((await run("swaks", mail(between.port))).code).toBe(0);
        await between.stop();
      }
      expect(recorded(path).events.filter((event) => "tls" in event)).toHaveLength(1);
      await server.program.line(/said in TLS/);
      const asClient = await socklet("replay", path, "--to", to, "--ca", ca);
      expect([asClient.code, asClient.stderr]).toEqual([0, ""]);
      await server.program.line(/said in TLS/);

      await using answers = await up("replay", path, "--listen", "127.0.0.1:0");
      const trusting = ["--tls-verify", "--tls-ca-path", join(folder, ".socklet/authority/cert.pem")];
      const { code, stdout } = await run("swaks", mail(answers.port, ...trusting));
      expect([code, stdout.includes("=== TLS started")]).toEqual([0, true]);
      const ended = await answers.program.ended;
      expect([ended.code, ended.stdout.toString()]).toEqual([
        0,
        expect.stringContaining("1 connection: as recorded"),
      ]);

      const wrong = await socklet("replay", path, "--to", `tls://127.0.0.1:${server.port}`, "--ca", ca);
      expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining("give tcp://host:port")]);
    });
  });

  describeWith(["psql", "setpriv"], "psql through socklet proxy --starttls postgres", () => {
    test("trusts the proxy's authority, and its queries are seen", async () => {
      const path = file();
      await using server = await postgres(certificates);
      const address = `tcp://127.0.0.1:${server.port}`;
      await using between = await proxy(address, "--starttls", "postgres", "--ca", ca, "--record", path);
      const authority = join(folder, ".socklet/authority/cert.pem");
      const secret = encodeURIComponent(postgresPassword);
      for (const mode of ["verify-full", "disable"]) {
        // If the client wants it, the password exchange is bound to the server's certificate: no proxy can pass it on.
        const bound = `channel_binding=disable&sslrootcert=${encodeURIComponent(authority)}&sslmode=${mode}`;
        const url = `postgresql://postgres:${secret}@127.0.0.1:${between.port}/postgres?${bound}`;
        const { stdout, stderr } = await run("psql", [url, "-At", "-c", `select '${mode}'`]);
        expect([mode, stdout.toString(), stderr]).toEqual([mode, `${mode}\n`, ""]);
      }
      await between.stop();
      const said = saidBy("client", recorded(path)).toString("latin1");
      expect(said).toContain("select 'verify-full'");
      expect(said).toContain("select 'disable'");
    });
  });

  describeWith(["openssl"], "SSLKEYLOGFILE", () => {
    test("has the secrets of both sides of socklet proxy tls://", async () => {
      const keys = file();
      const server = (await import("node:tls")).createServer(
        { cert: certificates.cert, key: certificates.key },
        (socket) => socket.on("data", () => socket.end("bye\n")).on("error", () => {}),
      );
      server.listen(await reservePort(), "127.0.0.1");
      await once(server, "listening");
      process.env.SSLKEYLOGFILE = keys;
      const { port } = server.address() as net.AddressInfo;
      await using between = await proxy(`tls://localhost:${port}`, "--ca", ca, "--quiet").finally(() => {
        process.env.SSLKEYLOGFILE = "";
      });
      const client = start("openssl", ["s_client", "-quiet", "-connect", `127.0.0.1:${between.port}`]);
      client.write("hello\n");
      await client.line(/bye/);
      await client[Symbol.asyncDispose]();
      await between.stop();
      server.close();
      const randoms = [
        ...readFileSync(keys, "utf8").matchAll(/^CLIENT_TRAFFIC_SECRET_0 ([\da-f]{64}) [\da-f]+$/gm),
      ];
      expect(new Set(randoms.map(([, random]) => random)).size).toBe(2); // of the client's session, and of the server's
      expect(statSync(keys).mode & 0o777).toBe(0o600);
    });
  });

  describeWith(["openssl", "dumpcap", "tshark"], "a capture of TLS through socklet proxy", () => {
    const may = spawnSync("dumpcap", ["-q", "-i", "lo", "-a", "duration:1", "-w", "/dev/null"]).status === 0;
    test.skipIf(!may)("is read by tshark with SSLKEYLOGFILE, where this user may capture", async () => {
      const [keys, capture] = [file(), file()];
      const server = (await import("node:tls")).createServer(
        { cert: certificates.cert, key: certificates.key },
        (socket) => socket.on("data", () => socket.end("the reply in TLS\n")).on("error", () => {}),
      );
      await once(server.listen(await reservePort(), "127.0.0.1"), "listening");
      process.env.SSLKEYLOGFILE = keys;
      const { port } = server.address() as net.AddressInfo;
      await using between = await proxy(`tls://localhost:${port}`, "--ca", ca, "--quiet").finally(() => {
        process.env.SSLKEYLOGFILE = "";
      });
      const ports = [between.port, port];
      const filter = ports.map((one) => `tcp port ${one}`).join(" or ");
      const dump = `exec dumpcap -q -i lo -f "${filter}" -w "${capture}" 2>&1`;
      await using capturing = start("sh", ["-c", dump]);
      await capturing.line(/^File: /);
      const client = start("openssl", ["s_client", "-quiet", "-connect", `127.0.0.1:${between.port}`]);
      client.write("a question in TLS\n");
      await client.line(/the reply in TLS/);
      await client[Symbol.asyncDispose]();
      /** What tshark reads in the session on one of the ports; the capture is written while it is read. */
      const read = async (one: number): Promise<string> => {
        const tls = ["-o", `tls.keylog_file:${keys}`, "-d", `tcp.port==${one},tls`, "-Y", `tcp.port==${one}`];
        const fields = ["-T", "fields", "-e", "data.data"];
        const { stdout } = await run("tshark", ["-r", capture, ...tls, ...fields]);
        return Buffer.from(stdout.toString().replace(/[^\da-f]/g, ""), "hex").toString();
      };
      for (const one of ports) {
        let came = "";
        while (!came.includes("reply")) came = await read(one);
        expect(came).toBe("a question in TLS\nthe reply in TLS\n");
      }
      await between.stop();
      server.close();
    });
  });

  describeWith(["openssl"], "openssl through socklet proxy tls://", () => {
    test("trusts the authority that it made, and what is said in TLS is seen", async () => {
      const path = file();
      const reply = "the reply in TLS\n";
      const server = (await import("node:tls")).createServer(
        { cert: certificates.cert, key: certificates.key },
        (socket) => socket.on("data", () => socket.end(reply)).on("error", () => {}),
      );
      server.listen(await reservePort(), "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address() as net.AddressInfo;
      await using between = await proxy(`tls://localhost:${port}`, "--record", path, "--ca", ca);
      const client = start("openssl", [
        ...["s_client", "-quiet", "-connect", `127.0.0.1:${between.port}`, "-servername", "localhost"],
        ...["-verify_return_error", "-CAfile", join(folder, ".socklet/authority/cert.pem")],
      ]);
      client.write("a question in TLS\n");
      expect(await client.line(/reply/)).toBe(reply.trim());
      await client[Symbol.asyncDispose]();
      await between.stop();
      server.close();
      expect(saidBy("client", recorded(path)).toString()).toBe("a question in TLS\n");
      expect(saidBy("server", recorded(path)).toString()).toBe(reply);
      const { stdout } = spawnSync("openssl", [
        "x509",
        "-in",
        join(folder, ".socklet/authority/cert.pem"),
        "-noout",
        "-ext",
        "basicConstraints",
      ]);
      expect(stdout.toString()).toContain("CA:TRUE");
    });
  });
}

describeWith(["tshark"], "tshark reads socklet export --pcapng", () => {
  const captureOf = async (transcript: Transcript, ...more: string[]): Promise<string> => {
    const path = file();
    writeFileSync(path, formatTranscript(transcript));
    const { code, stderr } = await socklet("export", path, "--pcapng", `${path}.pcapng`, ...more);
    expect([code, stderr]).toEqual([0, ""]);
    return `${path}.pcapng`;
  };
  const tshark = async (path: string, ...args: string[]): Promise<string> =>
    (
      await run("tshark", [
        "-r",
        path,
        "-o",
        "tcp.check_checksum:TRUE",
        "-o",
        "ip.check_checksum:TRUE",
        ...args,
      ])
    ).stdout.toString();
  const said = (from: "client" | "server", data: string | Uint8Array, at = 1, peer?: number) => ({
    ...{ at, from, data: typeof data === "string" ? Buffer.from(data) : data },
    ...(peer !== undefined && { peer }),
  });
  const left = (from: "client" | "server", at = 9, peer?: number) => ({
    ...{ at, from, end: "half-close" as const },
    ...(peer !== undefined && { peer }),
  });

  test("follows each stream byte for byte, reads over 64 KiB too, and finds nothing wrong", async () => {
    const large = Buffer.alloc(200_000, "0123456789");
    const events = [said("client", "PING\r\n"), said("server", large, 2), said("client", "two", 3, 2)];
    const ends = [left("client"), left("server"), left("client", 9, 2), left("server", 9, 2)];
    const capture = await captureOf({ kind: "stream", events: [...events, ...ends] }, "--port", "7000");
    const follow = async (stream: number): Promise<Record<"client" | "server", string>> => {
      const text = await tshark(capture, "-q", "-z", `follow,tcp,raw,${stream}`);
      const lines = text.split("\n").filter((line) => /^\t?[0-9a-f]+$/.test(line));
      const of = (server: boolean): string =>
        Buffer.from(
          lines
            .filter((line) => line.startsWith("\t") === server)
            .join("")
            .replaceAll("\t", ""),
          "hex",
        ).toString();
      return { client: of(false), server: of(true) };
    };
    expect(await follow(0)).toEqual({ client: "PING\r\n", server: large.toString() });
    expect(await follow(1)).toEqual({ client: "two", server: "" });
    expect(
      await tshark(
        capture,
        "-Y",
        "tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0 || _ws.malformed",
      ),
    ).toBe("");
  });

  test("dissects SMTP, RESP and DNS", async () => {
    const smtp = await captureOf({
      kind: "stream",
      address: "tcp://192.0.2.1:25",
      events: [said("server", "220 mail.test\r\n"), said("client", "EHLO me\r\n", 2), left("client")],
    });
    expect(
      await tshark(
        smtp,
        "-Y",
        "smtp",
        "-T",
        "fields",
        "-e",
        "ip.src",
        "-e",
        "smtp.response.code",
        "-e",
        "smtp.req.command",
      ),
    ).toBe("192.0.2.1\t220\t\n127.0.0.1\t\tEHLO\n");
    const resp = await captureOf(
      { kind: "stream", events: [said("client", "*1\r\n$4\r\nPING\r\n"), said("server", "+PONG\r\n", 2)] },
      "--port",
      "6379",
    );
    expect(await tshark(resp, "-Y", "resp", "-T", "fields", "-e", "_ws.col.Protocol")).toBe("RESP\nRESP\n");
    const question = "00070100000100000000000003777777046e616d650474657374000001".concat("0001");
    const dns = await captureOf({
      kind: "datagrams",
      address: "udp://127.0.0.1:53",
      began: "2026-11-29T12:00:00.000Z",
      events: [said("client", Buffer.from(question, "hex"), 1500)],
    });
    expect(
      await tshark(
        dns,
        "-o",
        "udp.check_checksum:TRUE",
        "-T",
        "fields",
        "-e",
        "dns.qry.name",
        "-e",
        "udp.checksum.status",
        "-e",
        "frame.time_epoch",
      ),
    ).toMatch(/^www\.name\.test\t1\t(1795953601\.5|2026-11-29T12:00:01\.5)/);
  });

  test("a transcript that says no port needs one", async () => {
    const path = file();
    writeFileSync(path, formatTranscript({ kind: "stream", events: [said("client", "x")] }));
    const { code, stderr } = await socklet("export", path, "--pcapng", `${path}.pcapng`);
    expect([code, stderr]).toEqual([
      2,
      "socklet: --port: the transcript does not say the server's port, by which a capture is dissected; give one\n",
    ]);
  });
});

// ---- Transparent: traffic passes unchanged ----

/** Incoming bytes stay in the kernel until they are read. */
const PAUSED = { pauseOnConnect: true };
const clientOf = async (port: number): Promise<net.Socket> => {
  const socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true }).on("error", () => {});
  await once(socket, "connect");
  return socket;
};
const readAll = async (socket: net.Socket): Promise<string> => {
  let text = "";
  for await (const bytes of socket) text += bytes;
  return text;
};

test("an end passes while the other direction goes on", async () => {
  await using server = await serverOf(PAUSED, async (socket) =>
    socket.end(`I heard: ${await readAll(socket)}`),
  );
  await using between = await proxy(server.address);
  const client = await clientOf(between.port);
  client.end("all of it");
  expect(await readAll(client)).toBe("I heard: all of it");
  expect((await between.stop()).stdout.toString()).toMatch(
    /C: "all of it"\n.*C: \(half-close\)\n.*S: "I heard: all of it"\n.*S: \(half-close\)/,
  );
});

test("a reset passes as a reset, in both directions", async () => {
  const errors: unknown[] = [];
  const heard = Promise.withResolvers<void>();
  let who: "server" | "client" = "server";
  await using server = await serverOf(PAUSED, (socket) => {
    socket.resume();
    if (who === "server") socket.once("data", () => socket.resetAndDestroy());
    else {
      socket.write("hello");
      socket.once("error", (error: NodeJS.ErrnoException) => {
        errors.push(error.code);
        heard.resolve();
      });
    }
  });
  await using between = await proxy(server.address);
  const client = await clientOf(between.port);
  client.write("hello");
  const [error] = await once(client, "error");
  expect(error.code).toBe("ECONNRESET");
  who = "client";
  const other = await clientOf(between.port);
  await once(other, "data");
  other.resetAndDestroy();
  await heard.promise;
  expect(errors).toEqual(["ECONNRESET"]);
  expect((await between.stop()).stdout.toString()).toMatch(/#1 S: \(reset\)[\s\S]*#2 C: \(reset\)/);
});

test("back-pressure passes: a reader that takes nothing stops the writer, and nothing is kept in between", async () => {
  const accepted = Promise.withResolvers<net.Socket>();
  await using server = await serverOf(PAUSED, (socket) => accepted.resolve(socket));
  await using between = await proxy(server.address, "--quiet");
  const client = await clientOf(between.port);
  const slow = await accepted.promise;
  const piece = Buffer.alloc(1024 * 1024, "x");
  let taken = 0;
  for (let i = 0; i < 512; i++) {
    client.write(piece, () => {
      taken += piece.length;
    });
  }
  client.end();
  // Until no more is taken for many turns: what is in between by then the kernels have, and the proxy a little.
  for (let quiet = 0, before = 0; quiet < 1000; before = taken) {
    await new Promise((resolve) => setImmediate(resolve));
    quiet = taken === before ? quiet + 1 : 0;
  }
  expect(taken).toBeLessThan(64 * 1024 * 1024); // what the four kernel buffers of the two connections can grow to, and more
  let came = 0;
  for await (const bytes of slow) came += bytes.length;
  expect(came).toBe(512 * piece.length);
});

test("what goes through is what comes out, and memory is flat: 1 GiB, or SOCKLET_WIRE_BYTES", async () => {
  const size = Number(process.env.SOCKLET_WIRE_BYTES ?? 2 ** 30);
  const came = createHash("sha1");
  const done = Promise.withResolvers<void>();
  await using server = await serverOf(PAUSED, async (socket) => {
    for await (const bytes of socket) came.update(bytes);
    socket.end();
    done.resolve();
  });
  await using between = await proxy(server.address, "--quiet");
  const client = await clientOf(between.port);
  const sent = createHash("sha1");
  const piece = Buffer.alloc(1024 * 1024);
  const memory = (): number => {
    const { stdout } = spawnSync("sh", [
      "-c",
      `ss -Htlnp "sport = :${between.port}" | grep -o 'pid=[0-9]*' | head -1`,
    ]);
    const pid = stdout.toString().trim().slice(4);
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
  };
  for (let at = 0; at < size; at += piece.length) {
    piece.writeUInt32LE(at / piece.length, at % (piece.length - 4));
    const part = Buffer.from(piece);
    sent.update(part);
    if (!client.write(part)) await once(client, "drain");
  }
  client.end();
  await done.promise;
  expect(came.digest("hex")).toBe(sent.digest("hex"));
  expect(memory()).toBeLessThan(300); // MiB at most, ever: Node itself takes 60
});

test("what cannot be is told: exit status 2, and what would be right", async () => {
  const said = async (...args: string[]): Promise<unknown[]> => {
    const { code, stderr } = await socklet(...args);
    return [code, stderr];
  };
  expect(await said("proxy", "tcp://127.0.0.1:0", "--listen", "127.0.0.1:0")).toEqual([
    2,
    "socklet: tcp://127.0.0.1:0 cannot be dialled: it names no host, or port 0\n",
  ]);
  expect(await said("proxy", "tcp://127.0.0.1:1", "--listen", "unix:/run/x")).toEqual([
    2,
    "socklet: --listen unix:/run/x: give host:port, without a scheme\n",
  ]);
  const broken = file();
  writeFileSync(broken, "{}\n");
  expect(await said("diff", broken, broken)).toEqual([
    2,
    `socklet: ${broken}: transcript, line 1: it must begin with {"socklet":"transcript","version":1,…}\n`,
  ]);
});
