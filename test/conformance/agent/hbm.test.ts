/** The HBM tier of the real process on the emulated driver: three tiers full in turn, loss of the device, kill -9, and starts that cannot. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { afterEach, expect, test } from 'vitest';
import { runCli } from '#testsupport/cli-process.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { AgentStart, RunningAgent } from '#testsupport/agent.ts';
import { privateEmulator } from '#testsupport/cuda-emulator.ts';
import type { PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { SimRng } from '#testsupport/sim-clock.ts';

const CHUNK = 256 * 1024;
const SEED = 20_261_125;
const ENGINE_FLAGS = ['--hbm', '16MiB', '--hbm-driver', 'emulated', '--hbm-promote-hits', '1', '--ram', '16MiB', '--read-ahead-bytes', '0'];

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).toReversed()) await step();
});

async function emulator(options: string): Promise<PrivateEmulator> {
  const machine = await privateEmulator();
  undo.push(() => machine.dispose());
  machine.control.start(options);
  return machine;
}

async function agent(options: AgentStart): Promise<RunningAgent> {
  const started = await startAgent(options);
  undo.push(() => started.stop());
  return started;
}

function redis({ resp }: RunningAgent): Redis {
  const client = new Redis(resp.port, resp.host, { maxRetriesPerRequest: 0, retryStrategy: () => null });
  client.on('error', () => {});
  undo.push(() => client.disconnect());
  return client;
}

const keyOf = (index: number): string => `meta/llama@00000001@0@${index.toString(16).padStart(8, '0')}`;

/** Bytes that say which chunk they are, of no pattern. */
function valueOf(index: number): Buffer {
  const rng = new SimRng(SEED + index);
  const value = Buffer.alloc(CHUNK);
  for (let at = 0; at < CHUNK; at += 4) value.writeUInt32LE(rng.nextUint32(), at);
  return value;
}

async function expectRight(client: Redis, index: number): Promise<void> {
  const found = await client.getBuffer(keyOf(index));
  expect(found === null ? `chunk ${index} is a miss` : found.equals(valueOf(index))).toBe(true);
}

/** Looks again until it holds; the test's own deadline ends it. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setImmediate(resolve));
}

async function hits({ client }: RunningAgent): Promise<{ hbm: number; ram: number; ssd: number }> {
  return { ...(await client.stats()).hits };
}

/** Stores chunks and reads each once, so that it is wanted on the device, and waits until its copy has ended. */
async function fill(to: RunningAgent, client: Redis, indexes: readonly number[]): Promise<void> {
  for (const index of indexes) {
    await client.set(keyOf(index), valueOf(index));
    await expectRight(client, index);
  }
  await until(async () => (await to.client.devices()).devices.every(({ copies }) => copies.inFlight === 0));
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, index) => from + index);

async function tiersOf(of: RunningAgent, index: number): Promise<readonly string[]> {
  const { chunks } = await of.client.chunks({ keyPrefix: keyOf(index) });
  return chunks[0]?.tiers ?? [];
}

/** Brings chunks into HBM, takes them out of RAM, and reads each twice: from the device, then from RAM. In groups that have room in both. */
async function expectFromHbmThenRam(of: RunningAgent, client: Redis, indexes: readonly number[]): Promise<void> {
  for (let at = 0; at < indexes.length; at += 16) {
    const group = indexes.slice(at, at + 16);
    const keys = group.map(keyOf);
    await until(async () => (await of.client.devices()).devices.every(({ copies }) => copies.inFlight === 0));
    // Room for all of the group, which else could push out what of it is there already.
    await of.client.evict({ tier: 'hbm', selector: { all: true } });
    expect(await of.client.prefetch(keys, { tier: 'hbm' })).toMatchObject({ promoted: group.length, refused: 0, missing: 0 });
    // And nothing has to leave RAM for the group.
    expect(await of.client.evict({ tier: 'ram', selector: { all: true } })).toMatchObject({ skipped: 0 });
    const start = await hits(of);
    for (const index of group) await expectRight(client, index);
    expect([at, await hits(of)]).toEqual([at, { ...start, hbm: start.hbm + group.length }]);
    for (const index of group) await expectRight(client, index);
    expect([at, await hits(of)]).toEqual([at, { ...start, hbm: start.hbm + group.length, ram: start.ram + group.length }]);
  }
}

