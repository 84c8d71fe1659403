/**
 * The kit used on third-party code: TCP clients for Workers from npm, unchanged, inside workerd, asked while a
 * scripted peer in Node cuts, ends, resets or is silent. What each does is a finding, which stands here and in
 * docs/clients.md (`npm run docs` writes it), and this test keeps both true.
 *
 * Each test has its own workerd, which is ended if a client does not finish.
 */

import { readFileSync } from "node:fs";
import { build } from "esbuild";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { BaseRequestHandler, type InternetAddress } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { type Conversation, conversation } from "socklet/testing";
import { beforeAll, describe, expect, test } from "vitest";

// ---- The clients, and what is known of them ----

/** The abilities of a client. */
type Outcome = "answers" | "fails" | "never answers" | "never yields" | "dials for ever";

const WORDS: Readonly<Record<Outcome, string>> = {
  answers: "returns the right answer",
  fails: "rejects with an error",
  "never answers": "its promise is never settled",
  "never yields": "reads in an endless loop, so that the whole isolate stands still",
  "dials for ever": "opens connection after connection, without a pause",
};

const ENDINGS = ["end", "reset", "silence"] as const;
type Ending = (typeof ENDINGS)[number];

const MOMENTS = ["before any reply", "within the first", "after the first", "within the last"] as const;

interface Client {
  /** What it sends, and the answer; text is latin1, a character a byte. `null`: the server speaks first. */
  readonly turns: readonly (readonly [expected: string | RegExp | null, reply: string])[];
  readonly answer: unknown;
  /** Before which bytes of all replies together a cut leaves it without an answer. */
  readonly lost: readonly number[];
  /** What it does when its server ends in that way, at each of the `MOMENTS`. */
  readonly endings: Readonly<Record<Ending, readonly [Outcome, Outcome, Outcome, Outcome]>>;
  /** Unhandled rejections, under its cuts. */
  readonly unhandled: readonly string[];
  /** The fault, for the page. */
  readonly wrong: readonly string[];
}

const pack16 = (value: number): string => String.fromCharCode((value >> 8) & 255, value & 255);
const pack32 = (value: number): string => pack16(value >> 16) + pack16(value);
/** A message of PostgreSQL's. */
const pg = (type: string, ...body: readonly string[]): string =>
  type + pack32(body.join("").length + 4) + body.join("");
const pgColumn = (name: string, type: number): string =>
  `${name}\0${pack32(0)}${pack16(0)}${pack32(type)}${pack16(4)}${pack32(-1)}${pack16(0)}`;
const pgValue = (text: string): string => pack32(text.length) + text;

