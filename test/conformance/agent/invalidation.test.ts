/** Invalidation, its audit log and epochs on the real agent: each selector against what a naive reading of the chunks says. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { WireSelector } from '#protocol/rest/selector.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import * as known from '#testsupport/agent-chunks.ts';
import { ByteClient } from '#testsupport/byte-client.ts';
import { until } from '#testsupport/agent-probes.ts';

const flags = ['--ssd-admission', 'demote', '--tenants-reveal'];
let dataDir: string;
let agent: RunningAgent;
let client: ByteClient;
beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'kvtier-invalidation-'));
  agent = await startAgent({ dataDir, flags });
  client = await known.redisClient(agent);
});
afterAll(async () => {
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
  rmSync(dataDir, { recursive: true, force: true });
});

async function restart(how: 'stop' | 'kill9'): Promise<void> {
  client.destroy();
  await agent[how]();
  agent = await startAgent({ dataDir, flags });
  client = await known.redisClient(agent);
}

/** Two halves, the second put in a later millisecond than the first, the even ones of each half on SSD too. */
interface Population {
  readonly all: readonly known.KnownChunk[];
  readonly old: readonly known.KnownChunk[];
  readonly onSsd: readonly known.KnownChunk[];
  /** Between the halves. */
  readonly borderMs: number;
}

async function populate(): Promise<Population> {
  await client.send('FLUSHALL');
  const halves = [10, 20].map((base) => [
    ...[1, 2, 3].map((id) => known.objectChunk(base + id, { model: 'org/alpha' })),
    ...[1, 2].map((id) => known.objectChunk(base + id, { model: 'org/alpha', tenant: 'ann' })),
    ...[1, 2].map((id) => known.objectChunk(base + id, { model: 'org/beta', rank: '02000201', tenant: 'ann' })),
    ...[1, 2].map((id) => known.engineChunk(base + id, { model: 'zeta', tags: { lang: 'de', kind: 'x' } })),
    ...[1].map((id) => known.engineChunk(base + id, { model: 'zeta', tags: { lang: 'en' } })),
    ...['plain', 'other'].map((key) => known.opaqueChunk(`${key}:${base}`)),
  ]);
  const [old = [], young = []] = halves;
  const all = [...old, ...young];
  await known.store(client, old);
  const onSsd = all.filter((_, index) => index % 2 === 0);
  const afterOld = Date.now();
  await until('the next millisecond has begun', () => Date.now() > afterOld + 1);
  const borderMs = Date.now();
  await known.store(client, young);
  expect(await agent.client.persist({ keys: onSsd.map(({ key }) => key) })).toMatchObject({ persisted: onSsd.length, failed: 0 });
  return { all, old, onSsd, borderMs };
}

type Judge = (chunk: known.KnownChunk, population: Population) => boolean;
/** One field each, with its meaning in one line. `(borderMs) => selector` where the time is known only then. */
const fields: readonly (readonly [(population: Population) => WireSelector, Judge])[] = [
  [() => ({ model: 'org/alpha' }), ({ model }) => model === 'org/alpha'],
  [() => ({ model: 'zeta' }), ({ model }) => model === 'zeta'],
  [() => ({ modelPrefix: 'org/' }), ({ model }) => model.startsWith('org/')],
  [() => ({ tenant: 'ann' }), ({ tenant }) => tenant === 'ann'],
  [() => ({ tenant: 'default' }), ({ tenant }) => tenant === 'default'],
  [() => ({ namespace: 'org/alpha@01000100@0#ann' }), ({ namespace }) => namespace === 'org/alpha@01000100@0#ann'],
  [() => ({ namespace: 'opaque' }), ({ namespace }) => namespace === 'opaque'],
  [
    ({ all }) => ({ keys: [all[0]?.key ?? '', all[0]?.key ?? '', all[8]?.key ?? '', 'other:20', 'absent'] }),
    ({ key }, { all }) => [all[0]?.key, all[8]?.key, 'other:20'].includes(key),
  ],
  [() => ({ keyPrefix: 'org/beta@' }), ({ key }) => key.startsWith('org/beta@')],
  [() => ({ keyPrefix: 'o' }), ({ key }) => key.startsWith('o')],
  [() => ({ tag: 'lang=de' }), ({ tags }) => tags['lang'] === 'de'],
  [() => ({ tag: 'lang' }), ({ tags }) => tags['lang'] !== undefined],
  [({ borderMs }) => ({ olderThan: borderMs }), (chunk, { old }) => old.includes(chunk)],
  [({ borderMs }) => ({ createdBefore: new Date(borderMs).toISOString() }), (chunk, { old }) => old.includes(chunk)],
  [() => ({ tier: 'ssd' }), (chunk, { onSsd }) => onSsd.includes(chunk)],
  [() => ({ tier: 'ram' }), () => true],
  [() => ({ all: true }), () => true],
];

