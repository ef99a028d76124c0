import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { namespaceIdentity } from '#core/namespace.ts';
import { isLmcacheKey, KeyParser, MAX_KEY_BYTES, parseKey, spellKey, type ParsedKey } from '#protocol/lmcache-key.ts';

const utf8 = new TextEncoder();
const text = new TextDecoder();

function parsed(key: string | Uint8Array, parser?: KeyParser): ParsedKey {
  const bytes = typeof key === 'string' ? utf8.encode(key) : key;
  const result = parser === undefined ? parseKey(bytes) : parser.parse(bytes);
  if (result === 'too-long') throw new Error('too long');
  return result;
}

const hex = (options: { min: number; max: number }): fc.Arbitrary<string> =>
  fc.string({ unit: fc.constantFrom(...'0123456789abcdef'.split('')), minLength: options.min, maxLength: options.max, size: 'max' });
const word = fc.string({ unit: fc.constantFrom(...'abZ09/-._#%é'.split('')), minLength: 1, maxLength: 12 });
const saltWord = fc.oneof(
  fc.constantFrom('alice', 'metadata', 'xkv_bytes', 'default', '%', '__proto__'),
  word.map((salt) => salt.replaceAll('/', '-')),
);
const hash = hex({ min: 1, max: 64 });
const rank = hex({ min: 8, max: 8 });
const dtype = fc.constantFrom('bfloat16', 'half', 'uint8', 'fp8_e5m2', 'float8_e8m0fnu', 'nvfp4');
const decimal = fc.nat(999).map(String);
const tag = fc.tuple(fc.constantFrom('user', 'doc.id', '__proto__', 'constructor'), fc.constantFrom('', 'x', 'a%b', 'kv', '1'));

const objectKey = fc.record({
  model: word,
  rank,
  group: fc.option(hex({ min: 1, max: 2 }), { nil: undefined }),
  hash,
  salt: fc.option(saltWord, { nil: undefined }),
});
const engineKey = fc.record({
  old: fc.boolean(),
  model: word,
  world: decimal,
  worker: decimal,
  hash: fc.tuple(fc.constantFrom('', '-'), hash).map((parts) => parts.join('')),
  dtype,
  layer: fc.option(decimal, { nil: undefined }),
  tags: fc.array(tag, { maxLength: 3 }),
  suffix: fc.constantFrom('', 'kv_bytes', 'metadata'),
});
type ObjectFields = { model: string; rank: string; group: string | undefined; hash: string; salt: string | undefined };

function spellObject(f: ObjectFields): string {
  const group = f.group === undefined ? '' : `@${f.group}`;
  // Only keys with a group can carry a salt.
  return `${f.model}@${f.rank}${group}@${f.hash}${f.salt === undefined || f.group === undefined ? '' : `@${f.salt}`}`;
}

/** Pieces that keys are made of, glued at random: near misses of both grammars. */
const nearMiss = fc
  .array(
    fc.constantFrom(
      '@',
      '@',
      '@',
      'vllm',
      'm',
      '1',
      '0',
      '01000100',
      'deadbeef',
      'abcd',
      '-ab',
      'bfloat16',
      'bf16',
      'half',
      't%v',
      '%',
      'alice',
      'kv_bytes',
      'metadata',
      '/',
      '\0',
      'é',
      '\ufeff',
    ),
    { maxLength: 16, size: 'max' },
  )
  .map((parts) => parts.join(''));
const anyKey: fc.Arbitrary<string> = fc.oneof(
  objectKey.map(spellObject),
  engineKey.map((f) => `${f.old ? 'vllm@' : ''}${f.model}@${f.world}@${f.worker}@${f.hash}@${f.dtype}${f.suffix}`),
  // The same few surroundings again and again, so that what is remembered is met.
  fc
    .tuple(
      fc.constantFrom(
        'm@01000100@0@',
        'n@01000100@0@',
        '\ufeffm@01000100@0@',
        'm@1@0@',
        'vllm@m@1@0@',
        'p@m@01000100@0@',
        'vllm@405@1@0@',
        'vllm@deadbeef@1@0@',
      ),
      fc.oneof(hash, fc.constantFrom('', '-', '-ab', 'ab-', 'bf16', 'x')),
      fc.constantFrom('', '@alice', '@half', '@halfmetadata', 'metadata', '@halfkv_bytes', '@bfloat16metadata'),
    )
    .map((parts) => parts.join('')),
  nearMiss,
);

