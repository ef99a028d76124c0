/** What the full run counts, and says of failures: only the end of its output may be kept. */
import { mkdtempSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FAILURES_VARIABLE, countBench, countLastLine, countVitest, firstLines } from '#testsupport/stage-counts.ts';

const root = resolve(import.meta.dirname, '../..');
const options = { root: '/repository', expected: [], failures: '' };
const report = (tests: readonly object[], more: object = {}): string =>
  JSON.stringify({ testResults: [{ name: '/repository/test/unit/a.test.ts', status: 'passed', assertionResults: tests, ...more }] });

describe('The count of a run of vitest', () => {
  it('counts tests that passed, failed and were skipped, and is undefined without a report', () => {
    const tests = ['passed', 'passed', 'failed', 'skipped'].map((status) => ({ status, fullName: `is ${status}` }));
    expect(countVitest(report(tests), options)).toEqual({ passed: 2, failed: 1, skipped: 1, notes: ['test/unit/a.test.ts: is failed'] });
    expect(countVitest('', options)).toBeUndefined();
  });

  it('says the first lines of a failure, without its stack, and the difference where the reporter of failures has it', () => {
    const tests = [
      { status: 'failed', fullName: 'is wrong', failureMessages: ['AssertionError: seed 3\n  more\n    at native\n    at b.ts:1'] },
    ];
    expect(countVitest(report(tests), options)?.notes).toEqual(['test/unit/a.test.ts: is wrong\nAssertionError: seed 3\n  more']);
    const failures = JSON.stringify([
      { path: 'test/unit/other.test.ts', fullName: 'is wrong', message: 'not this', diff: '' },
      { path: 'test/unit/a.test.ts', fullName: 'is wrong', message: 'seed 3', diff: '- Expected\n+ Received\n\n- []\n+ ["a"]' },
    ]);
    expect(countVitest(report(tests), { ...options, failures })?.notes).toEqual(['test/unit/a.test.ts: is wrong\nseed 3\n- []\n+ ["a"]']);
  });

  it('counts a file that could not be loaded, and a lane without tests, as a failure each', () => {
    const broken = report([], { status: 'failed', message: 'Cannot find x\nby y' });
    const lane = { name: 'unit', fast: true, required: true, testTimeoutMs: 1, serial: false };
    expect(countVitest(broken, { ...options, expected: [lane] })).toMatchObject({
      failed: 2,
      notes: ['test/unit/a.test.ts: Cannot find x\nby y', 'the lane unit ran no test'],
    });
  });
});

describe('The first lines', () => {
  it('are few, short, without colours and without empty ones', () => {
    expect(firstLines('\u001b[31ma\u001b[39m\n\n  b\n    at c', '- Expected\n+ Received\nd')).toEqual(['a', '  b', 'd']);
    expect(firstLines('x\n'.repeat(100))).toHaveLength(8);
    expect(firstLines('y'.repeat(1000))[0]).toHaveLength(301);
  });
});

describe('The counts of other stages', () => {
  it('are those of the last line that has the form, and of cases with a ratio', () => {
    expect(countLastLine('', '1 passed, 9 failed\n7 passed, 2 failed\n')).toMatchObject({ passed: 7, failed: 2 });
    expect(countLastLine('', 'passed')).toBeUndefined();
    expect(countBench('')).toMatchObject({ failed: 1 });
    expect(countBench(JSON.stringify({ cases: [] }))).toMatchObject({ failed: 1, notes: ['measured no case'] });
    expect(countBench(JSON.stringify({ cases: [{ case: 'a', ratio: 1 }] }))).toMatchObject({ passed: 1 });
    expect(countBench(JSON.stringify({ cases: [{ case: 'a', ratio: null }] }))).toMatchObject({ notes: ['a has no ratio'] });
  });
});

it('A real run tells expected and received of what fails in it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-failures-'));
  try {
    mkdirSync(join(folder, 'test'));
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
    writeFileSync(
      join(folder, 'test/a.test.ts'),
      `import { describe, expect, it } from 'vitest';
describe('outer', () => { it('is > wrong', () => { expect(['key 7 is gone', 'b'], 'seed 12').toEqual([]); }); it('is right', () => {}); });`,
    );
    const [failuresPath, reportPath] = [join(folder, 'failures.json'), join(folder, 'report.json')];
    const reporters = ['json', join(root, 'test/support/failure-reporter.ts')].map((reporter) => `--reporter=${reporter}`);
    const command = [process.execPath, '--bun', 'vitest', 'run', '--root', folder, '--pool=threads', ...reporters];
    Bun.spawnSync([...command, `--outputFile.json=${reportPath}`], {
      cwd: folder,
      env: { ...process.env, [FAILURES_VARIABLE]: failuresPath },
    });
    const failures = readFileSync(failuresPath, 'utf8');
    expect(countVitest(readFileSync(reportPath, 'utf8'), { root: folder, expected: [], failures })).toEqual({
      passed: 1,
      failed: 1,
      skipped: 0,
      notes: [expect.stringMatching(/^test\/a\.test\.ts: outer is > wrong\nseed 12: expected .*\n- \[\]\n\+ \[\n\+ {3}"key 7 is gone",/)],
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
