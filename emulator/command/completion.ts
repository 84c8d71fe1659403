/**
 * `socklet completion`: scripts by which bash and zsh complete the command, made from its table of commands. They are
 * whole in themselves: no key waits for a Node to start, and nothing that was typed is run.
 */

import type { Argument, Command, Option } from "commander";
import { print } from "./terminal/output.ts";

type Shell = "bash" | "zsh";

/** What stands where a word is wanted: one of these words, a file, a folder, or anything. */
type Wanted = readonly string[] | "file" | "folder" | "any";

interface CompletedOption {
  /** `--log`, and its short form if it has one. */
  readonly names: readonly string[];
  readonly says: string;
  /** `null` if it takes no value. */
  readonly value: { readonly name: string; readonly wanted: Wanted } | null;
  /** It may be given more than once. */
  readonly isRepeated: boolean;
}

interface CompletedArgument {
  readonly name: string;
  readonly wanted: Wanted;
  /** All further words are of its kind, too. */
  readonly isLast: boolean;
}

/** One command, as a shell completes it. */
interface Completed {
  /** Its words: `socklet sessions list`. */
  readonly words: readonly string[];
  readonly says: string;
  readonly commands: readonly Completed[];
  readonly options: readonly CompletedOption[];
  readonly arguments: readonly CompletedArgument[];
}

/** By the name of what is wanted, as `--help` shows it: `<file>`, `<expected-file>`, `<module>`, `<folder>`. */
const wanted = (name: string, choices: readonly string[] | undefined): Wanted => {
  if (choices !== undefined) return choices;
  if (/(^|-)(file|module|handler)$/.test(name)) return "file"; // a handler is `module.ts#Name`
  return /(^|-)folder$/.test(name) ? "folder" : "any";
};

const optionOf = (option: Option): CompletedOption => {
  const { short, long, flags, description, argChoices, defaultValue } = option;
  const [, name] = /[<[](.+?)(?:\.\.\.)?[>\]]/.exec(flags) ?? [];
  return {
    names: [short, long].filter((one) => one !== undefined),
    says: description,
    value: name === undefined ? null : { name, wanted: wanted(name, argChoices) },
    isRepeated: option.variadic || Array.isArray(defaultValue),
  };
};

const argumentOf = (argument: Argument): CompletedArgument => ({
  name: argument.name(),
  wanted: wanted(argument.name(), argument.argChoices),
  isLast: argument.variadic,
});

/** A command and those below it. Each takes the options of those above it, too, but for the program's own. */
const completed = (
  command: Command,
  above: readonly string[] = [],
  passed: readonly Option[] = [],
): Completed => {
  const help = command.createHelp();
  const words = [...above, command.name()];
  const handed = above.length === 0 ? [] : [...passed, ...command.options];
  return {
    words,
    says: command.description(),
    commands: help.visibleCommands(command).map((one) => completed(one, words, handed)),
    options: [...help.visibleOptions(command), ...passed].map(optionOf),
    arguments: command.registeredArguments.map(argumentOf),
  };
};

const all = (command: Completed): Completed[] => [command, ...command.commands.flatMap(all)];

/** A word as both shells take it literally. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

const listed = (words: readonly string[]): string => words.map(quoted).join(" ");

// ---- bash ----

/** What a `case` of the script gives for a wanted word: a kind, or words. */
const wantedInBash = (what: Wanted): string => (typeof what === "string" ? what : `words ${what.join(" ")}`);

