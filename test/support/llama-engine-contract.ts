/** What the prefix cache relies on in an engine, for the simulated one and for the thread of the real one. */
import { ptr } from 'bun:ffi';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '#engines/llama/engine-thread.ts';

export interface EngineSubject {
  /** An engine with room for five chunks and its own vocabulary of 16 tokens or more. */
  readonly open: () => Promise<Engine>;
  readonly close: (engine: Engine) => Promise<void>;
}

export function describeEngine(name: string, subject: EngineSubject): void {
  describe(name, () => {
    let engine: Engine;
    beforeAll(async () => {
      engine = await subject.open();
    });
    afterAll(async () => {
      await subject.close(engine);
    });

    const promptOf = (tokenCount: number): Int32Array => Int32Array.from({ length: tokenCount }, (_, index) => 3 + ((index * 7) % 13));
    const memory = () => {
      const bytes = new Uint8Array(engine.facts.chunkBytes);
      return { bytes, range: { address: ptr(bytes), sizeBytes: bytes.length } };
    };
    const logitsOf = async (tokens: Int32Array): Promise<Float32Array> => {
      await engine.clear();
      const logits = await engine.decode(tokens, true);
      if (logits === undefined) throw new Error('no logits');
      return logits;
    };

    test('gives the same logits for the same tokens, and others for others', async () => {
      const tokens = promptOf(20);
      const first = await logitsOf(tokens);
      expect(first).toHaveLength(engine.facts.vocabularySize);
      expect(await logitsOf(tokens)).toEqual(first);
      expect(await logitsOf(tokens.with(3, 4))).not.toEqual(first);
    });

    test('gives no logits unless they are asked for', async () => {
      await engine.clear();
      expect(await engine.decode(promptOf(5), false)).toBeUndefined();
    });

    test('restores what it has cut: the logits are those of a computation, also where the rest is new', async () => {
      const { chunkTokens } = engine.facts;
      const tokens = promptOf(2 * chunkTokens + 3);
      const cold = await logitsOf(tokens);
      const chunks = [memory(), memory()];
      for (const [index, chunk] of chunks.entries()) await engine.cutChunk(index, chunk.range);
      for (const count of [1, 2]) {
        await engine.clear();
        for (const [index, chunk] of chunks.slice(0, count).entries()) expect(await engine.restoreChunk(index, chunk.range)).toBe(true);
        expect(await engine.decode(tokens.subarray(count * chunkTokens), true)).toEqual(cold);
      }
    });

    test('notices other bytes in a chunk', async () => {
      const { chunkTokens } = engine.facts;
      const tokens = promptOf(chunkTokens + 3);
      const cold = await logitsOf(tokens);
      const chunk = memory();
      await engine.cutChunk(0, chunk.range);
      chunk.bytes.fill(0);
      await engine.clear();
      await engine.restoreChunk(0, chunk.range);
      expect(await engine.decode(tokens.subarray(chunkTokens), true)).not.toEqual(cold);
    });

    test('answers calls in the order in which they are made', async () => {
      const { chunkTokens } = engine.facts;
      const tokens = promptOf(chunkTokens + 3);
      const cold = await logitsOf(tokens);
      const chunk = memory();
      await engine.clear();
      const [, , , , warm] = await Promise.all([
        engine.decode(tokens, false),
        engine.cutChunk(0, chunk.range),
        engine.clear(),
        engine.restoreChunk(0, chunk.range),
        engine.decode(tokens.subarray(chunkTokens), true),
      ]);
      expect(warm).toEqual(cold);
    });

    test('refuses a prompt beyond its context and goes on', async () => {
      const { chunkTokens } = engine.facts;
      await engine.clear();
      await expect(engine.decode(promptOf(5 * chunkTokens + 1), true)).rejects.toMatchObject({ code: 'BAD_REQUEST' });
      expect(await logitsOf(promptOf(3))).toHaveLength(engine.facts.vocabularySize);
    });

    test('refuses to restore out of order: cells in another order give other bits', async () => {
      const chunk = memory();
      await engine.clear();
      await expect(engine.restoreChunk(1, chunk.range)).rejects.toThrow(/Cannot restore chunk 1/);
      await expect(engine.cutChunk(0, chunk.range)).rejects.toThrow(/Cannot cut chunk 0/);
    });
  });
}
