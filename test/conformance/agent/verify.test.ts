/** Damage on the SSD of a real agent: `verify` finds it, live and offline, and what was damaged is never served. */
import { closeSync, existsSync, mkdtempSync, openSync, readSync, rmSync, unlinkSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { VerifyProgress } from '#protocol/rest/operations.ts';
import { KvtierError } from '#core/errors.ts';
import { CHUNK_HEADER_BYTES } from '#tiers/ssd/chunk-file.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import * as known from '#testsupport/agent-chunks.ts';
import { until } from '#testsupport/agent-probes.ts';
import type { ByteClient } from '#testsupport/byte-client.ts';
import { runCli } from '#testsupport/cli-process.ts';

const flags = ['--ssd-admission', 'demote'];
const chunks = Array.from({ length: 70 }, (_, id) => known.objectChunk(id, { model: 'org/alpha' }));
const [flipped, missing, alsoInRam, offline] = chunks as [known.KnownChunk, known.KnownChunk, known.KnownChunk, known.KnownChunk];
let dataDir: string;
let agent: RunningAgent;
let client: ByteClient;
/** Key to file. */
let files: ReadonlyMap<string, string>;

beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'kvtier-verify-'));
  agent = await startAgent({ dataDir, flags });
  client = await known.redisClient(agent);
  await known.store(client, chunks);
  await agent.client.evict({ tier: 'ram', selector: { all: true } });
  await agent.client.prefetch([alsoInRam.key]);
  files = new Map((await known.listed(agent)).map((chunk) => [chunk.key, known.fileOf(agent, chunk)]));
});
afterAll(() => rmSync(dataDir, { recursive: true, force: true }));

const fileOf = (chunk: known.KnownChunk): string => files.get(chunk.key) ?? '';

/** One bit of the payload. */
function flip(path: string, offset: number): void {
  const fd = openSync(path, 'r+');
  const byte = new Uint8Array(1);
  readSync(fd, byte, 0, 1, CHUNK_HEADER_BYTES + offset);
  byte[0] = (byte[0] ?? 0) ^ 1;
  writeSync(fd, byte, 0, 1, CHUNK_HEADER_BYTES + offset);
  closeSync(fd);
}

async function verifyLive(): Promise<VerifyProgress> {
  let last: VerifyProgress | undefined;
  let steps = 0;
  for await (const step of agent.client.verify()) {
    expect(step.checkedFiles).toBeGreaterThanOrEqual(last?.checkedFiles ?? 0);
    last = step;
    steps += 1;
  }
  if (last === undefined) throw new Error('There was no line');
  expect(steps).toBeGreaterThan(1);
  return last;
}

test('verify of a sound SSD reads every file and finds nothing', async () => {
  expect(await verifyLive()).toEqual({
    checkedFiles: chunks.length,
    totalFiles: chunks.length,
    checkedBytes: known.bytesOf(chunks),
    mismatches: [],
    done: true,
  });
});

test('a flipped payload bit and a missing file are reported; the file is set aside; both are misses from then on', async () => {
  flip(fileOf(flipped), flipped.bytes.length - 1);
  unlinkSync(fileOf(missing));
  flip(fileOf(alsoInRam), 0);
  const { mismatches, checkedFiles } = await verifyLive();
  expect(checkedFiles).toBe(chunks.length);
  const byKey = new Map(mismatches.map((row) => [row.key, row]));
  expect([...byKey.keys()].toSorted()).toEqual(known.keysOf([flipped, missing, alsoInRam]));
  expect(byKey.get(flipped.key)).toMatchObject({ path: fileOf(flipped), problem: expect.stringContaining('checksum') as string });
  expect(byKey.get(missing.key)).toMatchObject({ path: fileOf(missing), problem: expect.stringContaining('ENOENT') as string });
  for (const chunk of [flipped, alsoInRam]) {
    expect(existsSync(fileOf(chunk))).toBe(false);
    expect(existsSync(join(dataDir, 'ssd/quarantine', basename(fileOf(chunk))))).toBe(true);
  }
  const { io } = await agent.client.stats();
  expect([io.checksumMismatches, io.quarantinedFiles]).toEqual([2, 2]);
  expect((await agent.client.lookup([flipped.key])).answers[0]?.reason).toBe('absent');
  expect(await known.served(client, [flipped, missing])).toEqual([]);
  expect((await verifyLive()).mismatches).toEqual([]);
});

