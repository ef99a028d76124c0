/** Builds .oxlintrc.json: the house rules of STYLE.md and, from layers.ts, one allow-list a room. */
import { hiddenInputs, hostGlobals, outside, rooms, type Room } from './layers.ts';

type Severity = 'off' | 'error';
type RuleSetting = Severity | readonly [Severity, ...unknown[]];
interface Override {
  readonly files: readonly string[];
  readonly rules: Readonly<Record<string, RuleSetting>>;
}
export interface LintConfig {
  readonly $schema: string;
  readonly plugins: readonly string[];
  readonly categories: Readonly<Record<string, Severity>>;
  readonly options: Readonly<Record<string, boolean>>;
  readonly rules: Readonly<Record<string, RuleSetting>>;
  readonly overrides: readonly Override[];
  readonly ignorePatterns: readonly string[];
}

/** `../` climbs out of a folder and so perhaps out of a room, also when it hides behind `./`. */
const climbing = ['../**', './../**', '..', '.'];
const climbingMessage = 'Import another room as #room/file.ts and a neighbour as ./file.ts.';

/** The rules that keep an `any` from spreading. */
const unsafeRules = ['argument', 'assignment', 'call', 'member-access', 'return'].map((what) => `typescript/no-unsafe-${what}`);

const houseRules: Readonly<Record<string, RuleSetting>> = {
  'no-restricted-imports': ['error', { patterns: [{ group: climbing, message: climbingMessage }] }],
  'no-var': 'error',
  'prefer-const': 'error',
  eqeqeq: 'error',
  'no-empty': 'error',
  'no-console': 'error',
  'no-throw-literal': 'error',
  'max-lines': ['error', { max: 600 }],
  'max-lines-per-function': ['error', { max: 70, skipBlankLines: true, skipComments: true }],
  'max-params': ['error', { max: 3 }],
  'import/no-cycle': 'error',
  'import/no-self-import': 'error',
  'import/no-default-export': 'error',
  'import/no-duplicates': 'error',
  'oxc/no-barrel-file': ['error', { threshold: 0 }],
  'typescript/no-explicit-any': 'error',
  'typescript/no-floating-promises': 'error',
  'typescript/no-misused-promises': 'error',
  'typescript/await-thenable': 'error',
  'typescript/return-await': ['error', 'error-handling-correctness-only'],
  'typescript/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
  'typescript/only-throw-error': 'error',
  'typescript/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
  'typescript/no-unnecessary-type-assertion': 'error',
  ...Object.fromEntries(unsafeRules.map((rule) => [rule, 'error' as const])),
  'typescript/no-deprecated': 'error',
  // Correct code that these cannot tell from wrong code: methods typed as properties, copies of a map that is changed in the loop,
  // arrays of holes that are filled at once, code points taken on purpose, callbacks that are the interface.
  'typescript/unbound-method': 'off',
  'typescript/no-misused-spread': 'off',
  'unicorn/no-useless-spread': 'off',
  'unicorn/no-new-array': 'off',
  'promise/no-callback-in-promise': 'off',
};

/** Where calls must not allocate an options object each time, and so take positional numbers: codecs, host calls, the hot tables. */
const positional = [
  'src/protocol/**',
  'node-agent/host/**',
  'node-agent/slab/**',
  'node-agent/cache/{chunk-index,hash-table,key-arena,key-hash}.ts',
  'node-agent/cuda/driver.ts',
];

export function buildLintConfig(): LintConfig {
  return {
    $schema: './node_modules/oxlint/configuration_schema.json',
    plugins: ['typescript', 'import', 'unicorn', 'oxc', 'promise'],
    categories: { correctness: 'error' },
    options: { typeAware: true },
    rules: houseRules,
    overrides: [
      ...rooms.map((room) => roomOverride(room)),
      {
        files: outside.map((entry) => entry.file),
        rules: { ...houseRules, 'no-restricted-globals': 'off', 'no-restricted-properties': 'off' },
      },
      { files: positional, rules: { 'max-params': 'off' } },
      // A job's errno is thrown as the number it is to the one handler around all jobs, which makes the error.
      { files: ['node-agent/host/file-worker.ts'], rules: { 'typescript/only-throw-error': 'off' } },
      { files: ['*.config.ts'], rules: { 'import/no-default-export': 'off' } },
      { files: ['bench/**', 'test/**', ...outside.map((entry) => entry.file), 'deploy/**'], rules: { 'no-console': 'off' } },
      // A describe block is a function of any length; the parameters of test.each rows are positional.
      // Matchers such as expect.any() and what JSON.parse gives to a comparison are any by nature.
      { files: ['test/**'], rules: { 'max-lines-per-function': 'off', 'max-params': 'off', 'typescript/no-unsafe-assignment': 'off' } },
      // JavaScript stands outside of the compiler's programs: nothing in it has a type that the linter could know.
      { files: ['**/*.mjs'], rules: Object.fromEntries(unsafeRules.map((rule) => [rule, 'off' as const])) },
    ],
    ignorePatterns: ['node_modules', 'test/architecture/canaries', '**/.*'],
  };
}

/** The text of .oxlintrc.json. */
export function printLintConfig(): string {
  return `${JSON.stringify(buildLintConfig(), undefined, 2)}\n`;
}

/** What a room may import, in the order in which the last matching pattern decides: nothing, except these, but never by climbing. */
export function allowedImports(room: Room): readonly string[] {
  return ['./**', `${room.alias}/**`, ...room.rooms, ...room.packages, ...room.builtins];
}

/**
 * The allow-list as gitignore patterns, of which the last that matches decides. One without a slash matches at any depth, `hono` also
 * `@other/hono`; the linter does not know the leading slash that would anchor it, so such names are refused under a scope again.
 */
function patternsOf(room: Room): readonly string[] {
  const allowed = allowedImports(room);
  const floating = allowed.filter((pattern) => !pattern.includes('/'));
  const anchored = allowed.filter((pattern) => pattern.includes('/'));
  return [
    '**',
    ...floating.map((pattern) => `!${pattern}`),
    ...floating.map((pattern) => `*/${pattern}`),
    ...anchored.map((pattern) => `!${pattern}`),
    ...climbing,
  ];
}

function roomOverride(room: Room): Override {
  const message = `${room.folder} may import only ${allowedImports(room).join(' ')} (test/architecture/layers.ts).`;
  const layering: Record<string, RuleSetting> = {
    'no-restricted-imports': ['error', { patterns: [{ group: patternsOf(room), message }] }],
  };
  if (!room.hostGlobals) {
    layering['no-restricted-globals'] = ['error', ...hostGlobals];
    layering['no-restricted-properties'] = ['error', ...hiddenInputs];
  }
  return { files: [`${room.folder}/**`], rules: layering };
}
