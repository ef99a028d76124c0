/**
 * Splits the words behind a command by what the command declares. citty prints help, but takes unknown flags silently; a misspelt
 * `--dry-run` must not get through, so the reading is ours.
 */
import type { ArgsDef } from 'citty';
import { badRequest } from '#core/errors.ts';
import { knobs, type Knob } from '#config/knobs.ts';
import { suggestion } from '#config/sources.ts';

export interface Words {
  /** Text of own flags that were given. */
  readonly text: ReadonlyMap<string, string>;
  /** Own boolean flags that were given. */
  readonly on: ReadonlySet<string>;
  readonly positionals: readonly string[];
  /** Words of configuration flags, for loadConfig. */
  readonly config: readonly string[];
}

export interface Accepts {
  readonly args: ArgsDef;
  /** Configuration flags that the command takes, too. */
  readonly knobs: readonly Knob[];
  /** Most positionals; further ones are refused. */
  readonly maxPositionals: number;
}

/** Errors: BAD_REQUEST for unknown flags, missing values, flags given twice, and too many arguments. */
export function splitWords(rawArgs: readonly string[], accepts: Accepts): Words {
  const text = new Map<string, string>();
  const on = new Set<string>();
  const positionals: string[] = [];
  const config: string[] = [];
  const knobFlags = new Map(accepts.knobs.map((knob) => [knob.flag, knob]));
  let onlyPositionals = false;
  for (let index = 0; index < rawArgs.length; index += 1) {
    const word = rawArgs[index] ?? '';
    if (onlyPositionals || !word.startsWith('-') || word === '-') {
      positionals.push(word);
      continue;
    }
    if (word === '--') {
      onlyPositionals = true;
      continue;
    }
    const equals = word.indexOf('=');
    const name = (equals < 0 ? word : word.slice(0, equals)).replace(/^--/, '');
    const inline = equals < 0 ? undefined : word.slice(equals + 1);
    const own = word.startsWith('--') && Object.hasOwn(accepts.args, name) ? accepts.args[name] : undefined;
    if (own !== undefined && own.type !== 'positional') {
      if (text.has(name) || on.has(name)) throw badRequest(`--${name} is given twice`);
      if (own.type === 'boolean') {
        if (inline !== undefined) throw badRequest(`--${name} takes no value, '${inline}' is given`);
        on.add(name);
      } else {
        text.set(name, valueOf(name, inline, rawArgs[index + 1]));
        if (inline === undefined) index += 1;
      }
      continue;
    }
    const knob = knobFlags.get(name) ?? knobFlags.get(name.replace(/^no-/, ''));
    if (knob === undefined || !word.startsWith('--')) {
      const known = [...Object.keys(accepts.args).filter((key) => accepts.args[key]?.type !== 'positional'), ...knobFlags.keys()];
      throw badRequest(`Unknown flag ${word.slice(0, 200)}${suggestion(name, known, '--')}`);
    }
    config.push(word);
    const following = rawArgs[index + 1];
    if (knob.shape !== 'boolean' && inline === undefined && following !== undefined) {
      config.push(following);
      index += 1;
    }
  }
  if (positionals.length > accepts.maxPositionals) {
    throw badRequest(`Unexpected argument '${positionals[accepts.maxPositionals] ?? ''}'`);
  }
  return { text, on, positionals, config };
}

function valueOf(name: string, inline: string | undefined, following: string | undefined): string {
  const value = inline ?? following;
  if (value === undefined || value === '' || (inline === undefined && value.startsWith('--'))) throw badRequest(`--${name} needs a value`);
  return value;
}

/** Configuration flags as citty declares flags, for help. */
export function knobArgs(selected: readonly Knob[]): ArgsDef {
  return Object.fromEntries(
    selected.map((knob) => [
      knob.flag,
      knob.shape === 'boolean'
        ? { type: 'boolean' as const, description: `${knob.description} Default: ${plain(knob.defaultText)}` }
        : { type: 'string' as const, valueHint: knob.hint, description: `${knob.description} Default: ${plain(knob.defaultText)}` },
    ]),
  );
}

function plain(markdown: string): string {
  return markdown.replaceAll('`', '');
}

/** Flags of every command that talks to an agent. */
export const clientKnobs: readonly Knob[] = knobs.filter((knob) =>
  ['config', 'dataDir', 'token', 'tokenFile', 'readToken', 'readTokenFile'].includes(knob.key),
);