const clients: Readonly<Record<string, Client>> = {
  "redis-on-workers": {
    turns: [
      ["*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n", "$5\r\nhello\r\n"],
      ["*4\r\n$6\r\nLRANGE\r\n$4\r\nlist\r\n$1\r\n0\r\n$2\r\n-1\r\n", "*2\r\n$1\r\na\r\n$2\r\nbc\r\n"],
    ],
    answer: ["hello", ["a", "bc"]],
    lost: [1, 2, 3, 12, 13, 14, 15, 16, 17, 18, 22, 23, 24, 25],
    endings: {
      end: ["never answers", "never answers", "never answers", "never answers"],
      reset: ["never answers", "never answers", "never answers", "never answers"],
      silence: ["never answers", "never answers", "never answers", "never answers"],
    },
    unhandled: ["RangeError: offset is out of bounds"],
    wrong: [
      "A reply that is cut within a line waits in a buffer of the wrong size, which nothing reads: its call never settles.",
      "An end or a reset does not settle waiting calls. (workerd notices that nothing is left to wait for, and ends the request.)",
      "It has no time-out.",
    ],
  },
  postgres: {
    turns: [
      [
        /.{8}user\0.*?\0\0/s,
        pg("R", pack32(0)) + pg("S", "TimeZone\0UTC\0") + pg("K", pack32(7), pack32(8)) + pg("Z", "I"),
      ],
      [
        /P.*?H\0{3}./s,
        pg("1") +
          pg("t", pack16(1), pack32(23)) +
          pg("T", pack16(2), pgColumn("n", 23), pgColumn("name", 25)),
      ],
      [
        /B.*?S\0{3}./s,
        pg("2") +
          pg("D", pack16(2), pgValue("42"), pgValue("\xcf\x80")) +
          pg("C", "SELECT 1\0") +
          pg("Z", "I"),
      ],
    ],
    answer: [{ n: 42, name: "π" }],
    lost: [],
    endings: {
      end: ["dials for ever", "dials for ever", "fails", "fails"],
      reset: ["fails", "dials for ever", "fails", "fails"],
      silence: ["fails", "fails", "never answers", "never answers"],
    },
    unhandled: ["TypeError: This socket has been closed."],
    wrong: [
      "A connection that ends before the session has begun is dialled again at once, for ever: its close cancels `connect_timeout`.",
      "A query has no time-out.",
      "Closing leaves an unhandled rejection: `TypeError: This socket has been closed.`",
    ],
  },
  "worker-mailer": {
    turns: [
      [null, "220 mail.test\r\n"],
      [/EHLO [^\r]*\r\n/, "250-mail.test\r\n250-AUTH PLAIN\r\n250 SIZE 9\r\n"],
      [/AUTH PLAIN [^\r]*\r\n/, "235 ok\r\n"],
      ["MAIL FROM: <me@example.com>\r\n", "250 ok\r\n"],
      ["RCPT TO: <you@example.com>\r\n", "250 ok\r\n"],
      ["DATA\r\n", "354 go\r\n"],
      [/.*\r\n\.\r\n/s, "250 kept\r\n"],
      ["QUIT\r\n", "221 bye\r\n"],
    ],
    answer: "sent",
    lost: [],
    endings: {
      end: ["never yields", "never yields", "never yields", "never yields"],
      reset: ["fails", "fails", "fails", "answers"],
      silence: ["fails", "fails", "fails", "answers"],
    },
    unhandled: [],
    wrong: [
      "It keeps reading after the end, which comes again at once: a loop in which no timer of the isolate runs.",
    ],
  },
};

// ---- Asking one ----

const MANY = 20; // connections for one question
const PATIENCE = 500; // ms that a client waits if it has a setting for that, and that the test waits for one that will not answer
const SLOW = 10_000; // ms that it waits if it answers in the end: no earlier step may take longer
const LONG = 60_000; // ms that is waited for what will come: it takes a few
const LOOKS = 20; // requests that a workerd answers if a client does not keep it for ever

let bundle: string;

beforeAll(async () => {
  const { outputFiles } = await build({
    entryPoints: ["test/worker/clients-main.ts"],
    bundle: true,
    format: "esm",
    external: ["cloudflare:*", "node:*", "@arrowood.dev/socket"], // the last stands in for the first, elsewhere
    conditions: ["workerd", "worker", "browser"],
    write: false,
  });
  bundle = outputFiles[0]?.text ?? "";
});

interface Reply {
  readonly answer?: unknown;
  readonly error?: string;
  /** Since the last reply. */
  readonly unhandled?: readonly string[];
}

interface Running extends AsyncDisposable {
  readonly get: (path: string, signal?: AbortSignal) => Promise<Reply>;
  /** The unhandled rejections. */
  readonly unhandled: Set<string>;
}

/** A workerd with the clients; leaving its scope ends it, whatever runs in it. */
const begin = async (): Promise<Running> => {
  const workerd = new Miniflare(
    convertV4MiniflareOptions({
      name: "clients",
      modules: true,
      script: bundle,
      compatibilityDate: "2026-10-01",
      compatibilityFlags: ["nodejs_compat"], // for `postgres`
    }),
  );
  const { origin } = await workerd.ready;
  const unhandled = new Set<string>();
  return {
    unhandled,
    async get(path, signal) {
      const response = await fetch(`${origin}${path}`, { signal: signal ?? null });
      const text = await response.text();
      const reply: Reply = response.ok ? JSON.parse(text) : { error: text };
      for (const one of reply.unhandled ?? []) unhandled.add(one);
      return reply;
    },
    [Symbol.asyncDispose]: () => workerd.dispose(),
  };
};

