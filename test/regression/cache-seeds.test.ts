/** Seeds of the cache model that once found something, in the configuration in which they did. */
import { describe, it } from 'vitest';
import { KiB, MiB } from '#core/bytes.ts';
import { CacheModel } from '#testsupport/cache-model.ts';
import type { ModelOptions } from '#testsupport/cache-model.ts';

const always = { ramBytes: 256 * KiB, maxChunkBytes: 64 * KiB, checkEvery: 1 } as const;

const seeds: Readonly<Record<string, readonly ModelOptions[]>> = {
  'a chunk that was evicted from SSD and used again was never written': [
    { ...always, seed: 45, steps: 300 },
    { ...always, seed: 16, steps: 300 },
  ],
  'the unlink of a former file took the file that was written since': [
    { ...always, seed: 54, steps: 300, ssdBytes: [300 * KiB, 200 * KiB], crashes: 0.01, keyCount: 30, admission: 'idle' },
  ],
  'a read that lost the race against an invalidation counted as an error of the device': [{ ...always, seed: 5, steps: 300 }],
  'a use or a write took a chunk out of a volatile selector while its scan stood still': [
    { ...always, seed: 1028, steps: 400, ramBytes: 512 * KiB, crashes: 0.01, keyCount: 20, limits: { scanRows: 2 } },
    { ...always, seed: 1259, steps: 400, ramBytes: 512 * KiB, crashes: 0.01, keyCount: 20, limits: { scanRows: 2 } },
  ],
  'a damaged catalog named the wrong key for a file': [
    { ...always, seed: 55, steps: 300, ramBytes: 512 * KiB, ssdBytes: [1 * MiB, 1 * MiB], crashes: 0.02, faults: true },
  ],
};

describe.each(Object.entries(seeds))('%s', (_what, runs) => {
  it.each(runs)('is explained at seed $seed', async (options) => {
    await CacheModel.run(options);
  });
});