const bash = (program: Completed): string => {
  const name = program.words[0] as string;
  const commands = all(program).map(({ words, commands, options, arguments: args }) => {
    const valued = options.filter(({ value }) => value !== null).flatMap(({ names }) => names);
    const last = args.at(-1);
    return `    ${quoted(words.join(" "))})
      commands=(${listed(commands.map((one) => one.words.at(-1) as string))})
      options=(${listed(options.flatMap(({ names }) => names))})
      valued=${quoted(` ${valued.join(" ")} `)}
      arguments=(${listed(args.map(({ wanted }) => wantedInBash(wanted)))})
      rest=${quoted(last?.isLast ? wantedInBash(last.wanted) : "")} ;;`;
  });
  const values = all(program).flatMap(({ words, options }) =>
    options.flatMap(({ names, value }) =>
      value === null || value.wanted === "any"
        ? []
        : [
            `    ${names.map((one) => quoted(`${words.join(" ")} ${one}`)).join("|")}) wanted=${quoted(wantedInBash(value.wanted))} ;;`,
          ],
    ),
  );
  return `# bash completes ${name} by this: source <(${name} completion bash)
# It needs bash 3.2 or newer, and nothing else.

# What there is to complete after the words of a command: sets what _${name} has declared.
__${name}_command() {
  case $1 in
${commands.join("\n")}
  esac
}

# What an option of a command takes: sets wanted.
__${name}_value() {
  case $1 in
${values.join("\n")}
    *) wanted=any ;;
  esac
}

_${name}() {
  local command=${name} option= word= wanted= at=0 i IFS=$' \\t\\n'
  local current=\${COMP_WORDS[COMP_CWORD]}
  local -a commands options arguments
  local valued rest
  __${name}_command "$command"
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if [[ $word == = ]]; then continue; fi # of --option=value, which bash gives in three words
    if [[ -n $option ]]; then
      option=
    elif [[ $word == -* ]]; then
      if [[ $valued == *" $word "* ]]; then option=$word; fi
    elif [[ " \${commands[*]} " == *" $word "* ]]; then
      command="$command $word" at=0
      __${name}_command "$command"
    else
      at=$((at + 1))
    fi
  done
  if [[ $current == = ]]; then current=; fi
  if [[ -n $option ]]; then
    __${name}_value "$command $option"
  elif [[ $current == -* ]]; then
    wanted="words \${options[*]}"
  elif ((\${#commands[@]} > 0)); then
    wanted="words \${commands[*]}"
  elif ((at < \${#arguments[@]})); then
    wanted=\${arguments[at]}
  else
    wanted=$rest
  fi
  COMPREPLY=()
  IFS=$'\\n' # so that a name may have spaces
  case $wanted in
    words*) COMPREPLY=($(IFS=' '; compgen -W "\${wanted#words}" -- "$current")) ;;
    file) compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$current")) ;;
    folder) compopt -o dirnames 2>/dev/null || COMPREPLY=($(compgen -d -- "$current")) ;;
  esac
}

complete -F _${name} ${name}`;
};

// ---- zsh ----

/** Text within a specification of _arguments: of an option in brackets, of a command before a colon. */
const described = (text: string): string => text.replace(/[\\[\]:]/g, "\\$&");

const wantedInZsh = (what: Wanted): string => {
  if (typeof what !== "string") return `(${what.join(" ")})`;
  return { file: "_files", folder: "_files -/", any: "" }[what];
};

const zsh = (program: Completed): string => {
  const name = program.words[0] as string;
  const functionOf = ({ words }: Completed): string => `_${words.join("_").replaceAll("-", "_")}`;
  const functions = all(program).map((command) => {
    const options = command.options.map(({ names, says, value, isRepeated }) => {
      const others = isRepeated ? "'*'" : names.length > 1 ? quoted(`(${names.join(" ")})`) : "";
      const spelled = names.length > 1 ? `{${names.join(",")}}` : (names[0] as string);
      const takes = value === null ? "" : `:${described(value.name)}:${wantedInZsh(value.wanted)}`;
      return `${others}${spelled}${quoted(`[${described(says)}]${takes}`)}`;
    });
    const args = command.arguments.map(({ name: argument, wanted, isLast }, i) =>
      quoted(`${isLast ? "*" : i + 1}:${described(argument)}:${wantedInZsh(wanted)}`),
    );
    if (command.commands.length === 0) {
      return `${functionOf(command)}() {\n  _arguments ${[...options, ...args].join(" \\\n    ")}\n}`;
    }
    const commands = command.commands.map(
      (one) => `      ${quoted(`${one.words.at(-1)}:${described(one.says)}`)}`,
    );
    const branches = command.commands.map((one) => `      ${one.words.at(-1)}) ${functionOf(one)} ;;`);
    return `${functionOf(command)}() {
  local curcontext=$curcontext state line
  _arguments -C ${[...options, "'1: :->command'", "'*:: :->after'"].join(" \\\n    ")}
  case $state in
    command)
      local -a commands=(
${commands.join("\n")}
      )
      _describe command commands ;;
    after)
      case $line[1] in
${branches.join("\n")}
      esac ;;
  esac
}`;
  });
  return `#compdef ${name}
# zsh completes ${name} by this: source <(${name} completion zsh), after compinit

${functions.join("\n\n")}

if [[ $funcstack[1] == _${name} ]]; then _${name} "$@"; else compdef _${name} ${name}; fi`;
};

/** Prints the script for `shell` of the program that has this command. */
export const completion = (shell: Shell, program: Command): Promise<void> =>
  print({ bash, zsh }[shell](completed(program)));
