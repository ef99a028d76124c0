import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { HostIoPool } from '#host/io-pool.ts';
import { HostSharedMemory } from '#host/shared-memory.ts';

/**
 * Found by test/crash/kill.test.ts: chunks that were safely on SSD were gone after a restart. The workers answered the registration of an
 * arena, and that answer was taken for the one of the job that came behind it: a folder was listed as empty.
 */
test('the first job behind the registration of an arena gets its own answer, whole', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-pool-'));
  writeFileSync(join(folder, 'a.kv'), 'x');
  for (let round = 0; round < 5; round += 1) {
    const pool = await HostIoPool.start({ socketWorkers: 1, fileWorkers: 2, onCrash: (reason) => expect.unreachable(reason) });
    const arena = new HostSharedMemory(folder).create(`ram-${round}`, 4096);
    pool.registerArena(arena.address, arena.sizeBytes);
    const listings = await Promise.all(Array.from({ length: 8 }, () => pool.files.list(folder)));
    for (const listing of listings) expect(listing.ok && listing.names).toContain('a.kv');
    arena.close();
    await pool.close();
  }
  rmSync(folder, { recursive: true });
});
