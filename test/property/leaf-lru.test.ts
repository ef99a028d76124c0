import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LeafLru } from '#policy/leaf-lru.ts';
import { touchChain } from '#policy/touch-chain.ts';

type Command =
  | { readonly kind: 'insert'; readonly entry: number }
  | { readonly kind: 'touch'; readonly entry: number }
  | { readonly kind: 'remove'; readonly entry: number }
  | { readonly kind: 'chain'; readonly entries: readonly number[] }
  | { readonly kind: 'evict'; readonly modulus: number; readonly scanLimit: number };

/** Few entries, in three segments with an unused one between, so that commands meet and links cross segments. */
const entries = fc.constantFrom(0, 1, 2, 3, 4, 16_383, 16_384, 16_385, 60_000);
const commands: fc.Arbitrary<Command> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('insert' as const), entry: entries }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('touch' as const), entry: entries }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('remove' as const), entry: entries }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('chain' as const), entries: fc.uniqueArray(entries) }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('evict' as const), modulus: fc.integer({ min: 1, max: 3 }), scanLimit: fc.nat({ max: 10 }) }),
  },
);

/** The list as an array, coldest first. */
class Model {
  list: number[] = [];

  apply(policy: LeafLru, command: Command): void {
    if (command.kind === 'chain') {
      touchChain(policy, command.entries);
      for (const entry of command.entries.toReversed()) if (this.list.includes(entry)) this.#toHottest(entry);
    } else if (command.kind === 'evict') this.#evict(policy, command);
    else if (this.list.includes(command.entry)) this.#use(policy, command);
    else this.#admit(policy, command);
  }

  #use(policy: LeafLru, { kind, entry }: { readonly kind: 'insert' | 'touch' | 'remove'; readonly entry: number }): void {
    if (kind === 'insert') expect(() => policy.insert(entry, 1)).toThrow('it is in the tier');
    else if (kind === 'touch') {
      policy.touch(entry);
      this.#toHottest(entry);
    } else {
      policy.remove(entry);
      this.list = this.list.filter((other) => other !== entry);
    }
  }

  #admit(policy: LeafLru, { kind, entry }: { readonly kind: 'insert' | 'touch' | 'remove'; readonly entry: number }): void {
    if (kind === 'insert') {
      policy.insert(entry, 1);
      this.list.push(entry);
    } else expect(() => (kind === 'touch' ? policy.touch(entry) : policy.remove(entry))).toThrow('it is not in the tier');
  }

  #evict(policy: LeafLru, { modulus, scanLimit }: { readonly modulus: number; readonly scanLimit: number }): void {
    const evictable = (entry: number): boolean => entry % modulus === 0;
    const asked: number[] = [];
    const victim = policy.victim((entry) => {
      asked.push(entry);
      return evictable(entry);
    }, scanLimit);
    expect(victim).toBe(this.list.slice(0, scanLimit).find(evictable) ?? -1);
    expect(asked.length).toBeLessThanOrEqual(scanLimit);
    expect(policy.victim(evictable)).toBe(this.list.find(evictable) ?? -1);
    if (victim < 0) return;
    policy.remove(victim);
    this.list = this.list.filter((other) => other !== victim);
  }

  #toHottest(entry: number): void {
    this.list = this.list.filter((other) => other !== entry);
    this.list.push(entry);
  }
}

function coldestFirst(policy: LeafLru): number[] {
  const listed: number[] = [];
  policy.forEachColdest((entry) => {
    listed.push(entry);
    return true;
  });
  return listed;
}

describe('LeafLru', () => {
  test('orders entries like an array that moves what is used to its end', () => {
    fc.assert(
      fc.property(fc.array(commands, { maxLength: 80, size: 'max' }), (list) => {
        const policy = new LeafLru();
        const model = new Model();
        for (const command of list) {
          model.apply(policy, command);
          policy.checkInvariants();
          expect(coldestFirst(policy)).toEqual(model.list);
          expect(policy.size).toBe(model.list.length);
          for (const entry of [0, 1, 2, 3, 4, 16_383, 16_384, 16_385, 60_000, 1_000_000]) {
            expect(policy.has(entry)).toBe(model.list.includes(entry));
            expect(policy.temperature(entry) > 0).toBe(model.list.includes(entry));
          }
          const temperatures = model.list.map((entry) => policy.temperature(entry));
          expect(temperatures).toEqual(temperatures.toSorted((a, b) => a - b));
        }
      }),
      { numRuns: 150 },
    );
  });

  test('loses a chain from its tail, whatever chains sharing prefixes were touched, when touchChain orders the touches', () => {
    // Chains are paths in a tree: node n hangs on floor((n - 1) / 2).
    const leaf = fc.integer({ min: 0, max: 30 });
    fc.assert(
      fc.property(fc.array(leaf, { minLength: 1, maxLength: 40 }), fc.integer({ min: 5, max: 20 }), (uses, capacity) => {
        const policy = new LeafLru();
        for (const use of uses) {
          const chain = pathTo(use);
          for (const entry of chain.toReversed()) {
            if (policy.has(entry)) continue;
            if (policy.size >= capacity) policy.remove(policy.victim((other) => !chain.includes(other)));
            policy.insert(entry, 1);
          }
          touchChain(policy, chain);
          for (const entry of coldestFirst(policy)) expect(entry === 0 || policy.has((entry - 1) >> 1)).toBe(true);
        }
      }),
      { numRuns: 100 },
    );
  });

  test('stops forEachColdest when the visitor answers false', () => {
    const policy = new LeafLru();
    for (const entry of [5, 6, 7]) policy.insert(entry, 1);
    const visited: number[] = [];
    policy.forEachColdest((entry) => {
      visited.push(entry);
      return entry !== 6;
    });
    expect(visited).toEqual([5, 6]);
  });

  test('costs 16 bytes an entry', () => {
    const policy = new LeafLru();
    for (let entry = 0; entry < 65_536; entry += 1) policy.insert(entry, 1);
    expect(policy.memoryBytes()).toBe(65_536 * 16);
  });
});

describe('touchChain', () => {
  test('touches no more than `count` entries of a longer array', () => {
    const policy = new LeafLru();
    for (const entry of [1, 2, 3]) policy.insert(entry, 1);
    touchChain(policy, Int32Array.of(2, 1, 3), 2);
    expect(coldestFirst(policy)).toEqual([3, 1, 2]);
  });
});

function pathTo(node: number): number[] {
  const path = [node];
  while (path[0] !== 0) path.unshift((path[0]! - 1) >> 1);
  return path;
}
