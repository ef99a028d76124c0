import type { VerifyProgress } from '#cache/control.ts';
import type { VerifyLine } from '#protocol/rest/operations.ts';
import type { Problem } from '#protocol/rest/problem.ts';

/**
 * Progress as NDJSON, at the pace of the reader. The first step is awaited before the stream exists, so that a failure there still
 * has a status of its own; a later one becomes the last line. `onEnd` runs once, however it ends; a reader that goes away ends the
 * iteration.
 */
export async function verifyStream(
  progress: AsyncIterable<VerifyProgress>,
  options: { readonly problemOf: (error: unknown) => Problem; readonly onEnd: () => void },
): Promise<ReadableStream<Uint8Array>> {
  const iterator = progress[Symbol.asyncIterator]();
  const encoder = new TextEncoder();
  const encode = (line: VerifyLine): Uint8Array => encoder.encode(`${JSON.stringify(line)}\n`);
  let pending: Promise<IteratorResult<VerifyProgress>> | undefined;
  let ended = false;
  const end = (): void => {
    if (!ended) options.onEnd();
    ended = true;
  };
  try {
    pending = Promise.resolve(await iterator.next());
  } catch (error) {
    end();
    throw error;
  }
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const step = await (pending ?? iterator.next());
        pending = undefined;
        if (step.done === true) {
          end();
          controller.close();
        } else {
          controller.enqueue(encode(step.value as VerifyLine));
        }
      } catch (error) {
        end();
        controller.enqueue(encode({ problem: options.problemOf(error) }));
        controller.close();
      }
    },
    async cancel() {
      try {
        await iterator.return?.();
      } finally {
        end();
      }
    },
  });
}
