import { describe, expect, test } from 'vitest';
import { chunkHashesOf, chunkNamespaceOf, fingerprintOf, respKeyOf, respModelOf } from '#engines/llama/chunk-keys.ts';
import { SEAL_BYTES, sealChunk, sealHolds } from '#engines/llama/chunk-seal.ts';
import type { EngineFacts } from '#engines/llama/llama-engine.ts';
import { isNativeKey, nativeDescriptor } from '#protocol/native/native-key.ts';
import { parseKey } from '#protocol/lmcache-key.ts';

const facts: EngineFacts = {
  modelName: 'Tiny Llama @ home',
  modelSha256: 'a'.repeat(64),
  parameterCount: 1,
  vocabularySize: 512,
  contextTokens: 4096,
  build: 'build 1',
  cpuVariant: 'haswell',
  kvType: 'f16',
  flashAttention: true,
  layout: '1:1x64,1x64',
  chunkTokens: 256,
  chunkBytes: 32_768,
};
const tokens = Int32Array.from({ length: 1000 }, (_, index) => index);

describe('keys', () => {
  test('name the whole chunks, and the doors read them as one namespace', () => {
    const namespace = chunkNamespaceOf(facts);
    expect(namespace.model).toBe('Tiny-Llama-home');
    expect(nativeDescriptor({ ...namespace, rank: '0', group: '', salt: '' }, undefined)).toMatchObject({ model: 'Tiny-Llama-home' });
    const hashes = chunkHashesOf(facts, tokens);
    expect(hashes).toHaveLength(3);
    for (const hash of hashes) {
      expect(isNativeKey(new TextEncoder().encode(hash))).toBe(true);
      const parsed = parseKey(new TextEncoder().encode(respKeyOf(namespace, hash)));
      if (parsed === 'too-long') throw new Error(parsed);
      expect(parsed.descriptor).toMatchObject({ grammar: 'object-key', model: respModelOf(namespace), tenant: 'default', group: '0' });
    }
    expect(respModelOf(namespace)).toBe(`Tiny-Llama-home/${namespace.layout.slice(0, 16)}`);
  });

  test('are chained: a token changes its own chunk and every later one, and none before', () => {
    const keys = chunkHashesOf(facts, tokens);
    const changed = chunkHashesOf(facts, tokens.with(256, 7));
    expect(changed[0]).toBe(keys[0]);
    expect(changed[1]).not.toBe(keys[1]);
    expect(changed[2]).not.toBe(keys[2]);
    const swapped = Int32Array.of(...tokens.subarray(256, 512), ...tokens.subarray(0, 256));
    expect(chunkHashesOf(facts, swapped)[1]).not.toBe(keys[0]);
    expect(chunkHashesOf(facts, tokens.subarray(0, 700))).toEqual(keys.slice(0, 2));
  });

  test('depend on where the tokens lie in no way', () => {
    const shifted = new Int32Array(1100);
    shifted.set(tokens, 100);
    expect(chunkHashesOf(facts, shifted.subarray(100))).toEqual(chunkHashesOf(facts, tokens));
  });

  test('differ as a whole where anything that changes the bits differs', () => {
    const others: readonly Partial<EngineFacts>[] = [
      { modelSha256: 'b'.repeat(64) },
      { build: 'build 2' },
      { cpuVariant: 'zen4' },
      { kvType: 'q8_0' },
      { flashAttention: false },
      { layout: '1:1x64,8x34' },
      { chunkTokens: 128 },
    ];
    const layouts = others.map((other) => chunkNamespaceOf({ ...facts, ...other }).layout);
    expect(new Set([chunkNamespaceOf(facts).layout, ...layouts]).size).toBe(others.length + 1);
    const keys = chunkHashesOf(facts, tokens);
    const foreign = chunkHashesOf({ ...facts, cpuVariant: 'zen4' }, tokens);
    expect(keys.filter((hash) => foreign.includes(hash))).toEqual([]);
  });

  test('do not depend on what changes no bit', () => {
    expect(fingerprintOf({ ...facts, contextTokens: 512, modelName: 'x' })).toEqual(fingerprintOf(facts));
  });
});

describe('a seal', () => {
  const key = 'model@01000100@0@ab';
  const sealed = (): Uint8Array => {
    const value = Uint8Array.from({ length: 8192 + SEAL_BYTES }, (_, index) => index % 251);
    sealChunk(value, key);
    return value;
  };

  test('holds for what was sealed under the key, and leaves the rows alone', () => {
    const value = sealed();
    expect(sealHolds(value, key)).toBe(true);
    expect(value.subarray(0, 8192)).toEqual(Uint8Array.from({ length: 8192 }, (_, index) => index % 251));
  });

  test('does not hold where any bit of rows or seal is another', () => {
    for (const place of [0, 1, 4095, 8191, 8192, 8200, 8204, 8208, 8216, 8247, 8248, 8192 + SEAL_BYTES - 1]) {
      for (const bit of [0, 7]) {
        const value = sealed();
        value[place] = (value[place] ?? 0) ^ (1 << bit);
        expect(sealHolds(value, key), `byte ${place}, bit ${bit}`).toBe(false);
      }
    }
  });

  test('does not hold under another key, for zeros, for another length', () => {
    expect(sealHolds(sealed(), `${key}c`)).toBe(false);
    expect(sealHolds(new Uint8Array(8192 + SEAL_BYTES), key)).toBe(false);
    expect(sealHolds(new Uint8Array(10), key)).toBe(false);
    expect(sealHolds(sealed().subarray(4096), key)).toBe(false);
  });
});
