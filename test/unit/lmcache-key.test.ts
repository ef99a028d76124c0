import { describe, expect, test } from 'vitest';
import { isCredentialTenant, namespaceIdentity, saltOf, tenantOfCredential } from '#core/namespace.ts';
import { namespaceLabel } from '#core/selector.ts';
import { KeyParser, parseKey, type ParsedKey } from '#protocol/lmcache-key.ts';

function parsed(key: string, tenant?: string): ParsedKey {
  const result = parseKey(new TextEncoder().encode(key), tenant === undefined ? {} : { tenant });
  if (result === 'too-long') throw new Error('too long');
  return result;
}

function summary(key: string): string {
  const { descriptor: d, key: hash, part } = parsed(key);
  return [d.grammar, d.tenant, d.model, d.rank, d.group, d.dtype, d.layer, new TextDecoder().decode(hash), part].join(' ');
}

describe('parseKey', () => {
  test.each([
    ['llama@000000ff@0@00010203@alice', 'object-key alice llama 000000ff 0   00010203 whole'],
    ['llama@000000ff@0@00010203', 'object-key default llama 000000ff 0   00010203 whole'],
    ['llama@000000ff@00010203', 'object-key default llama 000000ff    00010203 whole'],
    ['meta-llama/Llama-3.1-8B@01000100@1f@AB', 'object-key default meta-llama/Llama-3.1-8B 01000100 1f   AB whole'],
    ['fleet@llama@01000100@0@ab@alice', 'object-key alice llama 01000100 0   ab whole'],
    ['llama@01000100@0@ab@xmetadata', 'object-key xmetadata llama 01000100 0   ab whole'],
    ['llama@01000100@1@ab@bfloat16metadata', 'object-key bfloat16metadata llama 01000100 1   ab whole'],
    ['vllm@m@01000100@0@ab', 'object-key default m 01000100 0   ab whole'],
    ['vllm@m@01000100@0@ab@a%b', 'object-key a%b m 01000100 0   ab whole'],
    ['vllm@deadbeef@1@0@abmetadata', 'object-key abmetadata vllm deadbeef 1   0 whole'],
    ['m/x@1@0@1f2e3d4c5b6a7988@bfloat16', 'cache-engine-key default m/x 1/0  bfloat16  1f2e3d4c5b6a7988 whole'],
    ['m/x@8@7@-1f2e@half@31@user%bob@doc%', 'cache-engine-key default m/x 8/7  half 31 -1f2e whole'],
    ['m@1@0@ab@bfloat16kv_bytes', 'cache-engine-key default m 1/0  bfloat16  ab kv_bytes'],
    ['m@1@0@ab@bfloat16metadata', 'cache-engine-key default m 1/0  bfloat16  ab metadata'],
    ['m@1@0@ab@half@user%bobmetadata', 'cache-engine-key default m 1/0  half  ab metadata'],
    ['vllm@m@1@0@ab', 'cache-engine-key default m 1/0    ab whole'],
    ['vllm@m@1@0@abkv_bytes', 'cache-engine-key default m 1/0    ab kv_bytes'],
    ['vllm@1@0@12@half', 'cache-engine-key default vllm 1/0  half  12 whole'],
    ['m@1@0@ab@float4_e2m1fn_x2', 'cache-engine-key default m 1/0  float4_e2m1fn_x2  ab whole'],
  ])('reads %s', (key, expected) => {
    expect(summary(key)).toBe(expected);
  });

  test.each([
    ['without separators', 'key:000001'],
    ['with too few fields', 'm@01000100'],
    ['with too many fields', 'm@01000100@0@ab@alice@bob@carol'],
    ['with an upper-case rank', 'm@0100010A@0@ab'],
    ['with a rank of seven digits', 'm@0100010@0@ab'],
    ['with a group that is no hex', 'm@01000100@x@ab'],
    ['with a hash that is no hex', 'm@01000100@0@hello'],
    ['with an empty hash', 'm@01000100@0@'],
    ['with an empty model', '@01000100@0@ab'],
    ['with an empty salt', 'm@01000100@0@ab@'],
    ['with a path in the salt', 'm@01000100@0@ab@../etc'],
    ['with a backslash in the salt', 'm@01000100@0@ab@a\\b'],
    ['with a salt of 129 characters', `m@01000100@0@ab@${'s'.repeat(129)}`],
    ['with a suffix on an object key', 'm@01000100@0@abkv_bytes'],
    ['with an unknown word for a dtype', 'm@1@0@ab@hello'],
    ['with a dtype of hex digits only', 'm@1@0@ab@bf16'],
    ['without dtype', 'm@1@0@ab'],
    ['with a field behind the dtype that is neither layer nor tag', 'm@1@0@ab@half@x'],
    ['with a tag without a name', 'm@1@0@ab@half@%v'],
    ['with a layer after a tag', 'm@1@0@ab@half@t%v@3'],
    ['with a control character', 'm\n@01000100@0@ab'],
    ['with a NUL', 'm\0@01000100@0@ab'],
  ])('takes a key %s as opaque', (_, key) => {
    const { descriptor, key: bytes, part } = parsed(key);
    expect([descriptor.grammar, new TextDecoder().decode(bytes), descriptor.keyPrefix, descriptor.keyTail, part]).toEqual([
      'opaque',
      key,
      '',
      '',
      'whole',
    ]);
  });

  test('takes a key that is no UTF-8 as opaque', () => {
    const bytes = new Uint8Array([0xff, ...new TextEncoder().encode('@01000100@0@ab')]);
    expect(parseKey(bytes)).toMatchObject({ descriptor: { grammar: 'opaque' }, key: bytes });
  });

  test('keeps a tag named __proto__ a tag', () => {
    expect(Object.entries(parsed('m@1@0@ab@half@__proto__%x').descriptor.tags)).toEqual([['__proto__', 'x']]);
  });

  test('puts salts inside the tenant of the connection', () => {
    const keys = ['m@01000100@0@ab@alice', 'm@01000100@0@ab', 'plain'];
    const descriptors = keys.map((key) => parsed(key, tenantOfCredential('acme')).descriptor);
    expect(descriptors.map((descriptor) => [descriptor.tenant, saltOf(descriptor)])).toEqual([
      ['@acme', 'alice'],
      ['@acme', ''],
      ['@acme', ''],
    ]);
    expect(descriptors.map(namespaceLabel)).toEqual(['m@01000100@0#@acme/alice', 'm@01000100@0#@acme', 'opaque#@acme']);
  });

  test('never gives two tenants one identity', () => {
    const keys = ['m@01000100@0@ab@alice', 'm@01000100@0@ab', 'plain', 'm@1@0@ab@half'];
    const identities = keys.flatMap((key) =>
      [undefined, '@alice', '@acme'].map((tenant) => namespaceIdentity(parsed(key, tenant).descriptor)),
    );
    expect(new Set(identities).size).toBe(identities.length);
  });

  test('knows no salt that is spelled like the tenant of a token', () => {
    for (const key of ['m@01000100@0@ab@acme', 'm@01000100@0@ab@@acme', 'm@01000100@0@ab@%40acme', '@acme', 'x@m@01000100@0@ab@acme'])
      expect(isCredentialTenant(parsed(key).descriptor.tenant), key).toBe(false);
  });

  test('gives a view of the key, not a copy', () => {
    const bytes = new TextEncoder().encode('m@01000100@0@abcd');
    const result = new KeyParser().parse(bytes);
    expect(result !== 'too-long' && result.key.buffer === bytes.buffer).toBe(true);
  });
});