/** What befalls the replies, all bytes of them counted together. */
interface Plan {
  /** Before this byte they are cut. */
  readonly cut?: number;
  /** Sends this many, and then the ending. */
  readonly sent?: number;
  readonly ending?: Ending;
}

/** The script of a client's server. `read` waits until the client has read what was sent. */
const scriptOf = ({ turns }: Client, plan: Plan, read: () => Promise<void>): Conversation => {
  const { cut = -1, sent = Number.POSITIVE_INFINITY, ending } = plan;
  let script = conversation({ encoding: "latin1" });
  let at = 0;
  for (const [expected, reply] of turns) {
    if (at >= sent) break;
    if (expected !== null) script = script.expect(expected);
    const whole = reply.slice(0, sent - at);
    const within = cut > at && cut < at + whole.length ? cut - at : 0;
    if (within > 0) script = script.send(whole.slice(0, within)).check(read);
    if (whole !== "") script = script.send(whole.slice(within));
    at += reply.length;
  }
  if (ending !== undefined) script = script.check(read);
  if (ending === "end") return script.halfClose();
  return ending === "reset" ? script.reset() : script;
};

interface Found {
  readonly outcome: Outcome;
  readonly answer?: unknown;
  /** The script's error. */
  readonly wrong: readonly string[];
}

interface Asked extends Found {
  /** Whether the client may have waited for its own time-out before its server was at the end of the script. */
  readonly late: boolean;
}

/** Asks one client. What will never come is not waited for as long as what will. */
const ask = async ({ get }: Running, name: string, plan: Plan, expected: Outcome): Promise<Asked> => {
  const wrong: string[] = [];
  const found = Promise.withResolvers<Found>();
  const played = Promise.withResolvers<void>(); // the script is at its end
  let playedAt: number | undefined;
  let connections = 0;
  // The bytes were there before the first request. A client that has completed two since has looked for bytes in between.
  const read = async (): Promise<void> => {
    await get("/");
    await get("/");
  };
  class Peer extends BaseRequestHandler {
    override async handle(): Promise<void> {
      if (++connections === MANY) found.resolve({ outcome: "dials for ever", wrong });
      await scriptOf(clients[name] as Client, plan, read)
        .run(this.request, { timeout: LONG })
        .catch((error: Error) => wrong.push(error.message));
      playedAt ??= performance.now();
      played.resolve();
      for await (const _ of this.request); // it stays as long as its client
    }
  }
  const options = { drainTimeout: 0, stream: { closeTimeout: 100 } };
  await using server = new ThreadingTCPServer("127.0.0.1:0", Peer, options);
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();

  const leave = new AbortController();
  const silent = expected === "answers" ? SLOW : PATIENCE;
  const patience = plan.ending === "silence" ? silent : LONG;
  const began = performance.now();
  get(`/${name}?port=${port}&patience=${patience}`, leave.signal).then(({ answer, error = "" }) => {
    const hangs = /code had hung/.test(error); // workerd: nothing is left that could settle it
    const outcome = answer !== undefined ? "answers" : hangs ? "never answers" : "fails";
    found.resolve({ outcome, answer, wrong });
  }, found.reject);
  /** Whether workerd answers, again and again: then the client has seen the end, and lets others run. */
  const yields = async (): Promise<boolean> => {
    for (let i = 0; i < LOOKS; i++) {
      const signal = AbortSignal.timeout(expected === "never yields" ? PATIENCE : LONG);
      if ((await get("/", signal).catch(() => null)) === null) return false;
    }
    return true;
  };
  // Not before all has befallen it, however long that takes on a busy machine.
  let timer: ReturnType<typeof setTimeout> | undefined;
  void played.promise.then(() => {
    if (leave.signal.aborted) return;
    timer = setTimeout(
      async () => found.resolve({ outcome: (await yields()) ? "never answers" : "never yields", wrong }),
      expected.startsWith("never") ? PATIENCE : LONG,
    );
  });
  try {
    const what = await found.promise;
    return { ...what, late: (playedAt ?? performance.now()) - began >= patience };
  } finally {
    clearTimeout(timer);
    leave.abort();
  }
};

// ---- The findings ----

