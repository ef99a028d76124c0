import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { noopLogger } from '#core/logger.ts';
import { createSqliteCatalogStore } from '#catalog/sqlite-catalog-store.ts';
import { hostClock } from '#host/clock.ts';
import { describeCatalogStore } from '#testsupport/catalog-contract.ts';
import { SimCatalogDisk, SimCatalogStore } from '#testsupport/sim-catalog-store.ts';

const migrationsDir = fileURLToPath(new URL('../../migrations', import.meta.url));

describeCatalogStore('SimCatalogStore', () => {
  const disk = new SimCatalogDisk();
  return { make: () => new SimCatalogStore(disk), dispose: () => undefined };
});

describeCatalogStore('SqliteCatalogStore', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-catalog-'));
  const make = () => createSqliteCatalogStore({ path: join(folder, 'catalog.db'), migrationsDir, clock: hostClock, logger: noopLogger });
  return { make, dispose: () => rmSync(folder, { recursive: true }) };
});