test('a seeded run that fills HBM, RAM and SSD in turn serves every chunk byte-identical from each tier, and the statistics show hits in all three', async () => {
  const machine = await emulator('devices=1,capacity=64M');
  const kvtier = await agent({ flags: [...ENGINE_FLAGS, '--ssd', '32MiB'], env: machine.control.environment });
  const client = redis(kvtier);
  // A copy of memory that is not registered yet would be lint.
  await until(async () => (await kvtier.client.devices()).registration.state === 'done');
  const fullness = async (): Promise<Record<string, number>> =>
    Object.fromEntries((await kvtier.client.stats()).tiers.map(({ tier, usedBytes, capacityBytes }) => [tier, usedBytes / capacityBytes]));
  // 10 MiB fit HBM, 25 MiB fit HBM and RAM together, 50 MiB fit nothing.
  await fill(kvtier, client, range(0, 40));
  for (const index of range(0, 40)) await expectRight(client, index);
  await fill(kvtier, client, range(40, 100));
  const twoFull = await fullness();
  expect(Math.min(twoFull['hbm'] ?? 0, twoFull['ram'] ?? 0)).toBeGreaterThan(0.8);
  await fill(kvtier, client, range(100, 200));
  await kvtier.client.persist({ all: true });
  expect((await fullness())['ssd']).toBeGreaterThan(0.8);
  const places = new Map<number, readonly string[]>();
  for (const index of range(0, 200)) places.set(index, await tiersOf(kvtier, index));
  const isIn = (tier: string): number[] => range(0, 200).filter((index) => places.get(index)?.includes(tier) === true);
  // From HBM: RAM has nothing any more, and room for these 20.
  const inHbm = isIn('hbm').slice(0, 20);
  expect(inHbm).toHaveLength(20);
  await kvtier.client.evict({ tier: 'ram', selector: { all: true } });
  const start = await hits(kvtier);
  for (const index of inHbm) await expectRight(client, index);
  const afterHbm = await hits(kvtier);
  expect(afterHbm).toEqual({ ...start, hbm: start.hbm + 20 });
  // From RAM: the same again.
  for (const index of inHbm) await expectRight(client, index);
  expect(await hits(kvtier)).toEqual({ ...afterHbm, ram: afterHbm.ram + 20 });
  // From SSD: everything that is there, with neither of the tiers above.
  await kvtier.client.persist({ all: true });
  await kvtier.client.evict({ tier: 'hbm', selector: { all: true } });
  await kvtier.client.evict({ tier: 'ram', selector: { all: true } });
  const left = [];
  for (const index of range(0, 200)) if ((await tiersOf(kvtier, index)).join() === 'ssd') left.push(index);
  expect(left.length).toBeGreaterThan(80);
  const before = await hits(kvtier);
  for (const index of left) await expectRight(client, index);
  expect((await hits(kvtier)).ssd - before.ssd).toBe(left.length);
  await expectFromHbmThenRam(kvtier, client, left);
  // A tier that was full forgot; it did not lie.
  for (const index of range(0, 200)) {
    const found = await client.getBuffer(keyOf(index));
    expect(found === null || found.equals(valueOf(index))).toBe(true);
  }
  const { hits: all, hbm } = await kvtier.client.stats();
  expect(Math.min(all.hbm, all.ram, all.ssd)).toBeGreaterThan(0);
  expect(hbm?.checksumMismatches).toBe(0);
  expect((await kvtier.client.devices()).devices).toMatchObject([{ kind: 'emulated', state: 'ok', copies: { errors: 0 } }]);
  expect(await kvtier.stop()).toBe(0);
  const { violations, lint, reaped, usedBytes } = machine.control.report();
  expect({ violations, lint, reaped, usedBytes }).toEqual({ violations: {}, lint: {}, reaped: {}, usedBytes: [0] });
});