describe.concurrent.each(Object.entries(clients))("%s", (name, client) => {
  const { turns, answer, lost, endings, unhandled } = client;
  const ends = turns.map((_, i) => turns.slice(0, i + 1).reduce((sum, [, { length }]) => sum + length, 0));
  const [first = 0, total = 0, beforeLast = 0] = [ends[0], ends.at(-1), ends.at(-2)];

  test("cut before any byte of what it is answered", async ({ expect }) => {
    await using workerd = await begin();
    const found: number[] = [];
    for (let cut = 0; cut < total; cut++) {
      if (ends.includes(cut)) continue; // its own reply
      const expected = lost.includes(cut) ? "never answers" : "answers";
      const { outcome, late: _, ...rest } = await ask(workerd, name, { cut }, expected);
      if (outcome === "answers") expect({ cut, ...rest }).toEqual({ cut, answer, wrong: [] });
      else found.push(cut);
      expect(["answers", "never answers"]).toContain(outcome);
    }
    expect(found).toEqual(lost);
    await workerd.get("/");
    expect([...workerd.unhandled]).toEqual(expect.arrayContaining([...unhandled]));
  });

  const moments = [0, first >> 1, first, (beforeLast + total) >> 1];
  test.each(ENDINGS)("%s", async (ending) => {
    const found: Outcome[] = [];
    let workerd = await begin();
    try {
      for (const [i, sent] of moments.entries()) {
        const expected = endings[ending][i] as Outcome;
        let { outcome, late } = await ask(workerd, name, { sent, ending }, expected);
        // On a machine that stood still, its time-out cut what comes before the silence.
        while (outcome !== expected && late && ending === "silence")
          ({ outcome, late } = await ask(workerd, name, { sent, ending }, expected));
        found.push(outcome);
        if (outcome !== "never yields") continue;
        await workerd[Symbol.asyncDispose]();
        workerd = await begin();
      }
    } finally {
      await workerd[Symbol.asyncDispose]();
    }
    expect(found).toEqual(endings[ending]);
  });
});

// ---- The page ----

const page = (): string => {
  const { devDependencies } = JSON.parse(readFileSync("package.json", "utf8"));
  const table = (rows: readonly (readonly string[])[]): string =>
    rows.map((row) => `| ${row.join(" | ")} |`).join("\n");
  const cutsOf = ({ turns, lost }: Client): string => {
    const places = turns.reduce((sum, [, { length }]) => sum + length - 1, 0);
    return lost.length === 0
      ? `the right answer under each of ${places} cuts`
      : `**never answers** under ${lost.length} of ${places} cuts`;
  };
  const sections = Object.entries(clients).map(([name, client]) => {
    const rows = ENDINGS.map((ending) => [
      ending,
      ...client.endings[ending].map((outcome) =>
        /^(?:answers|fails)$/.test(outcome) ? outcome : `**${outcome}**`,
      ),
    ]);
    return `## [${name}](https://www.npmjs.com/package/${name}) ${devDependencies[name]}

A reply cut once: ${cutsOf(client)}.

${table([["its server's", ...MOMENTS], ["---", ...MOMENTS.map(() => "---")], ...rows])}

${client.wrong.map((one) => `- ${one}`).join("\n")}
`;
  });
  return `# Somebody else's clients

<!-- Generated from the findings in test/peers/clients.test.ts by \`npm run docs\`; change that. -->

How do published TCP clients for Workers behave when the network cuts a reply in two, or when their server goes away? These are clients
from npm, unchanged, inside workerd. Each one talks to a server that is a script of \`socklet/testing\`: once for every byte of the reply,
with the reply cut before that byte; and once for each moment at which the server ends, resets, or falls silent. To test another
client: [testing.md](testing.md#somebody-elses-client).

What a client does:

${Object.entries(WORDS)
  .map(([outcome, words]) => `- **${outcome}**: ${words}`)
  .join("\n")}

If a client has a time-out, it was set to half a second.

${sections.join("\n")}`;
};

test("docs/clients.md is what was found (npm run docs writes it)", async () => {
  await expect(page()).toMatchFileSnapshot("../../docs/clients.md");
});
