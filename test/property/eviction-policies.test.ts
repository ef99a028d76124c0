/** Every order that a tier can be given, against the same in arrays. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createPolicy, policyNames } from '#policy/create-policy.ts';
import { GhostQueue } from '#policy/ghost-queue.ts';
import { RecentKeys } from '#policy/recent-keys.ts';
import { naivePolicy } from '#testsupport/naive-policies.ts';

/** Chunks (identities) that come and go under the entry numbers that are free, as rows of the index do. */
type Command =
  | { readonly kind: 'store' | 'use' | 'refresh' | 'drop'; readonly chunk: number }
  | { readonly kind: 'evict'; readonly modulus: number; readonly scanLimit: number };

const CHUNKS = 14;
const chunk = fc.nat({ max: CHUNKS - 1 });
const commands: fc.Arbitrary<Command> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('store' as const), chunk }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('use' as const), chunk }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('refresh' as const), chunk }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('drop' as const), chunk }) },
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant('evict' as const), modulus: fc.integer({ min: 1, max: 3 }), scanLimit: fc.nat({ max: 8 }) }),
  },
);
/** Far apart, so that links cross segments. */
const numbers = [0, 1, 2, 3, 16_383, 16_384, 16_385, 60_000, 60_001, 60_002, 5, 6, 7, 8];

class Tier {
  readonly #free = [...numbers];
  readonly #entryOf = new Map<number, number>();
  readonly #chunkOf = new Map<number, number>();
  readonly #sizes: readonly number[];
  readonly facts = {
    sizeOf: (entry: number): number => this.#sizes[this.chunkOf(entry)] as number,
    identityOf: (entry: number): number => (this.chunkOf(entry) * 0x0fff_ffff) >>> 0,
  };

  constructor(sizes: readonly number[]) {
    this.#sizes = sizes;
  }

  chunkOf(entry: number): number {
    const found = this.#chunkOf.get(entry);
    if (found === undefined) throw new Error(`Entry ${entry} is asked about and not in the tier`);
    return found;
  }

  entryOf(chunkNumber: number): number | undefined {
    return this.#entryOf.get(chunkNumber);
  }

  take(chunkNumber: number): number {
    const entry = this.#free.shift() as number;
    this.#entryOf.set(chunkNumber, entry);
    this.#chunkOf.set(entry, chunkNumber);
    return entry;
  }

  release(entry: number): void {
    this.#entryOf.delete(this.chunkOf(entry));
    this.#chunkOf.delete(entry);
    this.#free.push(entry);
  }
}

function listed(policy: { forEachColdest(visit: (entry: number) => boolean): void }): number[] {
  const list: number[] = [];
  policy.forEachColdest((entry) => list.push(entry) > 0);
  return list;
}

describe.each(policyNames)('policy %s', (name) => {
  test('evicts in the order of the same policy in arrays, skips what is not evictable, and looks no further than it may', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: CHUNKS, maxLength: CHUNKS });
    fc.assert(
      fc.property(fc.array(commands, { maxLength: 120, size: 'max' }), sizes, (list, chunkSizes) => {
        const tier = new Tier(chunkSizes);
        const policy = createPolicy(name, tier.facts);
        const naive = naivePolicy(name, tier.facts);
        const drop = (entry: number): void => {
          policy.remove(entry);
          naive.remove(entry);
          tier.release(entry);
        };
        for (const command of list) {
          if (command.kind === 'evict') {
            const evictable = (entry: number): boolean => tier.chunkOf(entry) % command.modulus === 0;
            const asked: number[] = [];
            const victim = policy.victim((entry) => asked.push(entry) > 0 && evictable(entry), command.scanLimit);
            expect(asked.length).toBeLessThanOrEqual(command.scanLimit);
            expect(victim).toBe(naive.order().slice(0, command.scanLimit).find(evictable) ?? -1);
            expect(policy.victim(evictable)).toBe(naive.order().find(evictable) ?? -1);
            if (victim >= 0) drop(victim);
          } else {
            const entry = tier.entryOf(command.chunk);
            if (entry === undefined) {
              if (command.kind !== 'store') continue;
              const made = tier.take(command.chunk);
              policy.insert(made, tier.facts.sizeOf(made));
              naive.insert(made);
            } else if (command.kind === 'use') {
              policy.touch(entry);
              naive.touch(entry);
            } else if (command.kind === 'refresh') {
              policy.refresh(entry);
              naive.refresh(entry);
            } else if (command.kind === 'drop') drop(entry);
          }
          policy.checkInvariants();
          expect(listed(policy)).toEqual(naive.order());
          expect(policy.size).toBe(naive.order().length);
          for (const entry of numbers) expect(policy.has(entry)).toBe(naive.order().includes(entry));
          for (const entry of numbers) expect(policy.temperature(entry) > 0).toBe(policy.has(entry));
        }
      }),
      { numRuns: 80 },
    );
  });

  test('refuses an entry that is there twice, and one that is not there', () => {
    const policy = createPolicy(name, { sizeOf: () => 1, identityOf: (entry) => entry });
    policy.insert(7, 1);
    expect(() => policy.insert(7, 1)).toThrow('it is in the tier');
    for (const use of [policy.touch, policy.refresh, policy.remove]) expect(() => use.call(policy, 8)).toThrow('it is not in the tier');
  });

  test('costs 16 bytes an entry, and no more than 16 MiB for each list of what it remembers', () => {
    const policy = createPolicy(name, { sizeOf: () => 1, identityOf: (entry) => entry });
    for (let entry = 0; entry < 65_536; entry += 1) policy.insert(entry, 1);
    expect(policy.memoryBytes() - 65_536 * 16).toBeLessThan(16_384);
  });
});

