import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { InvariantError } from '#core/assert.ts';
import type { BlockHash } from '#core/checksum.ts';
import type { ChunkFileHeader } from '#tiers/ssd/chunk-file.ts';
import { chunkFileName, chunkShard, decodeChunkHeader, encodeChunkHeader, parseChunkFileName } from '#tiers/ssd/chunk-file.ts';

const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);
const seed = 0x6b76_7469_6572_430an;

/** The example of docs/formats/chunk-file.md. */
const example: ChunkFileHeader = {
  generation: 0x1_0000_0002,
  sizeBytes: 2_097_152,
  checksum: 0x0123_4567_89ab_cdefn,
  createdAtMs: 1_700_000_000_000,
  expiresAtMs: 0,
  parentGeneration: 0x1_0000_0001,
  tokenCount: 256,
  namespace: {
    grammar: 'object-key',
    tenant: 'default',
    model: 'm',
    rank: '00000000',
    group: '1',
    dtype: '',
    layer: '',
    tags: { env: 'dev' },
    keyPrefix: 'm@00000000@1@',
    keyTail: '',
  },
  key: new TextEncoder().encode('abcd'),
  redisMetadata: Uint8Array.of(1, 2, 3),
  lm: { fmt: 1, dtype: 2, shape: [2, 32, 256, -1] },
};

/** Written out from the offset table; zero from byte 176 to 4087. */
const goldenStart = [
  '6b7674696572430a 01000000 00100000', // magic, version, header bytes
  '03000000 af000000 0200000001000000', // flags, end of the variable part, generation
  '0000200000000000 efcdab8967452301', // payload bytes and checksum
  '00008056febc7842 0000000000000000', // created, expires
  '0100000001000000 00010000 00 00 0100', // parent, tokens, grammar, reserved, tags
  '01000000 02000000 02000000 20000000', // lm: fmt, dtype, shape 0 and 1
  '00010000 ffffffff 0400 0300 0700 0100', // shape 2 and 3, key, metadata, tenant, model
  '0800 0100 0000 0000 0d00 0000 00000000', // rank, group, dtype, layer, prefix, tail, reserved
  '61626364 010203 64656661756c74 6d 30', // abcd, metadata, default, m, 0...
  '30303030303030 31 6d40303030303030', // ...0000000, 1, m@000000...
  '3030403140 0300 656e76 0300 646576 00', // ...00@1@, env, dev
]
  .join('')
  .replaceAll(' ', '');
const goldenChecksum = 'f3eea06bb253bf04';

function encoded(header: ChunkFileHeader): Uint8Array<ArrayBuffer> {
  const outcome = encodeChunkHeader(header, hash);
  if (!outcome.ok) throw new Error(outcome.problem);
  return outcome.bytes;
}

/** The bytes with a change, and a header checksum that fits them again. */
function resealed(bytes: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  change(view);
  view.setBigUint64(4088, hash(copy.subarray(0, 4088), seed), true);
  return copy;
}

function problemOf(bytes: Uint8Array): string {
  const outcome = decodeChunkHeader(bytes, hash);
  return outcome.ok ? 'ok' : outcome.problem;
}

