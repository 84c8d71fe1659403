/** docs/command-line.md: what `socklet --help` says, and that of each command, as the command itself prints it. */

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
    "`npm install socklet` brings the command `socklet`; `npx socklet` runs it. In a clone: `npm run socklet -- …`.",
    "`npm run docs` writes this page from the commands themselves.",
    "",
    "```sh",
    "socklet dev app.ts",
    "socklet serve app.ts",
    "socklet dial 127.0.0.1:6379 resp.ts#RespClient PING",
    'socklet dial 127.0.0.1:6379 respClient --app app.ts --params \'[["SET","k","v"],["GET","k"]]\'',
    "socklet sessions list",
    "```",
    "",
    "`app.ts` is a module that imports `socklet` alone and exports `app`, made by `defineApp`.",
    "",
    "**Exit status.** 0: done. 1: it could not be done, or a stop had to cut off a request that still ran. 2: it was asked",
    "wrongly.",
    "",
    "**Signals.** SIGINT and SIGTERM stop `serve`: what runs is finished, and a second one aborts it. SIGHUP does the same",
    "when the terminal goes away. Without a terminal it reloads (there is nothing to reload yet), and under `nohup` it is",
    "ignored.",
    "",
    "**Cache.** What V8 has compiled is kept in `~/.cache/socklet` (or `$XDG_CACHE_HOME/socklet`), so that the next start takes less.",
    "`NODE_DISABLE_COMPILE_CACHE=1` turns that off. It can be deleted at any time.",
    "",
    "**Completion.** bash and zsh (after `compinit`) complete commands, options, their choices, files and folders. `npx socklet` is",
    'not completed; where `socklet` is not on the `PATH`, define it: `socklet() { npx socklet "$@"; }`.',
    "",
    "```sh",
    "source <(socklet completion bash)    # in ~/.bashrc; in ~/.zshrc: source <(socklet completion zsh)",
    "```",
    ...section([]),
  ];
  return `${lines.join("\n")}\n`;
};
