import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { commands } from '#cli/run-cli.ts';
import { knobs, otherVariables, testPrefixes } from '#config/knobs.ts';

const root = resolve(import.meta.dirname, '..', '..');

/** Pages of ours, wherever they lie. */
const pages = [...new Bun.Glob('**/*.md').scanSync({ cwd: root, dot: true })]
  .filter((path) => !/(^|\/)(node_modules|\.git|\.ci|\.kvtier|shared)\//.test(path) && !path.startsWith('.'))
  .toSorted();

/** Flags of other programs that our pages name, by program. An entry that no page names fails. */
const foreignFlags: Readonly<Record<string, readonly string[]>> = {
  'lmcache server': ['--l2-adapter', '--chunk-size', '--hash-algorithm', '--http-port', '--l2-store-policy', '--supported-transfer-mode'],
  vLLM: ['--disable-hybrid-kv-cache-manager'],
  SGLang: ['--hicache-write-policy'],
  docker: ['--network', '--shm-size', '--memory', '--gpus', '--ipc', '--pid'],
  gcloud: ['--ephemeral-storage-local-ssd', '--local-nvme-ssd-block'],
  'benchmarks and test programs of ours': [
    '--smoke',
    '--json',
    '--seed',
    '--baseline',
    '--steps',
    '--runs',
    '--faults',
    '--total',
    '--processes',
    '--driver',
  ],
  'bun run demo and bun run llama': ['--model', '--chunks', '--threads', '--stay', '--prompt', '--no-cache', '--cpu'],
};
/** Variables that Kubernetes makes of a Service called kvtier; named where a page says that they are passed over. */
const kubernetesVariable = /^KVTIER_(?:SERVICE_HOST|PORT(?:_7600_TCP)?)$/;

const ownFlags = new Set([
  ...knobs.flatMap((knob) => [`--${knob.flag}`, ...(knob.shape === 'boolean' ? [`--no-${knob.flag}`] : [])]),
  ...commands.flatMap((command) => Object.keys(command.args).map((name) => `--${name}`)),
  '--help',
  // How configuration.md spells a boolean flag in general.
  '--name',
  '--no-name',
]);
const variables = new Set([...knobs.map((knob) => knob.variable), ...otherVariables]);
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  readonly packageManager: string;
  readonly scripts: Readonly<Record<string, string>>;
};

interface Found {
  readonly what: string;
  readonly where: string;
}

/** First groups of all matches, with page and line. */
function findAll(pattern: RegExp, text: (page: string) => string = read): readonly Found[] {
  return pages.flatMap((page) =>
    text(page)
      .split('\n')
      .flatMap((line, index) => [...line.matchAll(pattern)].map((match) => ({ what: match[1] ?? '', where: `${page}:${index + 1}` }))),
  );
}

function read(page: string): string {
  return readFileSync(join(root, page), 'utf8');
}

/** The page without fenced blocks, its lines kept. */
function prose(page: string): string {
  return read(page).replace(/^```[\s\S]*?^```/gm, (block) => '\n'.repeat(block.split('\n').length - 1));
}

/** Only the fenced shell blocks, with continued lines joined (their numbers kept). */
function shell(page: string): string {
  const kept: string[] = [];
  let inside = false;
  for (const line of read(page).split('\n')) {
    if (line.startsWith('```')) inside = !inside && /^```(?:sh|bash)?$/.test(line);
    kept.push(inside && !line.startsWith('```') ? line : '');
  }
  return kept.join('\n').replace(/\\\n/g, ' ');
}

/** The name under which GitHub links a heading. */
function slug(heading: string): string {
  const text = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
  return text.replace(/[^\p{L}\p{N}\s_-]/gu, '').replaceAll(' ', '-');
}