async function check(selectorOf: (population: Population) => WireSelector, judge: Judge): Promise<void> {
  const population = await populate();
  const selector = selectorOf(population);
  const name = JSON.stringify(selector);
  const gone = population.all.filter((chunk) => judge(chunk, population));
  const left = population.all.filter((chunk) => !gone.includes(chunk));
  const rows = await known.listed(agent);
  const logged = (await agent.client.invalidations({ limit: 1 })).invalidations[0]?.id;
  const before = await agent.client.stats();

  const counted = { matchedChunks: gone.length, removedBytes: known.bytesOf(gone) };
  expect(await agent.client.invalidate({ selector, dryRun: true }), name).toMatchObject({ ...counted, dryRun: true, webhook: 'off' });
  expect(await known.listed(agent), `dry run of ${name}`).toEqual(rows);
  expect((await agent.client.invalidations({ limit: 1 })).invalidations[0]?.id).toBe(logged);
  expect((await agent.client.stats()).invalidatedChunks).toBe(before.invalidatedChunks);

  const answer = await agent.client.invalidate({ selector, reason: `because of ${name}` });
  expect(answer, name).toMatchObject({ ...counted, dryRun: false });
  expect(await known.listedKeys(agent), name).toEqual(known.keysOf(left));
  expect((await known.served(client, population.all)).toSorted(), name).toEqual(known.keysOf(left));
  expect((await agent.client.stats()).invalidatedChunks - before.invalidatedChunks, name).toBe(gone.length);
  const [entry] = (await agent.client.invalidations({ limit: 1 })).invalidations;
  expect(entry, name).toMatchObject({
    ...counted,
    id: answer.id,
    generation: answer.generation,
    actor: 'admin',
    reason: `because of ${name}`,
  });
  expect(Object.keys(entry?.selector ?? {}).toSorted(), name).toEqual(Object.keys(selector).toSorted());
}

test('each field of a selector matches exactly what it says; a dry run counts the same and changes nothing', async () => {
  for (const [selectorOf, judge] of fields) await check(selectorOf, judge);
});

test('fields are ANDed: pairs match what both of them match', async () => {
  const pairs: readonly (readonly [number, number])[] = [
    [0, 3], // model and tenant
    [2, 3], // modelPrefix and tenant
    [1, 10], // model and tag
    [0, 14], // model and tier
    [3, 12], // tenant and olderThan
    [13, 14], // createdBefore and tier
    [7, 4], // keys and tenant
    [8, 13], // keyPrefix and createdBefore
    [5, 12], // namespace and olderThan
    [1, 3], // model and tenant that never occur together
  ];
  for (const [a, b] of pairs) {
    const [first, second] = [fields[a], fields[b]];
    if (first === undefined || second === undefined) throw new Error('No such field');
    await check(
      (population) => ({ ...first[0](population), ...second[0](population) }),
      (chunk, population) => first[1](chunk, population) && second[1](chunk, population),
    );
  }
});

