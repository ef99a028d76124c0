import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { decodeBody, encodeFrame, errorShape } from '#protocol/native/native-codec.ts';
import { NativeParser } from '#protocol/native/native-parser.ts';
import {
  FRAME_HEADER_BYTES,
  LOOKUP_PEEK,
  LOOKUP_PREFIX,
  NATIVE_VERSION,
  STORE_CHAIN,
  loadOutcomes,
  nativeOperations,
  statuses,
  storeOutcomes,
  tierNumbers,
} from '#protocol/native/native-schema.ts';
import type { OperationName, Shape } from '#protocol/native/native-schema.ts';
import { valuesFromJson } from '#testsupport/native-messages.ts';
import { pageText, renewed } from '#testsupport/native-tables.ts';

interface Vector {
  readonly operation: OperationName;
  readonly direction: 'request' | 'reply' | 'error';
  readonly op: number;
  readonly status: number;
  readonly tag: number;
  readonly shape: Shape;
  readonly values: Readonly<Record<string, unknown>>;
  /** In hex. */
  readonly frame: string;
}

/** Frames as this version writes them, for clients in any language. The file changes with NATIVE_VERSION and never without. */
const file = JSON.parse(readFileSync(new URL('../fixtures/native-vectors.json', import.meta.url), 'utf8')) as {
  readonly version: number;
  readonly vectors: readonly Vector[];
};

test('the vectors are those of this version, and know every message with the fields of its schema', () => {
  expect(file.version).toBe(NATIVE_VERSION);
  for (const [name, { op, request, reply }] of Object.entries(nativeOperations)) {
    const own = file.vectors.filter(({ operation, direction }) => operation === name && direction !== 'error');
    expect(new Set(own.map((vector) => vector.op)), name).toEqual(new Set([op]));
    for (const vector of own) {
      const shape = vector.direction === 'request' ? request : reply;
      expect(Object.entries(vector.shape), `${name} ${vector.direction}`).toEqual(Object.entries(shape));
    }
    expect(new Set(own.map(({ direction }) => direction)), name).toEqual(new Set(['request', 'reply']));
  }
  expect(file.vectors.find(({ direction }) => direction === 'error')?.shape).toEqual(errorShape);
});

test.each(file.vectors.map((vector) => [`${vector.operation} ${vector.direction}, tag ${vector.tag}`, vector] as const))(
  'vector %s is encoded and decoded to the byte',
  (_, { op, status, tag, shape, values, frame }) => {
    const own = valuesFromJson(shape, values);
    expect(encodeFrame({ op, status, tag }, shape, own as never).toHex()).toBe(frame);
    const parser = new NativeParser(100_000);
    parser.push(Uint8Array.fromHex(frame));
    const parsed = parser.next();
    expect(parsed).toMatchObject({ op, status, tag });
    expect(decodeBody(shape, Uint8Array.fromHex(frame).subarray(FRAME_HEADER_BYTES))).toEqual(own);
  },
);

/** Of all that both sides must agree on. A change of it is another version: raise NATIVE_VERSION, then write the hash here. */
const HASHES: Readonly<Record<number, string>> = { 1: 'ecc6afa13a3efd14' };

test('the schema is the one of its version', () => {
  const shapes = Object.entries(nativeOperations).map(([name, { op, request, reply }]) => [
    name,
    op,
    Object.entries(request),
    Object.entries(reply),
  ]);
  const numbers = [
    FRAME_HEADER_BYTES,
    LOOKUP_PREFIX,
    LOOKUP_PEEK,
    STORE_CHAIN,
    tierNumbers,
    loadOutcomes,
    storeOutcomes,
    statuses,
    errorShape,
  ];
  const hash = new Bun.CryptoHasher('sha256')
    .update(JSON.stringify([shapes, numbers]))
    .digest('hex')
    .slice(0, 16);
  expect(HASHES[NATIVE_VERSION]).toBe(hash);
});

test('docs/formats/native.md is what the schema says; write it with `bun test/support/native-tables.ts`', () => {
  expect(pageText()).toBe(renewed(pageText()));
  expect(pageText()).toContain(`version ${NATIVE_VERSION}`);
});
