import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PrefixCache } from '#engines/llama/prefix-cache.ts';
import { MemoryChunkStore } from '#testsupport/memory-chunk-store.ts';
import { SimLlamaEngine } from '#testsupport/sim-llama-engine.ts';

/** Prompts over two tokens share heads often. */
const prompts = fc.array(fc.array(fc.constantFrom(1, 2), { minLength: 1, maxLength: 60 }), { minLength: 1, maxLength: 8 });
/** Whether each of the next decisions goes wrong. */
const luck = fc.array(fc.boolean(), { minLength: 1, maxLength: 40 });

async function plainLogits(tokens: Int32Array): Promise<Float32Array | undefined> {
  return await new SimLlamaEngine().decode(tokens, true);
}

function draw(decisions: readonly boolean[]): () => boolean {
  let next = 0;
  return () => decisions[next++ % decisions.length] === true;
}

test('logits are those of a computation without a store, whatever the store does', async () => {
  await fc.assert(
    fc.asyncProperty(prompts, luck, fc.integer({ min: 2, max: 7 }), async (texts, decisions, bufferCount) => {
      const bad = draw(decisions);
      const store = new MemoryChunkStore({
        lookupError: () => (bad() ? (bad() ? 3 : -1) : 0),
        loadFails: () => bad() && bad(),
        spoil(value) {
          if (!bad()) return;
          if (bad()) value[5] = (value[5] ?? 0) ^ 4;
          else value.fill(0);
        },
        storeFails: () => bad() && bad(),
        turns: () => (bad() ? 60 : 1),
      });
      const engine = new SimLlamaEngine();
      const cache = new PrefixCache(engine, store, bufferCount);
      const stored: Promise<number>[] = [];
      for (const text of texts) {
        const tokens = Int32Array.from(text);
        const prefill = await cache.prefill(tokens);
        expect(prefill.logits).toEqual(await plainLogits(tokens));
        expect(prefill.restoredTokens).toBeLessThan(tokens.length);
        if (bad()) await prefill.stored; // Otherwise the next prompt comes while chunks are being stored.
        stored.push(prefill.stored);
      }
      await Promise.all(stored);
      await cache.prefill(Int32Array.of(1)); // waits for what is being stored, and checks its invariants
    }),
    { numRuns: 150 },
  );
});

test('with a store that is right, everything that was asked before is restored, and only what is new is stored', async () => {
  await fc.assert(
    fc.asyncProperty(prompts, fc.integer({ min: 2, max: 7 }), async (texts, bufferCount) => {
      const store = new MemoryChunkStore();
      const engine = new SimLlamaEngine();
      const cache = new PrefixCache(engine, store, bufferCount);
      const { chunkTokens } = engine.facts;
      const known = new Set<string>();
      for (const text of texts) {
        const heads = Array.from({ length: Math.floor(text.length / chunkTokens) }, (_, index) =>
          text.slice(0, (index + 1) * chunkTokens).join(''),
        );
        const usable = heads.slice(0, Math.floor((text.length - 1) / chunkTokens));
        const gap = usable.findIndex((head) => !known.has(head));
        const restorable = gap < 0 ? usable.length : gap;
        engine.calls.length = 0;
        const prefill = await cache.prefill(Int32Array.from(text));
        expect(prefill).toMatchObject({ restoredTokens: restorable * chunkTokens, foundChunks: restorable, stoppedBy: 'nothing' });
        expect(await prefill.stored).toBe(heads.length - restorable);
        // In ascending order, each once.
        expect(engine.calls.filter((call) => call.startsWith('restore'))).toEqual(
          Array.from({ length: restorable }, (_, index) => `restore ${index}`),
        );
        expect(engine.calls.filter((call) => call.startsWith('cut'))).toEqual(
          Array.from({ length: heads.length - restorable }, (_, index) => `cut ${restorable + index}`),
        );
        for (const head of heads) known.add(head);
      }
      expect(store.values.size).toBe(known.size);
    }),
    { numRuns: 100 },
  );
});

test('a chunk that the engine refuses is computed, and everything behind it', async () => {
  const store = new MemoryChunkStore();
  const tokens = Int32Array.from({ length: 30 }, (_, index) => index % 3);
  const first = await new PrefixCache(new SimLlamaEngine(), store).prefill(tokens);
  await first.stored;
  const engine = new SimLlamaEngine();
  engine.refused.add(3);
  const second = await new PrefixCache(engine, store, 4).prefill(tokens);
  expect(second).toMatchObject({ restoredTokens: 12, foundChunks: 7, stoppedBy: 'engine', logits: first.logits });
});

test('a prompt beyond the context is the caller’s error, and the next prompt is answered', async () => {
  const cache = new PrefixCache(new SimLlamaEngine({ contextTokens: 40 }), new MemoryChunkStore(), 3);
  const long = new Int32Array(50).fill(2);
  await expect(cache.prefill(long)).rejects.toMatchObject({ code: 'BAD_REQUEST' });
  const fits = await cache.prefill(long.subarray(0, 39));
  expect(fits.logits).toEqual(await plainLogits(long.subarray(0, 39)));
});
