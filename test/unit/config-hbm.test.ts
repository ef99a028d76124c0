import { describe, expect, it } from 'vitest';
import { GiB } from '#core/bytes.ts';
import { load, problemOf, problemsOf } from '#testsupport/load-config.ts';

describe('the HBM tier', () => {
  it('takes nothing of any device unless a share is given', () => {
    const { config, origin } = load();
    expect(config.hbm).toEqual({
      share: 'auto',
      sizesBytes: [],
      devices: [],
      required: false,
      driver: 'real',
      driverPath: undefined,
      promoteHits: 2,
      promoteWindowMs: 600_000,
      policy: 'adaptive',
    });
    expect(origin('hbm.size')).toBe('default');
    expect(load({ env: { KVTIER_HBM: 'OFF' } }).config.hbm.share).toBe('off');
  });

  it('takes one size for every device, or one each for the first devices or the ones that are named', () => {
    expect(load({ argv: ['--hbm', '8GiB'] }).config.hbm).toMatchObject({ share: 'sizes', sizesBytes: [8 * GiB], devices: [] });
    expect(load({ argv: ['--hbm', '8GiB, 4GiB'] }).config.hbm).toMatchObject({ sizesBytes: [8 * GiB, 4 * GiB], devices: [0, 1] });
    const toml = '[hbm]\nsize = ["8GiB", 17179869184]\ndevices = [3, "GPU-12345678-1234-1234-1234-123456789ABC"]\nrequired = true';
    const loaded = load({ argv: ['--config', 'c'], files: { '/srv/c': toml } });
    const uuid = 'GPU-12345678-1234-1234-1234-123456789abc';
    expect(loaded.config.hbm).toMatchObject({ sizesBytes: [8 * GiB, 16 * GiB], devices: [3, uuid], required: true });
    const shown = Object.fromEntries(loaded.describe().map((row) => [row.key, row.value]));
    expect(shown).toMatchObject({ 'hbm.size': '8 GiB, 16 GiB', 'hbm.devices': `3, ${uuid}`, 'hbm.promoteWindow': '10 min' });
  });

  it('takes the path of the driver from the folder of the start, and leaves a bare name to the loader', () => {
    const path = (given: string) => load({ argv: ['--hbm', '1GiB', '--hbm-driver-path', given] }).config.hbm.driverPath;
    expect([path('libcuda.so.1'), path('lib/libcuda.so'), path('/x/libcuda.so')]).toEqual([
      'libcuda.so.1',
      '/srv/lib/libcuda.so',
      '/x/libcuda.so',
    ]);
  });
});

describe('the HBM tier is refused for', () => {
  it('what is said of devices where no pool is made on any', () => {
    expect(problemOf({ argv: ['--hbm-devices', '0'] })).toBe(
      '--hbm-devices 0 is given, but hbm.size auto makes no pool on any device: give --hbm a size, such as --hbm 8GiB',
    );
    expect(problemOf({ argv: ['--hbm', 'off', '--hbm-required'] })).toBe(
      '--hbm-required true is given, but --hbm off makes no pool on any device: drop one',
    );
    expect(problemOf({ env: { KVTIER_HBM_DRIVER: 'emulated' } })).toContain('KVTIER_HBM_DRIVER emulated is given, but hbm.size auto');
    expect(problemOf({ argv: ['--hbm-driver-path', '/x/libcuda.so'] })).toContain('--hbm-driver-path /x/libcuda.so is given');
    expect(problemsOf({ argv: ['--hbm', 'off', '--hbm-devices', '0', '--hbm-required', '--hbm-driver', 'emulated'] })).toHaveLength(3);
  });

  it('sizes and devices of the HBM tier that do not go together, with their values', () => {
    expect(problemOf({ argv: ['--hbm', '1GiB,2GiB', '--hbm-devices', '0,1,2'] })).toBe(
      '--hbm 1 GiB, 2 GiB is 2 sizes for 3 devices (--hbm-devices 0,1,2): give one size for all, or one for each',
    );
    const uuid = '12345678-1234-1234-1234-123456789ABC';
    expect(problemOf({ argv: ['--hbm', '1GiB', '--hbm-devices', `GPU-${uuid},GPU-${uuid.toLowerCase()}`] })).toBe(
      `--hbm-devices GPU-${uuid.toLowerCase()},GPU-${uuid.toLowerCase()} names device GPU-${uuid.toLowerCase()} twice`,
    );
    expect(problemOf({ argv: ['--hbm', '1GiB', '--hbm-devices', '1', '--hbm-devices', '1'] })).toContain('names device 1 twice');
    expect(problemOf({ argv: ['--hbm', '1GiB', '--hbm-driver', 'emulated', '--hbm-driver-path', 'x.so'] })).toBe(
      '--hbm-driver emulated and --hbm-driver-path x.so contradict each other: the emulator is no file of yours; drop one',
    );
    expect(problemOf({ argv: ['--hbm', '1GiB', '--hbm-devices', `MIG-${uuid}`] })).toContain('a slice of a device (MIG) holds no pool');
  });

  it.each([
    ['--hbm', '15MiB'],
    ['--hbm', '1GiB,'],
    ['--hbm', '1GiB,auto'],
    ['--hbm', '2048TiB'],
    ['--hbm', Array.from({ length: 65 }, () => '1GiB').join(',')],
    ['--hbm-devices', ''],
    ['--hbm-devices', '-1'],
    ['--hbm-devices', '100'],
    ['--hbm-devices', 'GPU-1'],
    ['--hbm-promote-hits', '0'],
    ['--hbm-promote-window', '999'],
    ['--hbm-policy', 'lru'],
    ['--hbm-driver', 'fake'],
  ])('%s %s is refused beside a share that could be', (flag, value) => {
    const share = flag === '--hbm' ? [] : ['--hbm', '1GiB'];
    expect(problemsOf({ argv: [...share, flag, value] })).toHaveLength(1);
  });
});
