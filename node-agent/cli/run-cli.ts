/** The command line: finds the command, prints help, runs it, and turns errors into exit codes. */
import { renderUsage, type CommandDef } from 'citty';
import { KvtierError } from '#core/errors.ts';
import { suggestion } from '#config/sources.ts';
import type { Command } from './command.ts';
import { invalidateCommand, verifyCommand } from './commands-change.ts';
import { pinCommand, quotaCommand, unpinCommand } from './commands-keep.ts';
import { ramCommand } from './command-ram.ts';
import { configCommand, doctorCommand, frontCommand, serveCommand, versionCommand } from './commands-host.ts';
import { lookupCommand, lsCommand, statsCommand } from './commands-read.ts';
import type { CliDeps } from './deps.ts';
import { EXIT_OK, EXIT_USAGE, exitCodeOf } from './exit-codes.ts';
import { knobArgs, splitWords } from './words.ts';

/** In the order of help. */
export const commands: readonly Command[] = [
  serveCommand,
  frontCommand,
  statsCommand,
  lsCommand,
  lookupCommand,
  invalidateCommand,
  pinCommand,
  unpinCommand,
  quotaCommand,
  verifyCommand,
  doctorCommand,
  ramCommand,
  configCommand,
  versionCommand,
];

const description = 'Node-local tiered KV cache for LLM serving';

/**
 * citty declares commands and prints their help. It does not run them: it takes unknown flags silently, drops the exit code of a
 * subcommand, and throws a TypeError on `-_`.
 */
function cittyCommand(command: Command): CommandDef {
  return { meta: { name: command.name, description: command.summary }, args: { ...command.args, ...knobArgs(command.knobs) } };
}

function rootCommand(version: string): CommandDef {
  return {
    meta: { name: 'kvtier', version, description },
    subCommands: Object.fromEntries(commands.map((command) => [command.name, cittyCommand(command)])),
  };
}

/** Colours are citty's; they are taken out where nobody looks. */
async function usage(deps: CliDeps, name: string | undefined): Promise<string> {
  const root = rootCommand(deps.version);
  const command = commands.find((candidate) => candidate.name === name);
  const text = command === undefined ? await renderUsage(root) : await renderUsage(cittyCommand(command), root);
  // eslint-disable-next-line no-control-regex -- escape sequences start with a control character
  const shown = deps.stdout.isTerminal ? text : text.replace(/\u001b\[\d+m/g, '');
  return `${shown.replace(/ +$/gm, '')}\n`;
}

function usageError(deps: CliDeps, message: string): number {
  deps.stderr.write(`kvtier: ${message}\nSee kvtier --help\n`);
  return EXIT_USAGE;
}

/** `--help` and `-h` ask for help anywhere before `--`. */
function asksForHelp(words: readonly string[]): boolean {
  const end = words.indexOf('--');
  return (end < 0 ? words : words.slice(0, end)).some((word) => word === '--help' || word === '-h');
}

/**
 * Runs one command. Resolves to the exit code (exit-codes.ts); operating errors are printed to stderr, bugs are thrown.
 * `argv` is what stands behind `kvtier`.
 */
export async function runCli(argv: readonly string[], deps: CliDeps): Promise<number> {
  const [first, ...rest] = argv;
  if (first === undefined) {
    deps.stderr.write(await usage(deps, undefined));
    return EXIT_USAGE;
  }
  if (first === '--version' || first === '-v') return await runCli(['version', ...rest], deps);
  if (first === 'help' || first === '--help' || first === '-h') {
    deps.stdout.write(await usage(deps, rest[0]));
    return EXIT_OK;
  }
  if (first.startsWith('-')) return usageError(deps, `Flag ${first.slice(0, 200)} stands before the command: put it behind`);
  const command = commands.find((candidate) => candidate.name === first);
  if (command === undefined) {
    return usageError(
      deps,
      `Unknown command ${JSON.stringify(first.slice(0, 200))}${suggestion(
        first,
        commands.map(({ name }) => name),
      )}`,
    );
  }
  if (asksForHelp(rest)) {
    deps.stdout.write(await usage(deps, first));
    return EXIT_OK;
  }
  try {
    return await command.run(splitWords(rest, { args: command.args, knobs: command.knobs, maxPositionals: command.maxPositionals }), deps);
  } catch (error) {
    if (!(error instanceof KvtierError)) throw error;
    printError(error, rest.includes('--json'), deps);
    return exitCodeOf(error);
  }
}

function printError(error: KvtierError, json: boolean, deps: CliDeps): void {
  if (!json) {
    deps.stderr.write(`kvtier: ${error.message}\n`);
    return;
  }
  const { code, message, retryable } = error;
  deps.stderr.write(`${JSON.stringify({ error: { code, message, retryable } })}\n`);
}
