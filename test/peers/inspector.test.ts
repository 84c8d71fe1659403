/** The inspector in Chromium, driven as a person does it, while real clients talk to the servers that it shows. */

import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import net from "node:net";
import { join } from "node:path";
import type { AxeResults } from "axe-core";
import dnsPacket from "dns-packet";
import { type Browser, chromium, type Locator, type Page } from "playwright-core";
import { type DnsMessage, decodeDns, decodeResp, defineApp, StreamRequestHandler } from "socklet";
import { controlClient } from "socklet/control";
import { type AppServer, serveApp } from "socklet/emulator";
import { parseTranscript } from "socklet/testing";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { DnsDatagram } from "../../examples/dns.ts";
import { KeyStore, RespServer } from "../../examples/resp.ts";
import { app as recorded } from "../emulator/fixtures/recorded-app.ts";
import { runWorker } from "../emulator/workerd.ts";
import { ownCertificates } from "./certificates.ts";
import { peer } from "./peer.ts";
import { reservePort } from "./ports.ts";
import { describeWith, run } from "./program.ts";

const root = join(import.meta.dirname, "../..");
const TOKEN = "a-token-for-the-tests";
const READ = "a-token-that-only-reads";

/** ms of one wait for the page. It is shorter than the limit of a test, so that a failure names the step. */
const LIMIT = 60_000;

/** A mail server that takes one mail, by STARTTLS. */
class Mail extends StreamRequestHandler {
  override async handle(): Promise<void> {
    const say = (line: string): void => void this.wfile.write(`${line}\r\n`);
    say("220 mail.test ready");
    for await (const line of this.rfile.lines()) {
      const verb = line.slice(0, 4).toUpperCase();
      if (verb === "EHLO") for (const one of ["250-mail.test", "250 STARTTLS"]) say(one);
      else if (verb === "STAR") {
        say("220 go on");
        await this.wfile.flush();
        await this.request.startTls();
        this.emit({ secured: this.request.tls?.version });
      } else if (verb === "DATA") {
        say("354 end with a dot");
        for await (const part of this.rfile.lines()) if (part === ".") break;
        say("250 taken");
      } else if (verb === "QUIT") return say("221 bye");
      else say("250 ok");
    }
  }
}

/** Throws at a line that asks for it. */
class Fails extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const line of this.rfile.lines()) {
      this.emit({ line });
      if (line === "crash") throw new Error(`<b>it crashed</b> at ${line}`);
      this.wfile.write(`${line}\n`);
    }
  }
}

/** A parser of DNS that others wrote. */
const parseDns = (bytes: Uint8Array) => dnsPacket.decode(Buffer.from(bytes)) as DnsMessage;

const certificates = ownCertificates();
const tcp = "tcp://127.0.0.1:0";
const app = defineApp({
  handlers: { mail: Mail, resp: RespServer, dns: DnsDatagram, fails: Fails },
  listen: [
    { handler: "resp", address: tcp, decode: decodeResp },
    { handler: "fails", address: tcp },
    { handler: "dns", address: "udp://127.0.0.1:0", decode: decodeDns(parseDns) },
    ...(certificates === null
      ? []
      : [
          {
            handler: "mail",
            address: tcp,
            options: {
              secureTransport: "starttls" as const,
              tls: { cert: certificates.cert, key: certificates.key },
            },
          },
        ]),
  ],
  dial: { out: { handler: "fails", address: "tcp://127.0.0.1:7" } },
  allow: ["127.0.0.0/8:*"],
  context: () => ({ keys: new KeyStore() }),
});

