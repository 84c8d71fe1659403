/** The command `socklet`: its commands, their arguments and flags, and what runs each of them. */

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

/** All commands with their arguments and flags. Nothing runs until it is given arguments to parse. */
export const program = new Command("socklet")
  .description("Socket handlers, written once: serve an app on real sockets, or dial with one handler.")
  .version(version)
  .exitOverride();

/** Adds the options of every command that serves an app. */
const ofServing = (command: Command): Command =>
  command
    .argument("<module>", "a module with `export const app = defineApp({ … })`")
    .option("--host <host>", "listen on this host instead of the app's")
    .option("--any-port", "listen on free ports instead of the app's; its `dial` entries follow")
    .option("--data <folder>", "where the app stores its data", ".socklet/data")
    .option("--drain <ms>", "how long running requests may continue after Ctrl-C", milliseconds, 10_000)
    .option(
      "--drain-delay <ms>",
      "how long to go on accepting after Ctrl-C, while /v1/ready already answers 503",
      count(0, MAX_TIMER),
      0,
    )
    .addOption(
      new Option(
        "--tls <certificate>",
        "the certificate for every listener with TLS, for development",
      ).choices(["self-signed"]),
    )
    .option(
      "--control-port <port>",
      "serve the control routes on this port (default: 7100 if it is free)",
      portNumber,
    )
    .option("--no-control", "do not serve the control routes")
    .option(
      "--inspect",
      "serve the inspector, a page that shows live traffic (`dev` does so unless --no-inspect is given)",
    )
    .option("--no-inspect", "do not serve the inspector")
    .addOption(
      new Option(
        "--log <format>",
        "how events are printed on stderr: JSON, one line for every event, or text (default: text on a terminal, else JSON)",
      )
        .choices(LOG_FORMATS)
        .env("SOCKLET_LOG"),
    )
    .option("--record <folder>", "write a transcript for each listener and each dialled server")
    .option("--verbose", "report the events of requests, not only errors");

program
  .command("init")
  .description("create a project: a handler, its test, and scripts; asks at a terminal for what is not given")
  .argument("[folder]", "where to create it; the folder must be empty or not exist")
  .addOption(new Option("--runtime <runtime>", "what it is for").choices(["node", "workerd", "both"]))
  .addOption(
    new Option(
      "--protocol <protocol>",
      "what it starts from: lines of text or binary frames over TCP, datagrams over UDP, or a client",
    ).choices(["lines", "frames", "datagrams", "client"]),
  )
  .option("--yes", "ask nothing, and use the defaults: node, lines")
  .action(async (folder, flags) => (await import("./project/init.ts")).init(folder, flags));

ofServing(program.command("serve").description("serve all listeners of an app until Ctrl-C"))
  .option("--workers <count>", "serve with this many processes; auto: one per core", workerCount)
  .option("--reuse-port", "give each worker its own socket on each port (SO_REUSEPORT)")
  .option("--fd <name=number>", "use this descriptor for a listener, or for `control`", descriptorFlag)
  .action((path, flags) => serve(path, flags));

ofServing(
  program
    .command("dev")
    .description("serve an app, and use its new handlers for new connections whenever a file is saved"),
)
  .addOption(
    new Option(
      "--runtime <runtime>",
      "serve in Node, in workerd (Miniflare, of the project's wrangler), or in both, workerd's ports behind Node's",
    )
      .choices(["node", "workerd", "both"])
      .default("node"),
  )
  .option(
    "--edge",
    "enforce the rules of Cloudflare's edge on the app, and report those that it meets: docs/edge.md",
  )
  .option("--edge-except <rules>", "the same, except for these rules: private-address,port-25", ruleNames)
  .action(async (path, flags) => (await import("./run/dev.ts")).dev(path, flags));

program
  .command("restart")
  .description(
    "restart a running server on the same sockets (SIGUSR2), and wait until the new process serves",
  )
  .argument("[pid]", "its process id, if several servers run", count(1, 2 ** 31 - 1))
  .option("--json", "print JSON")
  .action(async (pid, flags) => (await import("./control/restart.ts")).restart(pid, flags));

program
  .command("doctor")
  .description(
    "check this machine and this project for problems, and say how to fix them; exit status 1 if something needs fixing",
  )
  .argument("[module]", "the app, whose listeners are checked, too")
  .option("--json", "print JSON")
  .action(async (path, flags) => (await import("./project/doctor.ts")).doctor(path, flags));

program
  .command("dial")
  .description("dial an address, run one handler on the connection, and print what it returns as JSON")
  .argument("<address>", "tcp://host:port, tls://host:port or unix:/path")
  .argument("<handler>", "module.ts#Name, or a name in the app of --app")
  .argument("[params...]", "strings that the handler gets as its params")
  .option("--app <module>", "the app that has the handler and makes its context")
  .option("--params <json>", "params as JSON, if they are not strings")
  .addOption(
    new Option(
      "--secure-transport <how>",
      "TLS from the first byte, as with tls://, or when the handler starts it",
    ).choices(SECURE_TRANSPORTS),
  )
  .option("--connect-timeout <ms>", "how long the connection may take to open", milliseconds, 10_000)
  .option("--data <folder>", "where the app keeps its bytes", ".socklet/data")
  .option("--verbose", "report the events of requests, not only errors")
  .action(async (address, name, words, flags) =>
    (await import("./run/dial.ts")).dial(address, name, words, flags),
  );

