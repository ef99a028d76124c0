import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bulkHeader, errorReply, printable, RESP_FAILED, RESP_SET_REJECTED, RespReplyBuilder } from '#protocol/resp/resp-encoder.ts';
import { fromLatin1, latin1 } from '#testsupport/naive-resp.ts';

function reply(version: 2 | 3, build: (builder: RespReplyBuilder) => unknown): string {
  const builder = new RespReplyBuilder({ version, capacityBytes: 1 });
  build(builder);
  builder.checkInvariants();
  return latin1(builder.take());
}

describe('RespReplyBuilder', () => {
  test.each<[string, (builder: RespReplyBuilder) => unknown, string, string]>([
    ['simple string', (b) => b.simple('OK'), '+OK\r\n', '+OK\r\n'],
    ['error', (b) => b.error('ERR unknown command'), '-ERR unknown command\r\n', '-ERR unknown command\r\n'],
    ['integer', (b) => b.integer(-12), ':-12\r\n', ':-12\r\n'],
    ['large integer', (b) => b.integer(2n ** 62n), ':4611686018427387904\r\n', ':4611686018427387904\r\n'],
    ['bulk string', (b) => b.bulk(fromLatin1('a\r\nb')), '$4\r\na\r\nb\r\n', '$4\r\na\r\nb\r\n'],
    ['empty bulk string', (b) => b.bulkText(''), '$0\r\n\r\n', '$0\r\n\r\n'],
    ['text beyond ASCII', (b) => b.bulkText('\u00e9'), '$2\r\n\xc3\xa9\r\n', '$2\r\n\xc3\xa9\r\n'],
    ['null', (b) => b.nullBulk(), '$-1\r\n', '_\r\n'],
    ['array', (b) => b.array(2).integer(1).integer(2), '*2\r\n:1\r\n:2\r\n', '*2\r\n:1\r\n:2\r\n'],
    ['map', (b) => b.map(1).bulkText('k').integer(1), '*2\r\n$1\r\nk\r\n:1\r\n', '%1\r\n$1\r\nk\r\n:1\r\n'],
    ['set', (b) => b.set(1).integer(1), '*1\r\n:1\r\n', '~1\r\n:1\r\n'],
    ['boolean', (b) => b.boolean(true).boolean(false), ':1\r\n:0\r\n', '#t\r\n#f\r\n'],
    ['double', (b) => b.double(1.5).double(-Infinity).double(NaN), '$3\r\n1.5\r\n$4\r\n-inf\r\n$3\r\nnan\r\n', ',1.5\r\n,-inf\r\n,nan\r\n'],
    ['verbatim text', (b) => b.verbatim('ab'), '$2\r\nab\r\n', '=6\r\ntxt:ab\r\n'],
  ])('spells %s in RESP2 and RESP3', (_, build, resp2, resp3) => {
    expect([reply(2, build), reply(3, build)]).toEqual([resp2, resp3]);
  });

  test('never lets the text of an error end the reply early', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        for (const out of [reply(2, (b) => b.error(text)), latin1(errorReply(text))]) expect(out.slice(0, -2)).not.toMatch(/[\r\n]/);
      }),
    );
  });

  test('keeps every appended reply whole whatever their number and size', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 3000 }), { maxLength: 40 }), (values) => {
        expect(reply(2, (b) => values.forEach((value) => b.bulk(value)))).toBe(
          values.map((v) => `$${v.length}\r\n${latin1(v)}\r\n`).join(''),
        );
      }),
    );
  });

  test('shows client bytes in messages as one printable line of bounded length', () => {
    expect([printable(fromLatin1('a\r\nb\xff\0')), printable(fromLatin1('x'.repeat(500))).length]).toEqual(['a  b? ', 128]);
  });

  test('starts anew after take, and the taken bytes stay as they were', () => {
    const builder = new RespReplyBuilder();
    const first = builder.ok().take();
    builder.simple('PONG');
    expect([latin1(first), latin1(builder.bytes)]).toEqual(['+OK\r\n', '+PONG\r\n']);
  });

  test('refuses sizes that are none', () => {
    expect(() => new RespReplyBuilder().array(-1)).toThrow('announce');
    expect(() => bulkHeader(1.5)).toThrow('no size');
  });

  test('has rejections as long as the replies that LMCache reads', () => {
    expect([RESP_SET_REJECTED.length, RESP_FAILED.length, latin1(bulkHeader(33_554_432))]).toEqual([5, 4, '$33554432\r\n']);
  });
});
