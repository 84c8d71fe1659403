import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemoryStorage } from "socklet/testing";
import { expect, test } from "vitest";
import { type MailContext, MailRequestHandler } from "../../examples/mail.ts";
import { describeWith, python, run, serve } from "./program.ts";

const sink = async () => {
  const storage = new MemoryStorage();
  return Object.assign(await serve<MailContext>(MailRequestHandler, { storage }), { storage });
};

const only = async (storage: MemoryStorage): Promise<Buffer> => {
  const names = await storage.list();
  expect(names).toHaveLength(1);
  return Buffer.from((await storage.get(names[0])) ?? []);
};

/** 1 MB of lines that begin with dots, are dots alone, or are long runs of them. */
const dots = (eightBit: string): string => {
  const lines = ["Subject: dots", "To: you@example.com", ""];
  for (let size = 0, i = 0; size < 1_000_000; i++) {
    const line = `${".".repeat(i % 7 === 0 ? i % 997 : i % 5)}${i % 3 === 0 ? "" : `text ${i} ${eightBit}`}`;
    lines.push(line);
    size += line.length + 2;
  }
  return lines.map((line) => `${line}\r\n`).join("");
};

const SEND = `
import smtplib, sys
mail = sys.stdin.buffer.read()
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=120) as smtp:
    smtp.ehlo()
    print(smtp.has_extn("pipelining"), smtp.has_extn("8bitmime"), smtp.esmtp_features["size"])
    print(smtp.sendmail("me@example.com", ["you@example.com", "she@example.com"], mail, ["BODY=8BITMIME"]))
`;

describeWith(["python3"], "smtplib", () => {
  test("sends 1 MB of dots and 8-bit bytes, and each is kept", async () => {
    await using place = await sink();
    const every = Array.from({ length: 256 }, (_, i) => String.fromCharCode(i)).join("");
    const mail = Buffer.from(dots(every.replace(/[\r\n]/g, "")), "latin1");
    expect(await python(SEND, [place.port], mail)).toBe("True True 10485760\n{}\n");
    expect((await only(place.storage)).equals(mail)).toBe(true);
    expect(place.told()).toEqual([
      expect.objectContaining({
        from: "me@example.com",
        to: ["you@example.com", "she@example.com"],
        size: mail.length,
      }),
    ]);
    expect(place.errors()).toEqual([]);
  });

  const large = Buffer.alloc(11 * 1024 * 1024, `${"x".repeat(78)}\r\n`);

  test("is told that a mail is too large before it sends it", async () => {
    await using place = await sink();
    const script = `
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=120) as smtp:
    try: smtp.sendmail("a@b", ["c@d"], sys.stdin.buffer.read())
    except smtplib.SMTPSenderRefused as refused: print(refused.smtp_code)
`;
    expect(await python(script, [place.port], large)).toBe("552\n");
    expect(await place.storage.list()).toEqual([]);
  });

  test("is told so after it where it does not say the size, and may go on", async () => {
    await using place = await sink();
    const script = `
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=120) as smtp:
    smtp.helo(); smtp.mail("a@b"); smtp.rcpt("c@d")
    print(smtp.data(sys.stdin.buffer.read())[0], smtp.mail("a@b")[0])
`;
    expect(await python(script, [place.port], large)).toBe("552 250\n");
    expect(await place.storage.list()).toEqual([]);
  });

  test("gets the codes it expects out of order", async () => {
    await using place = await sink();
    const script = `
import smtplib, sys
smtp = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=120)
print(*(code for code, _ in [
  smtp.docmd("MAIL FROM:<a@b>"), smtp.helo(), smtp.docmd("DATA"), smtp.rcpt("c@d"), smtp.noop(), smtp.vrfy("x"),
  smtp.docmd("WHAT"), smtp.mail("a@b"), smtp.mail("a@b"), smtp.rset(), smtp.quit(),
]))
`;
    expect(await python(script, [place.port])).toBe("503 250 503 503 250 252 500 250 503 250 221\n");
  });
});

describeWith(["swaks"], "swaks", () => {
  test.each([
    ["one command at a time", []],
    ["pipelined", ["--pipeline"]],
  ])("sends 1 MB of dots %s, and each is kept", async (_, options) => {
    await using place = await sink();
    const folder = await mkdtemp(join(tmpdir(), "socklet-mail-"));
    try {
      const mail = dots("ASCII");
      const file = join(folder, "mail");
      await writeFile(file, mail.replaceAll("\r\n", "\n"));
      const to = ["--server", `127.0.0.1:${place.port}`, "--to", "you@example.com", "--data", `@${file}`];
      const { code, stdout } = await run("swaks", [...to, "--suppress-data", ...options]);
      expect(stdout.toString()).toMatch(/250 Kept as \d{8}T\d{9}Z-\d+\.eml/);
      expect(code).toBe(0);
      // swaks adds one more line end to what it sends.
      const kept = (await only(place.storage)).toString("latin1");
      expect(kept === `${mail}\r\n`).toBe(true);
      expect(place.errors()).toEqual([]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
