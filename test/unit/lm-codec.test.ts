/** The frames of lm:// against what the real client and server of LMCache write (test/e2e/lmcache/lm_vectors.py). */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  LM_COMMANDS,
  LM_FAIL,
  LM_KEY_BYTES,
  LM_NO,
  LM_REPLY_BYTES,
  LM_REQUEST_BYTES,
  LM_SUCCESS,
  LM_YES,
  decodeLmReply,
  decodeLmRequest,
  encodeLmReply,
  encodeLmRequest,
} from '#protocol/lm/lm-frame.ts';
import { DEFAULT_LM_LIMITS, LmParser } from '#protocol/lm/lm-parser.ts';

interface Numbers {
  readonly name: string;
  readonly length: number;
  readonly fmt: number;
  readonly dtype: number;
  readonly shape: readonly [number, number, number, number];
  readonly hex: string;
}
interface Vectors {
  readonly lmcache: string;
  readonly requestBytes: number;
  readonly replyBytes: number;
  readonly requests: readonly (Numbers & {
    readonly command: number;
    readonly location: number;
    readonly key: string;
    readonly keyRead: string | null;
  })[];
  readonly replies: readonly (Numbers & { readonly code: number })[];
}

const vectors = JSON.parse(readFileSync(new URL('../fixtures/lm-frames.json', import.meta.url), 'utf8')) as Vectors;
const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const utf8 = new TextEncoder();

test('frames have the sizes that LMCache says', () => {
  expect([vectors.requestBytes, vectors.replyBytes]).toEqual([LM_REQUEST_BYTES, LM_REPLY_BYTES]);
});

describe.each(vectors.requests)('request: $name', (vector) => {
  const { command, length, fmt, dtype, shape, location, key } = vector;
  const sent = utf8.encode(key).subarray(0, LM_KEY_BYTES);

  test('is decoded to what was asked for', () => {
    const request = decodeLmRequest(bytesOf(vector.hex));
    expect(request).toMatchObject({ command, length, location, block: { fmt, dtype, shape } });
    expect(hexOf(request.key)).toBe(hexOf(sent));
  });

  test('is encoded to the same bytes', () => {
    expect(hexOf(encodeLmRequest(command, sent, { length, location, block: { fmt, dtype, shape } }))).toBe(vector.hex);
  });

  test('has a key that is whole exactly where LMCache reads the same key', () => {
    expect(decodeLmRequest(bytesOf(vector.hex)).keyIsWhole).toBe(vector.keyRead === key);
  });
});

describe.each(vectors.replies)('reply: $name', (vector) => {
  const { code, length, fmt, dtype, shape } = vector;

  test('is encoded to the same bytes and decoded again', () => {
    expect(hexOf(encodeLmReply(code, length, { fmt, dtype, shape }))).toBe(vector.hex);
    expect(decodeLmReply(bytesOf(vector.hex))).toEqual({ code, length, block: { fmt, dtype, shape }, location: 0 });
  });
});

test('yes and no are the replies that the server of LMCache gives', () => {
  expect(hexOf(LM_YES)).toBe(vectors.replies.find(({ name }) => name === 'yes')?.hex);
  expect(hexOf(LM_NO)).toBe(vectors.replies.find(({ name }) => name === 'no')?.hex);
  expect([LM_SUCCESS, LM_FAIL]).toEqual([200, 400]);
});

test('every command of the vectors is known, and no other', () => {
  expect(new Set<number>(Object.values(LM_COMMANDS))).toEqual(new Set(vectors.requests.map(({ command }) => command)));
});

describe('a key', () => {
  const whole = (key: Uint8Array): boolean => decodeLmRequest(encodeLmRequest('GET', key)).keyIsWhole;

  test('of 150 ASCII letters is whole, since the client counts letters', () => {
    expect(whole(new Uint8Array(150).fill(0x61))).toBe(true);
  });

  test('that fills the field and has another letter may be cut, wherever that is', () => {
    for (const at of [0, 75, 149]) expect(whole(new Uint8Array(150).fill(0x61).fill(0xe9, at, at + 1)), `at ${at}`).toBe(false);
    expect(whole(new Uint8Array(149).fill(0xe9))).toBe(true);
  });

  test('loses its padding and nothing else', () => {
    for (const text of ['', ' a', 'a b', 'a\t', 'a\u0000', '  ', 'a  ']) {
      const { key } = decodeLmRequest(encodeLmRequest('GET', utf8.encode(text)));
      expect(new TextDecoder().decode(key)).toBe(text.replace(/ +$/, ''));
    }
  });

  test('longer than the field is refused by the encoder', () => {
    expect(() => encodeLmRequest('GET', new Uint8Array(151))).toThrow(/at most 150 bytes, got 151/);
  });
});

