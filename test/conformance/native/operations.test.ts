/** Every operation of the native door, asked of the real agent. */
import { afterAll, beforeAll, beforeEach, afterEach, expect, test } from 'vitest';
import { SharedMemory } from '#engines/client/shared-memory.ts';
import { loadOutcomes, storeOutcomes, tierNumbers } from '#protocol/native/native-schema.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { pattern, same } from '#testsupport/byte-client.ts';
import { GUARD, NativeGuest, holdsExactly, keysOf, spansOf, spelled, storeChunks } from '#testsupport/native-guest.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const MiB = 1024 * 1024;
const nothing = new Uint8Array(0);
let agent: RunningAgent;
let guest: NativeGuest;
let count = 0;
let model: string;

beforeAll(async () => {
  agent = await startAgent({ flags: ['--ssd-admission', 'demote', '--lease-duration', '1h'] });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});
beforeEach(async () => {
  guest = await NativeGuest.greet(agent.socket);
  model = `model-${count++}`;
});
afterEach(() => guest.close());

test('HELLO tells the limits, comes once and first', async () => {
  expect(guest.hello).toMatchObject({ version: 1, maxKeys: 4096, maxJobs: 64, leaseMs: 3_600_000 });
  expect(guest.hello.server).toMatch(/^kvtier /);
  expect(await guest.refusal('HELLO', { version: 1, client: '', token: '' })).toBe('invalid');
});

test('PING answers what it was sent', async () => {
  expect(decoder.decode((await guest.ask('PING', { payload: encoder.encode('hello') })).payload)).toBe('hello');
});

test.each([
  { layout: 'UPPER0123456789ab' },
  { layout: 'abc' },
  { model: 'a@b' },
  { model: '' },
  { rank: '1\n' },
  { group: 'x'.repeat(65) },
  { salt: '@' },
])('NAMESPACE refuses %o', async (fields) => {
  await expect(guest.namespace(fields)).rejects.toMatchObject({ status: 'invalid' });
});

test('two layouts of one model, two ranks, two groups and two salts do not see one another', async () => {
  const shared = await guest.share(MiB);
  const fields = [{}, { layout: 'fedcba9876543210' }, { rank: '1' }, { group: 'g' }, { salt: 's' }];
  const namespaces: number[] = [];
  for (const one of fields) namespaces.push(await guest.namespace({ model, ...one }));
  const keys = keysOf('k', 1);
  for (const [index, namespace] of namespaces.entries()) {
    for (const later of namespaces.slice(index))
      expect([...(await guest.ask('LOOKUP', { namespace: later, flags: 0, keys })).tiers]).toEqual([tierNumbers.missing]);
    expect(await storeChunks(guest, shared, { namespace, keys, sizeBytes: 1000, seed: 10 + index })).toEqual([storeOutcomes.stored]);
  }
  for (const [index, namespace] of namespaces.entries()) {
    await guest.ask('LOAD', { namespace, region: shared.region, deadlineMs: 0, keys, spans: spansOf(1, 1000) });
    expect(same(shared.memory.view(0, 1000), pattern(1000, 10 + index)), `namespace ${index}`).toBe(true);
  }
});

test('a second connection reads what the first has stored, under its own numbers of namespaces', async () => {
  const shared = await guest.share(MiB);
  await guest.namespace({ model: 'another' });
  const namespace = await guest.namespace({ model });
  await storeChunks(guest, shared, { namespace, keys: keysOf('k', 3), sizeBytes: 5000, seed: 3 });
  const second = await NativeGuest.greet(agent.socket);
  const own = await second.share(MiB);
  const sameOne = await second.namespace({ model });
  expect(sameOne).not.toBe(namespace);
  const loaded = await second.ask('LOAD', {
    namespace: sameOne,
    region: own.region,
    deadlineMs: 0,
    keys: keysOf('k', 3),
    spans: spansOf(3, 5000),
  });
  expect([...loaded.outcomes]).toEqual([0, 0, 0]);
  expect(same(own.memory.view(10_000, 5000), pattern(5000, 5))).toBe(true);
  second.close();
});

test('what is stored here is read by its spelling over RESP and REST', async () => {
  const shared = await guest.share(MiB);
  const fields = { model, rank: '3', salt: 'pepper' };
  await storeChunks(guest, shared, { namespace: await guest.namespace(fields), keys: keysOf('k', 2), sizeBytes: 4000 });
  const { answers } = await agent.client.lookup(spelled(fields, keysOf('k', 3)));
  expect(answers.map(({ tier }) => tier)).toEqual(['ram', 'ram', null]);
});

