/** The shape of a command, and flags that several share. */
import type { ArgsDef } from 'citty';
import { KvtierError } from '#core/errors.ts';
import type { Knob } from '#config/knobs.ts';
import type { KvtierClient } from '#client/kvtier-client.ts';
import type { CliDeps } from './deps.ts';
import { findAgent, withHint } from './find-agent.ts';
import { clientKnobs, type Words } from './words.ts';

export interface Command {
  readonly name: string;
  /** One sentence for help and docs/cli.md. */
  readonly summary: string;
  readonly args: ArgsDef;
  /** Configuration flags that it takes. */
  readonly knobs: readonly Knob[];
  readonly maxPositionals: number;
  /** Resolves to the exit code. Errors: KvtierError, printed by run-cli.ts. */
  run(words: Words, deps: CliDeps): Promise<number>;
}

export const jsonArg = { json: { type: 'boolean', description: 'Print JSON for programs.' } } as const satisfies ArgsDef;

/** Flags of every command that talks to an agent. */
export const agentArgs = {
  url: {
    type: 'string',
    valueHint: 'url',
    description: 'Address of the agent; default: KVTIER_URL, or what agent.json in the data folder says.',
  },
  ...jsonArg,
} as const satisfies ArgsDef;

/** A command that asks a live agent. */
export function agentCommand(
  command: Omit<Command, 'run' | 'knobs'> & {
    ask(client: KvtierClient, words: Words, deps: CliDeps): Promise<number>;
  },
): Command {
  const { ask, ...rest } = command;
  return {
    ...rest,
    knobs: clientKnobs,
    async run(words, deps) {
      const agent = findAgent(words, deps);
      try {
        return await ask(agent.client, words, deps);
      } catch (error) {
        throw withHint(error, agent);
      }
    },
  };
}

export function printJson(deps: CliDeps, value: unknown): void {
  deps.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}

/** Whole number of a flag. Errors: BAD_REQUEST. */
export function countOf(
  words: Words,
  name: string,
  bounds: { readonly fallback: number; readonly min: number; readonly max: number },
): number {
  const text = words.text.get(name);
  if (text === undefined) return bounds.fallback;
  const value = Number(text);
  if (/^\d{1,15}$/.test(text) && value >= bounds.min && value <= bounds.max) return value;
  throw new KvtierError('BAD_REQUEST', `--${name} is '${text}': a whole number from ${bounds.min} to ${bounds.max} is wanted`);
}

/** One of the words. Errors: BAD_REQUEST. */
export function oneOf<const Options extends readonly string[]>(
  name: string,
  text: string | undefined,
  options: Options,
): Options[number] | undefined {
  if (text === undefined) return undefined;
  const found = options.find((option) => option === text);
  if (found === undefined) throw new KvtierError('BAD_REQUEST', `${name} is '${text}': one of ${options.join(', ')} is wanted`);
  return found;
}
