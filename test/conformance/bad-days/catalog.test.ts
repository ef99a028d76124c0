import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, expect, test } from 'vitest';
import type { RunningAgent } from '#testsupport/agent.ts';
import { CheckedClient, Cleanup, holdCatalog, range, until, untilClean } from '#testsupport/bad-days.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const flags = ['--ssd-admission', 'through', '--ram', '64MiB'];

async function catalogState(agent: RunningAgent): Promise<string> {
  return (await agent.client.stats()).catalog.state;
}

/** SSD replicas by a reader of its own, as people look. */
function rowsOf(dataDir: string): number {
  const database = new Database(join(dataDir, 'catalog.db'), { readonly: true });
  try {
    return Number(database.prepare("SELECT count(*) FROM replica WHERE tier = 'ssd'").pluck().get());
  } finally {
    database.close();
  }
}

async function filled(dataDir: string, count: number): Promise<{ readonly agent: RunningAgent; readonly client: CheckedClient }> {
  const agent = await cleanup.agent({ dataDir, flags });
  const client = await CheckedClient.connect(agent);
  await client.store(0, count, 50_000);
  await untilClean(agent);
  await until('the catalog has followed', async () => (await agent.client.stats()).catalog.queuedChanges === 0);
  return { agent, client };
}

test('a catalog that another process has locked delays a start by seconds, costs nothing, and is written when it is free', async () => {
  const dataDir = cleanup.folder();
  const first = await filled(dataDir, 30);
  expect(await first.agent.stop()).toBe(0);
  const holder = await holdCatalog(join(dataDir, 'catalog.db'), 'PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
  const startedAt = performance.now();
  const agent = await cleanup.agent({ dataDir, flags });
  expect(performance.now() - startedAt).toBeLessThan(15_000);
  const client = await CheckedClient.connect(agent);
  await until('adopted', async () => (await agent.client.stats()).recovery.done);
  expect(await client.found(0, 30)).toEqual(range(0, 30));
  expect((await agent.client.readiness()).reasons.join()).toMatch(/catalog: .*lock/);
  await client.store(30, 40, 50_000);
  await client.client.command('DEL', 'bad:0');
  await agent.client.invalidate({ selector: { keys: ['bad:1'] } });
  await untilClean(agent);
  await holder.release();
  await until('the catalog works again', async () => (await catalogState(agent)) === 'ok');
  await until('the rows are there', () => Promise.resolve(rowsOf(dataDir) === 38));
  await agent.kill9();
  const again = await cleanup.agent({ dataDir, flags });
  const reader = await CheckedClient.connect(again);
  await until('adopted', async () => (await again.client.stats()).recovery.done);
  expect(await reader.found(0, 40)).toEqual(range(2, 40));
});

test('a lock that comes while the agent runs: serving, deleting and invalidating go on, health says why', async () => {
  const dataDir = cleanup.folder();
  const { agent, client } = await filled(dataDir, 10);
  const holder = await holdCatalog(join(dataDir, 'catalog.db'), 'BEGIN EXCLUSIVE');
  await client.store(10, 20, 50_000);
  await until('degraded', async () => (await catalogState(agent)) === 'degraded');
  expect((await agent.client.readiness()).state).toBe('degraded');
  expect((await fetch(`${agent.url}/readyz`)).status).toBe(200);
  expect((await agent.client.invalidate({ selector: { keys: ['bad:3'] } })).matchedChunks).toBe(1);
  expect(await client.found(0, 20)).toEqual([...range(0, 3), ...range(4, 20)]);
  await holder.release();
  await until('ready', async () => (await agent.client.readiness()).state === 'ready');
  await until('the rows are there', () => Promise.resolve(rowsOf(dataDir) === 19));
});

test('a reader that holds a transaction for long sees its own snapshot and stops nobody', async () => {
  const dataDir = cleanup.folder();
  const { agent, client } = await filled(dataDir, 10);
  const holder = await holdCatalog(join(dataDir, 'catalog.db'), 'BEGIN; SELECT count(*) FROM chunk');
  await client.store(10, 200, 20_000);
  await untilClean(agent);
  await until('the rows are there', () => Promise.resolve(rowsOf(dataDir) === 200));
  expect((await agent.client.readiness()).state).toBe('ready');
  expect(statSync(join(dataDir, 'catalog.db-wal')).size).toBeLessThan(64 * 1024 * 1024);
  await holder.release();
  expect(await agent.stop()).toBe(0);
});

test('a catalog that is no database is set aside and rebuilt', async () => {
  const dataDir = cleanup.folder();
  const first = await filled(dataDir, 10);
  expect(await first.agent.stop()).toBe(0);
  writeFileSync(join(dataDir, 'catalog.db'), 'this is no database '.repeat(500));
  const agent = await cleanup.agent({ dataDir, flags });
  const client = await CheckedClient.connect(agent);
  await until('adopted', async () => (await agent.client.stats()).recovery.done);
  expect(await client.found(0, 10)).toEqual(range(0, 10));
  expect(agent.output()).toContain('The catalog was corrupt');
  await until('the rows are there', () => Promise.resolve(rowsOf(dataDir) === 10));
});