describeWith(["chromium"], "the inspector", () => {
  let browser: Browser;
  let server: AppServer;
  let url = "";

  /** Serves the app; `url` is then its control routes'. */
  const serve = async (): Promise<void> => {
    server = await serveApp(app, { control: { port: 0, tokens: `${TOKEN} read:${READ}`, inspect: true } });
    url = server.control?.url ?? "";
  };

  beforeAll(async () => {
    await serve();
    browser = await chromium.launch({
      executablePath: peer("chromium") ?? "",
      args: [
        ...["--no-sandbox", "--disable-dev-shm-usage"], // root has no sandbox, and a container little of the other
        // Two pages that every new window loads for the list below its address bar, which nobody sees: a second of a processor.
        "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup",
      ],
      timeout: 120_000,
    });
  });
  afterAll(async () => {
    await browser?.close();
    await server?.close();
  });

  const portOf = (name: string): number =>
    Number(new URL(server.listeners.find((one) => one.name === name)?.url ?? "").port);

  /** The browser's errors: of scripts, of loading, of the policy. */
  const complaints: string[] = [];

  /** An empty page in its own context, closed when the test ends. */
  const blank = async (): Promise<Page> => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    context.setDefaultTimeout(LIMIT);
    onTestFinished(() => context.close());
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    return await context.newPage();
  };

  /** The page, opened from a pasted URL. */
  const open = async (at = url, token: string | null = TOKEN): Promise<Page> => {
    const page = await blank();
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text());
    });
    await page.goto(`${at}/inspect${token === null ? "" : `#token=${token}`}`);
    return page;
  };

  /** The page, once what passes is kept. */
  const watching = async (): Promise<Page> => {
    const page = await open();
    await page.getByText("of 64.0 MiB kept").waitFor();
    return page;
  };

  const client = () => controlClient(url, { token: TOKEN });

  // The list has the connections of earlier tests, too, and draws a change with the next frame. So a test never takes
  // "the first row": it names the row, which also waits until the filter has had its effect.
  /** The row that has this text in one of its cells: the peer's name, say. */
  const rowOf = (page: Page, text: string): Locator =>
    page
      .locator('#grid [role="row"][data-id]:visible')
      .filter({ has: page.getByRole("gridcell", { name: text, exact: true }) });
  /** The row of the session with this id. */
  const rowWith = (page: Page, id: string): Locator => page.locator(`#grid [data-id="${id}"]:visible`);
  /** Closes a dialog by its button. Until it is gone it covers the page. */
  const closed = async (dialog: Locator): Promise<void> => {
    await dialog.getByRole("button", { name: "Close" }).click();
    await dialog.waitFor({ state: "detached" });
  };
  /** Resolves when the page has drawn everything it has. */
  const twoFrames = (page: Page): Promise<unknown> =>
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
  const said = (page: Page): Locator => page.getByRole("list", { name: "What was said" });
  const filter = async (page: Page, words: string): Promise<void> =>
    page.getByRole("searchbox", { name: "Filter" }).fill(words);

  /** Says this to a listener, and waits for its end. */
  const talk = async (name: string, words: string | Uint8Array): Promise<string> => {
    const socket = net.connect(portOf(name), "127.0.0.1");
    socket.on("error", () => {}); // a reset
    const localPort = new Promise<number>((resolve) => {
      socket.once("connect", () => resolve((socket.address() as net.AddressInfo).port));
    });
    socket.end(words);
    socket.resume();
    await once(socket, "close");
    return `127.0.0.1:${await localPort}`;
  };

  test("has no complaint of the browser, a strict policy, and a token that leaves the URL at once", async () => {
    complaints.length = 0;
    const page = await watching();
    expect(page.url()).toBe(`${url}/inspect`);
    const peerName = await talk("fails", "one\ncrash\n");
    await filter(page, `fails ${peerName}`);
    await rowOf(page, peerName).click();
    await said(page).getByText("it crashed").waitFor();
    for (const view of ["lines", "hex", "text"])
      await page.getByRole("button", { name: view, exact: true }).click();
    for (const tab of ["Listeners", "Pools", "Faults", "Connections"])
      await page.getByRole("tab", { name: tab }).click();
    expect(complaints).toEqual([]);
    const { headers } = await fetch(`${url}/inspect`);
    const policy = headers.get("content-security-policy") ?? "";
    for (const part of [
      "default-src 'none'",
      "script-src 'self'",
      "frame-ancestors 'none'",
      "trusted-types 'none'",
    ])
      expect(policy).toContain(part);
    expect(policy).not.toMatch(/unsafe|\*|data:|https?:/);
  });

  describeWith(["redis-cli"], "with redis-cli", () => {
    test("finds the wrong command among 10 000 connections, says it again edited, and saves it as a test, which passes", async () => {
      onTestFinished(async () => {
        await server.close(); // else every later page would load the 10 000 connections
        await serve();
      });
      const page = await watching();
      await page.getByRole("spinbutton", { name: "Connections that are kept" }).fill("20000");
      await page.keyboard.press("Enter");
      await expect
        .poll(() => client().recording.info())
        .toMatchObject({ started: false, maxConnections: 20_000 });
      const port = portOf("resp");
      const ping = async (count: number): Promise<void> => {
        for (let i = 0; i < count; i++) await talk("resp", "PING\r\n");
      };
      const wrong = run("redis-cli", ["-p", port, "INCRBY", "basket", "a-dozen"]);
      await Promise.all([...Array.from({ length: 20 }, () => ping(500)), wrong]);
      await expect.poll(async () => page.locator("#count").textContent()).toMatch(/^1\d,\d{3}$/);
      await filter(page, "fails");
      await page.getByText(/^\d of 1\d,\d{3}$/).waitFor();
      await filter(page, "");
      await page.getByRole("searchbox", { name: "Find in bytes" }).fill("a-dozen");
      await page.keyboard.press("Enter");
      await page.getByText(/^1 of 1\d,\d{3}$/).waitFor();
      const [first] = (await client().recording.find(Buffer.from("a-dozen"))).ids;
      await rowWith(page, first ?? "").click();
      await said(page).getByText("ERR value is not an integer").waitFor();

      await page.getByRole("button", { name: "Send again…" }).click();
      const text = page.getByRole("textbox", { name: "What to say, a piece a line" });
      const before = await text.inputValue();
      expect(before).toContain("$7\\r\\na-dozen\\r\\n");
      await text.fill(before.replace("$7\\r\\na-dozen", "$2\\r\\n12"));
      await page.getByRole("button", { name: "Send", exact: true }).last().click();
      const answer = page.getByRole("region", { name: "The answer" });
      await answer.getByText("The server answered differently").waitFor();
      expect(await answer.locator(".plus").allTextContents()).toEqual(["+ :12\n"]);
      await closed(page.getByRole("dialog", { name: "Send again" }));

      // It is right now, and becomes a test.
      await page.getByRole("searchbox", { name: "Find in bytes" }).fill("0x24320d0a3132");
      await page.keyboard.press("Enter");
      const [again] = (await client().recording.find(Buffer.from("$2\r\n12"))).ids;
      expect(again).not.toBe(first);
      await rowWith(page, again ?? "").click();
      await page.getByText(/^1 of 1\d,\d{3}$/).waitFor();
      await said(page).getByText(":12").waitFor();
      await page.getByRole("button", { name: "decoded", exact: true }).click();
      await said(page).getByText('["INCRBY", "basket", "12"]').waitFor();
      await page.getByRole("button", { name: "Copy as test" }).click();
      await page.getByRole("button", { name: "Copy", exact: true }).click();
      await page.getByText("Copied").waitFor();
      const saved = await page.evaluate<string>("navigator.clipboard.readText()");
      const folder = await mkdtemp(join(root, "test/peers/saved-"));
      onTestFinished(() => rm(folder, { recursive: true, force: true }));
      await writeFile(join(folder, "resp.test.ts"), saved);
      await writeFile(
        join(folder, "app.ts"),
        `import { defineApp } from "socklet";
         import { KeyStore, RespServer } from "../../../examples/resp.ts";
         export const app = defineApp({
           handlers: { resp: RespServer },
           listen: [{ handler: "resp", address: "tcp://127.0.0.1:0" }],
           context: () => ({ keys: new KeyStore() }),
         });`,
      );
      const vitest = join(root, "node_modules/vitest/vitest.mjs");
      const args = [vitest, "run", "--root", root, "--project", "node", folder];
      const ended = await run(process.execPath, args);
      expect([ended.code, ended.stderr]).toEqual([0, ""]);
      expect(ended.stdout.toString()).toMatch(/Tests.*1 passed/);
    });
  });

  describeWith(["swaks", "openssl"], "with swaks", () => {
    test("a mail that comes by STARTTLS is read as it was said, and where TLS begins is told", async () => {
      const page = await watching();
      const args = [
        "--server",
        `127.0.0.1:${portOf("mail")}`,
        "--to",
        "you@example.test",
        "--from",
        "me@example.test",
      ];
      const { code } = await run("swaks", [...args, "-tls", "--header", "Subject: seen"]);
      expect(code).toBe(0);
      await filter(page, "mail");
      await rowOf(page, "mail").click();
      for (const text of [
        "STARTTLS",
        "speak through TLS from here on",
        "Subject: seen",
        "250 taken",
        '"secured":"TLSv1.3"',
      ])
        await said(page).getByText(text).first().waitFor();
    });
  });

  describeWith(["dig"], "with dig", () => {
    test("the datagrams of a client are a conversation of their own", async () => {
      const page = await watching();
      const once = ["+tries=1", "+time=120"];
      await run("dig", ["@127.0.0.1", "-p", portOf("dns"), ...once, "+short", "www.example.test"]);
      await filter(page, "dns datagrams");
      await rowOf(page, "dns").click();
      await said(page)
        .getByText(/www.*example.*test/)
        .nth(1)
        .waitFor();
      expect(await said(page).locator("li.client").count()).toBe(1);
      expect(await said(page).locator("li.server").count()).toBe(1);
      await page.getByRole("button", { name: "decoded", exact: true }).click();
      await said(page)
        .getByText(/query \d+ rd.*\n\? www\.example\.test IN A\n/)
        .waitFor();
      await said(page)
        .getByText(
          /response \d+ NOERROR aa rd.*\n\? www\.example\.test IN A\nwww\.example\.test 3600 IN A 192\.0\.2\.80/,
        )
        .waitFor();
    });
  });

  test("bytes can be sent by hand, our side ended, and a connection reset", async () => {
    const page = await watching();
    const socket = net.connect({ port: portOf("fails"), host: "127.0.0.1", allowHalfOpen: true });
    socket.on("error", () => {});
    const incoming = socket.iterator({ destroyOnReturn: false });
    const came = async (): Promise<Buffer> => (await incoming.next()).value;
    await once(socket, "connect");
    const name = `127.0.0.1:${(socket.address() as net.AddressInfo).port}`;
    await filter(page, `fails ${name}`);
    await rowOf(page, name).click();
    const byHand = page.getByRole("form", { name: "Send by hand" });
    const choose = (name: string, text: string): Promise<void> =>
      byHand
        .getByLabel("A file to send")
        .setInputFiles({ name, mimeType: "application/octet-stream", buffer: Buffer.from(text) });
    await byHand.getByRole("searchbox").fill("hello");
    await page.keyboard.press("Enter");
    expect(String(await came())).toBe("hello\r\n");
    await byHand.getByRole("combobox").selectOption("hex");
    await byHand.getByRole("searchbox").fill("00 ff 0a");
    await page.keyboard.press("Enter");
    expect(await came()).toEqual(Buffer.from([0, 255, 10]));
    await choose("a.bin", "of a file\n");
    await byHand.getByRole("button", { name: "Send", exact: true }).click();
    expect(String(await came())).toBe("of a file\n");
    // What is sent before the answer comes is the next, and what is typed then stays.
    const answer = Promise.withResolvers<void>();
    await page.route(/\/data$/, async (route) => {
      const response = await route.fetch();
      await answer.promise;
      await route.fulfill({ response });
    });
    await byHand.getByRole("combobox").selectOption("text");
    await choose("b.bin", "first\n");
    await byHand.getByRole("button", { name: "Send", exact: true }).click();
    expect(String(await came())).toBe("first\n");
    await byHand.getByRole("searchbox").fill("second");
    await page.keyboard.press("Enter");
    await byHand.getByRole("searchbox").fill("typed meanwhile");
    answer.resolve();
    expect(String(await came())).toBe("second\r\n");
    await twoFrames(page);
    expect(await byHand.getByRole("searchbox").inputValue()).toBe("typed meanwhile");
    expect(await byHand.getByLabel("A file to send").inputValue()).toBe("");
    // What could not be sent can be sent again.
    await byHand.getByRole("combobox").selectOption("hex");
    await byHand.getByRole("searchbox").fill("no hex");
    await page.keyboard.press("Enter");
    await page.locator("#status.bad").waitFor();
    expect(await byHand.getByRole("searchbox").inputValue()).toBe("no hex");
    await page.unroute(/\/data$/);
    await page.route(/\/data$/, (route) => route.abort());
    await choose("c.bin", "third\n");
    await byHand.getByRole("button", { name: "Send", exact: true }).click();
    await expect.poll(() => byHand.getByLabel("A file to send").inputValue()).toMatch(/c\.bin$/);
    await page.unroute(/\/data$/);
    await byHand.getByRole("button", { name: "Send", exact: true }).click();
    expect(String(await came())).toBe("third\n");
    await byHand.getByRole("button", { name: "Half-close" }).click();
    await said(page).getByText("server ended its side (FIN)").waitFor();
    await byHand.getByRole("button", { name: "Reset" }).click();
    await said(page).getByText("server reset the connection (RST)").waitFor();
    await page.getByText(/^cut; .*ended first by the server \(half-close\)/).waitFor();
  });

  test("a connection is closed gracefully: the peer gets its end, and the session is cut", async () => {
    const page = await watching();
    const socket = net.connect(portOf("fails"), "127.0.0.1").resume();
    await once(socket, "connect");
    const name = `127.0.0.1:${(socket.address() as net.AddressInfo).port}`;
    await filter(page, `fails ${name}`);
    await rowOf(page, name).click();
    const ended = once(socket, "end"); // a reset would be an error
    await page.getByRole("button", { name: "Close connection" }).click();
    await ended;
    await said(page).getByText("server closed the connection").waitFor();
    await page.getByText(/^cut; .*ended by request/).waitFor();
  });

  test("the tab of faults has the entries at once, of listen and of dial, and a recording that another starts does not disturb what one types", async () => {
    complaints.length = 0;
    const page = await open();
    await page.getByRole("tab", { name: "Faults" }).click();
    const form = page.getByRole("form", { name: "Set a rule" });
    await form.getByRole("combobox").waitFor(); // `allTextContents` waits for nothing
    const entries = await form.getByRole("combobox").locator("option").allTextContents();
    expect(entries.slice(0, 2)).toEqual(["listen resp", "listen fails"]);
    expect(entries).toContain("dial out");
    await form.getByRole("combobox").selectOption({ label: "dial out" });
    await page.getByRole("textbox", { name: "The rule" }).fill("latency=1 from=server name=of-dial");
    await page.keyboard.press("Enter");
    await page.getByRole("cell", { name: "of-dial", exact: true }).waitFor();
    expect(await client().faults.list()).toMatchObject([{ on: "dial", entry: "out", name: "of-dial" }]);
    await client().faults.remove();

    const field = page.getByRole("spinbutton", { name: "MiB that are kept" });
    await field.fill("12");
    onTestFinished(async () => void (await client().recording.stop()));
    await client().recording.start();
    await page.getByRole("button", { name: "Record", pressed: true }).waitFor();
    expect(await field.inputValue()).toBe("12");
    expect(await field.evaluate((one) => one === one.ownerDocument.activeElement)).toBe(true);
    expect(complaints).toEqual([]);
  });

  test("what cannot be loaded is told, and is no error of the page", async () => {
    complaints.length = 0;
    const page = await blank();
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    const problem = {
      status: 503,
      contentType: "application/problem+json",
      body: '{"detail":"not now, please"}',
    };
    await page.route(/\/v1\/sessions\?/, (route) => route.fulfill(problem));
    await page.goto(`${url}/inspect#token=${TOKEN}`);
    await page.getByText("not now, please").waitFor();
    expect(errors).toEqual([]);
  });

  test("what was said during a load that fails is loaded afterwards", async () => {
    const page = await watching();
    const [asked, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    await page.route(
      /\/v1\/recording\/[^/]+\?after=0$/,
      async (route) => {
        asked.resolve();
        await over.promise;
        await route.abort();
      },
      { times: 1 },
    );
    const socket = net.connect(portOf("fails"), "127.0.0.1").resume();
    await once(socket, "connect");
    const name = `127.0.0.1:${(socket.address() as net.AddressInfo).port}`;
    await filter(page, `fails ${name}`);
    await rowOf(page, name).click();
    await asked.promise;
    socket.end("the last words\n");
    await rowOf(page, name).and(page.locator(":has-text('ended')")).waitFor();
    over.resolve();
    await said(page).getByText("server closed the connection").waitFor();
    const bytes = said(page).locator("li.client pre, li.server pre");
    expect(await bytes.allTextContents()).toEqual(["the last words", "the last words"]);
  });

  test("messages that were decoded before others came do not take the place of the later ones", async () => {
    const page = await watching();
    const [decoded, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    await page.route(
      /\/v1\/recording\/[^/]+\/messages$/,
      async (route) => {
        const response = await route.fetch();
        decoded.resolve();
        await over.promise;
        await route.fulfill({ response });
      },
      { times: 1 },
    );
    const socket = net.connect(portOf("resp"), "127.0.0.1").resume();
    onTestFinished(() => void socket.destroy());
    await once(socket, "connect");
    const name = `127.0.0.1:${(socket.address() as net.AddressInfo).port}`;
    socket.write("*2\r\n$3\r\nGET\r\n$9\r\nfirst-key\r\n");
    await filter(page, `resp ${name}`);
    await rowOf(page, name).click();
    await said(page).getByText("first-key").waitFor();
    const asked = page.waitForRequest(/\/messages$/);
    await page.getByRole("button", { name: "decoded", exact: true }).click();
    await decoded.promise;
    socket.write("*2\r\n$3\r\nGET\r\n$10\r\nsecond-key\r\n");
    await said(page).getByText("second-key").waitFor();
    over.resolve();
    await (await (await asked).response())?.finished();
    await twoFrames(page);
    await said(page).getByText('["GET", "second-key"]').waitFor();
  });

  test("what was searched for first does not take the place of what was searched for later", async () => {
    const page = await watching();
    const over = Promise.withResolvers<void>();
    const asked = page.waitForRequest(/\/find\?text=sought-first$/);
    await page.route(/\/find\?text=sought-first$/, async (route) => {
      const response = await route.fetch();
      await over.promise;
      await route.fulfill({ response });
    });
    const [first, later] = [await talk("fails", "sought-first\n"), await talk("fails", "sought-later\n")];
    const field = page.getByRole("searchbox", { name: "Find in bytes" });
    const search = async (words: string): Promise<void> => {
      await field.fill(words);
      await page.keyboard.press("Enter");
    };
    await rowOf(page, later).waitFor();
    await search("sought-first");
    const answer = (await asked).response();
    await search("sought-later");
    await twoFrames(page);
    over.resolve();
    await (await answer)?.finished();
    await twoFrames(page);
    await rowOf(page, first).waitFor({ state: "hidden" });
    await rowOf(page, later).waitFor();
  });

  test("the list is in order, and a change that arrives during a load is newer than what is loaded", async () => {
    const page = await blank();
    const [first, second] = [await talk("fails", "one\n"), await talk("fails", "two\n")];
    const keeps = net
      .connect(portOf("fails"), "127.0.0.1")
      .on("error", () => {})
      .resume();
    await once(keeps, "connect");
    const third = `127.0.0.1:${(keeps.address() as net.AddressInfo).port}`;
    const newest = async () => (await client().sessions.list({ handler: "fails", limit: 3 })).sessions;
    await expect.poll(async () => (await newest()).map(({ peer }) => peer)).toEqual([third, second, first]);

    // The first stream of changes reports only the oldest of the three, and ends. Then the page loads the others.
    const change = {
      id: 1,
      at: new Date().toISOString(),
      type: "changed",
      recording: await client().recording.info(),
      sessions: (await newest()).slice(2),
      flows: [],
    };
    const stream = { contentType: "text/event-stream", body: `data: ${JSON.stringify(change)}\n\n` };
    await page.route("**/v1/recording/events", (route) => route.fulfill(stream), { times: 1 });
    // The second one comes from the server. What the page then loads is delayed until the third connection is over.
    const [over, loaded] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const asked = page.waitForRequest(/\/v1\/sessions\?limit=50$/);
    await page.route(/\/v1\/sessions\?limit=50$/, async (route) => {
      const response = await route.fetch();
      loaded.resolve();
      await over.promise;
      await route.fulfill({ response });
    });
    await page.goto(`${url}/inspect#token=${TOKEN}`);
    for (const [i, peerName] of [third, second, first].entries())
      await page
        .locator(`[aria-rowindex="${i + 2}"]`)
        .and(rowOf(page, peerName))
        .waitFor();

    const answer = (await asked).response();
    await loaded.promise;
    keeps.end();
    const ended = rowOf(page, third).and(page.locator(":has-text('ended')"));
    await ended.waitFor();
    over.resolve();
    await (await answer)?.finished();
    await twoFrames(page);
    expect(await ended.count()).toBe(1);
  });

  test("a listener that forks is shown as any other: its child tells what passes", async () => {
    const module = new URL("../emulator/fixtures/recorded-app.ts", import.meta.url).href;
    const forked = await serveApp(recorded, { module, control: { port: 0, tokens: TOKEN, inspect: true } });
    onTestFinished(() => forked.close());
    const page = await open(forked.control?.url);
    await page.getByText("of 64.0 MiB kept").waitFor();
    const port = new URL(forked.listeners.find(({ serve }) => serve === "forking")?.url ?? "").port;
    const socket = net.connect(Number(port), "127.0.0.1").resume();
    await once(socket, "connect");
    const name = `127.0.0.1:${(socket.address() as net.AddressInfo).port}`;
    socket.end("from afar\nQUIT\n");
    await once(socket, "close");
    await rowOf(page, name).click();
    for (const text of ["ready", "from afar", "FROM AFAR"])
      await said(page).getByText(text).first().waitFor();
    await said(page).getByText("server closed the connection").waitFor();
    await page.getByRole("button", { name: "Send again…" }).click();
    await page.getByRole("textbox", { name: "What to say, a piece a line" }).fill("elsewhere\\nQUIT\\n");
    await page.getByRole("button", { name: "Send", exact: true }).last().click();
    await page.getByRole("region", { name: "The answer" }).getByText("+ ELSEWHERE").waitFor();
  });

  test("rules of faults are set and taken back, a recording is started and stopped, and one is opened from a file", async () => {
    const page = await watching();
    await page.getByRole("tab", { name: "Faults" }).click();
    await page
      .getByRole("form", { name: "Set a rule" })
      .getByRole("combobox")
      .selectOption({ label: "listen resp" });
    await page.getByRole("textbox", { name: "The rule" }).fill("latency latency=1 from=server name=slow");
    await page.keyboard.press("Enter");
    await page.getByRole("cell", { name: "slow", exact: true }).waitFor();
    expect(await client().faults.list()).toMatchObject([{ name: "slow" }]);
    await page.getByRole("button", { name: "Remove slow" }).click();
    await page.getByText("No rule is set.").waitFor();

    await page.getByRole("button", { name: "Record" }).click();
    await page.getByRole("button", { name: "Record", pressed: true }).waitFor();
    await page.getByRole("spinbutton", { name: "MiB that are kept" }).fill("32");
    await page.keyboard.press("Enter");
    await page.getByText("of 32.0 MiB kept").waitFor();
    await page.getByRole("spinbutton", { name: "MiB that are kept" }).fill("64");
    await page.keyboard.press("Enter");
    await page.getByText("of 64.0 MiB kept").waitFor();
    await page.getByRole("button", { name: "Record" }).click();
    await page.getByRole("button", { name: "Record", pressed: false }).waitFor();

    await page.getByRole("tab", { name: "Connections" }).click();
    const path = join(root, "test/peers/recordings");
    const [first] = (await import("node:fs")).readdirSync(path).filter((name) => name.endsWith(".jsonl"));
    const text = await readFile(join(path, first ?? ""), "utf8");
    expect(parseTranscript(text).events.length).toBeGreaterThan(0);
    await page.getByLabel("A transcript").setInputFiles(join(path, first ?? ""));
    await page.getByRole("heading", { name: first ?? "" }).waitFor();
    await said(page).locator("li").first().waitFor(); // the page draws it with its next frame
    await page.getByRole("button", { name: "Copy as transcript" }).click();
    const copied = await page.getByRole("textbox", { name: "A transcript" }).inputValue();
    expect(parseTranscript(copied).events.length).toBeGreaterThan(0);
  });

  test("hostile bytes in every field change nothing but themselves", async () => {
    complaints.length = 0;
    const page = await watching();
    const hostile = `<img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>\u202e\u0000\u001b[2J\u2028</pre>`;
    const socket = net.connect(portOf("fails"), "127.0.0.1");
    socket.resume().on("error", () => {});
    const long = "x".repeat(4 * 1024 * 1024);
    socket.write(`${hostile}\n`);
    await once(socket, "connect");
    const name = `127.0.0.1:${(socket.address() as net.AddressInfo).port}`;
    await filter(page, `fails ${name}`);
    await rowOf(page, name).click();
    await said(page).getByText("onerror").first().waitFor();
    socket.end(Buffer.concat([Uint8Array.of(255, 254), Buffer.from(long)]));
    await page.getByRole("button", { name: "hex", exact: true }).click();
    await page.getByRole("button", { name: "text", exact: true }).click();
    await said(page).getByText("\\u{202e}").first().waitFor();
    const text = (await said(page).allTextContents()).join("");
    expect(text).toContain("\\u{202e}");
    for (const hidden of "\u202e\u0000\u001b\u2028") expect(text).not.toContain(hidden);
    expect(await page.locator("main img, main script").count()).toBe(0);
    expect(await page.title()).toBe("Socklet inspector");
    await filter(page, hostile);
    await page.getByText(/^0 of /).waitFor();
    await page.getByRole("searchbox", { name: "Find in bytes" }).fill(hostile.slice(0, 40));
    await filter(page, "");
    await page.keyboard.press("Enter");
    expect(complaints).toEqual([]);
  });

  test("another origin, a rebound name and a frame get nothing", async () => {
    const other = createServer((_, answer) => {
      answer.setHeader("content-type", "text/html");
      answer.end(`<iframe id="f" src="${url}/inspect#token=${TOKEN}"></iframe>`);
    });
    other.listen(0, "127.0.0.1");
    await once(other, "listening");
    onTestFinished(() => void other.close());
    const page = await blank();
    await page.goto(`http://127.0.0.1:${(other.address() as net.AddressInfo).port}/`);
    const framed = () =>
      page
        .frames()
        .find((one) => one !== page.mainFrame())
        ?.url();
    await expect.poll(framed).toMatch(/^chrome-error:/);
    const asked = (path: string, authorization?: string) =>
      page.evaluate(
        async ([at, token]) => {
          try {
            return await (
              await fetch(at as string, token ? { headers: { authorization: token } } : {})
            ).text();
          } catch (error) {
            return (error as Error).name;
          }
        },
        [`${url}${path}`, authorization],
      );
    expect(await asked("/v1/health")).toBe("TypeError");
    expect(await asked("/inspect")).toBe("TypeError");
    expect(await asked("/v1/sessions", `Bearer ${TOKEN}`)).toBe("TypeError");
    const rebound = await new Promise<number | undefined>((resolve) => {
      const asking = request(`${url}/inspect`, { headers: { host: "evil.example" } }, (answer) => {
        answer.resume();
        resolve(answer.statusCode);
      });
      asking.end();
    });
    expect(rebound).toBe(403);
  });

  test("without a token it asks for one; one that only reads sees no bytes", async () => {
    const page = await open(url, null);
    await page.getByLabel("Token").fill(READ);
    await page.keyboard.press("Enter");
    await page.getByText("no bytes are kept here").waitFor();
    const name = await talk("fails", "one\ncrash\n");
    await filter(page, `fails ${name}`);
    await rowOf(page, name).click();
    await said(page).getByText("it crashed").waitFor();
    await page.getByText("The bytes are not kept here").waitFor();
    const wrong = await open(url, "a-token-that-nobody-has");
    await wrong.getByLabel("Token").waitFor();
  });

  test("all of it can be done with the keyboard", async () => {
    const page = await watching();
    const names: string[] = [];
    for (const word of ["first", "second"]) names.push(await talk("fails", `${word}\n`));
    await page.keyboard.press("/");
    await page.keyboard.type("fails ended");
    const [first, second] = names as [string, string];
    // The newest is on top; the head is the row with the index 1.
    await page.locator('[aria-rowindex="2"]').and(rowOf(page, second)).waitFor();
    await page.locator('[aria-rowindex="3"]').and(rowOf(page, first)).waitFor();
    await page.locator("#grid").focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    expect(await page.locator("#grid").getAttribute("aria-activedescendant")).toMatch(/^row-/);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: first }).waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("heading", { name: first }).waitFor({ state: "detached" });
    await page.keyboard.press("Home");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: second }).waitFor();
    await page.getByRole("tab", { name: "Connections" }).focus();
    await page.keyboard.press("ArrowRight");
    await page.getByRole("cell", { name: "resp", exact: true }).waitFor();
    expect(await page.getByRole("tab", { name: "Listeners" }).getAttribute("aria-selected")).toBe("true");
  });

  test("a dialog opens once for two clicks, and gives the focus back as it closes, not later", async () => {
    const page = await watching();
    const asked: string[] = [];
    page.on("request", (request) => asked.push(request.url()));
    const name = await talk("fails", "one\n");
    await filter(page, `fails ${name}`);
    await rowOf(page, name).click();
    await page.getByRole("button", { name: "Send again…" }).focus();
    await page.evaluate("document.activeElement.click(), document.activeElement.click()");
    await page.getByRole("dialog", { name: "Send again" }).waitFor();
    expect(asked.filter((url) => url.endsWith("/v1/entries")).length).toBe(1);
    const focused = await page.evaluate(`(async () => {
      const dialog = document.querySelector("dialog");
      const gone = new Promise((done) => dialog.addEventListener("close", () => setTimeout(done)));
      dialog.close();
      const back = document.activeElement.textContent;
      document.querySelector("#filter").focus();
      await gone;
      return [back, document.activeElement.id, document.querySelectorAll("dialog").length];
    })()`);
    expect(focused).toEqual(["Send again…", "filter", 0]);
  });

  describe.each(["light", "dark"] as const)("in %s", (colorScheme) => {
    test("axe finds no violation", async () => {
      const axe = await readFile(join(root, "node_modules/axe-core/axe.min.js"), "utf8");
      const page = await watching();
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const name = await talk("fails", "one\ncrash\n");
      await filter(page, `fails ${name}`);
      await rowOf(page, name).click();
      await said(page).getByText("it crashed").waitFor();
      const session = await page.context().newCDPSession(page);
      await session.send("Page.setBypassCSP", { enabled: true }); // for axe, which is no part of the page
      const check = async (what: string): Promise<void> => {
        await session.send("Runtime.evaluate", { expression: axe });
        const { violations } = await page.evaluate<AxeResults>("axe.run(document)");
        const found = violations.map(({ id, nodes }) => [
          id,
          ...nodes.map(({ html, failureSummary }) => `${html}: ${failureSummary}`),
        ]);
        expect([what, found]).toEqual([what, []]);
      };
      await check("a conversation");
      await page.getByRole("button", { name: "Send again…" }).click();
      const dialog = page.getByRole("dialog", { name: "Send again" });
      await dialog.waitFor();
      await check("the dialog");
      await page.keyboard.press("Escape");
      await dialog.waitFor({ state: "detached" });
      for (const tab of ["Listeners", "Pools", "Faults"]) {
        await page.getByRole("tab", { name: tab }).click();
        await page.getByRole("tabpanel", { name: tab }).locator("p, table").first().waitFor();
        await check(tab);
      }
    });
  });

  test("the same against a Worker: its sessions, what it accepts, its pools, what handlers emit, and what one sends by hand", async () => {
    const upstream = net.createServer((socket) => socket.on("error", () => {}).pipe(socket));
    upstream.listen(0, "127.0.0.1");
    await once(upstream, "listening");
    onTestFinished(() => void upstream.close());
    const address = `127.0.0.1:${(upstream.address() as net.AddressInfo).port}`;
    const port = await reservePort();
    const worker = await runWorker({
      main: "test/worker/inspected.ts",
      ports: [port],
      classes: {
        SOCKLET_SESSIONS: "SockletSession",
        SOCKLET_REGISTRY: "SockletRegistry",
        SOCKLET_POOLS: "SockletPool",
      },
      vars: { SOCKLET_TOKENS: TOKEN, SHOUTS: `tcp://127.0.0.1:${port}`, LOUD: address },
    });
    onTestFinished(() => worker.close());
    const control = controlClient(worker.url, { token: TOKEN });
    const before = await control.sessions.run({ handler: "Asks", address, params: "before anybody looked" });
    const page = await open(worker.url);
    await page.locator("#kept").waitFor(); // it watches
    const during = await control.sessions.run({ handler: "Asks", address, params: "over the edge" });
    await filter(page, "Asks");
    await rowWith(page, during.id).click();
    await said(page).getByText("over the edge").nth(1).waitFor(); // what was asked, and what came back
    await said(page).getByText('{"characters":13}').waitFor();
    await said(page).getByText("closed the connection").waitFor();
    await rowWith(page, before.id).click();
    await page.getByText("Nothing that was said is kept").waitFor();

    const { id } = await control.sessions.start({ handler: "Lines", address });
    await filter(page, "Lines running");
    await rowWith(page, id).click();
    const byHand = page.getByRole("form", { name: "Send by hand" });
    await byHand.getByRole("searchbox").fill("a line");
    await page.keyboard.press("Enter");
    await said(page).getByText("a line", { exact: true }).nth(1).waitFor(); // what was sent, and what came back
    await page.getByRole("button", { name: "Close connection" }).click();
    await said(page).getByText("the session was ended by request").waitFor();
    expect(await control.sessions.get(id)).toMatchObject({ state: "cut", bytesWritten: 8 });
    // The same again, edited: to the Worker's handler, and to a server that it dials.
    await filter(page, "Asks");
    await rowWith(page, during.id).click();
    await said(page).getByText("over the edge").nth(1).waitFor();
    await page.getByRole("button", { name: "Send again…" }).click();
    const dialog = page.getByRole("dialog", { name: "Send again" });
    const again = dialog.locator("#again-send");
    const what = dialog.getByRole("textbox", { name: "What to say, a piece a line" });
    expect(await what.inputValue()).toBe("over the edge\\n");
    await dialog.locator("#again-to").selectOption({ label: "Shouts" });
    await what.fill("in the isolate\\n");
    await again.click();
    await dialog.getByText("The server answered differently").waitFor();
    await dialog.locator(".plus", { hasText: "IN THE ISOLATE" }).waitFor();
    await dialog.locator(".minus", { hasText: "over the edge" }).waitFor();
    await dialog.locator("#again-to").selectOption({ label: "another address" });
    await dialog.getByRole("textbox", { name: "Address" }).fill(address);
    await what.fill("over the edge\\n");
    await again.click();
    await dialog.getByText("The server answered the same as before.").waitFor();
    await dialog.getByRole("textbox", { name: "Address" }).fill("10.0.0.1:7");
    await again.click();
    await dialog.locator(".bad", { hasText: "10.0.0.1:7" }).waitFor();
    await closed(dialog);
    await page.getByLabel("Find in bytes").fill("over the edge");
    await page.getByLabel("Find in bytes").press("Enter");
    await filter(page, "");
    await page.locator("#count", { hasText: /^1 of 4$/ }).waitFor(); // the fourth is what was sent to Shouts
    await page.getByLabel("Find in bytes").fill("");
    await page.getByLabel("Find in bytes").press("Enter");

    /** The row of the session of this handler in this state, once the page has it. */
    const clickRow = async (handler: string, state: "running" | "ended"): Promise<string> => {
      const ids = async (): Promise<string[]> =>
        (await control.sessions.list({ handler, state })).sessions.map(({ id }) => id);
      await expect.poll(ids).toHaveLength(1);
      const [id = ""] = await ids();
      await filter(page, `${handler} ${state}`);
      await rowWith(page, id).click();
      return id;
    };
    // Connections that the Worker accepts. The one that was sent to again may not yet have ended.
    const running = async () =>
      (await control.sessions.list({ handler: "Shouts", state: "running" })).sessions;
    await expect.poll(running).toEqual([]);
    const client = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    onTestFinished(() => void client.destroy());
    let heard = "";
    client.on("data", (bytes) => {
      heard += bytes;
    });
    client.write("in person\n");
    const accepted = await clickRow("Shouts", "running");
    await said(page).getByText("IN PERSON", { exact: true }).waitFor();
    await said(page).getByText('{"line":"in person"}').waitFor();
    await byHand.getByRole("searchbox").fill("from the page");
    await page.keyboard.press("Enter");
    await said(page).getByText("from the page", { exact: true }).waitFor();
    const ended = once(client, "end");
    await page.getByRole("button", { name: "Half-close" }).click();
    await ended;
    expect(heard).toBe("ready\nIN PERSON\nfrom the page\r\n");
    client.end();
    await expect
      .poll(() => control.sessions.get(accepted))
      .toMatchObject({
        direction: "inbound",
        bytesRead: 10,
        endedAt: expect.any(String),
      });
    // A connection of a pool.
    await control.replay({ to: "Asked", pieces: ["by the pool\n"] });
    await clickRow("upper", "running");
    await said(page).getByText("by the pool", { exact: true }).nth(1).waitFor(); // the call, and its answer
    await page.getByRole("tab", { name: "Listeners" }).click();
    await page.getByRole("cell", { name: "Echo", exact: true }).waitFor();
  });

  // npm run docs:screenshots writes them.
  test.runIf(process.env.SOCKLET_SCREENSHOTS)("its pictures for the docs", async () => {
    await mkdir(join(root, "docs/inspector"), { recursive: true });
    const page = await watching();
    await page.setViewportSize({ width: 1080, height: 560 });
    let name = "";
    for (const word of ["PING", "SET basket 12", "INCRBY basket a-dozen"])
      name = await talk("resp", `${word}\r\n`);
    await filter(page, "resp");
    await rowOf(page, name).click();
    await said(page).getByText("ERR value").waitFor();
    await page.screenshot({ path: join(root, "docs/inspector/conversation.png") });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.getByRole("button", { name: "Send again…" }).click();
    await page.getByRole("textbox", { name: "What to say, a piece a line" }).fill("INCRBY basket 12\\r\\n");
    await page.getByRole("button", { name: "Send", exact: true }).last().click();
    await page.getByText("The server answered differently").waitFor();
    await page.screenshot({ path: join(root, "docs/inspector/again.png") });
  });
});
