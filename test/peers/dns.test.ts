import DNS from "dns2";
import { ThreadingTCPServer, ThreadingUDPServer } from "socklet/emulator";
import { describe, expect, test } from "vitest";
import { DnsDatagram, DnsStream } from "../../examples/dns.ts";
import { describeWith, run } from "./program.ts";

/**
 * The name server on one port, over TCP and UDP: a client that is cut short asks again at that number. TCP first: a busy
 * machine has thousands of its ports in use, and few of UDP's.
 */
const nameServer = async () => {
  for (let tries = 0; ; tries++) {
    const errors: unknown[] = [];
    const onEvent = (event: { type: string }): void => {
      if (event.type === "error") errors.push(event);
    };
    const tcp = new ThreadingTCPServer("127.0.0.1:0", DnsStream, { onEvent });
    const at = await tcp.listen();
    const port = at !== null && at.family !== "unix" ? at.port : 0;
    const udp = new ThreadingUDPServer(`127.0.0.1:${port}`, DnsDatagram, { onEvent });
    const close = async (): Promise<void> => {
      await Promise.all([udp.serverClose(), tcp.serverClose()]);
    };
    try {
      await udp.listen();
    } catch (error) {
      await close();
      if (tries === 4) throw error;
      continue; // somebody has that number over UDP
    }
    void udp.serveForever();
    void tcp.serveForever();
    return { port, udp, tcp, errors, [Symbol.asyncDispose]: close };
  }
};

const dig = async (port: number, ...args: string[]): Promise<string> => {
  const { stdout } = await run("dig", ["@127.0.0.1", "-p", port, "+tries=1", "+time=120", ...args]);
  return stdout.toString();
};

describeWith(["dig"], "dig", () => {
  test.each([
    ["www.example.test A", ["192.0.2.80"]],
    ["www.example.test AAAA", ["2001:db8::80"]],
    ["web.example.test A", ["www.example.test.", "192.0.2.80"]],
    ["away.example.test A", ["www.example.net."]],
    ["example.test MX", ["10 mail.example.test.", "20 mail.example.net."]],
    ["example.test NS", ["ns1.example.test.", "ns2.example.test."]],
    ["example.test TXT", ['"v=spf1 mx -all"']],
    ["example.test SOA", ["ns1.example.test. hostmaster.example.test. 1 7200 900 1209600 300"]],
    ["text.example.test TXT", [`"${"long ".repeat(51)}" "${"long ".repeat(9)}"`]],
  ])("%s", async (question, expected) => {
    await using place = await nameServer();
    for (const way of ["+notcp", "+tcp", "+noedns"]) {
      const answer = await dig(place.port, way, "+short", ...question.split(" "));
      expect(answer.trimEnd().split("\n")).toEqual(expected);
    }
    expect(place.errors).toEqual([]);
  });

  test.each([
    ["none.example.test", "NXDOMAIN", /AUTHORITY: 1,/],
    ["astray.example.test", "NXDOMAIN", /ANSWER: 1, AUTHORITY: 1,/],
    ["www.example.test MX", "NOERROR", /ANSWER: 0, AUTHORITY: 1,/],
    ["deep.example.test", "NOERROR", /ANSWER: 0, AUTHORITY: 1,/],
    ["example.com", "REFUSED", /ANSWER: 0, AUTHORITY: 0,/],
    ["-c CH version.bind TXT", "REFUSED", /ANSWER: 0/],
    ["+opcode=STATUS www.example.test", "NOTIMP", /opcode: STATUS/],
    ["+edns=1 +noednsnegotiation www.example.test", "BADVERS", /EDNS: version: 0/],
    ["+edns=1 www.example.test", "NOERROR", /ANSWER: 1/], // dig asks again with version 0
    ["+dnssec +nsid +cookie +subnet=192.0.2.0/24 www.example.test", "NOERROR", /flags: do; udp: 1232/],
    ["+norecurse www.example.test", "NOERROR", /flags: qr aa;/],
    ["mail.example.test ANY", "NOERROR", /ANSWER: 1/],
  ])("%s: %s", async (question, status, more) => {
    await using place = await nameServer();
    const answer = await dig(place.port, ...question.split(" "));
    expect(answer).toContain(`status: ${status},`);
    expect(answer).toMatch(more);
    expect(answer).not.toMatch(/malformed|extra bytes|mismatch/i);
  });

  test("a transfer of the zone is refused", async () => {
    await using place = await nameServer();
    expect(await dig(place.port, "example.test", "AXFR")).toContain("Transfer failed.");
  });

  test("what does not fit is cut short, and dig asks again over TCP", async () => {
    await using place = await nameServer();
    const cut = await dig(place.port, "+noedns", "+ignore", "many.example.test");
    expect(cut).toMatch(/flags: qr aa tc rd;.* ANSWER: 0/);
    expect(place.tcp.info().served).toBe(0);
    for (const way of ["+noedns", "+bufsize=4096", "+qr"]) {
      const whole = await dig(place.port, way, "many.example.test");
      expect(whole).toContain("Truncated, retrying in TCP mode.");
      expect(whole).toContain("ANSWER: 100,");
    }
  });

  test("asks several questions over one connection", async () => {
    await using place = await nameServer();
    const answer = await dig(
      place.port,
      "+tcp",
      "+keepopen",
      "+short",
      "www.example.test",
      "mail.example.test",
      "ns1.example.test",
    );
    expect(answer).toBe("192.0.2.80\n192.0.2.25\n192.0.2.53\n");
    await place.tcp.serverClose();
    expect(place.tcp.info().served).toBe(1);
    expect(place.errors).toEqual([]);
  });
});

