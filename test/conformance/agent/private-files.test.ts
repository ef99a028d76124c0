/** Nothing that agent and front leave on disk or in shared memory can be read by another user, whatever the umask is. */
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Cleanup, CheckedClient, until, untilClean } from '#testsupport/bad-days.ts';
import { startFront } from '#testsupport/front.ts';
import { chunkFiles } from '#testsupport/kill-tamper.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

/** Path -> mode, of all that is not private. A link has no mode of its own; what was dropped may go while we look. */
function open(folder: string): string[] {
  const found: string[] = [];
  for (const name of ['.', ...readdirSync(folder, { recursive: true, encoding: 'utf8' })]) {
    const stats = lstatSync(join(folder, name), { throwIfNoEntry: false });
    if (stats === undefined) continue;
    if (!stats.isSymbolicLink() && (stats.mode & 0o777) !== (stats.isDirectory() ? 0o700 : 0o600))
      found.push(`${name} ${(stats.mode & 0o777).toString(8)}`);
  }
  return found;
}

test('with a umask of 000 folders have mode 0700 and files, sockets and arenas 0600, also of what was damaged, and after a restart', async () => {
  const parent = mkdtempSync(join(tmpdir(), 'kvtier-modes-'));
  cleanup.add(() => rmSync(parent, { recursive: true, force: true }));
  const [dataDir, ssd, shm, front] = ['data', 'ssd', 'shm', 'front'].map((name) => join(parent, name)) as [string, string, string, string];
  const launcher = ['sh', '-c', 'umask 000 && exec "$@"', 'sh'];
  const holder = await startFront(front, { launcher });
  cleanup.add(() => holder.stop());
  const flags = [
    ...['--ssd-dir', `${ssd}:64MiB`, '--shm-dir', shm, '--ram', '64MiB', '--ram-keep', 'on', '--ssd-admission', 'through'],
    ...['--resp-front', holder.socketPath],
  ];
  const first = await cleanup.agent({ dataDir, flags, launcher });
  const client = await CheckedClient.connect({ ...first, resp: holder.address });
  await client.store(0, 6, 100_000);
  await untilClean(first);
  await first.client.invalidate({ selector: { keys: ['bad:0'] } });
  await first.client.evict({ tier: 'ram', selector: { all: true } });
  // One goes to quarantine.
  const damaged = chunkFiles(ssd)[0]?.path ?? '';
  writeFileSync(damaged, readFileSync(damaged).fill(7, 5000, 5010));
  await client.found(0, 6);
  for (const folder of [dataDir, ssd, shm, front]) expect(open(folder), folder).toEqual([]);
  expect(readdirSync(dataDir)).toEqual(expect.arrayContaining(['agent.json', 'agent.lock', 'catalog.db', 'catalog.db-wal', 'journal']));
  expect(readdirSync(front)).toContain('front.sock');
  expect(readdirSync(join(ssd, 'quarantine'))).toHaveLength(1);
  expect(readdirSync(shm).some((name) => name.endsWith('.arena'))).toBe(true);
  await first.kill9();
  writeFileSync(join(dataDir, 'journal'), 'not a journal');
  const second = await cleanup.agent({ dataDir, flags, launcher });
  await until('adopted', async () => (await second.client.stats()).recovery.done);
  for (const folder of [dataDir, ssd, shm, front]) expect(open(folder), folder).toEqual([]);
  expect(readdirSync(dataDir)).toContain('journal.damaged-1');
});
