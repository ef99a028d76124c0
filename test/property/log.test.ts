import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createLog } from '#telemetry/log.ts';

describe('createLog', () => {
  it('writes any message and fields as exactly one parseable line, and never the secret', () => {
    const secret = 'S3cret-value-of-the-token';
    const leaf = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constant(`x${secret}y`),
      fc.constant(secret),
      fc.anything({ withBigInt: true, withDate: true, withMap: true, withSet: true, withTypedArray: true }),
    );
    fc.assert(
      fc.property(
        fc.oneof(fc.string({ unit: 'binary' }), fc.constant(`a ${secret}`)),
        fc.dictionary(fc.string(), leaf, { maxKeys: 5 }),
        (message, fields) => {
          for (const format of ['json', 'pretty'] as const) {
            const lines: string[] = [];
            createLog({ level: 'debug', format, write: (line) => lines.push(line), secrets: [secret] })
              .room('x')
              .info(message, fields);
            expect(lines).toHaveLength(1);
            const line = lines[0] ?? '';
            expect(line.indexOf('\n')).toBe(line.length - 1);
            expect(line).not.toContain(secret);
            if (format === 'json') expect(JSON.parse(line)).toMatchObject({ level: 'info', room: 'x' });
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});
