import { describe, expect, test } from 'vitest';
import { DEFAULT_RESP_LIMITS, RespParser, type RespEvent } from '#protocol/resp/resp-parser.ts';
import { fromLatin1, latin1 } from '#testsupport/naive-resp.ts';

function parse(text: string, parser = new RespParser(DEFAULT_RESP_LIMITS)): RespEvent[] {
  parser.push(fromLatin1(text));
  const events: RespEvent[] = [];
  for (let event = parser.next(); event !== undefined; event = parser.next()) events.push(event);
  return events;
}

function words(event: RespEvent | undefined): string[] {
  return event?.kind === 'command' ? event.args.map(latin1) : [];
}

describe('RespParser on malformed input', () => {
  const multibulk = 'Protocol error: invalid multibulk length';
  const bulk = 'Protocol error: invalid bulk length';
  const trailer = 'Protocol error: expected CRLF after bulk string';
  test.each<[string, string, string]>([
    ['a count with a plus sign', '*+1\r\n', multibulk],
    ['a count with a leading zero', '*01\r\n', multibulk],
    ['a count of -0', '*-0\r\n', multibulk],
    ['a count that is no number', '*x\r\n', multibulk],
    ['an empty count', '*\r\n', multibulk],
    ['a count with a space', '* 1\r\n', multibulk],
    ['a count beyond the limit', '*16385\r\n', multibulk],
    ['a count of 2^63', '*9223372036854775808\r\n', multibulk],
    ['a count of a thousand digits', `*${'9'.repeat(1000)}`, multibulk],
    ['a count that ends in LF alone', '*1\n', multibulk],
    ['a count whose CR is not followed by LF', '*1\r1', multibulk],
    ['a NUL in a count', '*1\0\r\n', multibulk],
    ['an array in place of a bulk string', '*1\r\n*1\r\n', "Protocol error: expected '$', got '*'"],
    ['an unprintable byte in place of a bulk string', '*1\r\n\r\n', "Protocol error: expected '$', got '?'"],
    ['a negative bulk length', '*1\r\n$-1\r\n', bulk],
    ['a bulk length with a plus sign', '*1\r\n$+5\r\n', bulk],
    ['a bulk length with a leading zero', '*1\r\n$03\r\nGET\r\n', bulk],
    ['a bulk length of 2^63', '*1\r\n$9223372036854775808\r\n', bulk],
    ['a bulk length of 2^64 + 3', '*1\r\n$18446744073709551619\r\n', bulk],
    ['a bulk length that is no number', '*1\r\n$abc\r\n', bulk],
    ['an empty bulk length', '*1\r\n$\r\n', bulk],
    ['a value above the largest', '*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n', bulk],
    ['an ordinary argument above the largest value', '*2\r\n$3\r\nGET\r\n$536870913\r\n', bulk],
    ['a bulk string longer than announced', '*1\r\n$3\r\nGETX\r\n', trailer],
    ['a bulk string shorter than announced', '*1\r\n$4\r\nGET\r\n*', trailer],
    ['an unbalanced double quote', 'SET a "b\r\n', 'Protocol error: unbalanced quotes in request'],
    ['an unbalanced single quote', "SET a 'b\r\n", 'Protocol error: unbalanced quotes in request'],
    ['a closing quote with text behind it', 'SET a "b"c\r\n', 'Protocol error: unbalanced quotes in request'],
    ['a line without an end', 'x'.repeat(65_537), 'Protocol error: too big inline request'],
    [
      'a browser that posts a form',
      'POST / HTTP/1.1\r\nHost: localhost\r\n\r\nFLUSHALL\r\n',
      'Protocol error: HTTP request on a RESP port',
    ],
    ['an HTTP header line', 'host: localhost\r\n', 'Protocol error: HTTP request on a RESP port'],
  ])('answers %s with one error and reads no further', (_, text, message) => {
    const parser = new RespParser(DEFAULT_RESP_LIMITS);
    expect(parse(text, parser)).toEqual([{ kind: 'error', message }]);
    expect(parse('PING\r\n', parser)).toEqual([]);
    expect([parser.closed, parser.heldBytes, parser.unreadBytes]).toEqual([true, 0, 0]);
    parser.checkInvariants();
  });

  test('ignores empty and null arrays and empty lines as redis does', () => {
    expect(parse('*0\r\n*-1\r\n\r\n\n  \r\n*-7\r\nPING\r\n').map(words)).toEqual([['PING']]);
  });

  test('stays in sync after an argument above the limit, and says which it was', () => {
    const events = parse(`*2\r\n$3\r\nGET\r\n$70000\r\n${'k'.repeat(70_000)}\r\nPING\r\n`);
    expect(events[0]).toEqual({
      kind: 'oversized',
      name: 'GET',
      reason: 'argument',
      argIndex: 1,
      argCount: 2,
      sizeBytes: 70_000,
      limitBytes: 65_536,
      streamed: 0,
    });
    expect(words(events[1])).toEqual(['PING']);
  });

  test('does not offer the value of a SET whose key is above the limit', () => {
    const events = parse(`*3\r\n$3\r\nSET\r\n$70000\r\n${'k'.repeat(70_000)}\r\n$70000\r\n${'v'.repeat(70_000)}\r\nPING\r\n`);
    expect(events.map((event) => event.kind)).toEqual(['oversized', 'command']);
  });

  test('delivers a key of 3 KiB, so that the door can refuse it by name', () => {
    expect(words(parse(`*2\r\n$3\r\nGET\r\n$3072\r\n${'k'.repeat(3072)}\r\n`)[0])[1]).toHaveLength(3072);
  });

  test('gives up a command whose arguments together are above the limit without keeping them', () => {
    const parser = new RespParser({ ...DEFAULT_RESP_LIMITS, maxCommandBytes: 1000 });
    const events = parse(`*4\r\n$4\r\nMGET\r\n$600\r\n${'a'.repeat(600)}\r\n$600\r\n${'b'.repeat(600)}\r\n`, parser);
    expect(events).toEqual([]);
    expect(parser.heldBytes).toBe(0);
    expect(parse('$1\r\nc\r\n', parser)).toMatchObject([
      { kind: 'oversized', reason: 'command', argIndex: 2, sizeBytes: 1204, limitBytes: 1000 },
    ]);
  });

  test('allocates a page, not the announced length, for an argument of which little arrived', () => {
    const parser = new RespParser(DEFAULT_RESP_LIMITS);
    expect(parse('*2\r\n$3\r\nGET\r\n$65536\r\nabc', parser)).toEqual([]);
    expect(parser.heldBytes).toBeLessThanOrEqual(4096 + 3);
  });

  test('refuses an inline command of too many words', () => {
    const parser = new RespParser({ ...DEFAULT_RESP_LIMITS, maxArguments: 3 });
    expect(parse('a b c\r\n a b c d\r\n', parser)).toMatchObject([{ kind: 'command' }, { kind: 'error', message: multibulk }]);
  });

  test('allocates nothing for a value that is announced and never sent', () => {
    const parser = new RespParser(DEFAULT_RESP_LIMITS);
    const events = parse('*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n', parser);
    expect(events).toMatchObject([{ kind: 'value', sizeBytes: 536_870_912, argIndex: 2, argCount: 3 }]);
    expect(parser.heldBytes).toBeLessThan(16);
    expect(parser.valueRemaining).toBe(536_870_912);
  });
});

