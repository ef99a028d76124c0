/**
 * A reporter for the full run: writes each failed test's message and difference to the file that KVTIER_TEST_FAILURES names. The JSON report
 * has the messages alone, in which lists are cut short, and of a long run's output only the end may be kept.
 */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, TestCase } from 'vitest/node';
import { FAILURES_VARIABLE, type Failure } from './stage-counts.ts';

// oxlint-disable-next-line import/no-default-export -- vitest loads it by path
export default class FailureReporter implements Reporter {
  readonly #failures: Failure[] = [];

  onTestCaseResult(test: TestCase): void {
    const { state, errors = [] } = test.result();
    if (state !== 'failed') return;
    const [first] = errors;
    this.#failures.push({
      path: relative(process.cwd(), test.module.moduleId),
      fullName: test.fullName,
      message: first?.message ?? '',
      diff: typeof first?.diff === 'string' ? first.diff : '',
    });
  }

  onTestRunEnd(): void {
    const path = process.env[FAILURES_VARIABLE];
    if (path !== undefined) writeFileSync(path, JSON.stringify(this.#failures));
  }
}