test('what the device corrupts is dropped, counted, and served by SSD', async () => {
  const machine = await emulator('devices=1,capacity=64M');
  const kvtier = await agent({ flags: [...ENGINE_FLAGS, '--ssd', '64MiB'], env: machine.control.environment });
  const client = redis(kvtier);
  await fill(kvtier, client, range(0, 8));
  await kvtier.client.persist({ all: true });
  await kvtier.client.evict({ tier: 'ram', selector: { all: true } });
  expect(machine.control.corrupt(0)).toBeGreaterThan(0);
  for (const index of range(0, 8)) await expectRight(client, index);
  const { hits: all, hbm } = await kvtier.client.stats();
  expect([all.hbm, all.ssd, hbm?.checksumMismatches]).toEqual([0, 8, 8]);
});

test('a device that is lost in the middle takes only what it alone held; health says which, RAM and SSD go on, and the agent lives', async () => {
  const machine = await emulator('devices=1,capacity=64M');
  const kvtier = await agent({ flags: [...ENGINE_FLAGS, '--ssd', '64MiB'], env: machine.control.environment });
  const client = redis(kvtier);
  await fill(kvtier, client, range(0, 30));
  await kvtier.client.persist({ all: true });
  await kvtier.client.evict({ tier: 'ram', selector: { keys: range(0, 10).map(keyOf) } });
  machine.control.loseDevice(0, 700, 1);
  for (const index of range(0, 30)) await expectRight(client, index);
  await fill(kvtier, client, range(30, 40));
  await until(async () => (await kvtier.client.devices()).state === 'off');
  const { state, reasons } = await kvtier.client.readiness();
  expect(state).toBe('degraded');
  expect(reasons.join('\n')).toMatch(/^hbm: .* \(GPU-.*\): lost: /m);
  expect((await kvtier.client.stats()).tiers.find(({ tier }) => tier === 'hbm')).toMatchObject({ state: 'off', chunkCount: 0 });
  for (const index of range(0, 40)) await expectRight(client, index);
  expect(await kvtier.stop()).toBe(0);
});

test('kill -9 in the middle of copies loses nothing of what dirtyBytes did not count, and the device is as new for the next agent', async () => {
  const machine = await emulator('devices=1,capacity=64M,latency_us=2000');
  const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-test-hbm-'));
  undo.push(() => rmSync(dataDir, { recursive: true, force: true }));
  const options: AgentStart = { dataDir, flags: [...ENGINE_FLAGS, '--ssd', '64MiB'], env: machine.control.environment };
  const first = await agent(options);
  const client = redis(first);
  await fill(first, client, range(0, 60));
  await first.client.persist({ all: true });
  expect((await first.client.stats()).tiers.map(({ dirtyBytes }) => dirtyBytes)).toEqual([0, 0, 0]);
  const reads = range(0, 60).map((index) => client.getBuffer(keyOf(index)).catch(() => null));
  await reads[5];
  await first.kill9();
  await Promise.all(reads);
  const second = await agent(options);
  // What the catalog had not got yet is adopted by its header, behind the start.
  await until(async () => (await second.client.stats()).recovery.done);
  const again = redis(second);
  for (const index of range(0, 60)) await expectRight(again, index);
  expect((await second.client.devices()).devices).toMatchObject([{ state: 'ok' }]);
  expect(machine.control.report().aliveInAll['contexts'] ?? 1).toBeLessThanOrEqual(1);
});

