import { describe, expect, test } from 'vitest';
import type { GpuInfo } from '#api/devices-view.ts';
import { devicesView } from '#api/devices-view.ts';
import { renderStats } from '#cli/render-stats.ts';
import { createApiHarness, HARNESS_NOW_MS } from '#testsupport/api-harness.ts';
import type { ApiHarness } from '#testsupport/api-harness.ts';
import { sampleGpu, sampleHbm, sampleUuid } from '#testsupport/device-stats.ts';

function harnessWith(gpu: GpuInfo | undefined): ApiHarness {
  const harness = createApiHarness({
    agent: {
      version: '0.1.0',
      startedAtMs: HARNESS_NOW_MS,
      doors: () => [],
      health: () => ({ state: 'ready', reasons: [] }),
      residentBytes: () => 1,
      heapBytes: () => 1,
      eventLoopLag: () => ({ p50Ms: 1, p99Ms: 2, maxMs: 3 }),
      ...(gpu === undefined ? {} : { gpu: () => gpu }),
    },
  });
  if (gpu !== undefined) harness.control.overrides = { hbm: sampleHbm };
  return harness;
}

describe('GET /v1/devices', () => {
  test('tells driver, pool, bandwidth by direction and errors of each device', async () => {
    const answer = await harnessWith(sampleGpu('cuda')).client().devices();
    expect(answer).toMatchObject({
      state: 'ok',
      reasons: [],
      driver: { kind: 'cuda', version: '12.4' },
      registration: { state: 'done', bytes: 2 ** 25, elapsedMs: 31 },
      promotions: 11,
      demotions: 12,
      loads: 13,
      checksumMismatches: 14,
      exports: 15,
    });
    expect(answer.devices).toEqual([
      {
        ordinal: 0,
        name: 'Test card',
        uuid: sampleUuid,
        pciBusId: '0000:01:00.0',
        kind: 'cuda',
        computeCapability: '9.0',
        totalBytes: 2 ** 36,
        state: 'ok',
        reason: '',
        pool: { capacityBytes: 2 ** 30, usedBytes: 2 ** 28, fragmentedBytes: 2 ** 20, pieces: 8, usedPieces: 3 },
        moves: { promotions: 31, demotions: 32, loads: 33, checksumMismatches: 34 },
        copies: {
          toDevice: { bytes: 4_000_000, copies: 21, bytesPerSecond: 2e9 },
          toHost: { bytes: 9_000_000, copies: 22, bytesPerSecond: 3e9 },
          inFlight: 24,
          errors: 23,
          pageable: 25,
          latencyMs: { p50: 0.25, p99: 0.5 },
        },
      },
    ]);
  });

  test('is empty, and off, where there is no HBM tier', async () => {
    expect(await harnessWith(undefined).client().devices()).toMatchObject({ state: 'off', driver: null, devices: [], reasons: [] });
  });

  test('says why there is no device', async () => {
    const gpu: GpuInfo = { ...sampleGpu('cuda'), driver: undefined, devices: [], reasons: ['hbm: no driver'] };
    expect(devicesView(undefined, gpu)).toMatchObject({ state: 'off', driver: null, reasons: ['hbm: no driver'], devices: [] });
  });

  test('is degraded while a device is lost or a reason is given, and off once no device works', () => {
    const [device] = sampleHbm.devices;
    if (device === undefined) throw new Error('the sample has a device');
    const lost = { ...device, state: 'off' as const, reason: 'lost' };
    expect(devicesView({ ...sampleHbm, devices: [device, lost] }, sampleGpu('cuda')).state).toBe('degraded');
    expect(devicesView(sampleHbm, { ...sampleGpu('cuda'), reasons: ['hbm: slow'] }).state).toBe('degraded');
    expect(devicesView({ ...sampleHbm, devices: [lost] }, sampleGpu('cuda')).state).toBe('off');
  });
});

describe('numbers of a device that is no GPU', () => {
  test('are called emulated in the list of devices, in every metric of a device, and by kvtier stats', async () => {
    const harness = harnessWith(sampleGpu('emulated'));
    const answer = await harness.client().devices();
    expect([answer.driver?.kind, answer.devices[0]?.kind]).toEqual(['emulated', 'emulated']);
    const series = (await harness.client().metrics()).split('\n').filter((line) => line.startsWith('kvtier_device_'));
    expect(series.length).toBeGreaterThan(15);
    for (const line of series) expect(line).toContain('kind="emulated"');
    const text = renderStats(await harness.client().stats(), answer);
    expect(text).toContain('Test card (emulated)');
    expect(renderStats(await harness.client().stats(), devicesView(sampleHbm, sampleGpu('cuda')))).not.toContain('emulated');
  });

  test('what moved is told of each device, by metrics and by kvtier stats', async () => {
    const harness = harnessWith(sampleGpu('cuda'));
    const series = await harness.client().metrics();
    for (const [name, value] of Object.entries({ promotions: 31, demotions: 32, loads: 33, checksum_mismatches: 34 }))
      expect(series).toContain(`kvtier_device_${name}_total{device="${sampleUuid}",kind="cuda"} ${value}\n`);
    const row = renderStats(await harness.client().stats(), await harness.client().devices())
      .split('\n')
      .find((line) => line.includes(sampleUuid));
    expect(row).toMatch(/ 31 +32 /);
  });

  test('GET /v1/stats counts what moved, without the devices', async () => {
    const stats = await harnessWith(sampleGpu('emulated')).client().stats();
    expect(stats.hbm).toEqual({ promotions: 11, demotions: 12, loads: 13, checksumMismatches: 14, exports: 15 });
    expect(JSON.stringify(stats)).not.toContain(sampleUuid);
    expect((await harnessWith(undefined).client().stats()).hbm).toBeUndefined();
  });
});