test('what RAM has besides a damaged file is served on, and written again', async () => {
  expect(await known.served(client, [alsoInRam])).toEqual([alsoInRam.key]);
  expect(await agent.client.persist({ keys: [alsoInRam.key] })).toMatchObject({ persisted: 1, failed: 0 });
  expect(await agent.client.evict({ tier: 'ram', selector: { keys: [alsoInRam.key] } })).toMatchObject({ evicted: 1 });
  expect(await known.served(client, [alsoInRam])).toEqual([alsoInRam.key]);
});

test('a second verify at the same time is refused as overloaded; a reader who leaves ends the run and harms nothing', async () => {
  for (let round = 0; round < 5; round += 1) {
    const running = agent.client.verify();
    await running.next();
    if (round === 0) await expect(agent.client.verify().next()).rejects.toMatchObject({ code: 'OVERLOADED' });
    await running.return();
    await until('the run that was left has ended', async () => {
      try {
        await verifyLive();
        return true;
      } catch (error) {
        if (error instanceof KvtierError && error.code === 'OVERLOADED') return false;
        throw error;
      }
    });
  }
});

test('`kvtier verify` on the live agent tells of the file and exits with 1, and with 0 once it is set aside; offline is refused meanwhile', async () => {
  const chunk = chunks[10] as known.KnownChunk;
  flip(fileOf(chunk), 5);
  const found = await runCli(['verify', '--json', '--data-dir', dataDir]);
  expect([found.code, found.stderr]).toEqual([1, '']);
  const report = JSON.parse(found.stdout) as VerifyProgress;
  expect(report.mismatches.map(({ key, path }) => [key, path])).toEqual([[chunk.key, fileOf(chunk)]]);
  const clean = await runCli(['verify', '--url', agent.url]);
  expect(clean.code).toBe(0);
  expect(clean.stdout).toContain('all as they were written');
  expect(clean.stderr).toContain('0 mismatches');
  const refused = await runCli(['verify', '--offline', '--data-dir', dataDir]);
  expect([refused.code, refused.stdout]).toEqual([73, '']);
  expect(refused.stderr).toContain('running agent');
});

test('`kvtier verify --offline` reads the folder of a stopped agent, exits with 1 for a flipped bit, and changes nothing', async () => {
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
  const clean = await runCli(['verify', '--offline', '--json', '--data-dir', dataDir, '--ram', '64MiB']);
  expect([clean.code, clean.stderr]).toEqual([0, '']);
  expect(JSON.parse(clean.stdout)).toMatchObject({ checkedFiles: chunks.length - 3, totalFiles: chunks.length - 3, mismatches: [] });
  const path = fileOf(offline);
  flip(path, 100);
  const found = await runCli(['verify', '--offline', '--json', '--data-dir', dataDir, '--ram', '64MiB']);
  expect(found.code).toBe(1);
  expect((JSON.parse(found.stdout) as VerifyProgress).mismatches).toEqual([{ path, key: offline.key, problem: 'payload checksum' }]);
  expect(existsSync(path)).toBe(true);
  agent = await startAgent({ dataDir, flags });
  client = await known.redisClient(agent);
  expect(await known.served(client, [offline])).toEqual([]);
  const rest = chunks.filter((chunk) => ![flipped, missing, offline, chunks[10]].includes(chunk));
  expect(await known.served(client, rest)).toEqual(rest.map(({ key }) => key));
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});