// Sizes and offsets round blocks of 4 KiB and slices of 1 and 4 MiB.
const sizes = [1, 511, 4095, 4096, 4097, 65_537, MiB - 1, MiB + 4096, 4 * MiB + 1, 5 * MiB + 12_345];
const offsets = [0, 1, 4096, 4097, 100_003];

test.each(['ram', 'ssd'] as const)(
  'LOAD from %s writes the spans and not one byte beside them, whatever their size and place',
  async (tier) => {
    const shared = await guest.share(16 * MiB);
    const namespace = await guest.namespace({ model });
    for (const [index, sizeBytes] of sizes.entries()) {
      const keys = keysOf(`guard-${index}`, 2);
      expect(await storeChunks(guest, shared, { namespace, keys, sizeBytes, seed: index })).toEqual([0, 0]);
      for (const offset of offsets) {
        if (tier === 'ssd') await agent.client.evict({ tier: 'ram', selector: { model } });
        const { tiers } = await guest.ask('LOOKUP', { namespace, flags: 2, keys });
        expect([...tiers]).toEqual([tierNumbers[tier], tierNumbers[tier]]);
        shared.memory.view().fill(GUARD);
        const spans = [
          { offset, length: sizeBytes },
          { offset: offset + sizeBytes + 1 + index, length: sizeBytes },
        ];
        const { outcomes } = await guest.ask('LOAD', { namespace, region: shared.region, deadlineMs: 0, keys, spans });
        expect([...outcomes]).toEqual([0, 0]);
        expect(holdsExactly(shared.memory, spans, index), `${sizeBytes} bytes at ${offset}`).toBe('exactly');
        if (tier === 'ram' && offset > 1) break;
      }
    }
  },
);

test('LOAD from SSD leaves RAM as it is, and counts a hit of SSD', async () => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 4);
  await storeChunks(guest, shared, { namespace, keys, sizeBytes: 100_000 });
  await agent.client.evict({ tier: 'ram', selector: { model } });
  const before = await agent.client.stats();
  await guest.ask('LOAD', { namespace, region: shared.region, deadlineMs: 0, keys, spans: spansOf(4, 100_000) });
  const after = await agent.client.stats();
  expect(after.promotions).toBe(before.promotions);
  expect(after.hits.ssd - before.hits.ssd).toBe(4);
  expect([...(await guest.ask('LOOKUP', { namespace, flags: 2, keys })).tiers]).toEqual([3, 3, 3, 3]);
});

test('LOAD tells what is missing, of another size, and too late, and the rest is loaded', async () => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 3);
  await storeChunks(guest, shared, { namespace, keys, sizeBytes: 1000 });
  shared.memory.view().fill(GUARD);
  const spans = [
    { offset: 0, length: 1000 },
    { offset: 2000, length: 999 },
    { offset: 4000, length: 1001 },
    { offset: 6000, length: 1000 },
  ];
  const all = [...keys, encoder.encode('absent')];
  const { outcomes } = await guest.ask('LOAD', { namespace, region: shared.region, deadlineMs: 0, keys: all, spans });
  expect([...outcomes]).toEqual([loadOutcomes.loaded, loadOutcomes.size, loadOutcomes.size, loadOutcomes.missing]);
  expect(holdsExactly(shared.memory, spans.slice(0, 1), 1)).toBe('exactly');
  const many = keysOf('many', 64);
  const big = await guest.share(32 * MiB);
  await storeChunks(guest, big, { namespace, keys: many, sizeBytes: MiB / 2 });
  const late = await guest.ask('LOAD', { namespace, region: big.region, deadlineMs: 1, keys: many, spans: spansOf(64, MiB / 2) });
  expect(late.outcomes.every((outcome) => outcome === loadOutcomes.loaded || outcome === loadOutcomes.late)).toBe(true);
});

test.each([
  ['outside of the region', [{ offset: MiB - 5, length: 10 }]],
  ['behind all numbers', [{ offset: Number.MAX_SAFE_INTEGER, length: 0xffff_ffff }]],
  ['empty', [{ offset: 0, length: 0 }]],
  ['fewer than keys', []],
] as const)('spans that are %s are refused, and nothing is touched', async (_, spans) => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 1);
  await storeChunks(guest, shared, { namespace, keys, sizeBytes: 10 });
  shared.memory.view().fill(GUARD);
  expect(await guest.refusal('LOAD', { namespace, region: shared.region, deadlineMs: 0, keys, spans })).toBe('invalid');
  const store = { namespace, region: shared.region, flags: 0, ttlMs: 0, parent: nothing, keys: keysOf('other', 1), spans };
  expect(await guest.refusal('STORE', store)).toBe('invalid');
  expect(holdsExactly(shared.memory, [], 0)).toBe('exactly');
  expect(await guest.refusal('LOAD', { namespace, region: 99, deadlineMs: 0, keys, spans: spansOf(1, 10) })).toBe('unknown');
  expect(await guest.refusal('LOAD', { namespace: 99, region: shared.region, deadlineMs: 0, keys, spans: spansOf(1, 10) })).toBe('unknown');
});

