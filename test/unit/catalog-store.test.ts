import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { noopLogger } from '#core/logger.ts';
import type { StartCatalogPeer } from '#catalog/catalog-link.ts';
import { createSqliteCatalogStore } from '#catalog/sqlite-catalog-store.ts';
import { hostClock } from '#host/clock.ts';
import { describeCatalogStore } from '#testsupport/catalog-contract.ts';
import { SimCatalogDisk } from '#testsupport/sim-catalog-disk.ts';
import { SimCatalogRowDisk, SimCatalogStore } from '#testsupport/sim-catalog-store.ts';
import { SimCatalogWorker } from '#testsupport/sim-catalog-worker.ts';
import { SimRng } from '#testsupport/sim-clock.ts';

const migrationsDir = fileURLToPath(new URL('../../migrations', import.meta.url));

describeCatalogStore('SimCatalogStore', () => {
  const disk = new SimCatalogRowDisk();
  return { make: () => new SimCatalogStore(disk), dispose: () => undefined };
});

describeCatalogStore('SqliteCatalogStore on the disk and the worker of the simulation', () => {
  const disk = new SimCatalogDisk();
  const rng = new SimRng(1);
  disk.onProblem = (problem) => {
    throw problem;
  };
  const startPeer: StartCatalogPeer = (events) => {
    const worker = new SimCatalogWorker(disk);
    const peer = worker.start(events);
    const post: typeof peer.post = (request) => {
      peer.post(request);
      setImmediate(() => {
        while (worker.step(rng));
      });
    };
    return { ...peer, post };
  };
  const make = () => createSqliteCatalogStore({ path: 'catalog.db', migrationsDir, clock: hostClock, logger: noopLogger, startPeer });
  return { make, dispose: () => undefined };
});

describeCatalogStore('SqliteCatalogStore', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-catalog-'));
  const make = () => createSqliteCatalogStore({ path: join(folder, 'catalog.db'), migrationsDir, clock: hostClock, logger: noopLogger });
  return { make, dispose: () => rmSync(folder, { recursive: true }) };
});
