import { describe, expect, it } from 'vitest';
import type { ChunkRef } from '#cache/door.ts';
import type { Clock } from '#core/clock.ts';
import { ChainInference } from '#servers/chain-inference.ts';

const NAMESPACE = 1;
const key = (name: string): Uint8Array => new TextEncoder().encode(name);

/** Remembers edges; a chunk's row is its number. */
class Edges {
  readonly parents = new Map<number, number>();
  readonly gone = new Set<number>();
  readonly touched: number[] = [];
  link(parent: ChunkRef, child: ChunkRef): void {
    this.parents.set(child.entry, parent.entry);
  }
  touchChain(chain: readonly ChunkRef[]): void {
    this.touched.push(...chain.map((ref) => ref.entry));
  }
  isCurrent(ref: ChunkRef): boolean {
    return !this.gone.has(ref.entry);
  }
}

class ManualClock implements Clock {
  atMs = 0;
  nowMs = (): number => this.atMs;
  monotonicMs = (): number => this.atMs;
  schedule = (): (() => void) => () => {};
}

function setup(): {
  edges: Edges;
  clock: ManualClock;
  inference: ChainInference;
  lookup: (tiles: readonly (readonly [string, number | undefined])[][]) => void;
} {
  const edges = new Edges();
  const clock = new ManualClock();
  const inference = new ChainInference(edges, clock);
  return {
    edges,
    clock,
    inference,
    lookup: (tiles) => {
      // Round by round, as sockets that work at the same pace.
      for (let round = 0; tiles.some((tile) => round < tile.length); round += 1) {
        for (const [socket, tile] of tiles.entries()) {
          const probe = tile[round];
          if (probe === undefined) continue;
          const [name, entry] = probe;
          inference.noteProbe(NAMESPACE, socket, { key: key(name), ref: entry === undefined ? undefined : { entry, generation: 1 } });
        }
      }
      inference.end(NAMESPACE);
    },
  };
}

