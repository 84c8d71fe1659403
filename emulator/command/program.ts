/** What the command `socklet` takes: its commands, their arguments and flags, and what runs each of them. */

import { Argument, Command, CommanderError, Option } from "commander";
import { BOUNDS, SESSION_STATES } from "../../core/control/plane.ts";
import { isA } from "../../core/describe.ts";
import { MAX_TIMER } from "../../core/options.ts";
import { SECURE_TRANSPORTS } from "../../core/sockets/tls/tls.ts";
import { logKeysTo } from "../kernel/tls/key-log.ts";
import { STARTTLS } from "../wire/starttls.ts";
import { isSince, LEAST_NODE, version } from "./project/manifest.ts";
import { serve } from "./run/serve.ts";
import {
  count,
  descriptorFlag,
  milliseconds,
  portNumber,
  ruleNames,
  workerCount,
} from "./terminal/arguments.ts";
import { asked, describe, LOG_FORMATS, say, UsageError } from "./terminal/output.ts";

/** All commands with their arguments and flags. Nothing runs until it is given words to parse. */
export const program = new Command("socklet")
  .description("Socket handlers, written once: serve an app on real sockets, or dial with one handler.")
  .version(version)
  .exitOverride();

/** `command` with the options of every command that serves an app. */
const ofServing = (command: Command): Command =>
  command
    .argument("<module>", "a module with `export const app = defineApp({ … })`")
    .option("--host <host>", "listen on this host instead of the app's")
    .option("--any-port", "listen on free ports instead of the app's; its `dial` follows")
    .option("--data <folder>", "where the app keeps its bytes", ".socklet/data")
    .option("--drain <ms>", "how long running requests may go on after Ctrl-C", milliseconds, 10_000)
    .option(
      "--drain-delay <ms>",
      "how long to go on accepting after Ctrl-C while /v1/ready is 503 already",
      count(0, MAX_TIMER),
      0,
    )
    .addOption(
      new Option("--tls <certificate>", "the certificate of every listener with TLS, in development").choices(
        ["self-signed"],
      ),
    )
    .option(
      "--control-port <port>",
      "serve the control routes on this port (7100, if it is free)",
      portNumber,
    )
    .option("--no-control", "serve no control routes")
    .option(
      "--inspect",
      "serve a page at the control routes that shows what passes (of `dev`: unless --no-inspect)",
    )
    .option("--no-inspect", "serve no such page")
    .addOption(
      new Option(
        "--log <format>",
        "how events are told on stderr: JSON, a line each and all of them, or text (default: text on a terminal, else JSON)",
      )
        .choices(LOG_FORMATS)
        .env("SOCKLET_LOG"),
    )
    .option("--record <folder>", "write a transcript for each listener, and for each server that is dialled")
    .option("--verbose", "report events of requests, too, not only errors");

program
  .command("init")
  .description("make a project: a handler, its test, and scripts; asks at a terminal for what is not given")
  .argument("[folder]", "where; a folder that is empty, or not there yet")
  .addOption(new Option("--runtime <runtime>", "what it is for").choices(["node", "workerd", "both"]))
  .addOption(
    new Option(
      "--protocol <protocol>",
      "what it begins with: lines of text or binary frames over TCP, datagrams over UDP, a client",
    ).choices(["lines", "frames", "datagrams", "client"]),
  )
  .option("--yes", "ask nothing, and take what is usual: node, lines")
  .action(async (folder, flags) => (await import("./project/init.ts")).init(folder, flags));

ofServing(program.command("serve").description("serve all that an app listens with, until Ctrl-C"))
  .option("--workers <count>", "serve by so many processes; auto: one for each core", workerCount)
  .option("--reuse-port", "give each worker a socket of its own at each port (SO_REUSEPORT)")
  .option("--fd <name=number>", "listen on this descriptor for a listener, or `control`", descriptorFlag)
  .action((path, flags) => serve(path, flags));

ofServing(
  program
    .command("dev")
    .description("serve an app, and at each save take its new handlers for new connections"),
)
  .addOption(
    new Option(
      "--runtime <runtime>",
      "serve in Node, in workerd (Miniflare, of the project's wrangler), or in both, workerd's ports behind Node's",
    )
      .choices(["node", "workerd", "both"])
      .default("node"),
  )
  .option("--edge", "hold the app to the rules of Cloudflare's edge, and tell which it meets: docs/edge.md")
  .option("--edge-except <rules>", "the same, but for these: private-address,port-25", ruleNames)
  .action(async (path, flags) => (await import("./run/dev.ts")).dev(path, flags));

program
  .command("restart")
  .description(
    "have a server of yours start its program anew on the same sockets (SIGUSR2), and wait until that serves",
  )
  .argument("[pid]", "its process id, where several run", count(1, 2 ** 31 - 1))
  .option("--json", "print JSON")
  .action(async (pid, flags) => (await import("./control/restart.ts")).restart(pid, flags));