describe('GhostQueue', () => {
  const command = fc.oneof(
    fc.record({ kind: fc.constant('push' as const), identity: fc.nat({ max: 400 }), size: fc.nat({ max: 9 }) }),
    fc.record({ kind: fc.constant('take' as const), identity: fc.nat({ max: 400 }), size: fc.constant(0) }),
    fc.record({ kind: fc.constant('trim' as const), identity: fc.constant(0), size: fc.nat({ max: 2000 }) }),
  );

  test('forgets the oldest first, whatever was taken out of the middle, and never holds more rows than it may', () => {
    fc.assert(
      fc.property(fc.array(command, { maxLength: 900, minLength: 300, size: 'max' }), (list) => {
        const queue = new GhostQueue(256);
        let model: { identity: number; size: number }[] = [];
        for (const { kind, identity, size } of list) {
          const known = model.find((row) => row.identity === identity);
          if (kind === 'take') {
            expect(queue.take(identity)).toBe(known?.size ?? -1);
            model = model.filter((row) => row !== known);
          } else if (kind === 'push') {
            queue.push(identity, size);
            model = [...model.filter((row) => row !== known), { identity, size }].slice(-256);
          } else {
            queue.trim(size);
            while (model.reduce((sum, row) => sum + row.size, 0) > size) model.shift();
          }
          expect([queue.count, queue.bytes]).toEqual([model.length, model.reduce((sum, row) => sum + row.size, 0)]);
        }
        queue.checkInvariants();
        for (let identity = 0; identity <= 400; identity += 1)
          expect(queue.take(identity)).toBe(model.find((row) => row.identity === identity)?.size ?? -1);
      }),
      { numRuns: 40 },
    );
  });

  test('stays within 16 MiB at a million rows', () => {
    const queue = new GhostQueue(2 ** 20);
    for (let identity = 0; identity < 2 ** 20 + 1000; identity += 1) queue.push(identity, 4096);
    expect(queue.count).toBe(2 ** 20);
    expect(queue.memoryBytes()).toBe(16 * 2 ** 20);
    expect(queue.take(999)).toBe(-1);
    expect(queue.take(1000)).toBe(4096);
  });
});

describe('RecentKeys', () => {
  test('knows each of the last keys of a generation, and few of those never added', () => {
    const keys = new RecentKeys(1024);
    const hash = (n: number): number => Number(Bun.hash.xxHash64(`${n}`) & 0xffff_ffffn);
    for (let n = 0; n < 10_000; n += 1) {
      keys.add(hash(n));
      if (n % 97 === 0) for (let back = Math.max(0, n - 1023); back <= n; back += 1) expect(keys.has(hash(back))).toBe(true);
    }
    let strangers = 0;
    for (let n = 20_000; n < 40_000; n += 1) if (keys.has(hash(n))) strangers += 1;
    expect(strangers / 20_000).toBeLessThan(0.01);
    let forgotten = 0;
    for (let n = 0; n < 7900; n += 1) if (!keys.has(hash(n))) forgotten += 1;
    expect(forgotten).toBeGreaterThan(7700);
    expect(keys.memoryBytes()).toBe(2 * 1024 * 2);
  });

  test('a key that comes again and again takes no room of others', () => {
    const keys = new RecentKeys(4);
    for (const hash of [1, 2, 3]) keys.add(hash);
    for (let n = 0; n < 100; n += 1) keys.add(7);
    for (const hash of [1, 2, 3, 7]) expect(keys.has(hash)).toBe(true);
  });
});
