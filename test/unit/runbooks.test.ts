import { globSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const root = new URL('../..', import.meta.url).pathname;
const code = globSync('node-agent/**/*.ts', { cwd: root })
  .map((path) => readFileSync(`${root}${path}`, 'utf8'))
  .join('\n');
const headings = readFileSync(`${root}docs/operating.md`, 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('### `'))
  .join('\n');

/** What stays the same of each sentence that the health of the agent may give as a reason. */
const reasons = [
  'the device does not answer (',
  'writes fail (',
  'is below the floor of ',
  'the folder is gone',
  'reads fail (',
  'it cannot be listed (',
  'is off for this run: ',
  'missed a run of this agent or has no journal: its files are dropped',
  "without its mark, this folder's files are dropped at the next start",
  'The journal is damaged (',
  'no O_DIRECT here, reads and writes go through the page cache',
  'ssd.direct is on and the file system does not support O_DIRECT',
  'Shared memory is full: ',
  'catalog: ',
  '; lower --ram (the tier does not shrink by itself) or raise the limit of the cgroup',
  ' connections at most and not ',
  'are in use, no connections are accepted; ',
];

test.each(reasons)('a degraded state has a runbook: %s', (reason) => {
  expect(code).toContain(reason);
  expect(headings).toContain(reason);
});

test('every sentence that is pushed as a finding or reason is among them', () => {
  const pushed = [...code.matchAll(/(?:findings|[rR]easons)\.push\(\s*`([^`]*)`/g)].map((match) => match[1] ?? '');
  const turned = [...code.matchAll(/(?:turnOff|loseFolder|stall)\((?:folder, )?[`']([^`']*)[`']/g)].map((match) => match[1] ?? '');
  expect(pushed.length).toBeGreaterThan(6);
  for (const text of [...pushed, ...turned])
    expect(
      reasons.some((reason) => text.includes(reason.trim())),
      text,
    ).toBe(true);
});
