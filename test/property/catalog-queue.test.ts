import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CatalogQueue, keyColumn } from '#catalog/catalog-queue.ts';
import type { CatalogBatch } from '#catalog/catalog-protocol.ts';
import type { CatalogChange, CatalogReplica } from '#ports/catalog-store.ts';
import { llama, makeChunk, makeInvalidation, opaque } from '#testsupport/catalog-fixtures.ts';

/** Few generations, so that changes meet. */
const generation = fc.integer({ min: 1, max: 6 });
const replicas: fc.Arbitrary<readonly CatalogReplica[]> = fc.subarray<CatalogReplica>([
  { tier: 'ram', folder: '', dirty: true },
  { tier: 'ssd', folder: 'a', dirty: false },
]);

const changes: fc.Arbitrary<CatalogChange> = fc.oneof(
  fc
    .tuple(generation, fc.constantFrom(llama, opaque), fc.uint8Array({ maxLength: 3 }), replicas)
    .map(([at, namespace, key, places]): CatalogChange => ({ kind: 'put', chunk: makeChunk(at, { namespace, key, replicas: places }) })),
  fc.record({ kind: fc.constant('remove' as const), generation }),
  fc.record({ kind: fc.constant('replicas' as const), generation, replicas }),
  fc.record({ kind: fc.constant('touch' as const), generation, lastUsedAtMs: fc.nat(), hitCount: fc.nat() }),
  fc.record({ kind: fc.constant('expiry' as const), generation, expiresAtMs: fc.nat(3) }),
  fc.record({ kind: fc.constant('parent' as const), generation, parentGeneration: fc.option(generation, { nil: undefined }) }),
  generation.map((at): CatalogChange => ({ kind: 'invalidation', invalidation: makeInvalidation(at) })),
);

interface Row {
  key: string | Uint8Array;
  tenant: string;
  lastUsedAtMs: number;
  hitCount: number;
  parentGeneration: number | null;
  expiresAtMs: number | null;
  replicas: readonly CatalogReplica[];
}

/** The tables, as naively as can be. */
class Model {
  readonly rows = new Map<number, Row>();
  readonly invalidations: string[] = [];

  apply(change: CatalogChange): void {
    if (change.kind === 'invalidation') this.invalidations.push(change.invalidation.id);
    else if (change.kind === 'remove') this.rows.delete(change.generation);
    else if (change.kind === 'put') {
      const { chunk } = change;
      const { lastUsedAtMs, hitCount } = chunk;
      const parentGeneration = chunk.parentGeneration ?? null;
      const row = {
        key: keyColumn(chunk.key),
        tenant: chunk.namespace.tenant,
        lastUsedAtMs,
        hitCount,
        parentGeneration,
        expiresAtMs: chunk.expiresAtMs === 0 ? null : chunk.expiresAtMs,
        replicas: chunk.replicas,
      };
      this.rows.set(chunk.generation, row);
    } else {
      const row = this.rows.get(change.generation);
      if (row === undefined) return;
      if (change.kind === 'replicas') row.replicas = change.replicas;
      else if (change.kind === 'parent') row.parentGeneration = change.parentGeneration ?? null;
      else if (change.kind === 'expiry') row.expiresAtMs = change.expiresAtMs === 0 ? null : change.expiresAtMs;
      else Object.assign(row, { lastUsedAtMs: change.lastUsedAtMs, hitCount: change.hitCount });
    }
  }

