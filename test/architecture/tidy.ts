import { lanes } from '#testsupport/lanes.ts';

/** Checks on the text of files that the linter and the compiler do not make. Each has a bad sample in tidy.test.ts that it must find. */
export interface SourceFile {
  /** Relative to the root. */
  readonly path: string;
  readonly text: string;
}

export interface TidyCheck {
  readonly name: string;
  /** What the check looks at; a check that looks at nothing is broken. */
  readonly applies: (path: string) => boolean;
  /** One message a violation, `LINE: what` where there is a line. */
  readonly find: (file: SourceFile) => readonly string[];
  readonly bad: SourceFile;
}

export const maxFileLines = 600;
export const wantedFileLines = 300;

const isCode = (path: string): boolean => /\.(ts|mjs)$/.test(path);
const isText = (path: string): boolean => !/\.(png|ico|bin|sqlite|db|gz)$/.test(path) && path !== 'LICENSE';
/** Names that people and tools give to whole documents, and folders whose names are not ours. */
const isForeignName = (path: string): boolean =>
  /^(docs\/|migrations\/|test\/fixtures\/|\.)|\/\.|(^|\/)[A-Z]+(\.md)?$|(^|\/)Dockerfile$/.test(path);

export const tidyChecks: readonly TidyCheck[] = [
  {
    name: `files have at most ${maxFileLines} lines`,
    applies: isCode,
    find: ({ text }) => (lineCount(text) > maxFileLines ? [`${lineCount(text)} lines`] : []),
    bad: { path: 'src/core/long.ts', text: '\n'.repeat(maxFileLines + 1) },
  },
  {
    name: 'no any',
    applies: (path) => path.endsWith('.ts'),
    find: onLines(/(?:[:<|,(]|\bas)\s*any\s*(?:[,;>)\]=|[{]|$)/, { code: true }),
    bad: { path: 'src/core/a.ts', text: 'export const value = input as any;\n' },
  },
  {
    name: 'no TODO without an issue, as in TODO(#12)',
    applies: isText,
    find: onLines(new RegExp(`\\b(?:${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK'].join('|')})\\b(?!\\(#\\d+\\))`)),
    bad: { path: 'docs/a.md', text: `Later. ${'TO' + 'DO'}: write this\n` },
  },
  {
    name: 'no path of one machine and no host of a registry',
    applies: isText,
    find: onLines(
      new RegExp(
        ['/ro' + 'ot(?:/|\\b)', '/ho' + 'me/', '/wo' + 'rk/', 'registry\\.npm' + 'js', 'files\\.python' + 'hosted', 'py' + 'pi\\.org'].join(
          '|',
        ),
      ),
    ),
    bad: { path: 'bench/a.ts', text: `const folder = '${'/ro' + 'ot/kvtier'}';\n` },
  },
  {
    name: 'no private, protected or public keyword (#private) and no enum',
    applies: (path) => path.endsWith('.ts'),
    find: onLines(/^\s*(?:private|protected|public)\s+[\w#]|\b(?:const\s+)?enum\s+[A-Z]\w*\s*\{/, { code: true }),
    bad: { path: 'src/core/a.ts', text: 'class A {\n  private count = 0;\n}\n' },
  },
  {
    name: 'kebab-case names',
    applies: (path) => !isForeignName(path),
    find: ({ path }) =>
      path.split('/').every((part) => /^(?:[a-z0-9]+(?:[-._][a-z0-9]+)*|__init__\.py)$/.test(part)) && !/_[^/]*\.ts$/.test(path)
        ? []
        : ['not kebab-case'],
    bad: { path: 'node-agent/cache/ChunkIndex.ts', text: '' },
  },
  {
    name: 'no import that climbs',
    applies: isCode,
    find: onLines(/(?:\bfrom|\bimport\(?)\s*['"](?:\.\/)?\.\.(?:\/|['"])/),
    bad: { path: 'src/core/a.ts', text: "import { b } from '../policy/b.ts';\n" },
  },
  {
    name: 'no test that stands alone',
    applies: (path) => path.endsWith('.test.ts'),
    find: onLines(/\b(?:test|it|describe)\.only\b/, { code: true }),
    bad: { path: 'test/unit/a.test.ts', text: "test.only('one', () => undefined);\n" },
  },
  {
    name: 'no test file outside of the lanes',
    applies: (path) => path.endsWith('.test.ts'),
    find: ({ path }) => (lanes.some((lane) => path.startsWith(`test/${lane.name}/`)) ? [] : ['in no lane']),
    bad: { path: 'src/core/a.test.ts', text: '' },
  },
  {
    name: 'only node-agent/cuda opens the driver of GPUs',
    // The emulator's own tests call its library without the binding; what tests control beside the binding has another name and other symbols.
    applies: (path) => isCode(path) && !/^(?:node-agent\/cuda|test\/conformance\/cuda-emulator)\//.test(path),
    find: ({ path, text }) =>
      /\blibcuda(?!-)|\bcu[A-Z]\w*['"]?\s*:\s*\{\s*(?:args|returns)\b/.test(text)
        ? onLines(/\b(?:dlopen|linkSymbols|cc)\s*\(/, { code: true })({ path, text })
        : [],
    bad: {
      path: 'node-agent/host/gpu.ts',
      text: "const DRIVER = 'libcuda.so.1';\nexport const driver = dlopen(DRIVER, {});\n",
    },
  },
  {
    name: 'no address in the lock file',
    applies: (path) => path === 'bun.lock',
    find: onLines(/https?:\/\//),
    bad: { path: 'bun.lock', text: '"a": ["a@1.0.0", "http://example.com/a.tgz"]\n' },
  },
  {
    name: 'exact versions',
    applies: (path) => path === 'package.json',
    find: ({ text }) => {
      const manifest = JSON.parse(text) as Readonly<
        Record<'dependencies' | 'devDependencies', Readonly<Record<string, string>> | undefined>
      >;
      const versions = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies });
      return versions.filter(([, version]) => !/^\d+\.\d+\.\d+/.test(version)).map(([name, version]) => `${name} ${version}`);
    },
    bad: { path: 'package.json', text: '{ "dependencies": { "zod": "^4.0.0" } }' },
  },
];

export function lineCount(text: string): number {
  return text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
}

/** Finds a pattern line by line. With `code`, lines that are comments do not count, nor does what follows `//`. */
function onLines(pattern: RegExp, options: { readonly code?: boolean } = {}): TidyCheck['find'] {
  return ({ text }) =>
    text.split('\n').flatMap((line, index) => {
      const looked = options.code === true ? withoutComment(line) : line;
      return pattern.test(looked) ? [`${index + 1}: ${line.trim().slice(0, 120)}`] : [];
    });
}

function withoutComment(line: string): string {
  return /^\s*(?:\/?\*|\/\/)/.test(line) ? '' : line.replace(/\s\/\/\s.*$/, '');
}
