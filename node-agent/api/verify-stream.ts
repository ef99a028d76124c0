import type { VerifyProgress } from '#cache/control.ts';
import type { Clock } from '#core/clock.ts';
import type { VerifyLine } from '#protocol/rest/operations.ts';
import type { Problem } from '#protocol/rest/problem.ts';

/** A reader that takes nothing for this long is gone: nobody else may verify meanwhile. */
const STALL_MS = 60_000;

/**
 * Progress as NDJSON, at the pace of the reader. The first step is awaited before the stream exists, so that a failure there still
 * has a status of its own; a later one becomes the last line. `onEnd` runs once, however it ends; a reader that goes away or
 * stalls ends the iteration.
 */
export async function verifyStream(
  progress: AsyncIterable<VerifyProgress>,
  options: { readonly problemOf: (error: unknown) => Problem; readonly onEnd: () => void; readonly clock: Clock },
): Promise<ReadableStream<Uint8Array>> {
  const iterator = progress[Symbol.asyncIterator]();
  let first: IteratorResult<VerifyProgress> | undefined;
  try {
    first = await iterator.next();
  } catch (error) {
    options.onEnd();
    throw error;
  }
  let cancelStall = (): void => undefined;
  let ended = false;
  /** The stream takes nothing any more; a step may still be under way. */
  let gone = false;
  const end = (): void => {
    cancelStall();
    if (!ended) options.onEnd();
    ended = true;
  };
  const leave = async (): Promise<void> => {
    gone = true;
    try {
      await iterator.return?.();
    } finally {
      end();
    }
  };
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      cancelStall();
      try {
        const step = first ?? (await iterator.next());
        first = undefined;
        if (gone) return;
        if (step.done === true) {
          end();
          controller.close();
          return;
        }
        controller.enqueue(encodeLine(step.value as VerifyLine));
        cancelStall = options.clock.schedule(STALL_MS, () => {
          controller.error(new Error('The reader stalled'));
          leave().catch(() => undefined); // The run is over; what it would have told has no reader.
        });
      } catch (error) {
        end();
        const problem = options.problemOf(error);
        if (gone) return;
        controller.enqueue(encodeLine({ problem }));
        controller.close();
      }
    },
    cancel: leave,
  });
}

function encodeLine(line: VerifyLine): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(line)}\n`);
}
