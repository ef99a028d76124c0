import { describe, expect, it } from 'vitest';
import { Promises, matchedMiss } from '#servers/resp/promises.ts';
import { bulkHeader } from '#protocol/resp/resp-encoder.ts';

describe('matchedMiss', () => {
  it.each([0, 9, 10, 99_999, 33_554_432, 134_217_728, 536_870_912])(
    'is an error line as long as the bulk header of %i bytes',
    (sizeBytes) => {
      const line = matchedMiss(sizeBytes);
      expect(line.length).toBe(bulkHeader(sizeBytes).length);
      expect(new TextDecoder().decode(line)).toMatch(/^-[A-Z_]+\r\n$/);
    },
  );
});

describe('Promises', () => {
  it('gives the promised length once', () => {
    const promises = new Promises(1000);
    promises.keep('k', 42, 0);
    expect([promises.take('k', 10), promises.take('k', 10)]).toEqual([42, undefined]);
  });

  it('forgets a promise after its lifetime', () => {
    const promises = new Promises(1000);
    promises.keep('k', 42, 0);
    expect(promises.take('k', 1001)).toBeUndefined();
  });

  it('keeps the latest length of a key that was asked for again', () => {
    const promises = new Promises(1000);
    promises.keep('k', 42, 0);
    promises.keep('k', 43, 900);
    expect(promises.take('k', 1800)).toBe(43);
  });

  it('holds a bounded number, the oldest forgotten first', () => {
    const promises = new Promises(1000);
    for (let index = 0; index <= 65_536; index += 1) promises.keep(String(index), index, 0);
    expect([promises.take('0', 0), promises.take('1', 0)]).toEqual([undefined, 1]);
  });
});