program
  .command("proxy")
  .description("run a proxy between clients and a server that shows, records or breaks what passes")
  .argument("<address>", "the server: tcp://host:port, tls://host:port, udp://host:port or unix:/path")
  .requiredOption("--listen <address>", "where clients connect: host:port; port 0 takes a free one")
  .option("--record <file>", "write a transcript of everything that passes, as JSON Lines")
  .option("--json", "print the transcript instead of readable text")
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
    'a fault, such as "latency=100 from=server", "reset after=1000", "stall in=10s for=5s"; can be repeated',
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
    "play the client, to this server: tcp://host:port, tls://host:port, udp://host:port",
  )
  .option("--listen <address>", "play the server, here: host:port; port 0 takes a free one")
  .option(
    "--connection <number>",
    "only this connection of the transcript",
    count(1, Number.MAX_SAFE_INTEGER),
  )
  .option("--paced", "keep the pauses of the recording")
  .option(
    "--ca <file>",
    "with --to, if the server uses TLS: trust the authorities in this file (PEM) instead of the system's",
  )
  .option("--timeout <ms>", "how long each step may wait for the other side", milliseconds, 10_000)
  .action(async (file, flags) => (await import("./wire/transcripts.ts")).replayFile(file, flags));

program
  .command("diff")
  .description("compare two transcripts, and show where they differ; exit status 1 if they do")
  .argument("<expected-file>", "a transcript")
  .argument("<actual-file>", "another transcript")
  .option("--apart", "compare each side by itself, not the order in which the two spoke")
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
    "the server's port, from which Wireshark guesses the protocol: 25, 6379",
    count(1, 65_535),
  )
  .action(async (file, flags) => (await import("./wire/transcripts.ts")).exportFile(file, flags));

/** Adds the options of every command that uses a control plane. */
const ofControl = (command: Command): Command =>
  command
    .addOption(new Option("--url <url>", "the control plane").env("SOCKLET_URL"))
    .addOption(new Option("--token <token>", "a token of the control plane").env("SOCKLET_TOKEN"))
    .option("--json", "print JSON");

ofControl(program.command("pools"))
  .description("show the pools of an emulator or a Worker, and their counts")
  .argument("[name]", "only this pool")
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
  .description("show the listeners with their counts, or their events")
  .option("--follow", "print the events of the listeners' servers until they close, or until Ctrl-C")
  .option("--after <event>", "only events after the one with this number", count(0, Number.MAX_SAFE_INTEGER))
  .action(session("listListeners"));

sessions.command("show").description("show one session").argument("<id>").action(session("showSession"));

sessions
  .command("follow")
  .description("print the events of a session until it is over, or until Ctrl-C")
  .argument("<id>")
  .option("--after <event>", "only events after the one with this number", count(0, Number.MAX_SAFE_INTEGER))
  .action(session("followSession"));

sessions
  .command("run")
  .description("start a session, and print its result as JSON")
  .argument("<name>", "an entry of the app's `dial`; with --address, a handler")
  .argument("[params...]", "words that the handler gets as its params")
  .option("--address <address>", "dial tcp://host:port, which the app's `allow` must name")
  .option("--params <json>", "params that are not words")
  .option("--background", "print its id, and do not wait for its end")
  .option("--deadline <ms>", "how long it may last", milliseconds)
  .option("--connect-timeout <ms>", "how long the connection may take to open", milliseconds)
  .addOption(new Option("--secure-transport <when>", "TLS").choices(SECURE_TRANSPORTS))
  .action(session("runSession"));

sessions
  .command("send")
  .description("send bytes on a session's connection")
  .argument("<id>")
  .argument("[words...]", "the text to send; without any, standard input is sent")
  .option("--crlf", "end the text with CR LF")
  .action(session("sendToSession"));

sessions
  .command("half-close")
  .description("end this side's direction of a session's connection")
  .argument("<id>")
  .action(session("halfCloseSession"));

sessions
  .command("end")
  .description("end a session: its connection is reset")
  .argument("<id>")
  .option("--graceful", "close the connection once everything written has been sent, instead")
  .action(session("endSession"));

program
  .command("completion")
  .description("print a shell script for completion of this command: source <(socklet completion bash)")
  .addArgument(new Argument("<shell>", "the shell").choices(["bash", "zsh"]))
  .action(async (shell) => (await import("./completion.ts")).completion(shell, program));

program.hook("preAction", (_, command) => {
  if (isSince(process.versions.node, LEAST_NODE) || command.name() === "doctor") return; // doctor reports that itself
  throw new UsageError(
    `Socklet needs Node ${LEAST_NODE} or newer, which runs TypeScript directly; this is ${process.version}: install the current Node, or run npm install --save-dev node`,
  );
});

program.hook("preAction", () => {
  const { SSLKEYLOGFILE: path } = process.env;
  if (path) asked(`SSLKEYLOGFILE=${path}`, () => logKeysTo(path));
});

/** Makes the usage errors of `command`, called `name`, and of its subcommands point to their help. */
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

/** Prints why a command failed, and returns its exit status. */
export const statusOf = (error: unknown): number => {
  if (isA(error, CommanderError)) return error.exitCode === 0 ? 0 : 2; // help is not an error; commander has printed everything else
  say(describe(error).replace(/^Error: /, ""));
  return isA(error, UsageError) ? 2 : 1;
};
