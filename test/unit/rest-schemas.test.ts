import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { chunkQuerySchema, keysRequestSchema, pageQuerySchema } from '#protocol/rest/chunks.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import { selectorSchema, toSelector } from '#protocol/rest/selector.ts';
import { timePointMs } from '#protocol/rest/time-point.ts';

const now = Date.UTC(2026, 0, 2);
const parse = (wire: unknown): unknown => toSelector(selectorSchema.parse(wire), now);
const refuses = (wire: unknown): boolean => !selectorSchema.safeParse(wire).success;

describe('selectorSchema', () => {
  test('takes every field of the core selector and resolves times', () => {
    const fields = {
      model: 'm',
      modelPrefix: 'm',
      tenant: 't',
      namespace: 'n',
      keys: ['k', 'k'],
      keyPrefix: 'k',
      chainFrom: 'k',
      tag: 'a=b',
      tier: 'ssd',
    };
    expect(parse({ ...fields, olderThan: '1h', createdBefore: 5 })).toEqual({ ...fields, olderThan: now - 3_600_000, createdBefore: 5 });
    expect(parse({ all: true })).toEqual({ all: true });
  });

  test('leaves absent fields out instead of setting them to undefined', () => {
    expect(Object.keys(parse({ model: 'm', tenant: undefined }) as object)).toEqual(['model']);
  });

  test('refuses a selector that would match everything without saying all', () => {
    for (const wire of [{}, { model: undefined }, { keyPrefix: '' }, { modelPrefix: '' }, { model: '' }, { keys: [] }, { all: false }]) {
      expect(refuses(wire), JSON.stringify(wire)).toBe(true);
    }
  });

  test('refuses all beside another field', () => {
    expect(refuses({ all: true, model: 'm' })).toBe(true);
  });

  test('refuses a field it does not know, __proto__ among them', () => {
    expect(refuses({ model: 'm', tennant: 't' })).toBe(true);
    expect(refuses(JSON.parse('{"model":"m","__proto__":{"all":true}}'))).toBe(true);
    expect(refuses(JSON.parse('{"__proto__":{"all":true}}'))).toBe(true);
    expect(refuses(JSON.parse('{"constructor":"m"}'))).toBe(true);
  });

  test('refuses text over its bound and takes text at it', () => {
    expect(refuses({ keyPrefix: 'k'.repeat(restLimits.keyLength) })).toBe(false);
    expect(refuses({ keyPrefix: 'k'.repeat(restLimits.keyLength + 1) })).toBe(true);
    expect(refuses({ model: 'm'.repeat(restLimits.nameLength) })).toBe(false);
    expect(refuses({ model: 'm'.repeat(restLimits.nameLength + 1) })).toBe(true);
  });

  test('refuses more keys than its bound and takes that many', () => {
    const keys = Array.from({ length: restLimits.keyCount }, (_, index) => String(index));
    expect(refuses({ keys })).toBe(false);
    expect(refuses({ keys: [...keys, 'one more'] })).toBe(true);
  });

  test('refuses a lone surrogate, which the journal could not keep', () => {
    expect(refuses({ keys: ['\ud800'] })).toBe(true);
    expect(refuses({ keys: ['\u{1f600}\u0000\n/../'] })).toBe(false);
  });

  test('refuses every value that is no object', () => {
    for (const wire of [null, [], 'all', 1, true, undefined]) expect(refuses(wire)).toBe(true);
  });

  test('never turns garbage into a selector without a field', () => {
    fc.assert(
      fc.property(fc.object({ key: fc.constantFrom('all', 'model', 'keys', 'olderThan', 'tier', 'x') }), (wire) => {
        const parsed = selectorSchema.safeParse(wire);
        if (!parsed.success) return;
        const fields = Object.entries(toSelector(parsed.data, now));
        expect(fields.length).toBeGreaterThan(0);
        expect(fields.every(([, value]) => value !== undefined && value !== '')).toBe(true);
      }),
      { numRuns: 200 },
    );
  });
});

describe('timePointMs', () => {
  test('reads milliseconds, digits, ISO 8601 with offset, dates as UTC, and durations ago', () => {
    expect(timePointMs(1_000, now)).toBe(1_000);
    expect(timePointMs('1000', now)).toBe(1_000);
    expect(timePointMs('2026-01-01T12:00:00Z', now)).toBe(now - 43_200_000);
    expect(timePointMs('2026-01-01T14:00:00+02:00', now)).toBe(now - 43_200_000);
    expect(timePointMs('2026-01-01', now)).toBe(now - 86_400_000);
    expect(timePointMs('90m', now)).toBe(now - 5_400_000);
    expect(timePointMs('250ms', now)).toBe(now - 250);
  });

  test('stops a duration at 1970 rather than before it', () => {
    expect(timePointMs('99999d', 1000)).toBe(0);
  });

  test('refuses local times, impossible dates, negatives, fractions and words', () => {
    for (const value of [
      '2026-01-01T12:00:00',
      '2026-02-30',
      '2026-13-01',
      '-1h',
      '-5',
      '',
      ' ',
      'yesterday',
      '1w',
      '1e3',
      'NaN',
      -1,
      1.5,
      Number.NaN,
      1e300,
    ]) {
      expect(timePointMs(value, now), String(value)).toBeUndefined();
    }
  });

  test('answers a whole number of milliseconds or nothing, for any text', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.double(), fc.stringMatching(/^\d{1,20}(ms|s|h|d)?$/)), (value) => {
        const timeMs = timePointMs(value, now);
        expect(timeMs === undefined || (Number.isSafeInteger(timeMs) && timeMs >= 0)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});

describe('query schemas', () => {
  test('take the numbers of a query string and default the page size', () => {
    expect(pageQuerySchema.parse({})).toEqual({ limit: restLimits.defaultPageSize });
    expect(pageQuerySchema.parse({ limit: '7', cursor: 'c' })).toEqual({ limit: 7, cursor: 'c' });
  });

  test('refuse page sizes out of bounds and parameters they do not know', () => {
    for (const query of [
      { limit: '0' },
      { limit: '1001' },
      { limit: '1.5' },
      { limit: 'ten' },
      { limit: ['1', '2'] },
      { limt: '1' },
      { cursor: '' },
    ]) {
      expect(pageQuerySchema.safeParse(query).success, JSON.stringify(query)).toBe(false);
    }
    expect(chunkQuerySchema.safeParse({ modle: 'm' }).success).toBe(false);
    expect(chunkQuerySchema.safeParse({ olderThan: 'soon' }).success).toBe(false);
  });
});

test('keysRequestSchema refuses no keys, empty keys and unknown fields', () => {
  for (const body of [{}, { keys: [] }, { keys: [''] }, { keys: 'k' }, { keys: ['k'], all: true }])
    expect(keysRequestSchema.safeParse(body).success).toBe(false);
});
