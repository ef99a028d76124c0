import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { BlockHash } from '#core/checksum.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { ChunkFileHeader } from '#tiers/ssd/chunk-file.ts';
import { chunkFileName, decodeChunkHeader, encodeChunkHeader, parseChunkFileName } from '#tiers/ssd/chunk-file.ts';

const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);
const seed = 0x6b76_7469_6572_430an;

const text = fc.string({ unit: 'grapheme', maxLength: 40 });
const generation = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
const time = fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }).map((value) => value + 0);
const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });

const namespace: fc.Arbitrary<NamespaceDescriptor> = fc.record({
  grammar: fc.constantFrom('object-key', 'cache-engine-key', 'opaque', 'native'),
  tenant: text,
  model: text,
  rank: text,
  group: text,
  dtype: text,
  layer: text,
  keyPrefix: text,
  keyTail: text,
  tags: fc.array(fc.tuple(text, text), { maxLength: 4 }).map((entries) => Object.fromEntries(entries)),
});

const header: fc.Arbitrary<ChunkFileHeader> = fc.record(
  {
    generation,
    sizeBytes: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    checksum: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    createdAtMs: time,
    expiresAtMs: time,
    parentGeneration: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    tokenCount: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    namespace,
    key: fc.oneof(fc.uint8Array({ maxLength: 64 }), fc.uint8Array({ minLength: 2048, maxLength: 2048 })),
    redisMetadata: fc.uint8Array({ maxLength: 512 }),
    lm: fc.record({ fmt: int32, dtype: int32, shape: fc.tuple(int32, int32, int32, int32) }),
  },
  {
    requiredKeys: [
      'generation',
      'sizeBytes',
      'checksum',
      'createdAtMs',
      'expiresAtMs',
      'parentGeneration',
      'tokenCount',
      'namespace',
      'key',
    ],
  },
);

function encoded(value: ChunkFileHeader): Uint8Array<ArrayBuffer> | undefined {
  const outcome = encodeChunkHeader(value, hash);
  return outcome.ok ? outcome.bytes : undefined;
}

describe('chunk file header', () => {
  test('comes back as it was written, whatever is in it', () => {
    let fitted = 0;
    fc.assert(
      fc.property(header, (value) => {
        const bytes = encoded(value);
        if (bytes === undefined) return;
        fitted += 1;
        expect(decodeChunkHeader(bytes, hash)).toEqual({ ok: true, header: value });
      }),
      { numRuns: 300 },
    );
    expect(fitted).toBeGreaterThan(100);
  });

  test('is refused after any single changed byte, at every place', () => {
    fc.assert(
      fc.property(header, fc.integer({ min: 1, max: 255 }), (value, flip) => {
        const bytes = encoded(value);
        if (bytes === undefined) return;
        for (let place = 0; place < bytes.length; place += 1) {
          bytes[place]! ^= flip;
          expect(decodeChunkHeader(bytes, hash).ok).toBe(false);
          bytes[place]! ^= flip;
        }
      }),
      { numRuns: 4 },
    );
  });

  test('is refused when it is cut at any length', () => {
    fc.assert(
      fc.property(header, (value) => {
        const bytes = encoded(value);
        if (bytes === undefined) return;
        for (let length = 0; length < bytes.length; length += 1) expect(decodeChunkHeader(bytes.subarray(0, length), hash).ok).toBe(false);
      }),
      { numRuns: 3 },
    );
  });

  test('never throws on hostile bytes under a right magic, version and checksum, and takes only what encodes to the same bytes', () => {
    const changes = fc.array(fc.tuple(fc.integer({ min: 12, max: 300 }), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(header, changes, (value, list) => {
        const bytes = encoded(value);
        if (bytes === undefined) return;
        for (const [place, byte] of list) bytes[place] = byte;
        new DataView(bytes.buffer).setBigUint64(4088, hash(bytes.subarray(0, 4088), seed), true);
        const outcome = decodeChunkHeader(bytes, hash);
        if (!outcome.ok) expect(outcome.problem).toBe('malformed');
        else expect(sortedTags(encoded(outcome.header))).toEqual(sortedTags(bytes));
      }),
      { numRuns: 500 },
    );
  });

  test('never throws on garbage', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 5000 }), (garbage) => {
        expect(decodeChunkHeader(garbage, hash).ok).toBe(false);
      }),
      { numRuns: 100 },
    );
  });
});

/** An object puts tags with whole numbers for names first, so bytes are compared as what they say. */
function sortedTags(bytes: Uint8Array | undefined): unknown {
  const outcome = decodeChunkHeader(bytes ?? new Uint8Array(0), hash);
  return outcome.ok ? outcome.header : outcome.problem;
}

test('a chunk file name gives back its generation, and sorts as generations do', () => {
  fc.assert(
    fc.property(generation, generation, (a, b) => {
      expect(parseChunkFileName(chunkFileName(a))).toBe(a);
      expect(chunkFileName(a) < chunkFileName(b)).toBe(a < b);
    }),
  );
  fc.assert(
    fc.property(fc.string(), (name) => {
      const parsed = parseChunkFileName(name);
      if (parsed !== undefined) expect(chunkFileName(parsed)).toBe(name);
    }),
  );
});