  applyBatch(batch: CatalogBatch): void {
    const touched = [...batch.removes, ...batch.puts.map((row) => row.generation), ...batch.patches.map((row) => row.generation)];
    expect(new Set(touched).size).toBe(touched.length);
    for (const at of batch.removes) this.rows.delete(at);
    for (const { generation: at, key, namespace, lastUsedAtMs, hitCount, parentGeneration, expiresAtMs, replicas: places } of batch.puts) {
      this.rows.set(at, {
        key,
        tenant: batch.namespaces[namespace]?.tenant ?? '?',
        lastUsedAtMs,
        hitCount,
        parentGeneration,
        expiresAtMs,
        replicas: places,
      });
    }
    for (const patch of batch.patches) {
      const row = this.rows.get(patch.generation);
      if (row === undefined) continue;
      if (patch.use !== undefined) Object.assign(row, patch.use);
      if (patch.parent !== undefined) row.parentGeneration = patch.parent.generation;
      if (patch.expiry !== undefined) row.expiresAtMs = patch.expiry.atMs;
      if (patch.replicas !== undefined) row.replicas = patch.replicas;
    }
    for (const row of batch.invalidations) this.invalidations.push(row.id);
  }
}

type Step = { readonly change: CatalogChange } | { readonly take: number; readonly touches: boolean };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 5, arbitrary: fc.record({ change: changes }) },
    { weight: 1, arbitrary: fc.record({ take: fc.integer({ min: 1, max: 5 }), touches: fc.boolean() }) },
  ),
  { maxLength: 60 },
);

describe('CatalogQueue', () => {
  test('leaves by its batches what the accepted changes leave one by one', () => {
    fc.assert(
      fc.property(steps, fc.integer({ min: 2, max: 12 }), fc.integer({ min: 500, max: 6000 }), (plan, maxChanges, maxBytes) => {
        const queue = new CatalogQueue({ maxChanges, maxBytes });
        const wanted = new Model();
        const found = new Model();
        for (const step of plan) {
          if ('change' in step) {
            // A dropped change is as one that never was: what waits stays as it is.
            if (queue.add(step.change)) wanted.apply(step.change);
          } else {
            const batch = queue.take(step.take, { touches: step.touches, nowMs: 0 });
            expect(batch?.changeCount ?? 1).toBeLessThanOrEqual(step.take);
            if (batch !== undefined) found.applyBatch(batch);
          }
          queue.checkInvariants();
        }
        for (
          let batch = queue.take(3, { touches: true, nowMs: 0 });
          batch !== undefined;
          batch = queue.take(3, { touches: true, nowMs: 0 })
        )
          found.applyBatch(batch);
        expect(queue.size).toBe(0);
        expect(queue.sizeBytes).toBe(0);
        expect(found.rows).toEqual(wanted.rows);
        expect(found.invalidations).toEqual(wanted.invalidations);
      }),
      { numRuns: 500 },
    );
  });

  test('drops only where it is full', () => {
    fc.assert(
      fc.property(fc.array(changes, { maxLength: 60 }), (all) => {
        const queue = new CatalogQueue({ maxChanges: 1000, maxBytes: 1_000_000 });
        expect(all.every((change) => queue.add(change))).toBe(true);
      }),
      { numRuns: 100 },
    );
  });

  test('keeps touches back unless it is asked for them', () => {
    const queue = new CatalogQueue({ maxChanges: 10, maxBytes: 10_000 });
    queue.add({ kind: 'touch', generation: 1, lastUsedAtMs: 2, hitCount: 3 });
    expect(queue.urgentSize).toBe(0);
    expect(queue.take(10, { touches: false, nowMs: 0 })).toBeUndefined();
    expect(queue.take(10, { touches: true, nowMs: 0 })?.patches).toEqual([{ generation: 1, use: { lastUsedAtMs: 2, hitCount: 3 } }]);
  });

  test('takes a key as text exactly where its bytes come back from the text, and never as a view', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array(),
          fc.string({ unit: 'binary' }).map((text) => new TextEncoder().encode(text)),
        ),
        (key) => {
          const column = keyColumn(key);
          const bytes = typeof column === 'string' ? new TextEncoder().encode(column) : column;
          expect(bytes).toEqual(key);
          if (typeof column !== 'string') expect(column.buffer).not.toBe(key.buffer);
          else expect(column).not.toContain('\0');
        },
      ),
      { numRuns: 300 },
    );
  });
});
