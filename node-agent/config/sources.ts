/**
 * Where raw values come from: command line, KVTIER_* variables, TOML file. Each reader returns what it found for known knobs and
 * appends a sentence to `problems` for everything else; nobody throws, so that all problems are told at once.
 */
import { parse as parseToml, TomlError } from 'smol-toml';
import { knobs, otherVariables, testPrefixes, type Knob, type KnobKey } from './knobs.ts';

export type Origin = 'flag' | 'variable' | 'file' | 'default' | 'derived';

export interface RawValue {
  /** Text from flags and variables; whatever TOML holds from a file. */
  readonly value: unknown;
  readonly origin: 'flag' | 'variable' | 'file';
  /** How the person wrote it: `--ram`, `KVTIER_RAM`, `ram.size in kvtier.toml`. */
  readonly name: string;
}

export type RawValues = Map<KnobKey, RawValue>;

const PREFIX = 'KVTIER_';
const byFlag = new Map<string, Knob>(knobs.map((knob) => [knob.flag, knob]));
const byVariable = new Map<string, Knob>(knobs.map((knob) => [knob.variable, knob]));
const byKey = new Map<string, Knob>(knobs.map((knob) => [knob.key, knob]));

/** Edit distance of two short words. */
function distance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= right.length; j += 1) {
      const change = (row[j - 1] ?? 0) + (left[i - 1] === right[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[right.length] ?? 0;
}

/** `; did you mean --ram?`, or nothing where no name is within a third of its letters. `prefix` is put before the name. */
export function suggestion(given: string, names: Iterable<string>, prefix = ''): string {
  if (given.length > 64) return '';
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(given.length / 3)) + 0.5;
  for (const name of names) {
    const value = distance(given.toLowerCase(), name.toLowerCase());
    if (value < bestDistance) [best, bestDistance] = [name, value];
  }
  return best === undefined ? '' : `; did you mean ${prefix}${best}?`;
}

interface FlagWord {
  readonly name: string;
  readonly negated: boolean;
  /** Behind `=`. */
  readonly inline: string | undefined;
}

function splitFlag(word: string): FlagWord {
  const equals = word.indexOf('=');
  const name = equals < 0 ? word.slice(2) : word.slice(2, equals);
  const inline = equals < 0 ? undefined : word.slice(equals + 1);
  const positive = name.startsWith('no-') ? name.slice(3) : '';
  const negated = byFlag.get(positive)?.shape === 'boolean';
  return { name: negated ? positive : name, negated, inline };
}

/** Reads `--flag value`, `--flag=value`, `--flag` and `--no-flag` for booleans; repeatable flags collect. */
export function readFlags(argv: readonly string[], problems: string[]): RawValues {
  const values: RawValues = new Map();
  /** The flag whose value a loose word may be a part of: one with a secret, or one that is none (`-token`, `--tokn`). Such words are not quoted. */
  let hushed: string | undefined;
  for (let index = 0; index < argv.length; index += 1) {
    const word = argv[index] ?? '';
    if (!word.startsWith('--')) {
      const quoted = hushed === undefined || word.startsWith('-') ? `'${word.split('=')[0] ?? ''}'` : `behind ${hushed}`;
      problems.push(`Unexpected argument ${quoted}: settings are given as --name value`);
      if (word.startsWith('-')) hushed = word.split('=')[0];
      continue;
    }
    const { name, negated, inline } = splitFlag(word);
    const knob = byFlag.get(name);
    hushed = knob === undefined || knob.secret === true ? `--${name}` : undefined;
    if (knob === undefined) {
      problems.push(`Unknown flag --${name}${suggestion(name, byFlag.keys(), '--')}`);
      const following = argv[index + 1];
      if (inline === undefined && following !== undefined && !following.startsWith('-')) index += 1;
      continue;
    }
    let value = inline;
    if (knob.shape === 'boolean') {
      if (negated && inline !== undefined) problems.push(`--no-${name} takes no value, '${inline}' is given`);
      value = negated ? 'false' : (inline ?? 'true');
    } else if (value === undefined) {
      value = argv[index + 1];
      if (value === undefined || value.startsWith('--')) {
        problems.push(`--${name} needs a value: --${name} <${knob.hint}>`);
        continue;
      }
      index += 1;
    }
    store(values, { knob, value, problems });
  }
  return values;
}

function store(values: RawValues, given: { readonly knob: Knob; readonly value: string; readonly problems: string[] }): void {
  const { knob, value, problems } = given;
  const name = `--${knob.flag}`;
  const earlier = values.get(knob.key);
  if (knob.repeatable === true) {
    const list = Array.isArray(earlier?.value) ? (earlier.value as unknown[]) : [];
    values.set(knob.key, { value: [...list, value], origin: 'flag', name });
  } else if (earlier === undefined) {
    values.set(knob.key, { value, origin: 'flag', name });
  } else {
    const both = knob.secret === true ? '' : `: '${String(earlier.value)}' and '${value}'`;
    problems.push(`${name} is given twice${both}`);
  }
}

/**
 * Variables that Kubernetes sets in every pod for a Service called kvtier or kvtier-something. They are nobody's configuration,
 * so they are passed over; no knob's variable has this form (a test compares).
 */
export function isServiceLink(variable: string): boolean {
  return /_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?$/.test(variable) || /_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$/.test(variable);
}

/** Reads KVTIER_* variables. An empty one is refused: it is more often a mistake than a wish. */
export function readVariables(env: Readonly<Record<string, string | undefined>>, problems: string[]): RawValues {
  const values: RawValues = new Map();
  for (const [name, value] of Object.entries(env)) {
    if (
      !name.startsWith(PREFIX) ||
      value === undefined ||
      otherVariables.includes(name) ||
      isServiceLink(name) ||
      testPrefixes.some((prefix) => name.startsWith(prefix))
    )
      continue;
    const knob = byVariable.get(name);
    if (knob === undefined)
      problems.push(
        `Unknown variable ${name}${suggestion(
          name.slice(PREFIX.length),
          [...byVariable.keys()].map((known) => known.slice(PREFIX.length)),
          PREFIX,
        )}`,
      );
    else if (value === '') problems.push(`${name} is set but empty: give it a value or unset it`);
    else values.set(knob.key, { value, origin: 'variable', name });
  }
  return values;
}

/** Reads a TOML text. `path` is only for messages. */
export function readToml(source: string, path: string, problems: string[]): RawValues {
  const values: RawValues = new Map();
  let root: Record<string, unknown>;
  try {
    root = parseToml(source);
  } catch (error) {
    problems.push(`Cannot read ${path} as TOML: ${tomlMessage(error)}`);
    return values;
  }
  const tenants: Record<string, unknown> = {};
  const walk = (table: Record<string, unknown>, prefix: string): void => {
    for (const [name, value] of Object.entries(table)) {
      const key = `${prefix}${name}`;
      // `[tenants.NAME]`: a table for each, beside the settings of the same prefix.
      if (prefix === 'tenants.' && (isTable(value) || !byKey.has(key))) {
        Object.defineProperty(tenants, name, { value, enumerable: true });
        continue;
      }
      const knob = byKey.get(key);
      if (knob?.key === 'config') problems.push(`${path} sets config: a file cannot name another file`);
      else if (knob !== undefined) values.set(knob.key, { value, origin: 'file', name: `${key} in ${path}` });
      else if (isTable(value) && knobs.some((known) => known.key.startsWith(`${key}.`))) walk(value, `${key}.`);
      else problems.push(`Unknown key ${key} in ${path}${suggestion(key, byKey.keys())}`);
    }
  };
  walk(root, '');
  if (Object.keys(tenants).length > 0) {
    if (values.has('tenants.tokens')) problems.push(`${path} gives tenants both as tables and as tenants.tokens: drop one`);
    values.set('tenants.tokens', { value: tenants, origin: 'file', name: `tenants in ${path}` });
  }
  return values;
}

/** One line: the parser's own message carries a drawing of the place. */
function tomlMessage(error: unknown): string {
  if (error instanceof TomlError) return `line ${error.line}, column ${error.column}: ${error.message.split('\n')[0] ?? ''}`;
  return error instanceof Error ? error.message : String(error);
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
