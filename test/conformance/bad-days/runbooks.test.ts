/** Degraded states on the real agent: /readyz spells them as the headings of the runbooks do, and `kvtier doctor` says what to do. */
import { execFileSync, spawnSync } from 'node:child_process';
import { appendFileSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { RunningAgent } from '#testsupport/agent.ts';
import { CheckedClient, Cleanup, holdCatalog, until, untilClean } from '#testsupport/bad-days.ts';
import { runCli } from '#testsupport/cli-process.ts';
import { startFront } from '#testsupport/front.ts';
import { chunkFiles } from '#testsupport/kill-tamper.ts';
import { runbookOf } from '#testsupport/runbooks.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const MiB = 1024 * 1024;
const writeAtOnce = ['--ssd-admission', 'through', '--ram', '64MiB'];
const hasPrlimit = spawnSync('prlimit', ['--version']).status === 0;

/** Waits until the runbooks of the reasons are these; doctor has a finding with advice for each reason. */
async function expectRunbooks(agent: RunningAgent, wanted: readonly string[]): Promise<void> {
  const sorted = [...wanted].toSorted();
  const reasons = await until(`runbooks ${sorted.join(', ')}`, async () => {
    const health = await agent.client.readiness();
    return sorted.every((sentence) => health.reasons.some((reason) => runbookOf(reason) === sentence)) && health.reasons;
  });
  expect(reasons.map((reason) => runbookOf(reason) ?? reason).toSorted()).toEqual(sorted);
  expect((await fetch(`${agent.url}/readyz`)).status).toBe(200);
  const doctor = await runCli(['doctor', '--json', '--data-dir', agent.dataDir, '--ram', '64MiB', '--ssd', 'off']);
  const { findings } = JSON.parse(doctor.stdout) as { findings: { severity: string; cause: string; message: string; advice: string }[] };
  for (const reason of reasons) {
    const finding = findings.find(({ message }) => message === `The agent is degraded: ${reason}`);
    expect(finding, reason).toMatchObject({
      severity: expect.stringMatching(/problem|warning/),
      cause: expect.not.stringMatching(/^degraded$/),
    });
    expect(finding?.advice.length, reason).toBeGreaterThan(40);
  }
}

test('what a start finds: a damaged journal, folders that are no folders, missed a run or take no mark, a catalog that is held, few descriptors', async () => {
  const dataDir = cleanup.folder();
  const [fine, missed, unmarked, parent] = [cleanup.folder(), cleanup.folder(), cleanup.folder(), cleanup.folder()];
  const noFolder = join(parent, 'ssd');
  const dirs = (...paths: readonly string[]): string[] => paths.flatMap((path) => ['--ssd-dir', `${path}:64MiB`]);
  const first = await cleanup.agent({ dataDir, flags: [...writeAtOnce, ...dirs(fine, missed)] });
  const client = await CheckedClient.connect(first);
  await client.store(0, 8, 100_000);
  await untilClean(first);
  expect(await first.stop()).toBe(0);
  const second = await cleanup.agent({ dataDir, flags: [...writeAtOnce, ...dirs(fine)] });
  expect(await second.stop()).toBe(0);
  writeFileSync(noFolder, 'a file');
  mkdirSync(join(unmarked, 'kvtier-folder.json.tmp'));
  const holder = await holdCatalog(join(dataDir, 'catalog.db'), 'PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
  const third = await cleanup.agent({
    dataDir,
    flags: [...writeAtOnce, ...dirs(fine, missed, unmarked, noFolder)],
    launcher: hasPrlimit ? ['prlimit', '--nofile=456:456'] : [],
  });
  await expectRunbooks(third, [
    '… missed a run of this agent or has no journal: its files are dropped',
    "…: without its mark, this folder's files are dropped at the next start",
    '… is off for this run: …',
    'ssd: …: off for this run: …',
    'catalog: …',
    ...(hasPrlimit ? ['descriptors: … connections at most and not …'] : []),
  ]);
  await third.kill9();
  await holder.release();
  appendFileSync(join(dataDir, 'journal'), 'x');
  const fourth = await cleanup.agent({ dataDir, flags: [...writeAtOnce, ...dirs(fine)] });
  await expectRunbooks(fourth, ['The journal is damaged (…): what was in RAM and on SSD is dropped']);
});

test('what comes while it runs: a folder that is gone, one whose reads fail, one that does not answer', async () => {
  const [gone, unread, stuck] = [cleanup.folder(), cleanup.folder(), cleanup.folder()];
  const flags = [gone, unread, stuck].flatMap((path) => ['--ssd-dir', `${path}:64MiB`]);
  const agent = await cleanup.agent({ dataDir: cleanup.folder(), flags: [...writeAtOnce, ...flags, '--ssd-io-deadline', '300ms'] });
  const client = await CheckedClient.connect(agent);
  await client.store(0, 30, MiB);
  await untilClean(agent);
  await agent.client.evict({ tier: 'ram', selector: { all: true } });
  for (const { path } of chunkFiles(unread)) {
    rmSync(path);
    symlinkSync('/proc/self/mem', path); // every read at its beginning is an EIO
  }
  rmSync(gone, { recursive: true });
  await client.found(0, 30);
  await expectRunbooks(agent, ['ssd: …: the folder is gone', 'ssd: …: reads fail (…)']).catch(async (problem: unknown) => {
    // A read may be the first to notice.
    await expectRunbooks(agent, ['ssd: …: the folder is gone (…)', 'ssd: …: reads fail (…)']).catch(() => Promise.reject(problem as Error));
  });
  await untilClean(agent);
  await agent.client.evict({ tier: 'ram', selector: { all: true } });
  const [hung] = chunkFiles(stuck);
  rmSync(hung?.path ?? '');
  execFileSync('mkfifo', [hung?.path ?? '']);
  await client.found(Number(hung?.key.slice(4)), Number(hung?.key.slice(4)) + 1);
  const { reasons } = await agent.client.readiness();
  expect(reasons.map(runbookOf)).toContain('ssd: …: the device does not answer (… passed its deadline)');
});

test('the end of the front', async () => {
  const folder = cleanup.folder();
  const front = await startFront(folder);
  const agent = await cleanup.agent({ dataDir: folder, flags: ['--resp-front', front.socketPath] });
  await front.stop();
  await expectRunbooks(agent, [
    'The front has ended: connections that are open stay, new ones do not come; start it, then restart the agent',
  ]);
});

test('O_DIRECT that is turned off on purpose is no reason to be degraded', async () => {
  const agent = await cleanup.agent({ dataDir: cleanup.folder(), flags: [...writeAtOnce, '--ssd-direct', 'off'] });
  const client = await CheckedClient.connect(agent);
  await client.store(0, 2, MiB);
  await untilClean(agent);
  expect(await agent.client.readiness()).toEqual({ state: 'ready', reasons: [] });
  expect((await agent.client.stats()).tiers.find(({ tier }) => tier === 'ssd')?.folders).toMatchObject([{ direct: false }]);
});
