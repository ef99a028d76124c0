import { expect, test } from 'vitest';
import { verifyStream } from '#api/verify-stream.ts';
import type { VerifyProgress } from '#cache/control.ts';
import { problemOf } from '#protocol/rest/problem.ts';

const clock = { nowMs: () => 0, monotonicMs: () => 0, schedule: () => () => undefined };
const step: VerifyProgress = { checkedFiles: 0, totalFiles: 2, checkedBytes: 0, mismatches: [], done: false };

for (const outcome of ['comes', 'fails'] as const) {
  test(`a reader who leaves while a step is under way ends the run without an error, also where the step ${outcome} afterwards`, async () => {
    let endStep = (): void => undefined;
    const slow = new Promise<void>((resolve, reject) => {
      endStep = outcome === 'comes' ? resolve : (): void => reject(new Error('EIO'));
    });
    async function* progress(): AsyncGenerator<VerifyProgress> {
      yield step;
      await slow;
      yield { ...step, checkedFiles: 2, done: true };
    }
    let ended = 0;
    const problems: unknown[] = [];
    const problemOfError = (error: unknown) => {
      problems.push(error);
      return problemOf('INTERNAL', 'x');
    };
    const stream = await verifyStream(progress(), { clock, problemOf: problemOfError, onEnd: () => (ended += 1) });
    const reader = stream.getReader();
    await reader.read();
    const left = reader.cancel();
    endStep();
    await left;
    expect(ended).toBe(1);
    expect(problems.map(String)).toEqual(outcome === 'comes' ? [] : ['Error: EIO']);
  });
}