program
  .command("doctor")
  .description(
    "say what of this machine and this project does not fit, and what to do; exit status 1 if something must be mended",
  )
  .argument("[module]", "the app; its listeners are looked at, too")
  .option("--json", "print JSON")
  .action(async (path, flags) => (await import("./project/doctor.ts")).doctor(path, flags));

program
  .command("dial")
  .description("dial an address, run one handler on the connection, and print what it returns as JSON")
  .argument("<address>", "tcp://host:port, tls://host:port or unix:/path")
  .argument("<handler>", "module.ts#Name, or a name in the app of --app")
  .argument("[params...]", "words that the handler gets as its params")
  .option("--app <module>", "the app that has the handler, and its context")
  .option("--params <json>", "params that are not words")
  .addOption(
    new Option(
      "--secure-transport <how>",
      "TLS from the first byte, as of tls://, or when the handler asks",
    ).choices(SECURE_TRANSPORTS),
  )
  .option("--connect-timeout <ms>", "how long the connection may take to open", milliseconds, 10_000)
  .option("--data <folder>", "where the app keeps its bytes", ".socklet/data")
  .option("--verbose", "report events of requests, too, not only errors")
  .action(async (address, name, words, flags) =>
    (await import("./run/dial.ts")).dial(address, name, words, flags),
  );

program
  .command("proxy")
  .description("stand between clients and a server: show what passes, record it, break it")
  .argument("<address>", "the server: tcp://host:port, tls://host:port, udp://host:port or unix:/path")
  .requiredOption("--listen <address>", "where clients connect: host:port; port 0 is a free one")
  .option("--record <file>", "write a transcript of all that passes: JSON Lines")
  .option("--json", "print the transcript instead of text for a reader")
  .option("--quiet", "show nothing of what passes")
  .addOption(
    new Option(
      "--starttls <protocol>",
      "decrypt what follows STARTTLS, or PostgreSQL's SSLRequest, as with tls://",
    ).choices(STARTTLS),
  )
  .option(
    "--ca <file>",
    "with tls:// or --starttls, trust the authorities in this file (PEM) instead of the system's",
  )
  .option(
    "--fault <rule>",
    'what goes wrong, as "latency=100 from=server", "reset after=1000", "stall in=10s for=5s"; again for more',
    (rule: string, before: readonly string[] = []) => [...before, rule],
  )
  .option(
    "--seed <number>",
    "the seed of the random numbers: the same seed gives the same faults",
    count(0, 2 ** 31 - 1),
    1,
  )
  .action(async (address, flags) => (await import("./wire/proxy.ts")).proxy(address, flags));

program
  .command("replay")
  .description("play one side of a transcript again, and check what the other side answers")
  .argument("<file>", "a transcript, such as `socklet proxy --record` writes")
  .option(
    "--to <address>",
    "as its client, to this server: tcp://host:port, tls://host:port, udp://host:port",
  )
  .option("--listen <address>", "as its server: host:port; port 0 is a free one")
  .option("--connection <number>", "only this one of its connections", count(1, Number.MAX_SAFE_INTEGER))
  .option("--paced", "pause as long as when it was recorded")
  .option(
    "--ca <file>",
    "with --to, where the server speaks TLS: trust the authorities in this file (PEM) instead of the system's",
  )
  .option("--timeout <ms>", "how long each step may wait for the other side", milliseconds, 10_000)
  .action(async (file, flags) => (await import("./wire/transcripts.ts")).replayFile(file, flags));

program
  .command("diff")
  .description("compare two transcripts: exit status 1, and where they differ, if they do")
  .argument("<expected-file>", "a transcript")
  .argument("<actual-file>", "another")
  .option("--apart", "compare what each side said, not which of them spoke first")
  .action(async (expected, actual, flags) =>
    (await import("./wire/transcripts.ts")).diff(expected, actual, flags),
  );

program
  .command("export")
  .description("write a transcript as a capture for Wireshark and tshark")
  .argument("<file>", "a transcript")
  .requiredOption("--pcapng <file>", "where to write it")
  .option(
    "--port <port>",
    "the server's port, by which Wireshark knows the protocol: 25, 6379",
    count(1, 65_535),
  )
  .action(async (file, flags) => (await import("./wire/transcripts.ts")).exportFile(file, flags));

/** `command` with the options of every command that uses a control plane. */
const ofControl = (command: Command): Command =>
  command
    .addOption(new Option("--url <url>", "its control plane").env("SOCKLET_URL"))
    .addOption(new Option("--token <token>", "one of its tokens").env("SOCKLET_TOKEN"))
    .option("--json", "print JSON");

