/** `socklet completion`: its scripts, in the shells that they are for. */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { describeWith } from "../peers/program.ts";
import { typed } from "./terminal.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const cli = (...args: readonly string[]): string =>
  execFileSync(process.execPath, ["--conditions=socklet:source", "emulator/command/cli.ts", ...args], {
    cwd: root,
    encoding: "utf8",
  });

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "socklet-completion-"));
  for (const shell of ["bash", "zsh"])
    writeFileSync(join(folder, `script.${shell}`), cli("completion", shell));
  // What their users have in the files that a shell reads when it starts.
  writeFileSync(join(folder, "bashrc"), `PS1='ready> '; source ${join(folder, "script.bash")}\n`);
  const zshrc = `PROMPT='ready> '; autoload -U compinit; compinit -D -u; source ${join(folder, "script.zsh")}\n`;
  writeFileSync(join(folder, ".zshrc"), zshrc);
  mkdirSync(join(folder, "cwd/a folder"), { recursive: true });
  for (const name of ["my app.ts", "app.ts", "other.ts"]) writeFileSync(join(folder, "cwd", name), "");
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The commands of a line of docs/command-line.md, which is the text of `--help`: these must be offered. */
const commandsOf = (title: string): string[] => {
  const page = readFileSync(join(root, "docs/command-line.md"), "utf8");
  const [, section = ""] = page.split(new RegExp(`^#+ \`${title}\`$`, "m"));
  const [, list = ""] = (section.split("```")[1] ?? "").split(/^Commands:$/m);
  return [...list.matchAll(/^ {2}([a-z][\w-]*)/gm)].map(([, name]) => name as string);
};

test("a shell that there is no script for is refused", () => {
  const { status, stderr } = spawnSync(
    process.execPath,
    ["--conditions=socklet:source", "emulator/command/cli.ts", "completion", "fish"],
    { cwd: root, encoding: "utf8" },
  );
  expect([status, stderr]).toEqual([2, expect.stringContaining("bash, zsh")]);
});

describeWith(["bash"], "bash", () => {
  /** What bash offers for the last of `words`, passed to the function as bash passes the words of a line. */
  const offered = (...words: string[]): string[] => {
    const program = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _socklet; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const given = ["--norc", "-c", program, "bash", join(folder, "script.bash"), "socklet", ...words];
    const { stdout, stderr, status } = spawnSync("bash", given, {
      cwd: join(folder, "cwd"),
      encoding: "utf8",
    });
    expect([status, stderr]).toEqual([0, ""]);
    return stdout.split("\n").filter((line) => line !== "");
  };

  test("every command, and every one of sessions", () => {
    expect(offered("")).toEqual(commandsOf("socklet"));
    expect(offered("sessions", "")).toEqual(commandsOf("socklet sessions"));
    expect(offered("se")).toEqual(["serve", "sessions"]);
    expect(offered("sessions", "half")).toEqual(["half-close"]);
  });

  test("the options of a command, and of those above it", () => {
    expect(offered("serve", "--dr")).toEqual(["--drain", "--drain-delay"]);
    expect(offered("sessions", "list", "--")).toEqual(
      expect.arrayContaining(["--state", "--limit", "--url", "--token", "--json", "--help"]),
    );
    expect(offered("sessions", "list", "--")).not.toContain("--version");
    expect(offered("sessions", "--url", "list", "--st")).toEqual([]); // which is the URL
  });

  test("the values of an option: its choices, files, folders, or nothing", () => {
    expect(offered("serve", "--log", "")).toEqual(["json", "pretty", "off"]);
    expect(offered("serve", "--log", "=", "p")).toEqual(["pretty"]); // --log=p
    expect(offered("serve", "--log", "=")).toEqual(["json", "pretty", "off"]); // --log=
    expect(offered("serve", "--data", "")).toEqual(["a folder"]);
    expect(offered("dial", "--app", "m")).toEqual(["my app.ts"]);
    expect(offered("serve", "--host", "")).toEqual([]);
    expect(offered("init", "--runtime", "")).toEqual(["node", "workerd", "both"]);
  });

  test("arguments: each has its kind, and options between them count for nothing", () => {
    expect(offered("serve", "--log", "json", "app")).toEqual(["app.ts"]);
    expect(offered("dial", "a")).toEqual([]); // an address
    expect(offered("dial", "127.0.0.1:1", "--verbose", "o")).toEqual(["other.ts"]);
    expect(offered("diff", "app.ts", "o")).toEqual(["other.ts"]);
    expect(offered("diff", "app.ts", "other.ts", "")).toEqual([]);
    expect(offered("completion", "")).toEqual(["bash", "zsh"]);
    expect(offered("init", "")).toEqual(["a folder"]);
  });

  test("what was typed is not run", () => {
    expect(offered("serve", "$(touch ran)", "`touch ran`", "")).toEqual([]);
    expect(offered("serve", "$(touch r")).toEqual([]);
    expect(offered("diff", "x", "")).not.toContain("ran");
  });

  test("at a terminal, by the key", async () => {
    const said = await typed(["bash", "--noprofile", "--rcfile", join(folder, "bashrc"), "-i"], options(), [
      ["ready> ", "socklet doc\t"],
      ["socklet doctor ", "my\t"],
      ["my\\ app.ts ", "\u0015socklet serve --log=pr\t"],
      ["--log=pretty ", "\u0015exit\r"],
    ]);
    expect(said).toContain("ended 0");
  });
});