describe('LmParser', () => {
  const put = (length: number): Uint8Array => encodeLmRequest('PUT', utf8.encode('k'), { length });

  test.each([-1, -(2 ** 31), DEFAULT_LM_LIMITS.maxPayloadBytes + 1, 2 ** 31 - 1])(
    'takes an announced length of %d for the end',
    (length) => {
      const parser = new LmParser();
      parser.push(put(length));
      expect(parser.next()).toEqual({ kind: 'error', message: `a payload of ${length} bytes is announced, want 0 to 536870912` });
      parser.push(put(0));
      expect(parser.next()).toBeUndefined();
      expect([parser.closed, parser.heldBytes, parser.unreadBytes]).toEqual([true, 0, 0]);
    },
  );

  test.each([0, 6, -1, 256, 2 ** 31 - 1, -(2 ** 31)])('takes command %d for the end', (command) => {
    const parser = new LmParser();
    parser.push(encodeLmRequest(command, utf8.encode('k')));
    expect(parser.next()).toEqual({ kind: 'error', message: `unknown command ${command}` });
    expect(parser.closed).toBe(true);
  });

  test('takes the largest length, and holds none of it', () => {
    const parser = new LmParser();
    parser.push(put(DEFAULT_LM_LIMITS.maxPayloadBytes));
    expect(parser.next()).toMatchObject({ kind: 'put', sizeBytes: 536_870_912 });
    expect([parser.payloadRemaining, parser.heldBytes, parser.isInside]).toEqual([536_870_912, 0, true]);
  });

  test('looks at the length for PUT alone', () => {
    const parser = new LmParser();
    for (const command of ['GET', 'EXIST', 'LIST', 'HEALTH'] as const) {
      parser.push(encodeLmRequest(command, utf8.encode('k'), { length: -5 }));
      expect(parser.next()).toMatchObject({ kind: 'request', command });
      expect(parser.payloadRemaining).toBe(0);
    }
  });

  test('has a payload of no bytes behind it at once', () => {
    const parser = new LmParser();
    parser.push(Uint8Array.from([...put(0), ...encodeLmRequest('HEALTH', utf8.encode(''))]));
    expect(parser.next()).toMatchObject({ kind: 'put', sizeBytes: 0 });
    expect(parser.takeBuffered(10)).toEqual(new Uint8Array(0));
    expect(parser.next()).toMatchObject({ kind: 'request', command: 'HEALTH' });
  });

  test('refuses to be told of more than the payload, or of bytes that it has unread', () => {
    const parser = new LmParser();
    parser.push(Uint8Array.from([...put(4), 1, 2]));
    parser.next();
    expect(() => parser.valueReceivedElsewhere(1)).toThrow(/unread/);
    parser.takeBuffered(2);
    expect(() => parser.valueReceivedElsewhere(3)).toThrow(/beyond the payload/);
    parser.valueReceivedElsewhere(2);
    expect(parser.isInside).toBe(false);
  });
});

describe('docs/formats/wire-lm.md', () => {
  const page = readFileSync(new URL('../../docs/formats/wire-lm.md', import.meta.url), 'utf8');
  const block = { fmt: 1, dtype: 3, shape: [2, 32, 256, 1024] } as const;
  /** The hexadecimal digits of the examples, each up to where the page breaks off, in the order of the page. */
  const examples = [...page.matchAll(/^(?:request|reply) ((?: +[0-9a-f]{2})+(?:\n {9}(?:[0-9a-f]{2} ?)+)*)/gm)].map((match) =>
    (match[1] ?? '').replaceAll(/\s/g, ''),
  );

  test('has examples with the bytes of the code', () => {
    const frames = [
      encodeLmRequest('EXIST', utf8.encode('m@1@0@1f2e@bfloat16')),
      LM_NO,
      encodeLmRequest('PUT', utf8.encode('k'), { length: 32 * 1024 * 1024, block }),
      encodeLmReply(LM_SUCCESS, 32 * 1024 * 1024, block),
    ].map(hexOf);
    expect(examples).toHaveLength(4);
    for (const [index, example] of examples.entries()) expect(frames[index]?.slice(0, example.length), `example ${index}`).toBe(example);
    expect(examples.map((example) => example.length / 2)).toEqual([58, LM_REPLY_BYTES, 36, LM_REPLY_BYTES]);
  });

  test('has tables whose fields follow one another from the first byte to the last', () => {
    const tables = [...page.matchAll(/\| offset \| size \| field \|\n\|---\|---\|---\|\n((?:\|.*\n)+)/g)].map((match) =>
      (match[1] ?? '').trimEnd().split('\n'),
    );
    const ends = tables.map((rows) => {
      let end = 0;
      for (const row of rows) {
        const [, offset, size] = row.split('|').map((cell) => cell.trim());
        expect(Number(offset), row).toBe(end);
        end += Number(size);
      }
      return end;
    });
    expect(ends).toEqual([LM_REQUEST_BYTES, LM_REPLY_BYTES]);
  });
});
