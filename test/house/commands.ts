/** docs/command-line.md: the output of `socklet --help`, and of `--help` of each command. */

import { execFileSync } from "node:child_process";

const help = (...words: readonly string[]): string =>
  execFileSync(
    process.execPath,
    ["--conditions=socklet:source", "emulator/command/cli.ts", ...words, "--help"],
    {
      encoding: "utf8",
      env: { ...process.env, COLUMNS: "100", NO_COLOR: "1", SOCKLET_URL: "", SOCKLET_TOKEN: "" },
    },
  );

/** The commands that a help text lists, but for `help`. */
const commandsOf = (text: string): string[] =>
  [...(text.split(/^Commands:$/m)[1] ?? "").matchAll(/^ {2}([a-z][\w-]*)/gm)]
    .map(([, name]) => name as string)
    .filter((name) => name !== "help");

const section = (words: readonly string[]): string[] => {
  const text = help(...words);
  const title = ["socklet", ...words].join(" ");
  const own = ["", `${"#".repeat(words.length + 2)} \`${title}\``, "", "```text", text.trimEnd(), "```"];
  return [...own, ...commandsOf(text).flatMap((name) => section([...words, name]))];
};

/** The text of docs/command-line.md. */
export const commandsPage = (): string => {
  const lines = [
    "# Command line",
    "",
    "`npm install socklet` installs the command `socklet`; run it with `npx socklet`. In a clone: `npm run socklet -- …`.",
    "`npm run docs` generates this page from the commands themselves.",
    "",
    "```sh",
    "socklet dev app.ts",
    "socklet serve app.ts",
    "socklet dial 127.0.0.1:6379 resp.ts#RespClient PING",
    'socklet dial 127.0.0.1:6379 respClient --app app.ts --params \'[["SET","k","v"],["GET","k"]]\'',
    "socklet sessions list",
    "```",
    "",
    "`app.ts` is a module that exports `app`, made by `defineApp()`. It imports only `socklet`.",
    "",
    "**Exit status.** 0: success. 1: the command failed, or a stop had to cut off a request that was still running. 2: wrong",
    "usage.",
    "",
    "**Signals.** SIGINT and SIGTERM stop `serve`: running requests are finished, and a second signal aborts them. When the",
    "terminal goes away, SIGHUP does the same. Without a terminal SIGHUP reloads certificates, and under `nohup`",
    "it is ignored.",
    "",
    "**Cache.** V8's compiled code is kept in `~/.cache/socklet` (or `$XDG_CACHE_HOME/socklet`), which makes the next start",
    "faster. `NODE_DISABLE_COMPILE_CACHE=1` turns that off. The folder can be deleted at any time.",
    "",
    "**Completion.** bash and zsh (after `compinit`) complete commands, options, their choices, files and folders. They do not",
    'complete `npx socklet`; if `socklet` is not on the `PATH`, define it: `socklet() { npx socklet "$@"; }`.',
    "",
    "```sh",
    "source <(socklet completion bash)    # in ~/.bashrc; in ~/.zshrc: source <(socklet completion zsh)",
    "```",
    ...section([]),
  ];
  return `${lines.join("\n")}\n`;
};