test('STORE tells new, known and replaced apart from too large', async () => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 2);
  expect(await storeChunks(guest, shared, { namespace, keys, sizeBytes: 3000, seed: 1 })).toEqual([0, 0]);
  expect(await storeChunks(guest, shared, { namespace, keys, sizeBytes: 3000, seed: 1 })).toEqual([1, 1]);
  expect(await storeChunks(guest, shared, { namespace, keys, sizeBytes: 3000, seed: 2 })).toEqual([0, 0]);
  const big = await guest.share(guest.hello.maxChunkBytes + 1);
  const tooLarge = { namespace, keys: keysOf('big', 1), sizeBytes: guest.hello.maxChunkBytes + 1 };
  expect(await storeChunks(guest, big, tooLarge)).toEqual([storeOutcomes.tooLarge]);
});

test('STORE with a time to live is a miss when it is over', async () => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 1);
  const request = { namespace, region: shared.region, flags: 0, ttlMs: 200, parent: nothing, keys, spans: spansOf(1, 1000) };
  expect([...(await guest.ask('STORE', request)).outcomes]).toEqual([0]);
  await until('the chunk is over', async () => (await guest.ask('LOOKUP', { namespace, flags: 2, keys })).tiers[0] === tierNumbers.missing);
});

test('LOOKUP in prefix order stops at the gap, else answers each; a peek takes no lease; LET_GO ends those that were taken', async () => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 5);
  await storeChunks(guest, shared, { namespace, keys: keys.filter((_, index) => index !== 2), sizeBytes: 1000 });
  const leases = async (): Promise<number> => (await agent.client.stats()).leases;
  const before = await leases();
  expect((await guest.ask('LOOKUP', { namespace, flags: 3, keys })).sizes).toEqual([1000, 1000]);
  expect(await leases()).toBe(before);
  expect([...(await guest.ask('LOOKUP', { namespace, flags: 0, keys })).tiers]).toEqual([2, 2, 0, 2, 2]);
  expect(await leases()).toBe(before + 4);
  expect((await guest.ask('LET_GO', { namespace, keys: keys.slice(0, 3) })).count).toBe(2);
  expect((await guest.ask('LET_GO', { namespace, keys: keys.slice(0, 3) })).count).toBe(0);
  await guest.ask('LOAD', { namespace, region: shared.region, deadlineMs: 0, keys: keys.slice(3, 4), spans: spansOf(1, 1000) });
  expect(await leases()).toBe(before + 1);
  guest.close();
  await until('the last lease ends with the connection', async () => (await leases()) === before);
});

test.each([
  ['', 'empty'],
  ['a@b', 'with @'],
  ['a b', 'with a space'],
  ['ü', 'not ASCII'],
  ['x'.repeat(513), 'too long'],
])('the key %o is refused: %s', async (key) => {
  const namespace = await guest.namespace({ model });
  expect(await guest.refusal('LOOKUP', { namespace, flags: 0, keys: [encoder.encode(key)] })).toBe('invalid');
});

test('512 keys of one byte and of 512 are one round trip', async () => {
  const namespace = await guest.namespace({ model });
  for (const keys of [keysOf('k', 512), [encoder.encode('x'.repeat(512))], [encoder.encode('x')]])
    expect((await guest.ask('LOOKUP', { namespace, flags: 0, keys })).tiers.length).toBe(keys.length);
});

