/** What HBM holds for whom, on the real agent and the emulated driver: a tenant's token shows its own bytes there and nobody else's. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KvtierClient } from '#client/kvtier-client.ts';
import { runCli } from '#testsupport/cli-process.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { ByteClient, pattern } from '#testsupport/byte-client.ts';
import { privateEmulator, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';

const CHUNK = 256 * 1024;
const admin = 'admin-token-41d2';
const tokens = { acme: 'acme-token-7f30', bolt: 'bolt-token-c9aa' };
/** Other numbers for each, so that a sum over both is none of them. */
const counts = { acme: 3, bolt: 5 };
type Name = keyof typeof tokens;
const names: readonly Name[] = ['acme', 'bolt'];

let folder: string;
let machine: PrivateEmulator;
let agent: RunningAgent;
beforeAll(async () => {
  machine = await privateEmulator();
  folder = mkdtempSync(join(tmpdir(), 'kvtier-hbm-tenants-'));
  const sections = names.map((name) => `[tenants.${name}]\ntoken = "${tokens[name]}"\n`);
  writeFileSync(join(folder, 'kvtier.toml'), sections.join('\n'));
  // Two pieces, since a piece is of one tenant; and no chunk comes by its hits.
  const hbm = ['--hbm', '128MiB', '--hbm-driver', 'emulated', '--hbm-promote-hits', '100', '--ram-max-chunk', '1MiB'];
  machine.control.start('devices=1,capacity=256M');
  agent = await startAgent({
    token: admin,
    flags: ['--config', join(folder, 'kvtier.toml'), '--ram', '32MiB', '--ssd', '64MiB', ...hbm],
    env: machine.control.environment,
  });
  for (const name of names) {
    const client = await ByteClient.connect(agent.resp);
    await client.send('AUTH', tokens[name]);
    for (let id = 0; id < 8; id += 1) expect(await client.send('SET', keyOf(name, id), pattern(CHUNK, id))).toBe('+OK');
    client.destroy();
  }
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
  await machine.dispose();
  rmSync(folder, { recursive: true });
});

const keyOf = (name: string, id: number): string => `${name}-${id}`;
const rest = (name: Name): KvtierClient => new KvtierClient({ baseUrl: agent.url, token: tokens[name] });
const hbmOf = (tiers: readonly { readonly tier: string; readonly usedBytes: number }[]): number | undefined =>
  tiers.find(({ tier }) => tier === 'hbm')?.usedBytes;

test('a tenant brings its own chunks into HBM and sees their bytes, and those of another neither in stats nor in listings', async () => {
  for (const name of names) {
    const others = names.filter((other) => other !== name).map((other) => keyOf(other, 0));
    const own = Array.from({ length: counts[name] }, (_, id) => keyOf(name, id));
    expect(await rest(name).prefetch([...own, ...others], { tier: 'hbm' })).toEqual({
      promoted: counts[name],
      alreadyInRam: 0,
      missing: 1,
      refused: 0,
    });
  }
  const bytes = (name: Name): number => counts[name] * CHUNK;
  expect(hbmOf((await agent.client.stats()).tiers)).toBe(bytes('acme') + bytes('bolt'));
  for (const name of names) {
    const stats = await rest(name).stats();
    expect([hbmOf(stats.tiers), stats.hbm]).toEqual([bytes(name), undefined]);
    expect(stats.tenants.map((row) => [row.tenant, row.bytes.hbm])).toEqual([[`@${name}`, bytes(name)]]);
    expect(stats.models.map((row) => row.bytes.hbm)).toEqual([bytes(name)]);
    expect((await rest(name).tenants()).tenants.map((row) => [row.tenant, row.bytes.hbm])).toEqual([[`@${name}`, bytes(name)]]);
    expect((await rest(name).namespaces()).namespaces.map((row) => row.bytes.hbm)).toEqual([bytes(name)]);
    const inHbm = (await rest(name).chunks({ tier: 'hbm' })).chunks.map(({ key }) => key);
    expect(inHbm.length).toBe(counts[name]);
    expect(inHbm.filter((key) => !key.includes(name))).toEqual([]);
    await expect(rest(name).devices()).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(rest(name).pin({ selector: { all: true }, mode: 'soft', tier: 'hbm' })).rejects.toMatchObject({ code: 'FORBIDDEN' });
  }
  const all = await agent.client.tenants();
  expect(Object.fromEntries(all.tenants.map((row) => [row.tenant, row.bytes.hbm]))).toEqual({
    '@acme': bytes('acme'),
    '@bolt': bytes('bolt'),
  });
  const metrics = await agent.client.metrics();
  for (const name of names) expect(metrics).toContain(`kvtier_tenant_bytes{tenant="@${name}",tier="hbm"} ${bytes(name)}\n`);
  const shown = await runCli(['ls', 'tenants', '--url', agent.url, '--token', admin]);
  expect(shown.stdout).toMatch(/ HBM +RAM +SSD/);
  expect(shown.stdout).toMatch(/@acme .* 768 KiB /);
});

test('a tenant that frees HBM frees its own', async () => {
  expect(await rest('acme').evict({ tier: 'hbm', selector: { all: true } })).toMatchObject({ evicted: counts.acme, skipped: 0 });
  expect(hbmOf((await rest('acme').stats()).tiers)).toBe(0);
  expect(hbmOf((await rest('bolt').stats()).tiers)).toBe(counts.bolt * CHUNK);
});

test('an admin pins into HBM what a selector matches, and the answer says what is there', async () => {
  const selector = { tenant: '@acme' };
  const answer = await agent.client.pin({ selector, mode: 'hard', tier: 'hbm' });
  expect(answer).toMatchObject({ pinned: { chunks: 8 }, refused: { unwritten: { chunks: 0 } }, inHbm: { chunks: 8, bytes: 8 * CHUNK } });
  const { chunks } = await rest('acme').chunks({ tier: 'hbm' });
  expect(chunks.map(({ pinned }) => pinned)).toEqual(Array.from({ length: 8 }, () => 'hard'));
  expect(await agent.client.pin({ selector, mode: 'hard' })).not.toHaveProperty('inHbm');
  const said = await runCli(['pin', '--tenant', '@acme', '--mode', 'hard', '--into-hbm', '--url', agent.url, '--token', admin]);
  expect(said.stdout).toContain('8 chunks are in HBM, 2 MiB');
  expect((await agent.client.devices()).devices[0]?.moves).toMatchObject({ promotions: counts.acme + counts.bolt + 8 });
});