describeWith(["dnsperf"], "dnsperf", () => {
  test.each(["udp", "tcp"])("has each of 5 000 questions answered over %s", async (way) => {
    await using place = await nameServer();
    const names = ["www A", "www AAAA", "web A", "mail A"];
    const count = 5_000;
    const questions = Array.from({ length: count }, (_, i) =>
      (names[i % names.length] as string).replace(" ", ".example.test "),
    );
    const { code, stdout } = await run(
      "dnsperf",
      ["-s", "127.0.0.1", "-p", place.port, "-m", way, "-c", 4, "-n", 1, "-t", 120, "-W"],
      `${questions.join("\n")}\n`,
    );
    const said = stdout.toString();
    expect(code, said).toBe(0);
    expect(said).toMatch(new RegExp(`Queries completed: +${count} \\(100\\.00%\\)`));
    expect(said).toMatch(new RegExp(`Response codes: +NOERROR ${count} \\(100\\.00%\\)`));
    await Promise.all([place.udp.serverClose(), place.tcp.serverClose()]); // a request is counted at its end
    const served = (way === "udp" ? place.udp : place.tcp).info();
    expect(place.errors).toEqual([]);
    expect(served).toMatchObject(way === "udp" ? { served: count, failed: 0 } : { served: 4, failed: 0 });
  });
});

describe("npm dns2", () => {
  /** Its clients, each with what one question returns from the zone. */
  const clients = (port: number) => ({
    udp: DNS.UDPClient({ dns: "127.0.0.1", port, timeout: 60_000 }),
    tcp: DNS.TCPClient({ dns: "127.0.0.1", port }),
    "udp alone": DNS.UDPClient({ dns: "127.0.0.1", port, timeout: 60_000, retryOverTCP: false }),
  });

  test.each(["udp", "tcp"] as const)("is answered over %s", async (way) => {
    await using place = await nameServer();
    const ask = clients(place.port)[way];
    const found = async (name: string, type?: string) => {
      const { answers, authorities, header, errors } = await ask(name, type);
      expect(errors).toEqual([]);
      return { answers, authorities, code: header.rcode, authoritative: header.aa };
    };
    const here = { code: 0, authoritative: 1 };
    expect(await found("web.example.test")).toMatchObject({
      ...here,
      answers: [{ domain: "www.example.test" }, { address: "192.0.2.80", ttl: 3600 }],
    });
    expect(await found("www.example.test", "AAAA")).toMatchObject({
      ...here,
      answers: [{ address: "2001:db8::80" }],
    });
    expect(await found("example.test", "MX")).toMatchObject({
      answers: [
        { exchange: "mail.example.test", priority: 10 },
        { exchange: "mail.example.net", priority: 20 },
      ],
    });
    expect(await found("text.example.test", "TXT")).toMatchObject({
      answers: [{ data: ["long ".repeat(51), "long ".repeat(9)] }],
    });
    expect(await found("none.example.test")).toMatchObject({
      ...{ code: 3, answers: [] },
      authorities: [{ primary: "ns1.example.test", minimum: 300 }],
    });
    expect(await found("example.com")).toMatchObject({ code: 5, authoritative: 0, answers: [] });
    expect(place.errors).toEqual([]);
  });

  test("is told that an answer is cut short, and asks again over TCP", async () => {
    await using place = await nameServer();
    const { udp, "udp alone": alone } = clients(place.port);
    const cut = await alone("many.example.test");
    expect([cut.header.tc, cut.answers.length]).toEqual([1, 0]);
    expect(place.tcp.info().served).toBe(0);
    const whole = await udp("many.example.test");
    expect([whole.header.tc, whole.answers.length]).toEqual([0, 100]);
    await place.tcp.serverClose();
    expect(place.tcp.info().served).toBe(1);
    expect(place.errors).toEqual([]);
  });
});