test('hbm.required ends the start with a code of its own and a sentence of the device; without it the agent serves and says why', async () => {
  const flags = ['--hbm', '64MiB', '--hbm-driver-path', '/nowhere/libcuda.so.1'];
  const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-test-hbm-'));
  undo.push(() => rmSync(dataDir, { recursive: true, force: true }));
  const doors = ['--http', '127.0.0.1:0', '--resp', 'off', '--lm', 'off', '--ram', '16MiB'];
  const refused = await runCli(['serve', '--data-dir', dataDir, ...doors, ...flags, '--hbm-required']);
  expect(refused.code).toBe(72);
  expect(refused.stderr).toContain('Cannot start, since hbm.required is set: no device can be used: No CUDA driver: /nowhere/libcuda.so.1');
  const kvtier = await agent({ flags });
  expect(await kvtier.client.readiness()).toMatchObject({ state: 'degraded' });
  expect(kvtier.output()).toMatch(/HBM +off +by --hbm, but no device gives it: see below/);
  expect(kvtier.output()).toContain('!  hbm: no device can be used: ');
  expect(await kvtier.client.devices()).toMatchObject({ state: 'off', driver: null, devices: [] });
});

test('a pool that does not fit the device is refused with both numbers, and no context stays on it', async () => {
  const machine = await emulator('devices=1,capacity=32M');
  const kvtier = await agent({ flags: ['--hbm', '64MiB', '--hbm-driver', 'emulated'], env: machine.control.environment });
  const { reasons } = await kvtier.client.readiness();
  expect(reasons.join('\n')).toMatch(/^hbm: device 0 \(.*\) has .* free and 64 MiB is wanted: it gets no pool$/m);
  expect(machine.control.report().usedBytes[0]).toBe(0);
});

test('without a C compiler a simulation stands in for the emulated driver, really holds the bytes, and is called so wherever it shows', async () => {
  // No compiler is found on such a path; nor is anything else.
  const path = mkdtempSync(join(tmpdir(), 'kvtier-test-path-'));
  undo.push(() => rmSync(path, { recursive: true, force: true }));
  const kvtier = await agent({ flags: [...ENGINE_FLAGS, '--ssd', '32MiB'], env: { PATH: path } });
  const client = redis(kvtier);
  await until(async () => (await kvtier.client.devices()).registration.state === 'done');
  await fill(kvtier, client, range(0, 40));
  const inHbm = (await Promise.all(range(0, 40).map((index) => tiersOf(kvtier, index)))).flatMap((tiers, index) =>
    tiers.includes('hbm') ? [index] : [],
  );
  expect(inHbm.length).toBeGreaterThan(20);
  await kvtier.client.persist({ all: true });
  await kvtier.client.evict({ tier: 'ram', selector: { all: true } });
  const before = await hits(kvtier);
  for (const index of inHbm) await expectRight(client, index);
  expect((await hits(kvtier)).hbm - before.hbm).toBe(inHbm.length);
  const why = 'the emulated driver cannot be had, a simulation stands in for it: no C compiler: none of cc, gcc, clang can be started';
  expect(kvtier.output()).toMatch(/HBM +16 MiB +by --hbm; simulated: no GPU, host memory that behaves like one/);
  expect(kvtier.output()).toContain(`!  hbm: ${why}`);
  expect(kvtier.output()).toMatch(new RegExp(`warn.*tiers\\.hbm.*${why}`, 'i'));
  const notes = [`hbm is simulated (${why}): there is no GPU, and its numbers say nothing of one`];
  expect(await kvtier.client.readiness()).toMatchObject({ state: 'ready', notes });
  expect(await kvtier.client.devices()).toMatchObject({ state: 'ok', driver: { kind: 'simulated' }, devices: [{ kind: 'simulated' }] });
  expect(await (await fetch(`${kvtier.url}/metrics`)).text()).toMatch(/kvtier_device_pool_used_bytes\{.*kind="simulated".*\} [1-9]/);
  expect(await kvtier.stop()).toBe(0);
});
