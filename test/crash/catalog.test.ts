import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { noopLogger } from '#core/logger.ts';
import { createSqliteCatalogStore } from '#catalog/sqlite-catalog-store.ts';
import { hostClock } from '#host/clock.ts';
import { makeChunk, makeInvalidation, readAll } from '#testsupport/catalog-fixtures.ts';

const migrationsDir = fileURLToPath(new URL('../../migrations', import.meta.url));
const child = fileURLToPath(new URL('../support/catalog-crash-child.ts', import.meta.url));
const KILLS = 4;

/** Runs the writer until it has committed some batches, kills it in the middle of the next, returns the last it reported. */
async function writeAndKill(path: string, first: number): Promise<number> {
  const writer = Bun.spawn([process.execPath, child, path, migrationsDir, String(first)], { stdout: 'pipe', stderr: 'inherit' });
  let text = '';
  for await (const piece of writer.stdout) {
    text += new TextDecoder().decode(piece);
    if (text.split('\n').length > 4 && writer.exitCode === null) writer.kill('SIGKILL');
  }
  await writer.exited;
  return Number(text.trim().split('\n').at(-1));
}

test(
  'a catalog whose process is killed over and over has every committed row, whole, and nothing that was removed',
  { timeout: 60_000 },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kvtier-catalog-'));
    const path = join(folder, 'catalog.db');
    let committed = 0;
    for (let kill = 1; kill <= KILLS; kill += 1) {
      const before = committed;
      committed = await writeAndKill(path, committed + 1);
      expect(committed).toBeGreaterThan(before);
      const store = createSqliteCatalogStore({ path, migrationsDir, clock: hostClock, logger: noopLogger });
      const found = new Map((await readAll(await store.open())).map((chunk) => [chunk.generation, chunk]));
      const log = new Set((await store.listInvalidations({ limit: 100_000 })).map((row) => row.id));
      await store.close();
      for (let generation = 1; generation <= committed; generation += 1) {
        // The removal of the last committed one may have been on its way.
        if (generation % 3 === 2 && generation === committed) continue;
        const kept = generation % 3 !== 2;
        expect(found.get(generation)).toEqual(kept ? makeChunk(generation) : undefined);
        if (generation % 10 === 0) expect(log.has(makeInvalidation(generation).id)).toBe(true);
      }
    }
    rmSync(folder, { recursive: true });
  },
);