describe('RespParser on values', () => {
  const limits = { ...DEFAULT_RESP_LIMITS, streamThresholdBytes: 4 };
  const head = '*3\r\n$3\r\nset\r\n$1\r\nk\r\n$10\r\n';

  test('copies the arguments before a value, so that they outlive the chunk', () => {
    const parser = new RespParser(limits);
    const chunk = fromLatin1(`${head}01234`);
    parser.push(chunk);
    const event = parser.next();
    expect(latin1(parser.takeBuffered(100))).toBe('01234');
    chunk.fill(0);
    expect(event).toMatchObject({ kind: 'value', name: 'SET', sizeBytes: 10 });
    expect(event?.kind === 'value' ? event.args.map(latin1) : []).toEqual(['set', 'k']);
    expect(parser.valueRemaining).toBe(5);
    parser.valueReceivedElsewhere(5);
    parser.trailerReceivedElsewhere(fromLatin1('\r\n'));
    expect(words(parser.next())).toEqual(['set', 'k', '']);
  });

  test('turns a wrong trailer that was read elsewhere into an error', () => {
    const parser = new RespParser(limits);
    parser.push(fromLatin1(head));
    parser.next();
    parser.valueReceivedElsewhere(10);
    parser.trailerReceivedElsewhere(fromLatin1('\rX'));
    expect(parser.next()).toMatchObject({ kind: 'error' });
  });

  test('leaves the commands behind a value in place until the value is taken', () => {
    const parser = new RespParser(limits);
    parser.push(fromLatin1(`${head}0123456789\r\nPING\r\n`));
    expect(parser.next()?.kind).toBe('value');
    expect(parser.next()).toBeUndefined();
    expect(latin1(parser.takeBuffered(4))).toBe('0123');
    expect(latin1(parser.takeBuffered(100))).toBe('456789');
    expect([parser.next()?.kind, words(parser.next())]).toEqual(['command', ['PING']]);
  });

  test('keeps what is unread after retain, though the chunk is overwritten', () => {
    const parser = new RespParser(limits);
    const chunk = fromLatin1(`${head}0123456789\r\nPING\r\n`);
    parser.push(chunk);
    parser.next();
    parser.retain();
    chunk.fill(0);
    expect(latin1(parser.takeBuffered(100))).toBe('0123456789');
    expect([words(parser.next()), words(parser.next())]).toEqual([['set', 'k', ''], ['PING']]);
  });

  test('accepts more chunks while a value waits to be taken', () => {
    const parser = new RespParser(limits);
    parser.push(fromLatin1(`${head}012`));
    parser.next();
    parser.push(fromLatin1('345'));
    parser.push(fromLatin1('6789\r\nPING\r\n'));
    expect(parser.unreadBytes).toBe(18);
    expect([parser.takeBuffered(9), parser.takeBuffered(9), parser.takeBuffered(9)].map(latin1)).toEqual(['012', '345', '6789']);
    expect([words(parser.next()), words(parser.next())]).toEqual([['set', 'k', ''], ['PING']]);
  });

  test('keeps what is unread of every chunk after retain', () => {
    const parser = new RespParser(limits);
    parser.push(fromLatin1(`${head}01`));
    parser.next();
    const second = fromLatin1('23456789\r\nPING\r\n');
    parser.push(second);
    parser.retain();
    second.fill(0);
    parser.retain();
    expect(parser.heldBytes).toBeGreaterThanOrEqual(18);
    expect(latin1(parser.takeBuffered(100))).toBe('0123456789');
    expect([words(parser.next()), words(parser.next())]).toEqual([['set', 'k', ''], ['PING']]);
  });

  test('gives plain arrays out of a Buffer, whose own slice would be a view', () => {
    const parser = new RespParser(limits);
    parser.push(Buffer.from(`${head}0123456789\r\n*1\r\n$4\r\nPING\r\n`));
    const event = parser.next();
    const taken = parser.takeBuffered(100);
    parser.next();
    const ping = parser.next();
    const args = [event, ping].flatMap((e) => (e?.kind === 'command' || e?.kind === 'value' ? e.args : []));
    expect(new Set([taken, ...args].map((bytes) => bytes.constructor))).toEqual(new Set([Uint8Array]));
    expect(args.map(latin1)).toEqual(['set', 'k', '', 'PING']);
  });

  test('copies what it keeps of a Buffer', () => {
    const parser = new RespParser(limits);
    const chunk = Buffer.from('*2\r\n$3\r\nGET\r\n$3\r\nke');
    parser.push(chunk);
    expect(parser.next()).toBeUndefined();
    chunk.fill(0);
    expect(words(parse('y\r\n', parser)[0])).toEqual(['GET', 'key']);
  });

  test('refuses to be told of bytes that overtook unread ones', () => {
    const parser = new RespParser(limits);
    parser.push(fromLatin1(`${head}012`));
    parser.next();
    expect(() => parser.valueReceivedElsewhere(7)).toThrow('unread');
  });

  test('streams the values of MSET and counts them', () => {
    const parser = new RespParser(limits);
    parser.push(fromLatin1('*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$5\r\n11111\r\n$1\r\nb\r\n$2\r\n22\r\n'));
    expect(parser.next()).toMatchObject({ kind: 'value', name: 'MSET', argIndex: 2, argCount: 5, sizeBytes: 5 });
    parser.skipValue();
    const event = parser.next();
    expect(words(event)).toEqual(['MSET', 'a', '', 'b', '22']);
    expect(event).toMatchObject({ streamed: 1 });
  });
});

describe('RespParser on inline commands', () => {
  test.each<[string, string[]]>([
    ['PING\r\n', ['PING']],
    ['PING\n', ['PING']],
    ['  get \t key  \r\n', ['get', 'key']],
    ['SET k "a b\\n\\x41\\q"\r\n', ['SET', 'k', 'a b\nAq']],
    ["SET k 'a \\' \\n'\r\n", ['SET', 'k', "a ' \\n"]],
    ['SET k ""\r\n', ['SET', 'k', '']],
    ['a"b"\r\n', ['ab']],
  ])('splits %j as redis does', (text, args) => {
    expect(words(parse(text)[0])).toEqual(args);
  });

  test('takes a line of exactly the limit', () => {
    expect(words(parse(`${'x'.repeat(65_535)}\r\n`)[0])[0]).toHaveLength(65_535);
  });
});