ofControl(program.command("pools"))
  .description("show the pools of an emulator or a Worker, and their counts")
  .argument("[name]", "one of them")
  .action(async (name, flags) => (await import("./control/pools.ts")).pools(name, flags));

const sessions = ofControl(program.command("sessions"))
  .description("list, watch, start and end the sessions of an emulator or a Worker")
  .configureHelp({ showGlobalOptions: true });

/** The commands of `sessions`, by the names of their functions. */
type SessionCommands = typeof import("./control/sessions.ts");

/** Commander's action: that function, with the arguments, and with the options of `sessions` among its own. */
const session =
  (name: keyof SessionCommands) =>
  async (...given: unknown[]): Promise<void> => {
    const command = given.at(-1) as Command;
    const run = (await import("./control/sessions.ts"))[name] as (...given: unknown[]) => Promise<void>;
    return run(...given.slice(0, -2), command.optsWithGlobals());
  };

sessions
  .command("list")
  .description("list sessions, newest first")
  .addOption(new Option("--state <state>", "only those in this state").choices(SESSION_STATES))
  .option("--handler <name>", "only those of this handler")
  .option("--limit <count>", "how many at most", count(1, BOUNDS.maxPageSize))
  .option("--before <id>", "only those older than this one")
  .action(session("listSessions"));

sessions
  .command("listeners")
  .description("show what listens there, with its counts; or its events")
  .option("--follow", "print the events of its servers, until they are closed or Ctrl-C")
  .option("--after <event>", "only events after the one with this number", count(0, Number.MAX_SAFE_INTEGER))
  .action(session("listListeners"));

sessions.command("show").description("show one session").argument("<id>").action(session("showSession"));

sessions
  .command("follow")
  .description("print what happens to a session, until it is over or Ctrl-C")
  .argument("<id>")
  .option("--after <event>", "only events after the one with this number", count(0, Number.MAX_SAFE_INTEGER))
  .action(session("followSession"));

sessions
  .command("run")
  .description("run a session there, and print its result as JSON")
  .argument("<name>", "an entry of the app's `dial`; with --address a handler")
  .argument("[params...]", "words that the handler gets as its params")
  .option("--address <address>", "dial this: tcp://host:port, which the app's `allow` must name")
  .option("--params <json>", "params that are not words")
  .option("--background", "do not wait for its end; print its id")
  .option("--deadline <ms>", "how long it may last", milliseconds)
  .option("--connect-timeout <ms>", "how long the connection may take to open", milliseconds)
  .addOption(new Option("--secure-transport <when>", "TLS").choices(SECURE_TRANSPORTS))
  .action(session("runSession"));

sessions
  .command("send")
  .description("send bytes on a session's connection")
  .argument("<id>")
  .argument("[words...]", "the text to send; without any, what comes on standard input")
  .option("--crlf", "end the text with CR LF")
  .action(session("sendToSession"));

sessions
  .command("half-close")
  .description("end our direction of a session's connection")
  .argument("<id>")
  .action(session("halfCloseSession"));

sessions
  .command("end")
  .description("end a session: its connection is reset")
  .argument("<id>")
  .option("--graceful", "close the connection after what was written")
  .action(session("endSession"));

program
  .command("completion")
  .description("print a script by which a shell completes this command: source <(socklet completion bash)")
  .addArgument(new Argument("<shell>", "the shell").choices(["bash", "zsh"]))
  .action(async (shell) => (await import("./completion.ts")).completion(shell, program));

program.hook("preAction", (_, command) => {
  if (isSince(process.versions.node, LEAST_NODE) || command.name() === "doctor") return; // which reports that itself
  throw new UsageError(
    `this needs Node ${LEAST_NODE} or newer, which runs TypeScript as it is; this is ${process.version}: install the current Node, or npm install --save-dev node`,
  );
});

program.hook("preAction", () => {
  const { SSLKEYLOGFILE: path } = process.env;
  if (path) asked(`SSLKEYLOGFILE=${path}`, () => logKeysTo(path));
});

/** Has what `command`, called `name`, and those below it refuse say where its help is. */
const pointToHelp = (command: Command, name: string): void => {
  command.configureOutput({
    outputError: (text) => {
      const told = text
        .replace(/^error: /, "")
        .trimEnd()
        .replace(/\.$/, "");
      say(`${told}; see ${name} --help`);
    },
  });
  for (const below of command.commands) pointToHelp(below, `${name} ${below.name()}`);
};
pointToHelp(program, "socklet");

/** Tells the user why something was not done; gives the exit status. */
export const statusOf = (error: unknown): number => {
  if (isA(error, CommanderError)) return error.exitCode === 0 ? 0 : 2; // help is no error; commander has said the rest
  say(describe(error).replace(/^Error: /, ""));
  return isA(error, UsageError) ? 2 : 1;
};