test('OPEN shows the chunk in an arena that cannot be written through; RELEASE says that it held', async () => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const [first, second] = keysOf('k', 2) as [Uint8Array, Uint8Array];
  await storeChunks(guest, shared, { namespace, keys: [first, second], sizeBytes: 50_000, seed: 7 });
  const open = await guest.ask('OPEN', { namespace, key: first });
  expect(open).toMatchObject({ tier: tierNumbers.ram, sizeBytes: 50_000 });
  const fd = guest.connection.takeDescriptor();
  if (fd === undefined) throw new Error('the arena has come without a descriptor');
  const again = await guest.ask('OPEN', { namespace, key: second });
  expect(again.arena).toBe(open.arena);
  expect(guest.connection.takeDescriptor(), 'one descriptor for an arena').toBeUndefined();
  const sizeBytes = open.offset + open.sizeBytes;
  const arena = new SharedMemory(fd, { sizeBytes, writable: false });
  expect(same(arena.view(open.offset, 50_000), pattern(50_000, 7))).toBe(true);
  // EACCES. It closes the descriptor, which the mapping does not need.
  expect(() => new SharedMemory(fd, { sizeBytes })).toThrow(/errno 13/);
  expect([...(await guest.ask('RELEASE', { leases: [open.lease, again.lease, 12_345] })).held]).toEqual([1, 1, 0]);
  expect([...(await guest.ask('RELEASE', { leases: [open.lease] })).held], 'once').toEqual([0]);
  expect(await guest.ask('OPEN', { namespace, key: encoder.encode('absent') })).toMatchObject({ tier: 0, lease: 0 });
});

test('RELEASE says 0 where the chunk was invalidated or replaced meanwhile, and the slot is kept until then', async () => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 3) as [Uint8Array, Uint8Array, Uint8Array];
  await storeChunks(guest, shared, { namespace, keys, sizeBytes: 1000, seed: 1 });
  const leases: number[] = [];
  for (const key of keys) leases.push((await guest.ask('OPEN', { namespace, key })).lease);
  await agent.client.invalidate({ selector: { keys: spelled({ model }, keys.slice(0, 1)) } });
  await storeChunks(guest, shared, { namespace, keys: keys.slice(1, 2), sizeBytes: 1000, seed: 99 });
  expect([...(await guest.ask('RELEASE', { leases })).held]).toEqual([0, 0, 1]);
});

test("RESERVE, COMMIT and ABORT: bytes written into the agent's memory become chunks; what was not reserved is refused", async () => {
  const namespace = await guest.namespace({ model });
  const { region, spans } = await guest.ask('RESERVE', { sizes: [5000, 0, 4096, 1] });
  expect(spans.map(({ length }) => length)).toEqual([5000, 0, 4096, 1]);
  const fd = guest.connection.takeDescriptor();
  if (fd === undefined) throw new Error('the memory has come without a descriptor');
  const memory = new SharedMemory(fd, { sizeBytes: MiB });
  const [first, , second, third] = spans as [Span, Span, Span, Span];
  memory.view(first.offset, 5000).set(pattern(5000, 1));
  memory.view(second.offset, 4096).set(pattern(4096, 2));
  const commit = (keys: readonly Uint8Array[], list: readonly Span[]): Parameters<typeof guest.ask<'COMMIT'>>[1] => ({
    namespace,
    flags: 0,
    ttlMs: 0,
    parent: nothing,
    keys,
    spans: list,
  });
  const keys = keysOf('r', 2);
  expect(await guest.refusal('COMMIT', commit(keys, [first, first])), 'one span twice').toBe('invalid');
  expect(await guest.refusal('COMMIT', commit(keys, [first, { offset: 4, length: 3 }]))).toBe('invalid');
  expect(await guest.refusal('COMMIT', commit(keysOf('r', 1), [{ ...first, length: 5001 }]))).toBe('invalid');
  expect([...(await guest.ask('COMMIT', commit(keys, [first, second]))).outcomes]).toEqual([0, 0]);
  expect(await guest.refusal('COMMIT', commit(keys, [first, second])), 'free again').toBe('invalid');
  expect((await guest.ask('ABORT', { spans: [third, third, first] })).count).toBe(1);
  expect(await guest.refusal('DETACH', { region })).toBe('unknown');
  const shared = await guest.share(MiB);
  await guest.ask('LOAD', { namespace, region: shared.region, deadlineMs: 0, keys: keys.slice(1), spans: spansOf(1, 4096) });
  expect(same(shared.memory.view(0, 4096), pattern(4096, 2))).toBe(true);
  const full = await guest.ask('RESERVE', { sizes: [2 ** 32 - 1, 64 * MiB, 1] });
  expect(
    full.spans.map(({ length }) => length),
    "a quarter of socket.reserve is a client's",
  ).toEqual([0, 64 * MiB, 0]);
  memory.close();
});

interface Span {
  readonly offset: number;
  readonly length: number;
}

