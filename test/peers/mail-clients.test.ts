/**
 * Mail with addresses beyond ASCII, by what people use: npm `nodemailer`, smtplib and swaks send to the mail sink, and
 * `SmtpClient` delivers to npm `smtp-server`.
 */

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { createTransport, type SendMailOptions } from "nodemailer";
import { SMTPServer, type SMTPServerOptions } from "smtp-server";
import { TCPConnector } from "socklet/emulator";
import { MemoryStorage } from "socklet/testing";
import { describe, expect, test } from "vitest";
import { type MailContext, MailRequestHandler } from "../../examples/mail.ts";
import { type Delivery, SmtpClient } from "../../examples/smtp-client.ts";
import { ownCertificates } from "./certificates.ts";
import { describeWith, python, run, serve } from "./program.ts";

const sink = async () => {
  const storage = new MemoryStorage();
  const place = await serve<MailContext>(MailRequestHandler, { storage });
  const mails = async (): Promise<string[]> =>
    Promise.all(
      (await storage.list()).map(async (name) => Buffer.from((await storage.get(name)) ?? []).toString()),
    );
  return Object.assign(place, { mails });
};

describe("nodemailer", () => {
  const withTransport = async (
    port: number,
    body: (send: (mail: SendMailOptions) => Promise<{ response: string }>) => Promise<void>,
    pool = false,
  ): Promise<void> => {
    const options = { host: "127.0.0.1", port, secure: false, name: "client.test" };
    const transport = pool ? createTransport({ ...options, pool: true }) : createTransport(options);
    try {
      await body((mail) => transport.sendMail(mail));
    } finally {
      transport.close();
    }
  };

  test("sends text, HTML and an attachment, also beyond ASCII", async () => {
    await using place = await sink();
    await withTransport(place.port, async (send) => {
      const { response } = await send({
        from: "Frau Größe <me@example.com>",
        to: ["you@example.com", "she@example.com"],
        subject: "größer als π",
        text: ".\n..\nπ\n",
        html: "<p>π</p>",
        attachments: [{ filename: "größe.bin", content: Buffer.from([0, 13, 10, 46, 13, 10, 255]) }],
      });
      expect(response).toMatch(/^250 Kept as /);
    });
    expect(place.told()).toMatchObject([
      { from: "me@example.com", to: ["you@example.com", "she@example.com"] },
    ]);
    const [mail] = await place.mails();
    expect(mail).toMatch(/^Subject: =\?UTF-8\?/m);
    expect(mail).toContain(Buffer.from([0, 13, 10, 46, 13, 10, 255]).toString("base64"));
    expect(place.errors()).toEqual([]);
  });

  test("sends between addresses beyond ASCII", async () => {
    await using place = await sink();
    await withTransport(place.port, async (send) => {
      await send({ from: "josé@example.com", to: "用户@example.com", text: "hello" });
    });
    expect(place.told()).toMatchObject([{ from: "josé@example.com", to: ["用户@example.com"] }]);
    expect(place.errors()).toEqual([]);
  });

  test("sends a message as it is, dots and bytes", async () => {
    await using place = await sink();
    const raw = "Subject: größe\r\n\r\n.\r\n..\r\n.π\r\n";
    await withTransport(place.port, async (send) => {
      await send({ envelope: { from: "me@example.com", to: "you@example.com" }, raw });
    });
    expect(await place.mails()).toEqual([raw]);
  });

  test("sends 50 mails over its pool", async () => {
    await using place = await sink();
    await withTransport(
      place.port,
      async (send) => {
        const mails = Array.from({ length: 50 }, (_, i) => ({
          ...{ from: "me@example.com", to: "you@example.com", subject: `number ${i}`, text: "x" },
        }));
        await Promise.all(mails.map(send));
      },
      true,
    );
    const numbers = (await place.mails()).map((mail) => Number(/^Subject: number (\d+)\r$/m.exec(mail)?.[1]));
    expect(numbers.sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect(place.errors()).toEqual([]);
  });

  test("is told that a mail is too large", async () => {
    await using place = await sink();
    await withTransport(place.port, async (send) => {
      const mail = {
        from: "me@example.com",
        to: "you@example.com",
        raw: "x".repeat(77).concat("\r\n").repeat(140_000),
      };
      await expect(send(mail)).rejects.toMatchObject({ responseCode: 552 });
    });
    expect(await place.mails()).toEqual([]);
  });
});

const SMTPLIB = `
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=120) as smtp:
    smtp.ehlo()
    print(smtp.has_extn("smtputf8"))
    def code(act):
        try: return act()
        except smtplib.SMTPResponseException as error: return error.smtp_code
    plain = ["BODY=8BITMIME"]
    smtp.command_encoding = "utf-8"
    print(smtp.mail("josé@example.com", plain)[0], smtp.mail("me@example.com", plain)[0])
    print(smtp.rcpt("用户@example.com")[0], smtp.rcpt("you@example.com")[0], smtp.rset()[0])
    print(smtp.sendmail("josé@example.com", ["用户@example.com"], "Subject: größe\\r\\n\\r\\nπ\\r\\n".encode(), plain + ["SMTPUTF8"]))
`;

describeWith(["python3"], "smtplib", () => {
  test("is refused addresses beyond ASCII without SMTPUTF8, and sends them with it", async () => {
    await using place = await sink();
    expect(await python(SMTPLIB, [place.port])).toBe("True\n553 250\n553 250 250\n{}\n");
    expect(await place.mails()).toEqual(["Subject: größe\r\n\r\nπ\r\n"]);
    expect(place.told()).toMatchObject([{ from: "josé@example.com", to: ["用户@example.com"] }]);
    expect(place.errors()).toEqual([]);
  });
});

describeWith(["swaks"], "swaks", () => {
  const swaks = async (port: number, ...more: string[]) => {
    const envelope = ["--from", "josé@example.com", "--to", "用户@example.com"];
    const { code, stdout } = await run("swaks", ["--server", `127.0.0.1:${port}`, ...envelope, ...more]);
    return { code, said: stdout.toString() };
  };

  test("without SMTPUTF8 is refused addresses beyond ASCII", async () => {
    await using place = await sink();
    const { code, said } = await swaks(place.port);
    expect(said).toContain("<** 553 ");
    expect(code).not.toBe(0);
    expect(await place.mails()).toEqual([]);
  });
});

describeWith(["curl"], "curl", () => {
  test.each([
    ["GET", []],
    ["POST", ["--data-binary", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n"]],
    ["CONNECT", ["--proxytunnel"]],
  ])("%s: the sink closes", async (verb, more) => {
    await using place = await sink();
    const at = `http://127.0.0.1:${place.port}/`;
    const to = verb === "CONNECT" ? ["--proxy", at, "http://example.test/"] : [at];
    const { code } = await run("curl", ["--silent", "--http0.9", "--max-time", 120, ...more, ...to]);
    expect(code).not.toBe(28); // it did not have to wait for the connection's end
    await place.server.serverClose();
    expect(place.told()).toEqual([{ refused: verb }]);
    expect(await place.mails()).toEqual([]);
    expect(place.errors()).toEqual([]);
  });
});

// ---- The client ----

interface Taken {
  readonly from: unknown;
  readonly to: unknown;
  readonly text: string;
  readonly secure: boolean;
}

/** npm `smtp-server`, and what it took. */
const smtpServer = async (options: SMTPServerOptions = {}) => {
  const taken: Taken[] = [];
  const server = new SMTPServer({
    ...{ authOptional: true, disabledCommands: ["STARTTLS"], disableReverseLookup: true, logger: false },
    ...options,
    onData(stream, session, done) {
      const { mailFrom, rcptTo } = session.envelope;
      text(stream).then((message) => {
        const from = mailFrom === false ? mailFrom : [mailFrom.address, mailFrom.args];
        taken.push({ from, to: rcptTo.map(({ address }) => address), text: message, secure: session.secure });
        done(null, "taken");
      }, done);
    },
  });
  server.on("error", () => {}); // a client that leaves: that has its own test
  server.listen(0, "127.0.0.1");
  await once(server.server, "listening");
  const { port } = server.server.address() as AddressInfo;
  return {
    port,
    taken,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
};

const MAIL: Delivery = {
  ...{ from: "me@example.com", to: ["you@example.com", "she@example.com"], plain: true },
  message: "Subject: dots\r\n\r\n.\r\n..\r\n.π\r\n",
};

const deliver = (port: number, params: Delivery) =>
  new TCPConnector({ hostname: "127.0.0.1", port }, SmtpClient).run({ params });

describe("SmtpClient and smtp-server", () => {
  test("a message beyond ASCII, between such addresses, and with such headers", async () => {
    await using server = await smtpServer();
    expect(await deliver(server.port, MAIL)).toMatchObject({ secured: false, reply: "taken" });
    await deliver(server.port, { ...MAIL, message: "Subject: größe\n\nx" });
    await deliver(server.port, {
      ...MAIL,
      from: "josé@example.com",
      to: ["用户@example.com"],
      message: "\r\nx",
    });
    expect(server.taken).toEqual([
      {
        from: ["me@example.com", { BODY: "8BITMIME" }],
        to: MAIL.to,
        text: MAIL.message,
        secure: false,
      },
      {
        from: ["me@example.com", { BODY: "8BITMIME", SMTPUTF8: true }],
        to: MAIL.to,
        text: "Subject: größe\r\n\r\nx\r\n",
        secure: false,
      },
      {
        from: ["josé@example.com", { SMTPUTF8: true }],
        to: ["用户@example.com"],
        text: "\r\nx\r\n",
        secure: false,
      },
    ]);
  });

  test.each([
    ["8BITMIME", { hide8BITMIME: true }, MAIL, /no 8BITMIME.*RFC 2045/],
    ["SMTPUTF8", { hideSMTPUTF8: true }, { ...MAIL, to: ["用户@example.com"] }, /no SMTPUTF8.*address/],
    ["SMTPUTF8", { hideSMTPUTF8: true }, { ...MAIL, message: "Subject: ß\n\nx" }, /no SMTPUTF8.*header/],
  ])("a server without %s is not sent what it does not take", async (_, options, mail, message) => {
    await using server = await smtpServer(options);
    await expect(deliver(server.port, mail)).rejects.toMatchObject({
      code: "ERR_REFUSED",
      message: expect.stringMatching(message),
    });
    expect(server.taken).toEqual([]);
  });

  const made = ownCertificates();
  test.skipIf(made === null)("over STARTTLS", async () => {
    const { ca = "", cert = "", key = "" } = made ?? {};
    await using server = await smtpServer({ cert, key, disabledCommands: [] });
    const connector = new TCPConnector({ hostname: "127.0.0.1", port: server.port }, SmtpClient, {
      secureTransport: "starttls",
      tls: { ca, serverName: "localhost" },
    });
    const { plain: _, ...mail } = MAIL;
    expect(await connector.run({ params: mail })).toMatchObject({ secured: true, reply: "taken" });
    expect(server.taken).toMatchObject([{ secure: true, text: MAIL.message }]);
  });
});
