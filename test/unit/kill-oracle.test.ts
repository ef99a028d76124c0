/** The oracle of the crash lane knows what the halves of a redis:// twin are to each other. Keys: 0 is the value half, 1 its metadata half. */
import { beforeEach, describe, expect, it, vi, afterEach } from 'vitest';
import { KillOracle, type Put } from '#testsupport/kill-oracle.ts';

let oracle: KillOracle;
beforeEach(() => {
  vi.useFakeTimers();
  oracle = new KillOracle(2);
});
afterEach(() => {
  vi.useRealTimers();
});

function putValue(ttlMs?: number): Put {
  const replaced = oracle.beginRemoval((key) => key === 1, { byValue: true });
  const put = oracle.beginPut(0, { ttlMs });
  oracle.endPut(put, true);
  oracle.endRemoval(replaced, true);
  return put;
}

function putMetadata(entry: Put, { found }: { readonly found: boolean }): Put {
  const put = oracle.beginPut(1, { entry });
  oracle.endPut(put, true);
  if (found) oracle.foundAtItsValue(put);
  return put;
}

function read(key: number, { version }: Put): readonly string[] {
  oracle.endRead(oracle.beginRead(key), version);
  return oracle.violations.splice(0);
}

describe('The oracle of the kills', () => {
  it('wants the metadata of an entry without an end, and does not miss it where the entry has one', () => {
    const half = putMetadata(putValue(), { found: true });
    expect([oracle.kept(1), oracle.mayExpire(1, half.version)]).toEqual([half.version, false]);
    const ending = putMetadata(putValue(500), { found: true });
    expect([oracle.kept(1), oracle.mayExpire(1, ending.version)]).toEqual([undefined, true]);
  });

  it('does not let metadata be served after the end of its entry, where that is known', () => {
    const half = putMetadata(putValue(500), { found: true });
    vi.advanceTimersByTime(500);
    expect(read(1, half)).toEqual([]);
    vi.advanceTimersByTime(1);
    expect(read(1, half)).toEqual([expect.stringContaining('expired 1 ms ago')]);
  });

  it('lets the end of an entry be changed for both halves', () => {
    const entry = putValue();
    const half = putMetadata(entry, { found: true });
    oracle.beginExpiry(0, 100)(true);
    expect(oracle.mayExpire(1, half.version)).toBe(true);
    oracle.beginExpiry(0, undefined)(true);
    vi.advanceTimersByTime(1000);
    expect([read(0, entry), read(1, half)]).toEqual([[], []]);
    oracle.beginExpiry(0, 100)(true);
    oracle.beginExpiry(0, 5000)(false);
    vi.advanceTimersByTime(101);
    expect([read(0, entry).length, read(1, half).length]).toEqual([1, 1]);
  });

  it('does not know the end of a value whose change nobody answered, and not before it is answered', () => {
    const entry = putValue(100);
    const changed = oracle.beginExpiry(0, 5000);
    vi.advanceTimersByTime(101);
    expect(read(0, entry)).toEqual([]);
    changed(false);
    expect(read(0, entry)).toHaveLength(1);
    oracle.beginExpiry(0, 5000);
    expect(read(0, entry)).toEqual([]);
  });

  it('takes metadata away with the next value, unless it may have waited for that', () => {
    const attached = putMetadata(putValue(), { found: true });
    const waiting = putMetadata(putValue(100), { found: false });
    expect(read(1, attached)).toHaveLength(1);
    vi.advanceTimersByTime(1000);
    putValue();
    expect(read(1, waiting)).toEqual([]);
    const next = putMetadata(putValue(), { found: true });
    expect([read(1, waiting).length, read(1, next).length]).toEqual([1, 0]);
  });

  it('does not want what a removal may take that nobody has answered', () => {
    const put = putValue();
    expect(oracle.required(0)).toBe(put.version);
    const removal = oracle.beginRemoval((key) => key === 0);
    const next = oracle.beginPut(0);
    oracle.endPut(next, true);
    expect(oracle.required(0)).toBeUndefined();
    oracle.endRemoval(removal, true);
    expect(oracle.required(0)).toBeUndefined();
    const last = oracle.beginPut(0);
    oracle.endPut(last, true);
    expect(oracle.required(0)).toBe(last.version);
  });

  it('lets no metadata wait through a deletion or an invalidation', () => {
    const waiting = putMetadata(putValue(100), { found: false });
    oracle.endRemoval(
      oracle.beginRemoval(() => true),
      true,
    );
    putValue();
    expect(read(1, waiting)).toHaveLength(1);
  });
});