test('an empty selector, {all} beside another field, and empty values are refused and change nothing', async () => {
  const { all } = await populate();
  const refused: readonly unknown[] = [
    {},
    { all: true, model: 'zeta' },
    { all: false },
    { model: '' },
    { keyPrefix: '' },
    { keys: [] },
    { tag: '' },
    { tier: 'tape' },
    { olderThan: 'yesterday' },
    { modle: 'zeta' },
    undefined,
  ];
  for (const selector of refused) {
    await expect(agent.client.invalidate({ selector: selector as WireSelector }), JSON.stringify(selector)).rejects.toMatchObject({
      code: 'BAD_REQUEST',
    });
  }
  expect(await known.listedKeys(agent)).toEqual(known.keysOf(all));
});

test('both halves of a redis:// twin go with either spelling of their key', async () => {
  const body = `twin@1@0@${known.hashOf(77)}@half`;
  const [values, metadata] = [`${body}kv_bytes`, `${body}metadata`];
  const selectors: readonly WireSelector[] = [
    { keys: [values] },
    { keys: [metadata] },
    { keys: [metadata, values] },
    { keyPrefix: body },
    { chainFrom: metadata },
    { model: 'twin' },
  ];
  for (const selector of selectors) {
    const twin = await ByteClient.connect(agent.resp);
    expect(await twin.send('SET', `${body}metadata`, 'm'.repeat(28))).toBe('+OK');
    expect(await twin.send('SET', `${body}kv_bytes`, 'v'.repeat(9000))).toBe('+OK');
    expect((await twin.send('GET', `${body}metadata`)) as Uint8Array).toHaveLength(28);
    expect(await agent.client.invalidate({ selector }), JSON.stringify(selector)).toMatchObject({ matchedChunks: 1 });
    expect([await twin.send('GET', `${body}metadata`), await twin.send('GET', `${body}kv_bytes`)]).toEqual([undefined, undefined]);
    twin.destroy();
  }
});

/** A lookup of all keys by EXISTS, then the puts, on a socket that does what LMCache does. */
async function storeChain(keys: readonly known.KnownChunk[]): Promise<void> {
  const socket = await ByteClient.connect(agent.resp);
  for (const { key } of keys) expect(await socket.send('EXISTS', key)).toBe(':0');
  await known.store(socket, keys);
  socket.destroy();
}

const chainIds = [0, 1, 2, 3, 4, 5];
/** Once for each key: values differ from call to call. */
const chainOf = (base: number): known.KnownChunk[] => chainIds.map((id) => known.objectChunk(base + id, { model: 'chains' }));

const [one, two] = [chainOf(100), chainOf(200)];

test('chainFrom takes a chunk and all behind it in the chain that EXISTS and SET told of, and leaves its head and other chains', async () => {
  await storeChain(one);
  await storeChain(two);
  const rows = new Map((await known.listed(agent, { model: 'chains' })).map((row) => [row.key, row]));
  for (const chain of [one, two]) {
    expect(chain.map(({ key }) => rows.get(key)?.parentId ?? null)).toEqual([
      null,
      ...chain.slice(0, -1).map(({ key }) => rows.get(key)?.id),
    ]);
  }
  const selector = { chainFrom: one[3]?.key ?? '' };
  expect(await agent.client.invalidate({ selector, dryRun: true })).toMatchObject({
    matchedChunks: 3,
    removedBytes: known.bytesOf(one.slice(3)),
  });
  expect(await agent.client.invalidate({ selector: { ...selector, model: 'other' }, dryRun: true })).toMatchObject({ matchedChunks: 0 });
  expect(await agent.client.invalidate({ selector })).toMatchObject({ matchedChunks: 3 });
  expect(await known.listedKeys(agent, { model: 'chains' })).toEqual(known.keysOf([...one.slice(0, 3), ...two]));
  expect(await agent.client.invalidate({ selector: { chainFrom: 'absent' } })).toMatchObject({ matchedChunks: 0 });
});

test('chains are known after a restart and after kill -9, and what chainFrom took stays away', async () => {
  const chain = two;
  await agent.client.persist({ model: 'chains' });
  for (const [how, from] of [
    ['stop', 4],
    ['kill9', 2],
  ] as const) {
    await restart(how);
    await until('adoption has ended', async () => (await agent.client.stats()).recovery.done);
    expect(await agent.client.invalidate({ selector: { chainFrom: chain[from]?.key ?? '' } }), how).toMatchObject({ matchedChunks: 2 });
    expect(await known.served(client, chain)).toEqual(chain.slice(0, from).map(({ key }) => key));
  }
  await restart('kill9');
  expect((await known.served(client, chain)).toSorted()).toEqual(known.keysOf(chain.slice(0, 2)));
});