const options = (): Parameters<typeof typed>[1] => ({
  cwd: join(folder, "cwd"),
  env: { ...process.env, HOME: folder, ZDOTDIR: folder, TERM: "dumb" },
});

describeWith(["zsh"], "zsh", () => {
  /** What stands on the line after each of what is typed, completed. */
  const completes = (...lines: (readonly [typed: string, becomes: string])[]): Promise<string> =>
    typed(["zsh", "-d", "-i"], options(), [
      ["ready> ", ""],
      ...lines.flatMap(([line, becomes]) => [["", `${line}\t`] as const, [becomes, "\u0015"] as const]),
      ["", "exit\r"],
    ]);

  test("commands, options, choices, files and folders, by the key", async () => {
    const said = await completes(
      ["socklet doc", "socklet doctor "],
      ["socklet sessions half", "socklet sessions half-close "],
      ["socklet serve --reuse", "socklet serve --reuse-port "],
      ["socklet sessions list --tok", "socklet sessions list --token "],
      ["socklet serve --log pre", "socklet serve --log pretty "],
      ["socklet init --runtime bo", "socklet init --runtime both "],
      ["socklet serve oth", "socklet serve other.ts "],
      ["socklet serve --data a\\ f", "socklet serve --data a\\ folder/"],
      ["socklet dial 127.0.0.1:1 oth", "socklet dial 127.0.0.1:1 other.ts "],
      ["socklet diff app.ts oth", "socklet diff app.ts other.ts "],
    );
    expect(said).toContain("ended 0");
  });

  test("a list has what each command does", async () => {
    const said = await completes([
      "socklet sessions h\u0008",
      "end this side's direction of a session's connection",
    ]);
    for (const name of commandsOf("socklet sessions")) expect(said).toContain(name);
  });

  test("as a file of its own in fpath", () => {
    writeFileSync(join(folder, "_socklet"), readFileSync(join(folder, "script.zsh")));
    const program = `fpath=("$1" $fpath); autoload -U compinit; compinit -D -u; print $_comps[socklet]; autoload +X _socklet; print $+functions[_socklet]`;
    const said = spawnSync("zsh", ["-f", "-c", program, "zsh", folder], { encoding: "utf8" });
    expect([said.stdout, said.stderr]).toEqual(["_socklet\n1\n", ""]);
  });
});
