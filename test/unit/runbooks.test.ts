/** Every sentence that may be a reason of /readyz has a runbook, spelled alike, and `kvtier doctor` knows what to do about it. */
import { globSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { degradedFindings } from '#cli/degraded.ts';
import { runbookOf, runbookSentences } from '#testsupport/runbooks.ts';

const root = new URL('../..', import.meta.url).pathname;
const code = globSync('node-agent/**/*.ts', { cwd: root })
  .filter((path) => !path.startsWith('node-agent/cli/') && !path.startsWith('node-agent/config/'))
  .map((path) => readFileSync(`${root}${path}`, 'utf8'))
  .join('\n');

const TEXT = /[`']((?:[^`'$\\]|\$\{(?:[^{}`]|\{[^}]*\})*\}|(?<=\w)'(?=\w))*)[`']/.source;

/** The texts handed to a call, with a word for what is filled in. */
function texts(call: string): string[] {
  return [...code.matchAll(new RegExp(`${call}\\(\\s*(?:folder, )?${TEXT}`, 'g'))].map((match) => filled(match[1] ?? ''));
}

function filled(text: string): string {
  return text.replaceAll(/\$\{(?:[^{}]|\{[^}]*\})*\}/g, 'x');
}

const ofFolders = [
  ...texts('(?:turnOff|loseFolder|stall)'),
  ...[...code.matchAll(new RegExp(`#reason = ${TEXT}`, 'g'))].map((m) => filled(m[1] ?? '')),
]
  .filter((text) => text !== '')
  .map((text) => `ssd: /folder: ${text}`);
const inFolderReason = [...code.matchAll(/return `(free space of [^`]*)`/g)].map((match) => `ssd: /folder: ${filled(match[1] ?? '')}`);
/** Of devices: HbmTier puts name and UUID before them. */
const ofDevices = [
  ...[...code.matchAll(/this\.reason = `([^`]*could be allocated[^`]*)`/g)].map((match) => filled(match[1] ?? '')),
  ...[...code.matchAll(/isLost \? `(lost: (?:[^`$]|\$\{[^}]*\})*)`/g)].map((match) => filled(match[1] ?? '')),
].map((text) => `hbm: Card (GPU-1): ${text}`);
const pushed = texts('(?:findings|[rR]easons)\\.push');
/** As agent.ts puts them together: the reasons of tiers behind their names. */
const reasons = [
  ...ofFolders,
  ...inFolderReason,
  ...ofDevices,
  ...pushed.map((text) => (text.startsWith('x: no O_DIRECT') ? `ssd: ${text}` : text.startsWith('Shared memory') ? `ram: ${text}` : text)),
  'catalog: x',
];

test('the sentences are found in the code', () => {
  expect(ofFolders.length).toBeGreaterThanOrEqual(8);
  expect(pushed.length).toBeGreaterThanOrEqual(9);
  expect(inFolderReason).toHaveLength(1);
  expect(ofDevices).toHaveLength(2);
});

test.each([...new Set(reasons)])('a degraded state has a runbook whose heading is its whole sentence: %s', (reason) => {
  expect(runbookOf(reason)).toBeDefined();
});

test.each(runbookSentences)('a runbook is about a sentence that the code says, and doctor says what to do: %s', (sentence) => {
  expect(reasons.some((reason) => runbookOf(reason) === sentence)).toBe(true);
  const [finding] = degradedFindings([sentence.replaceAll('…', 'x')]);
  expect(finding?.cause).not.toBe('degraded');
  expect(finding?.message).toContain(sentence.replaceAll('…', 'x'));
  expect(finding?.advice.length).toBeGreaterThan(40);
});

test('doctor tells of a reason that nobody has foreseen', () => {
  expect(degradedFindings(['something new'])).toMatchObject([
    { severity: 'problem', cause: 'degraded', message: expect.stringContaining('something new') },
  ]);
});
