/** How many tests a stage of the full run had, and what failed in it: from the reports that stages write and from what they print. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import type { Lane } from './lanes.ts';

export interface Count {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** What failed, or why nothing ran. More lines than one: the first of a failure's message. */
  readonly notes: readonly string[];
}

/** Names the file to which failure-reporter.ts writes. */
export const FAILURES_VARIABLE = 'KVTIER_TEST_FAILURES';
const MESSAGE_LINES = 8;
const LINE_LENGTH = 300;

/** A failed test as the reporter of failures knows it. */
export interface Failure {
  /** Below the root of the repository. */
  readonly path: string;
  readonly fullName: string;
  readonly message: string;
  /** Lines of expected and received; empty where there are none. */
  readonly diff: string;
}

interface VitestReport {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message?: string;
    readonly assertionResults: readonly {
      readonly status: string;
      readonly fullName: string;
      readonly failureMessages?: readonly string[];
    }[];
  }[];
}

/** The first lines that say something: of the message, then of the difference. No colours, no stack. */
export function firstLines(message: string, diff = ''): readonly string[] {
  const text = stripVTControlCharacters(`${message}\n${diff}`);
  const lines = text.split('\n').filter((line) => line.trim() !== '' && !/^\s+at /.test(line) && !/^[-+] (Expected|Received)/.test(line));
  return lines.slice(0, MESSAGE_LINES).map((line) => (line.length > LINE_LENGTH ? `${line.slice(0, LINE_LENGTH)}…` : line));
}

/** The reports join the names of suites and test by different signs. */
function joined(fullName: string): string {
  return fullName.replaceAll(' > ', ' ');
}

/** `failures`: what the reporter of failures wrote; without it the messages of the report itself, which lack the difference. */
export function countVitest(
  report: string,
  { root, expected, failures }: { readonly root: string; readonly expected: readonly Lane[]; readonly failures: string },
): Count | undefined {
  if (report === '') return undefined;
  const { testResults } = JSON.parse(report) as VitestReport;
  const told = failures === '' ? [] : (JSON.parse(failures) as readonly Failure[]);
  let [passed, failed, skipped] = [0, 0, 0];
  const notes: string[] = [];
  const perLane = new Map<string, number>();
  for (const file of testResults) {
    const path = file.name.slice(root.length + 1);
    const bad = file.assertionResults.filter((test) => test.status === 'failed');
    const good = file.assertionResults.filter((test) => test.status === 'passed').length;
    passed += good;
    failed += bad.length;
    skipped += file.assertionResults.length - bad.length - good;
    for (const { fullName, failureMessages } of bad) {
      const failure = told.find((candidate) => candidate.path === path && joined(candidate.fullName) === joined(fullName));
      const lines = firstLines(failure?.message ?? failureMessages?.[0] ?? '', failure?.diff);
      notes.push([`${path}: ${fullName}`, ...lines].join('\n'));
    }
    const lane = path.split('/')[1] ?? '';
    perLane.set(lane, (perLane.get(lane) ?? 0) + good + bad.length);
    // A file that cannot be loaded has no tests; a hook that fails leaves none failed.
    if (file.status === 'failed' && bad.length === 0) {
      failed += 1;
      const lines = firstLines(file.message ?? '');
      notes.push(`${path}: ${lines.length === 0 ? 'failed outside of its tests' : lines.join('\n')}`);
    }
  }
  for (const lane of expected) {
    const ran = perLane.get(lane.name) ?? 0;
    if (ran > 0) console.log(`   ${lane.name}: ${ran} tests`);
    else if (lane.required || existsSync(join(root, 'test', lane.name))) {
      failed += 1;
      notes.push(`the lane ${lane.name} ran no test`);
    }
  }
  return { passed, failed, skipped, notes };
}

/** A benchmark passes when its report has cases and each a ratio: numbers of `--smoke` prove nothing more. */
export function countBench(report: string): Count | undefined {
  if (report === '') return { passed: 0, failed: 1, skipped: 0, notes: ['wrote no report'] };
  const { cases } = JSON.parse(report) as { readonly cases: readonly { readonly case: string; readonly ratio: unknown }[] };
  const bad = cases.filter((entry) => typeof entry.ratio !== 'number').map((entry) => `${entry.case} has no ratio`);
  if (cases.length === 0) bad.push('measured no case');
  return { passed: bad.length === 0 ? 1 : 0, failed: bad.length === 0 ? 0 : 1, skipped: 0, notes: bad };
}

export function countLastLine(_report: string, output: string): Count | undefined {
  const match = [...output.matchAll(/^(\d+) passed, (\d+) failed$/gm)].at(-1);
  return match === undefined ? undefined : { passed: Number(match[1]), failed: Number(match[2]), skipped: 0, notes: [] };
}