test('EVENTS pushes what is stored and removed, of the kinds that are wanted, in order', async () => {
  await guest.ask('EVENTS', { kinds: 3 });
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model, group: 'g' });
  await storeChunks(guest, shared, { namespace, keys: keysOf('k', 3), sizeBytes: 1000 });
  await agent.client.invalidate({ selector: { model } });
  const seen = (kind: number): string[] =>
    guest.events.filter((event) => event.kind === kind).flatMap((event) => event.keys.map((key) => decoder.decode(key)));
  await until('events have come', () => seen(2).length === 3);
  expect(seen(1).toSorted()).toEqual(['k-0', 'k-1', 'k-2']);
  expect(seen(2).toSorted()).toEqual(['k-0', 'k-1', 'k-2']);
  expect(guest.events[0]).toMatchObject({ model, group: 'g', layout: '0123456789abcdef', lost: 0 });
  await guest.ask('EVENTS', { kinds: 0 });
  const before = guest.events.length;
  await storeChunks(guest, shared, { namespace, keys: keysOf('l', 3), sizeBytes: 1000 });
  await guest.ask('PING', { payload: nothing });
  expect(guest.events.length).toBe(before);
  expect(await guest.refusal('EVENTS', { kinds: 4 })).toBe('invalid');
});

test('PIN, PREFETCH, INVALIDATE, TOUCH and STATS do what REST does', async () => {
  const shared = await guest.share(MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 3);
  await storeChunks(guest, shared, { namespace, keys, sizeBytes: 10_000 });
  expect((await guest.ask('TOUCH', { namespace, keys: [...keys, encoder.encode('absent')] })).count).toBe(3);
  expect((await guest.ask('PIN', { namespace, mode: 1, keys })).count).toBe(3);
  expect((await guest.ask('PIN', { namespace, mode: 0, keys })).count).toBe(3);
  expect(await guest.refusal('PIN', { namespace, mode: 3, keys })).toBe('invalid');
  await agent.client.evict({ tier: 'ram', selector: { model } });
  expect((await guest.ask('PREFETCH', { namespace, keys })).count).toBe(3);
  expect([...(await guest.ask('LOOKUP', { namespace, flags: 2, keys })).tiers]).toEqual([2, 2, 2]);
  const stats = JSON.parse(decoder.decode((await guest.ask('STATS', {})).stats)) as { doors: { door: string; requests: number }[] };
  expect(stats.doors.find(({ door }) => door === 'native')?.requests).toBeGreaterThan(5);
  const selector = encoder.encode(JSON.stringify({ selector: { model } }));
  const result = JSON.parse(decoder.decode((await guest.ask('INVALIDATE', { selector })).result)) as Record<string, unknown>;
  expect(result['chunks'] ?? result).toBeDefined();
  expect([...(await guest.ask('LOOKUP', { namespace, flags: 2, keys })).tiers]).toEqual([0, 0, 0]);
  expect(await guest.refusal('INVALIDATE', { selector: encoder.encode('{') })).toBe('invalid');
});

test('a region is detached when its jobs are done; two regions on one file are two regions', async () => {
  const shared = await guest.share(8 * MiB);
  const twice = await guest.attach(shared.memory.fd);
  expect(twice).not.toBe(shared.region);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 8);
  const stored = storeChunks(guest, shared, { namespace, keys, sizeBytes: MiB });
  await guest.ask('DETACH', { region: shared.region });
  expect(await stored).toEqual(Array<number>(8).fill(0));
  expect(await guest.refusal('DETACH', { region: shared.region })).toBe('unknown');
  const loaded = await guest.ask('LOAD', { namespace, region: twice, deadlineMs: 0, keys, spans: spansOf(8, MiB) });
  expect([...loaded.outcomes]).toEqual(Array<number>(8).fill(0));
});

test('beyond MAX_JOBS at one time a job is refused as busy, and the others are done', async () => {
  const shared = await guest.share(16 * MiB);
  const namespace = await guest.namespace({ model });
  const keys = keysOf('k', 16);
  await storeChunks(guest, shared, { namespace, keys, sizeBytes: MiB });
  const load = { namespace, region: shared.region, deadlineMs: 0, keys, spans: spansOf(16, MiB) };
  const answers = await Promise.all(Array.from({ length: 80 }, () => guest.connection.call('LOAD', load, { deadlineMs: 60_000 })));
  const statuses = answers.map((answer) => (answer.ok ? 'ok' : answer.status));
  expect(statuses.filter((status) => status === 'ok').length).toBeGreaterThanOrEqual(64);
  expect(new Set(statuses)).toEqual(new Set(['ok', 'busy']));
});