describe('parseKey', () => {
  test('reads every field of an object key', () => {
    fc.assert(
      fc.property(objectKey, (f) => {
        const { descriptor, key, part } = parsed(spellObject(f));
        const salt = f.group === undefined ? undefined : f.salt;
        expect({
          grammar: descriptor.grammar,
          model: descriptor.model,
          rank: descriptor.rank,
          group: descriptor.group,
          tenant: descriptor.tenant,
          part,
        }).toEqual({
          grammar: 'object-key',
          model: f.model,
          rank: f.rank,
          group: f.group ?? '',
          tenant: salt ?? 'default',
          part: 'whole',
        });
        expect([text.decode(key), descriptor.keyTail]).toEqual([f.hash, salt === undefined ? '' : `@${salt}`]);
      }),
    );
  });

  test('reads every field of a cache-engine key, and its redis suffix', () => {
    fc.assert(
      fc.property(engineKey, (f) => {
        fc.pre(f.model !== 'vllm');
        const tags = f.tags.map(([name, value]) => `@${name}%${value}`).join('');
        const tail = `@${f.dtype}${f.layer === undefined ? '' : `@${f.layer}`}${tags}`;
        const { descriptor, key, part } = parsed(`${f.old ? 'vllm@' : ''}${f.model}@${f.world}@${f.worker}@${f.hash}${tail}${f.suffix}`);
        expect({
          grammar: descriptor.grammar,
          model: descriptor.model,
          rank: descriptor.rank,
          dtype: descriptor.dtype,
          layer: descriptor.layer,
        }).toEqual({
          grammar: 'cache-engine-key',
          model: f.model,
          rank: `${f.world}/${f.worker}`,
          dtype: f.dtype,
          layer: f.layer ?? '',
        });
        expect(descriptor.tags).toEqual(Object.fromEntries(f.tags));
        expect([text.decode(key), part, descriptor.tenant]).toEqual([f.hash, f.suffix === '' ? 'whole' : f.suffix, 'default']);
        expect(descriptor.keyTail).toBe(f.suffix === '' ? tail : `${tail}kv_bytes`);
      }),
    );
  });

  test('gives back the spelling of the client, byte for byte', () => {
    const bytes = fc.oneof(
      anyKey.map((key) => utf8.encode(key)),
      fc.uint8Array({ maxLength: 60 }),
    );
    fc.assert(
      fc.property(bytes, (key) => {
        expect(spellKey(parsed(key))).toEqual(key);
      }),
      { numRuns: 1000 },
    );
  });

  test('gives two keys one identity exactly if they are equal or the two halves of a redis twin', () => {
    const identity = (key: ParsedKey): string => `${namespaceIdentity(key.descriptor)}\0${text.decode(key.key)}`;
    const canonical = (key: string): string => {
      const suffix = /(kv_bytes|metadata)$/.exec(key)?.[0] ?? '';
      const bare = key.slice(0, key.length - suffix.length);
      const one = parsed(bare);
      // A twin is a cache-engine key under the suffix; an object key's salt may well end in the word.
      return suffix !== '' &&
        one.descriptor.grammar === 'cache-engine-key' &&
        parsed(key).descriptor.grammar !== 'object-key' &&
        parsed(bare).part === 'whole'
        ? `${bare}<twin>`
        : `${key}<whole>`;
    };
    const pair = fc.tuple(
      anyKey,
      anyKey,
      fc.constantFrom('', 'kv_bytes', 'metadata'),
      fc.constantFrom('', 'kv_bytes', 'metadata'),
      fc.boolean(),
    );
    fc.assert(
      fc.property(pair, ([first, other, suffixA, suffixB, same]) => {
        const a = first + suffixA;
        const b = (same ? first : other) + suffixB;
        fc.pre(!/(kv_bytes|metadata)$/.test(first) && !/(kv_bytes|metadata)$/.test(other));
        expect(identity(parsed(a)) === identity(parsed(b))).toBe(canonical(a) === canonical(b));
      }),
      { numRuns: 1500 },
    );
  });
});

describe('KeyParser', () => {
  test('answers from memory what it would answer afresh', () => {
    fc.assert(
      fc.property(fc.array(anyKey, { maxLength: 30, size: 'max' }), fc.constantFrom(1, 3, 4096), (keys, maxNamespaces) => {
        const parser = new KeyParser({ maxNamespaces });
        for (const key of [...keys, ...keys]) expect(parsed(key, parser)).toEqual(parsed(key));
      }),
      { numRuns: 500 },
    );
  });

  test('gives keys of one namespace the same descriptor object, also after many others', () => {
    const parser = new KeyParser();
    const first = parsed('m@01000100@0@aa@alice', parser).descriptor;
    for (let index = 0; index < 100; index += 1) parsed(`m@${index.toString(16).padStart(8, '0')}@0@bb@alice`, parser);
    expect(parsed('m@01000100@0@cc@alice', parser).descriptor).toBe(first);
    expect(parsed('other', parser).descriptor).toBe(parsed('another', parser).descriptor);
  });

  test('never gives a longer key than documented', () => {
    expect([parseKey(new Uint8Array(MAX_KEY_BYTES)) === 'too-long', parseKey(new Uint8Array(MAX_KEY_BYTES + 1))]).toEqual([
      false,
      'too-long',
    ]);
  });

  test('tells LMCache keys from others by the grammar alone', () => {
    expect(['m@01000100@0@ab', 'm@1@0@ab@half', 'm@1@0@ab@halfmetadata', 'key:1', 'a@b'].map((key) => isLmcacheKey(parsed(key)))).toEqual([
      true,
      true,
      true,
      false,
      false,
    ]);
  });
});
