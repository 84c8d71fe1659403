/** `socklet dev` as a process: what a save does to connections, to listeners and to the screen. */

import dgram from "node:dgram";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { mkdtemp, open, readdir, readFile, rename, rm } from "node:fs/promises";
import net from "node:net";
import { join } from "node:path";
import tls from "node:tls";
import { fileURLToPath } from "node:url";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { ownCertificates } from "../peers/certificates.ts";
import { reservePort } from "../peers/ports.ts";
import { askOnce, Client, Program, save } from "./dev-program.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const SAVES = Number(process.env.SOCKLET_SAVES ?? 40); // how many the soak makes
const certificates = ownCertificates();

let folder: string; // in the package, whose name the app imports
let runtime: string;

beforeEach(async () => {
  mkdirSync(join(root, ".wrangler"), { recursive: true });
  folder = await mkdtemp(join(root, ".wrangler", "dev-command-"));
  runtime = join(folder, "runtime");
  onTestFinished(() => rm(folder, { recursive: true }));
});

const write = (name: string, text: string): Promise<void> => save(join(folder, name), text);

const refuses = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = net.connect({ host: "127.0.0.1", port });
    socket.once("connect", () => resolve(false)).once("error", () => resolve(true));
    socket.once("connect", () => socket.destroy());
  });

const HANDLER = `
  import { StreamRequestHandler } from "socklet";
  import { word } from "./word.ts";
  import { count } from "./state.ts";
  export class Say extends StreamRequestHandler {
    override async handle() {
      for await (const line of this.rfile.lines()) {
        this.wfile.write(\`\${word} \${this.context.made} \${count()}\\n\`);
      }
    }
  }
`;
const STATE = "let n = 0;\nexport const count = () => ++n;\n";
const word = (text: string): string => `export const word = ${JSON.stringify(text)};\n`;

/** The app: one handler on these listeners. `made` counts the calls of context() in one process. */
const app = (listen: string): string => `
  import { defineApp } from "socklet";
  import { Say } from "./say.ts";
  export const app = defineApp({
    handlers: { Say },
    listen: [${listen}],
    context: () => ({ made: (globalThis.made = (globalThis.made ?? 0) + 1) }),
  });
`;
const at = (port: number, more = ""): string =>
  `{ handler: "Say", address: "tcp://127.0.0.1:${port}"${more} },`;

/** The project, served. */
const served = async (
  listen: string,
  args: readonly string[] = ["--control-port", "0"],
  nodeArgs: readonly string[] = [],
): Promise<Program> => {
  await write("word.ts", word("one"));
  await write("state.ts", STATE);
  await write("say.ts", HANDLER);
  await write("app.ts", app(listen));
  const dev = new Program(folder, ["dev", "app.ts", ...args], nodeArgs);
  await dev.line(/^(control|Say) /);
  return dev;
};