describe('chunk file header', () => {
  test('is byte for byte the example of its format document', () => {
    const bytes = encoded(example);
    expect(bytes).toHaveLength(4096);
    expect(Buffer.from(bytes.subarray(0, 176)).toString('hex')).toBe(goldenStart);
    expect(bytes.subarray(176, 4088).every((byte) => byte === 0)).toBe(true);
    expect(Buffer.from(bytes.subarray(4088)).toString('hex')).toBe(goldenChecksum);
    expect(decodeChunkHeader(bytes, hash)).toEqual({ ok: true, header: example });
  });

  test('is printed in its format document as it is', () => {
    const page = readFileSync(new URL('../../docs/formats/chunk-file.md', import.meta.url), 'utf8');
    const lines = [...page.matchAll(/^ *(\d+) {2}((?:[0-9a-f]{2} ?){16})$/gm)];
    expect(lines).toHaveLength(12);
    const bytes = Buffer.from(encoded(example));
    for (const [, offset, hex] of lines) {
      expect(hex?.replaceAll(' ', '')).toBe(bytes.subarray(Number(offset), Number(offset) + 16).toString('hex'));
    }
  });

  test('tells an absent metadata twin and lm block from empty ones', () => {
    const { redisMetadata: _metadata, lm: _lm, ...bare } = example;
    const absent = decodeChunkHeader(encoded(bare), hash);
    expect(absent.ok && 'redisMetadata' in absent.header).toBe(false);
    expect(absent.ok && 'lm' in absent.header).toBe(false);
    const empty = { ...bare, redisMetadata: new Uint8Array(0), lm: { fmt: 0, dtype: 0, shape: [0, 0, 0, 0] as const } };
    expect(decodeChunkHeader(encoded(empty), hash)).toEqual({ ok: true, header: empty });
  });

  test('reads a signed checksum back as the unsigned one of the same bits', () => {
    const outcome = decodeChunkHeader(encoded({ ...example, checksum: -1n }), hash);
    expect(outcome.ok && outcome.header.checksum).toBe(2n ** 64n - 1n);
  });

  test('keeps a byte order mark, a tag named __proto__ and characters of four bytes', () => {
    const namespace = {
      ...example.namespace,
      model: '\ufeffm',
      tags: Object.fromEntries([
        ['__proto__', '\u{1f600}'],
        ['', ''],
      ]),
    };
    expect(decodeChunkHeader(encoded({ ...example, namespace }), hash)).toEqual({ ok: true, header: { ...example, namespace } });
  });

  test('refuses what does not fit, to the byte', () => {
    const key = new Uint8Array(2048);
    const redisMetadata = new Uint8Array(512);
    const bare = {
      ...example,
      key,
      redisMetadata,
      namespace: { ...example.namespace, tags: {}, keyPrefix: '', tenant: '', model: '', rank: '', group: '' },
    };
    const room = 4088 - 128 - 2048 - 512;
    const withTail = (length: number): ChunkFileHeader => ({ ...bare, namespace: { ...bare.namespace, keyTail: 'x'.repeat(length) } });
    expect(decodeChunkHeader(encoded(withTail(room)), hash)).toEqual({ ok: true, header: withTail(room) });
    expect(encodeChunkHeader(withTail(room + 1), hash)).toEqual({ ok: false, problem: 'too-large' });
    expect(encodeChunkHeader({ ...example, key: new Uint8Array(2049) }, hash)).toEqual({ ok: false, problem: 'too-large' });
    expect(encodeChunkHeader({ ...example, redisMetadata: new Uint8Array(513) }, hash)).toEqual({ ok: false, problem: 'too-large' });
  });

  test('refuses a text that would come back as another', () => {
    const namespace = { ...example.namespace, keyTail: '\ud800' };
    expect(encodeChunkHeader({ ...example, namespace }, hash)).toEqual({ ok: false, problem: 'ill-formed-text' });
    const tagged = { ...example.namespace, tags: { '\udc00': '' } };
    expect(encodeChunkHeader({ ...example, namespace: tagged }, hash)).toEqual({ ok: false, problem: 'ill-formed-text' });
  });

  test('takes numbers that no chunk can have as bugs', () => {
    const wrong: Partial<ChunkFileHeader>[] = [
      { generation: 0 },
      { generation: 2 ** 53 },
      { sizeBytes: -1 },
      { sizeBytes: 1.5 },
      { parentGeneration: -1 },
      { tokenCount: 2 ** 32 },
      { createdAtMs: Number.NaN },
      { expiresAtMs: -1 },
      { lm: { fmt: 2 ** 31, dtype: 0, shape: [0, 0, 0, 0] } },
    ];
    for (const change of wrong) expect(() => encodeChunkHeader({ ...example, ...change }, hash)).toThrow(InvariantError);
  });

  test('names the problem: magic, version, checksum or malformed', () => {
    const bytes = encoded(example);
    expect(problemOf(new Uint8Array(0))).toBe('magic');
    expect(problemOf(new Uint8Array(4096))).toBe('magic');
    expect(problemOf(bytes.subarray(0, 4095))).toBe('malformed');
    expect(problemOf(Uint8Array.from([...bytes, 0]))).toBe('malformed');
    expect(problemOf(resealed(bytes, (view) => view.setUint32(8, 2, true)))).toBe('version');
    expect(problemOf(resealed(bytes, () => {}))).toBe('ok');
    const flipped = bytes.slice();
    flipped[130]! ^= 1;
    expect(problemOf(flipped)).toBe('checksum');
  });

  test('reads a header that lies at an offset of its buffer', () => {
    const buffer = new Uint8Array(3 * 4096 + 5);
    buffer.set(encoded(example), 4101);
    expect(decodeChunkHeader(buffer.subarray(4101, 4101 + 4096), hash)).toEqual({ ok: true, header: example });
  });

  const hostile: readonly (readonly [string, (view: DataView) => void])[] = [
    ['a header size other than 4096', (view) => view.setUint32(12, 8192, true)],
    ['an unknown flag', (view) => view.setUint32(16, 7, true)],
    ['a variable part that ends before it begins', (view) => view.setUint32(20, 127, true)],
    ['a variable part that ends in the checksum', (view) => view.setUint32(20, 4089, true)],
    ['a variable part of 4 GiB', (view) => view.setUint32(20, 0xffff_ffff, true)],
    ['a variable part one byte short', (view) => view.setUint32(20, 174, true)],
    ['a variable part one byte long', (view) => view.setUint32(20, 176, true)],
    ['generation 0', (view) => view.setBigUint64(24, 0n, true)],
    ['a generation above 2^53', (view) => view.setBigUint64(24, 2n ** 53n, true)],
    ['a payload of 2^64 - 1 bytes', (view) => view.setBigUint64(32, 2n ** 64n - 1n, true)],
    ['a creation time that is no number', (view) => view.setFloat64(48, Number.NaN, true)],
    ['a negative expiry', (view) => view.setFloat64(56, -1, true)],
    ['a parent above 2^53', (view) => view.setBigUint64(64, 2n ** 63n, true)],
    ['an unknown grammar', (view) => view.setUint8(76, 4)],
    ['a non-zero reserved byte', (view) => view.setUint8(77, 1)],
    ['a tag too many', (view) => view.setUint16(78, 2, true)],
    ['65,535 tags', (view) => view.setUint16(78, 0xffff, true)],
    ['a tag too few', (view) => view.setUint16(78, 0, true)],
    ['lm values without the lm flag', (view) => view.setUint32(16, 1, true)],
    ['metadata without its flag', (view) => view.setUint32(16, 2, true)],
    ['a key of 65,535 bytes', (view) => view.setUint16(104, 0xffff, true)],
    ['metadata of 513 bytes', (view) => view.setUint16(106, 513, true)],
    ['a tenant of 65,535 bytes', (view) => view.setUint16(108, 0xffff, true)],
    ['a text of ill-formed UTF-8', (view) => view.setUint8(135, 0xff)],
    ['a tag name longer than the rest', (view) => view.setUint16(165, 0xffff, true)],
    ['non-zero padding', (view) => view.setUint8(4087, 1)],
    ['non-zero reserved bytes before the variable part', (view) => view.setUint8(127, 1)],
  ];
  for (const [name, change] of hostile) {
    test(`takes ${name} as malformed, under a right checksum too`, () => {
      expect(problemOf(resealed(encoded(example), change))).toBe('malformed');
    });
  }

  test('takes texts that lead out of the header or into its checksum as malformed, even where all of it is text', () => {
    // A hash of letters: with a real one the checksum is hardly ever UTF-8, and the text would be refused for that.
    const letters: BlockHash = () => 0x4141_4141_4141_4141n;
    const changed = (change: (view: DataView) => void): string => {
      const outcome = encodeChunkHeader({ ...example, namespace: { ...example.namespace, tags: {} } }, letters);
      const bytes = outcome.ok ? outcome.bytes : new Uint8Array(0);
      bytes.fill(0x41, 165);
      change(new DataView(bytes.buffer));
      const decoded = decodeChunkHeader(bytes, letters);
      return decoded.ok ? 'ok' : decoded.problem;
    };
    const keyTailTo = (end: number): string =>
      changed((view) => {
        view.setUint16(122, end - 165, true);
        view.setUint32(20, end, true);
      });
    expect(keyTailTo(4088)).toBe('ok');
    expect(keyTailTo(4089)).toBe('malformed');
    expect(keyTailTo(4096)).toBe('malformed');
    expect(keyTailTo(60_000)).toBe('malformed');
  });

  test('takes a tag name that occurs twice as malformed', () => {
    const twice = encoded({ ...example, namespace: { ...example.namespace, tags: { env: 'dev', enw: 'dev' } } });
    const offset = Buffer.from(twice).indexOf('enw');
    expect(problemOf(resealed(twice, (view) => view.setUint8(offset + 2, 0x76)))).toBe('malformed');
  });
});

describe('chunk file names', () => {
  test('are the generation in 16 hex digits, in a folder of its low byte', () => {
    expect(chunkFileName(0x1_0000_00ab)).toBe('00000001000000ab.kv');
    expect(chunkShard(0x1_0000_00ab)).toBe('ab');
    expect(chunkShard(256)).toBe('00');
    expect(chunkFileName(Number.MAX_SAFE_INTEGER)).toBe('001fffffffffffff.kv');
    expect(() => chunkFileName(0)).toThrow(InvariantError);
  });

  test('are nothing else: no temporary name, capital, sign, path or generation out of range', () => {
    expect(parseChunkFileName('001fffffffffffff.kv')).toBe(Number.MAX_SAFE_INTEGER);
    for (const name of [
      '',
      '.kv',
      '0000000000000000.kv',
      '0020000000000000.kv',
      'ffffffffffffffff.kv',
      '00000001000000AB.kv',
      '00000001000000ab.kv.tmp',
      '00000001000000ab',
      '0x000001000000ab.kv',
      '-0000001000000ab.kv',
      ' 0000001000000ab.kv',
      '00000001000000ab.kv\n',
      'ab/00000001000000ab.kv',
    ])
      expect(parseChunkFileName(name)).toBeUndefined();
  });
});