function anchors(page: string): ReadonlySet<string> {
  return new Set([...prose(page).matchAll(/^#+ (.+?)\s*$/gm)].map((match) => slug(match[1] ?? '')));
}

function broken(link: Found): string | undefined {
  const page = link.where.slice(0, link.where.lastIndexOf(':'));
  const [path = '', anchor] = link.what.split('#');
  const target = path === '' ? page : join(dirname(page), path);
  if (!existsSync(join(root, target))) return `${link.where}: ${link.what}: no such file`;
  if (statSync(join(root, target)).isDirectory() && !path.endsWith('/'))
    return `${link.where}: ${link.what}: a folder wants a / at its end`;
  if (anchor !== undefined && target.endsWith('.md') && !anchors(target).has(anchor)) return `${link.where}: ${link.what}: no such heading`;
  return undefined;
}

/** What `check` finds wrong; fails where it was given nothing to look at. */
function problems(found: readonly Found[], check: (item: Found) => string | undefined): readonly string[] {
  expect(found.length).toBeGreaterThan(0);
  return found.map(check).filter((problem) => problem !== undefined);
}

describe('the documents of the repository', () => {
  test('every relative link leads to a file, and every anchor to a heading', () => {
    const links = findAll(/\]\(([^)\s]+)\)/g, prose).filter(({ what }) => !/^(?:https?:|mailto:)/.test(what));
    expect(problems(links, broken)).toEqual([]);
  });

  test('every command `bun run NAME` is a script of package.json, with the version of packageManager', () => {
    const runs = findAll(/\bbun(?:@[\d.]+)? run (?:--silent )?([a-z][\w:-]*)/g);
    expect(problems(runs, ({ what, where }) => (what in manifest.scripts ? undefined : `${where}: no script ${what}`))).toEqual([]);
    const versions = findAll(/\b(bun@[\d.]+\d)/g);
    const wrong = problems(versions, ({ what, where }) => (what === manifest.packageManager ? undefined : `${where}: ${what}`));
    expect(wrong).toEqual([]);
  });

  test('every program `bun PATH.ts` exists', () => {
    const programs = findAll(/\bbun ([\w./-]+\.(?:ts|mjs))\b/g);
    expect(problems(programs, ({ what, where }) => (existsSync(join(root, what)) ? undefined : `${where}: no file ${what}`))).toEqual([]);
  });

  test('every variable KVTIER_… is in the configuration schema, or belongs to the tests', () => {
    const named = findAll(/\b(KVTIER_[A-Z0-9_]+)/g);
    const unknown = problems(named, ({ what, where }) => {
      const known = variables.has(what) || kubernetesVariable.test(what) || testPrefixes.some((prefix) => what.startsWith(prefix));
      return known ? undefined : `${where}: ${what}`;
    });
    expect(unknown).toEqual([]);
  });

  test('every flag in a code span is one of ours, or listed here as that of another program', () => {
    const named = findAll(/`(--[a-z][a-z0-9-]*)/g, prose);
    const foreign = new Set(Object.values(foreignFlags).flat());
    const unknown = problems(named, ({ what, where }) => (ownFlags.has(what) || foreign.has(what) ? undefined : `${where}: ${what}`));
    expect(unknown).toEqual([]);
    const seen = new Set(named.map(({ what }) => what));
    expect([...foreign].filter((flag) => !seen.has(flag))).toEqual([]);
  });

  test('every flag given to the agent or its command line in a shell block is one of ours', () => {
    const calls = findAll(
      /(?:\bbun(?:@[\d.]+)? run (?:agent|kvtier)|(?:^|\s)kvtier (?:serve|stats|ls|lookup|invalidate|verify|doctor|config))\s([^#|]*)/g,
      shell,
    );
    const unknown = problems(calls, ({ what, where }) => {
      const wrong = what.split(/\s+/).filter((word) => word.startsWith('--') && !ownFlags.has(word.replace(/=.*/, '')));
      return wrong.length === 0 ? undefined : `${where}: ${wrong.join(' ')}`;
    });
    expect(unknown).toEqual([]);
  });

  test('every picture says in words what it shows, and looks right in light and dark', () => {
    const pictures = [...new Bun.Glob('docs/images/*.svg').scanSync({ cwd: root })];
    expect(pictures.length).toBeGreaterThan(0);
    for (const path of pictures) {
      const text = readFileSync(join(root, path), 'utf8');
      expect(text, path).toMatch(/<title [\s\S]*<desc /);
      expect(text, path).toContain('prefers-color-scheme: dark');
      const file = path.replace('docs/images/', 'images/');
      expect(
        pages.some((page) => read(page).includes(file)),
        `${path} is shown on a page`,
      ).toBe(true);
    }
  });
});