describe('ChainInference', () => {
  it('makes consecutive keys of one socket parent and child at once', () => {
    const { edges, inference } = setup();
    inference.noteProbe(NAMESPACE, 0, { key: key('a'), ref: { entry: 1, generation: 1 } });
    inference.noteProbe(NAMESPACE, 0, { key: key('b'), ref: { entry: 2, generation: 1 } });
    expect([...edges.parents]).toEqual([[2, 1]]);
  });

  it('joins tiles in the order in which they began, and touches the tail', () => {
    const { edges, lookup } = setup();
    lookup([
      [
        ['a', 1],
        ['b', 2],
      ],
      [
        ['c', 3],
        ['d', 4],
      ],
    ]);
    expect([...edges.parents].toSorted((a, b) => a[0] - b[0])).toEqual([
      [2, 1],
      [3, 2],
      [4, 3],
    ]);
    expect(edges.touched).toEqual([4]);
  });

  it('puts the longer tiles first where nothing else is known', () => {
    const { edges, lookup } = setup();
    lookup([
      [['c', 3]],
      [
        ['a', 1],
        ['b', 2],
      ],
    ]);
    expect(edges.parents.get(3)).toBe(2);
  });

  it('joins tiles by what an earlier lookup saw inside a tile, whichever socket was first', () => {
    const { edges, lookup } = setup();
    lookup([
      [
        ['a', 1],
        ['b', 2],
        ['c', 3],
        ['d', 4],
      ],
    ]);
    edges.parents.clear();
    lookup([
      [
        ['c', 3],
        ['d', 4],
      ],
      [
        ['a', 1],
        ['b', 2],
      ],
    ]);
    expect([...edges.parents].toSorted((a, b) => a[0] - b[0])).toEqual([
      [2, 1],
      [3, 2],
      [4, 3],
    ]);
  });

  it('finds the parent of a key that a lookup announced, on any socket and at any time', () => {
    const { clock, inference, lookup } = setup();
    lookup([
      [
        ['a', 1],
        ['b', undefined],
        ['c', undefined],
      ],
    ]);
    clock.atMs = 30_000;
    expect(inference.parentFor(NAMESPACE, 7, key('b'))).toEqual({ entry: 1, generation: 1 });
    inference.notePut(NAMESPACE, 7, { key: key('b'), ref: { entry: 2, generation: 2 } });
    expect(inference.parentFor(NAMESPACE, 3, key('c'))).toEqual({ entry: 2, generation: 2 });
  });

  it('links a successor that was stored first', () => {
    const { edges, inference, lookup } = setup();
    lookup([
      [
        ['a', 1],
        ['b', undefined],
        ['c', undefined],
      ],
    ]);
    inference.notePut(NAMESPACE, 1, { key: key('c'), ref: { entry: 3, generation: 3 } });
    inference.notePut(NAMESPACE, 2, { key: key('b'), ref: { entry: 2, generation: 4 } });
    expect(edges.parents.get(3)).toBe(2);
  });

  it('spares the chain of a key and offers what comes later in it, the last first', () => {
    const { edges, inference, lookup } = setup();
    lookup([
      [
        ['a', 1],
        ['b', undefined],
        ['c', 3],
        ['d', 4],
        ['e', 5],
      ],
    ]);
    edges.gone.add(4);
    expect([...(inference.spareFor(NAMESPACE, key('b')) ?? [])]).toEqual([1, 3, 5]);
    expect([...inference.sacrificesFor(NAMESPACE, key('b'))].map((ref) => ref.entry)).toEqual([5, 3]);
    expect([...inference.sacrificesFor(NAMESPACE, key('e'))]).toEqual([]);
  });

  it('lets a put wait for one of a later key that is under way, and wakes it', async () => {
    const { inference, lookup } = setup();
    lookup([
      [
        ['a', undefined],
        ['b', undefined],
      ],
    ]);
    const put = {};
    inference.opened(put, NAMESPACE, key('b'));
    expect([inference.laterIsOpen(NAMESPACE, key('a')), inference.laterIsOpen(NAMESPACE, key('b'))]).toEqual([true, false]);
    const woken = inference.nextSettled();
    inference.settled(put);
    await woken;
    expect(inference.laterIsOpen(NAMESPACE, key('a'))).toBe(false);
  });

  it('takes stores that no lookup announced as runs of their own', () => {
    const { inference, edges } = setup();
    inference.notePut(NAMESPACE, 0, { key: key('x'), ref: { entry: 1, generation: 1 } });
    expect(inference.parentFor(NAMESPACE, 0, key('y'))).toEqual({ entry: 1, generation: 1 });
    inference.notePut(NAMESPACE, 0, { key: key('y'), ref: { entry: 2, generation: 2 } });
    inference.notePut(NAMESPACE, 1, { key: key('z'), ref: { entry: 3, generation: 3 } });
    inference.endAll();
    expect([...edges.parents].toSorted((a, b) => a[0] - b[0])).toEqual([
      [2, 1],
      [3, 2],
    ]);
  });

  it('ends a run after a pause', () => {
    const { clock, edges, inference } = setup();
    inference.noteProbe(NAMESPACE, 0, { key: key('a'), ref: { entry: 1, generation: 1 } });
    clock.atMs = 51;
    inference.noteProbe(NAMESPACE, 0, { key: key('b'), ref: { entry: 2, generation: 1 } });
    expect([...edges.parents]).toEqual([]);
  });

  it('remembers a bounded number of keys, the oldest lookups forgotten first', () => {
    const { inference, lookup } = setup();
    lookup([
      [
        ['first', 1],
        ['second', undefined],
      ],
    ]);
    for (let round = 0; round < 70; round += 1)
      lookup([Array.from({ length: 1000 }, (_, index) => [`${round}-${index}`, undefined] as const)]);
    expect(inference.parentFor(NAMESPACE, 0, key('second'))).toBeUndefined();
    expect(inference.spareFor(NAMESPACE, key('69-1'))).toBeDefined();
  });

  it('does not loop where two lookups contradict each other', () => {
    const { edges, lookup } = setup();
    lookup([
      [
        ['a', 1],
        ['b', 2],
      ],
    ]);
    lookup([
      [
        ['b', 2],
        ['a', 1],
      ],
    ]);
    edges.parents.clear();
    lookup([[['a', 1]], [['b', 2]]]);
    expect(edges.parents.size).toBe(1);
  });
});