describe("socklet dev", () => {
  test("a save of what the handler imports is the handler of new connections; old ones keep theirs", async () => {
    const port = await reservePort();
    const dev = await served(at(port));
    const old = new Client(port);
    expect(await old.ask("?")).toBe("one 1 1");
    // Written in place, by one write of as many bytes: of a file that is first made empty, half a save is a version, too.
    const file = await open(join(folder, "word.ts"), "r+");
    const [, ms] = await dev.saved(
      file.writeFile(word("two")).finally(() => file.close()),
      /version \d+: word\.ts \((\d+) ms\)$/,
    );
    expect(await askOnce(port)).toBe("two 2 2"); // its context is new; a module that did not change keeps its state
    expect(await old.ask("?")).toBe("one 1 3");
    await dev.saved(write("word.ts", word("three")), /version \d+: word\.ts/);
    expect(await askOnce(port)).toBe("three 3 4");
    await dev.saved(write("state.ts", `${STATE}\n`), /version \d+: state\.ts/);
    expect(await askOnce(port)).toBe("three 4 1");
    expect(await old.ask("?")).toBe("one 1 5");
    console.log(`from the change to the new handler: ${ms} ms`);
  });

  test("an error is shown where it is, and the last good version serves on", async () => {
    const port = await reservePort();
    const dev = await served(at(port));
    const broken = dev.saved(
      write("word.ts", "\nexport const word = = 1;\n"),
      /^socklet: .*version 1 keeps serving$/,
    );
    expect((await broken)[0]).toMatch(/SyntaxError: .*\(.*word\.ts:2\)/);
    await dev.line(/^ {2}2 \| export const word = = 1;$/);
    expect(await askOnce(port)).toBe("one 1 1");
    const thrown = dev.saved(
      write("word.ts", "\n  export const word = nope;\n"),
      /^.*version 1 keeps serving$/,
    );
    expect((await thrown)[0]).toMatch(/ReferenceError: nope is not defined \(.*word\.ts:2:23\)/);
    await dev.line(/^ {24,}\^$/);
    const gone = dev.saved(rm(join(folder, "word.ts")), /^.*version 1 keeps serving$/);
    expect((await gone)[0]).toMatch(/Cannot find module '.*word\.ts'/);
    const port2 = dev.saved(
      write("app.ts", app('{ handler: "Say", address: "tcp://127.0.0.1:99999" }')),
      /^.*version 1 keeps serving$/,
    );
    await port2;
    await dev.saved(write("app.ts", app(at(port))), /Cannot find module .*version 1 keeps serving$/);
    await dev.saved(write("word.ts", word("mended")), /version \d+: .*word\.ts/);
    expect(await askOnce(port)).toMatch(/^mended \d+ 2$/);
  });

  test("a context() that throws, and a port that is in use, leave the last good version whole", async () => {
    const [port, other] = [await reservePort(), await reservePort()];
    const dev = await served(at(port));
    const said = dev.saved(
      write("app.ts", app(at(port)).replace("({ made", "({ x: nope, made")),
      /^.*version 1 keeps serving$/,
    );
    expect((await said)[0]).toMatch(/nope is not defined \(.*app\.ts:/);
    const taken = net.createServer().listen(other, "127.0.0.1");
    await once(taken, "listening");
    const inUse = dev.saved(write("app.ts", app(at(port) + at(other))), /^.*version 1 keeps serving$/);
    expect((await inUse)[0]).toContain("EADDRINUSE");
    expect(await askOnce(port)).toBe("one 1 1");
    taken.close();
    await once(taken, "close");
    await dev.saved(write("app.ts", `${app(at(port) + at(other))}\n`), /version 4: app\.ts .* is opened$/);
    expect(await askOnce(other)).toMatch(/^one /);
  });

  test("an app that does not load at the start is waited for", async () => {
    const port = await reservePort();
    await write("word.ts", "export const word = ;");
    await write("state.ts", STATE);
    await write("say.ts", HANDLER);
    await write("app.ts", app(at(port)));
    const dev = new Program(folder, ["dev", "app.ts", "--control-port", "0"]);
    await dev.line(/word\.ts:1\).*waiting for a save that fixes it$/);
    await write("word.ts", word("well"));
    await dev.line(/^control /);
    expect(await askOnce(port)).toBe("well 1 1");
    dev.process.kill("SIGINT");
    expect(await dev.exit).toBe(0);
  });

  test("listeners that a version adds are opened, those that it drops close, and other options open one again", async () => {
    const [port, other] = [await reservePort(), await reservePort()];
    const dev = await served(at(port));
    const old = new Client(port);
    await old.ask("?");
    await dev.saved(write("app.ts", app(at(port) + at(other))), new RegExp(`:${other} is opened$`));
    const second = new Client(other);
    expect(await second.ask("?")).toMatch(/^one 2 /);
    await dev.saved(
      write("app.ts", app(at(port, ", options: { maxRequests: 1, whenFull: 'refuse' }"))),
      new RegExp(`:${other} accepts no more; .*:${port} is opened again`),
    );
    expect(await refuses(other)).toBe(true);
    expect(await second.ask("?")).toMatch(/^one 2 /); // continues to its end
    expect(await old.ask("?")).toMatch(/^one 1 /);
    const only = new Client(port);
    expect(await only.ask("?")).toMatch(/^one 3 /);
    await expect(new Client(port).ask("?")).rejects.toThrow(); // the new limit holds
  });

  test("datagrams, and the children of a forking listener, get the new handler", async () => {
    const [port, forking] = [await reservePort(), await reservePort()];
    await write("word.ts", word("one"));
    await write(
      "app.ts",
      `import { DatagramRequestHandler, defineApp, StreamRequestHandler } from "socklet";
       import { word } from "./word.ts";
       class Pong extends DatagramRequestHandler { override handle() { this.request.reply(word); } }
       class Fork extends StreamRequestHandler { override async handle() { await this.rfile.line(); this.wfile.write(word + "\\n"); } }
       export const app = defineApp({
         handlers: { Pong, Fork },
         listen: [
           { handler: "Pong", address: "udp://127.0.0.1:${port}" },
           { handler: "Fork", address: "tcp://127.0.0.1:${forking}", serve: "forking" },
         ],
       });`,
    );
    const dev = new Program(folder, ["dev", "app.ts", "--control-port", "0"]);
    await dev.line(/^control /);
    const socket = dgram.createSocket("udp4");
    onTestFinished(() => void socket.close());
    const ping = async (): Promise<string> => {
      const came = once(socket, "message");
      socket.send("ping", port, "127.0.0.1");
      return String((await came)[0]);
    };
    expect([await ping(), await askOnce(forking)]).toEqual(["one", "one"]);
    await dev.saved(write("word.ts", word("two")), /version 2: word\.ts/);
    expect([await ping(), await askOnce(forking)]).toEqual(["two", "two"]);
  });

  test("a folder that is removed and made anew, or moved away, is followed again", async () => {
    const port = await reservePort();
    await write(
      "app.ts",
      `import { defineApp, streamHandler } from "socklet";
       import { word } from "./parts/words/word.ts";
       const Say = streamHandler(async ({ rfile, wfile }) => { await rfile.line(); wfile.write(word + "\\n"); });
       export const app = defineApp({ handlers: { Say }, listen: [{ handler: "Say", address: "tcp://127.0.0.1:${port}" }] });`,
    );
    const make = async (text: string): Promise<void> => {
      mkdirSync(join(folder, "parts/words"), { recursive: true });
      await write("parts/words/word.ts", word(text));
    };
    await make("one");
    const dev = new Program(folder, ["dev", "app.ts", "--no-control"]);
    await dev.line(/^Say /);
    for (const [path, number] of [
      ["parts", 2],
      ["parts/words", 4],
    ] as const) {
      await dev.saved(rm(join(folder, path), { recursive: true }), /Cannot find module .* keeps serving$/);
      await dev.saved(make(path), new RegExp(`version ${number + 1}: parts/words/word.ts`));
      expect(await askOnce(port)).toBe(path);
    }
    for (const path of ["parts", "parts/words"]) {
      await dev.saved(rename(join(folder, path), join(folder, `former-${path.length}`)), /keeps serving$/);
      await dev.saved(make(`moved ${path}`), /version \d+: parts/);
      expect(await askOnce(port)).toBe(`moved ${path}`);
      await dev.saved(write("parts/words/word.ts", word("saved")), /version \d+: parts/); // the new one is watched
      expect(await askOnce(port)).toBe("saved");
    }
  });

  test("an entry that lasts, added by a save, is kept beyond the process", async () => {
    const port = await reservePort();
    const dev = await served(at(port));
    const lasting = `
      import { defineApp, StreamRequestHandler } from "socklet";
      import { Say } from "./say.ts";
      class Ask extends StreamRequestHandler { override async handle() { this.wfile.write("?\\n"); await this.rfile.line(); await this.rfile.line(); } }
      export const app = defineApp({
        handlers: { Say, Ask },
        listen: [${at(port)}],
        dial: { ask: { handler: "Ask", address: "tcp://127.0.0.1:${port}", keep: {} } },
        context: () => ({ made: 1 }),
      });`;
    await dev.saved(write("app.ts", lasting), /version 2: app\.ts/);
    const run = new Program(folder, ["sessions", "run", "ask", "--background"]);
    expect(await run.exit).toBe(0);
    const id = run.lines[0] as string;
    dev.process.kill("SIGKILL");
    await dev.exit;
    const again = new Program(folder, ["dev", "app.ts", "--control-port", "0"]);
    await again.line(/^control /);
    const shown = new Program(folder, ["sessions", "show", id]);
    expect(await shown.exit).toBe(0);
    expect(shown.lines.join("\n")).toMatch(/running|waiting|connecting/);
  });

  test("the handlers that ALPN chooses of a forking listener are replaced, too", async ({ skip }) => {
    const port = await reservePort();
    if (certificates === null) return skip("openssl is missing");
    const { cert, key, ca } = certificates;
    await write("word.ts", word("one"));
    await write(
      "app.ts",
      `import { defineApp, StreamRequestHandler } from "socklet";
       import { word } from "./word.ts";
       class Plain extends StreamRequestHandler { override async handle() { await this.rfile.line(); this.wfile.write("plain " + word + "\\n"); } }
       class Spoken extends StreamRequestHandler { override async handle() { await this.rfile.line(); this.wfile.write("spoken " + word + "\\n"); } }
       export const app = defineApp({
         handlers: { Plain, Spoken },
         listen: [{ handler: "Plain", address: "tls://127.0.0.1:${port}", serve: "forking", options: {
           tls: { cert: ${JSON.stringify(cert)}, key: ${JSON.stringify(key)}, alpn: { "spoken/1": "Spoken" } },
         } }],
       });`,
    );
    const dev = new Program(folder, ["dev", "app.ts", "--no-control"]);
    await dev.line(/^Plain /);
    const ask = async (protocols: string[]): Promise<string> => {
      const socket = tls.connect({ port, host: "127.0.0.1", ca, ALPNProtocols: protocols });
      onTestFinished(() => void socket.destroy());
      socket.write("?\n");
      const [bytes] = await once(socket, "data");
      return String(bytes).trim();
    };
    expect([await ask(["spoken/1"]), await ask([])]).toEqual(["spoken one", "plain one"]);
    await dev.saved(write("word.ts", word("two")), /version 2: word\.ts/);
    expect([await ask(["spoken/1"]), await ask([])]).toEqual(["spoken two", "plain two"]);
  });

  test("socklet sessions finds the server by itself, while it runs", async () => {
    const port = await reservePort();
    const dev = await served(at(port));
    await askOnce(port);
    const list = new Program(folder, ["sessions", "list"]);
    expect(await list.exit).toBe(0);
    expect(list.lines.some((line) => / Say +from /.test(line))).toBe(true);
    const [note = ""] = await readdir(join(runtime, "socklet"));
    const path = join(runtime, "socklet", note);
    const running = JSON.parse(await readFile(path, "utf8"));
    const chosen = new Program(folder, ["sessions", "list", "--url", `${running.url}/`]);
    expect([await chosen.exit, chosen.lines]).toEqual([0, list.lines]);
    dev.process.kill("SIGTERM");
    expect(await dev.exit).toBe(0);
    expect(await readdir(join(runtime, "socklet"))).toEqual([]);
    const killed = await served(at(port));
    killed.process.kill("SIGKILL");
    await killed.exit;
    const none = new Program(folder, ["sessions", "list"]);
    expect(await none.exit).toBe(2);
    expect(none.lines.join("\n")).toContain("None of yours runs on this machine");
    expect(await readdir(join(runtime, "socklet"))).toEqual([]);
  });

  test.each(["node", "workerd"])(
    "socklet sessions finds the server before its listeners are printed, in %s",
    async (where) => {
      for (const [name, text] of [
        ["word.ts", word("one")],
        ["state.ts", STATE],
        ["say.ts", HANDLER],
        ["app.ts", app(at(await reservePort()))],
      ] as const)
        await write(name, text);
      const mute = "data:text/javascript,process.stdout.write = () => true"; // what it prints is never out
      new Program(folder, ["dev", "app.ts", "--control-port", "0", "--runtime", where], ["--import", mute]);
      await expect
        .poll(() => readdir(join(runtime, "socklet")).catch(() => []))
        .toEqual([expect.stringMatching(/^\d+\.json$/)]);
      const list = new Program(folder, ["sessions", "list"]);
      expect([await list.exit, list.lines]).toEqual([0, ["no sessions"]]);
    },
  );

  test("a project with wrangler.toml gets .dev.vars, whose token is the server's", async () => {
    const port = await reservePort();
    await write("wrangler.toml", 'name = "x"\n');
    const dev = await served(at(port));
    await dev.line(/\.dev\.vars was created/);
    await dev.line(/Authorization: Bearer <a token of SOCKLET_TOKENS>/);
    const list = new Program(folder, ["sessions", "listeners"]);
    expect(await list.exit).toBe(0);
  });

  test(`${SAVES} saves under load: no connection is refused or cut, and memory stays flat`, async () => {
    const port = await reservePort();
    const dev = await served(at(port), ["--no-control"], ["--expose-gc"]); // which would keep a record of each connection
    const heap = async (): Promise<number> => Number(await askOnce(port, "heap"));
    await dev.saved(
      write(
        "say.ts",
        HANDLER.replace(
          "this.wfile",
          'if (line === "heap") { gc(); gc(); this.wfile.write(process.memoryUsage().heapUsed + "\\n"); continue; }\nthis.wfile',
        ),
      ),
      /version 2/,
    );
    const before = await heap();
    const stop = new AbortController();
    let answers = 0;
    const load = async (): Promise<void> => {
      for (; !stop.signal.aborted; answers++) await askOnce(port);
    };
    const held = new Client(port);
    const loads = Promise.all([load(), load(), load()]);
    loads.catch(() => {});
    const times: number[] = [];
    for (let n = 1; n <= SAVES; n++) {
      const began = performance.now();
      await dev.saved(write("word.ts", word(`w${n}`)), /version \d+: word/);
      expect(await askOnce(port)).toMatch(new RegExp(`^w${n} `));
      times.push(performance.now() - began);
      expect(await held.ask("?")).toMatch(/^one /);
    }
    stop.abort();
    await loads; // rejects if one was refused or cut
    const grown = ((await heap()) - before) / SAVES;
    times.sort((a, b) => a - b);
    console.log(
      `${SAVES} saves, ${answers} connections: ${Math.round(times[times.length >> 1] ?? 0)} ms in the median from the save to the new handler's answer, ${Math.round(times.at(-1) ?? 0)} ms at most; ${Math.round(grown / 1024)} KiB of heap a save`,
    );
    expect(grown).toBeLessThan(100 * 1024);
  });
});