test('the audit log has FLUSHALL by RESP too, newest first in any page size, and has all of it after a restart and after kill -9', async () => {
  await known.store(client, [known.opaqueChunk('flushed')]);
  await client.send('FLUSHALL');
  const [flush] = (await agent.client.invalidations({ limit: 1 })).invalidations;
  expect(flush).toMatchObject({ actor: 'resp', selector: { all: true } });
  expect(flush?.matchedChunks).toBeGreaterThanOrEqual(1);
  const log = await wholeLog(1000);
  expect(log.length).toBeGreaterThan(30);
  expect(log.map(({ generation }) => generation)).toEqual(log.map(({ generation }) => generation).toSorted((a, b) => b - a));
  expect(new Set(log.map(({ id }) => id)).size).toBe(log.length);
  expect(await wholeLog(7)).toEqual(log);
  for (const how of ['stop', 'kill9'] as const) {
    await restart(how);
    expect(await wholeLog(1000), how).toEqual(log);
  }
});

async function wholeLog(limit: number) {
  const rows = [];
  let cursor: string | null = null;
  do {
    const page: Awaited<ReturnType<typeof agent.client.invalidations>> = await agent.client.invalidations(
      cursor === null ? { limit } : { limit, cursor },
    );
    rows.push(...page.invalidations);
    cursor = page.cursor;
  } while (cursor !== null);
  return rows;
}

test('an epoch takes all of the model and nothing else, its number grows by one, and both survive kill -9', async () => {
  const { all } = await populate();
  const alpha = all.filter(({ model }) => model === 'org/alpha');
  const rest = all.filter(({ model }) => model !== 'org/alpha');
  expect(await agent.client.bumpEpoch('org/alpha', { reason: 'new weights' })).toMatchObject({
    model: 'org/alpha',
    epoch: 1,
    matchedChunks: alpha.length,
    removedBytes: known.bytesOf(alpha),
  });
  expect(await agent.client.bumpEpoch('org/alpha')).toMatchObject({ epoch: 2, matchedChunks: 0 });
  const [, first] = (await agent.client.invalidations({ limit: 2 })).invalidations;
  expect(first).toMatchObject({ actor: 'epoch', reason: 'new weights', selector: { model: 'org/alpha' }, matchedChunks: alpha.length });
  expect(await known.listedKeys(agent)).toEqual(known.keysOf(rest));
  await known.store(client, alpha.slice(0, 1));
  await agent.client.persist({ all: true });
  await restart('kill9');
  expect((await agent.client.namespaces()).namespaces.find(({ model }) => model === 'org/alpha')?.epoch).toBe(2);
  expect((await agent.client.stats()).models.find(({ model }) => model === 'org/alpha')).toMatchObject({ epoch: 2, chunkCount: 1 });
  expect((await known.served(client, all)).toSorted()).toEqual(known.keysOf([...rest, ...alpha.slice(0, 1)]));
  expect(await agent.client.bumpEpoch('org/alpha')).toMatchObject({ epoch: 3, matchedChunks: 1 });
});

test('epochs of one model that are asked for at once get numbers of their own, and the last of them is the one that stays', async () => {
  const answers = await Promise.all(Array.from({ length: 8 }, () => agent.client.bumpEpoch('crowded')));
  expect(answers.map(({ epoch }) => epoch).toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(new Set(answers.map(({ generation }) => generation)).size).toBe(8);
  await known.store(client, [known.objectChunk(1, { model: 'crowded' })]);
  await agent.client.persist({ model: 'crowded' });
  expect((await agent.client.stats()).models.find(({ model }) => model === 'crowded')?.epoch).toBe(8);
  await restart('stop');
  expect((await agent.client.stats()).models.find(({ model }) => model === 'crowded')?.epoch).toBe(8);
});
