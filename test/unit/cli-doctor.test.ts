import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GiB, MiB } from '#core/bytes.ts';
import { findLibrary, lookAtFolder, readLimits, tryPort } from '#host/doctor-probes.ts';
import type { Finding } from '#cli/diagnose.ts';
import { createApiHarness } from '#testsupport/api-harness.ts';
import { simNamespace } from '#testsupport/sim-cache-control.ts';
import { stringContaining } from '#testsupport/matchers.ts';
import { createCliHarness, type CliHarness } from '#testsupport/cli-harness.ts';

let cli: CliHarness;
beforeEach(() => {
  cli = createCliHarness();
  cli.files.delete('/srv/.kvtier/agent.json');
});

interface Diagnosis {
  readonly exit: number;
  readonly findings: readonly Finding[];
  of(cause: string): Finding | undefined;
}

async function doctor(...argv: string[]): Promise<Diagnosis> {
  const { exit, out } = await cli.run('doctor', '--json', ...argv);
  const { findings } = JSON.parse(out) as { findings: Finding[] };
  return { exit, findings, of: (cause) => findings.find((finding) => finding.cause === cause) };
}

describe('kvtier doctor', () => {
  it('finds a fit machine fit, and says what it looked at', async () => {
    const { exit, findings } = await doctor();
    expect(exit).toBe(0);
    expect(findings.every((finding) => finding.severity === 'ok')).toBe(true);
    expect(findings.map((finding) => finding.cause)).toEqual([
      'configuration',
      'platform',
      'memory',
      'shared-memory',
      'kept-ram',
      'data-dir',
      'ssd',
      'o-direct',
      'open-files',
      'locked-memory',
      'driver',
      'port',
      'port',
      'port',
      'agent',
    ]);
  });

  it('prints each finding with what to do', async () => {
    cli.probes = { port: () => Promise.resolve('something listens there (EADDRINUSE)') };
    const { exit, out } = await cli.run('doctor');
    expect(exit).toBe(1);
    expect(out).toMatch(
      /^PROBLEM {2}HTTP cannot listen on 127\.0\.0\.1:7600: something listens there \(EADDRINUSE\)\n {9}-> Stop what listens/m,
    );
    expect(out).toMatch(/\n3 problems, 0 warnings\n$/);
  });

  it('turns every problem of the configuration into a finding and goes on', async () => {
    const { exit, findings } = await doctor('--ram', '1XB', '--http', '0.0.0.0:1');
    expect(exit).toBe(1);
    expect(findings.filter((finding) => finding.cause === 'configuration')).toHaveLength(2);
    expect((await doctor('--ram', '1GiB')).of('shared-memory')?.message).toContain('1 GiB wanted');
    cli.facts = { shmFreeBytes: 64 * MiB, shmTotalBytes: 64 * MiB };
    expect((await doctor('--ram', '1GiB')).of('configuration')?.message).toContain('64 MiB of 64 MiB are free');
  });

  it('warns of the 64 MiB that containers get', async () => {
    cli.facts = { shmFreeBytes: 64 * MiB, shmTotalBytes: 64 * MiB };
    const { exit, of } = await doctor();
    expect([exit, of('shared-memory')?.severity]).toEqual([0, 'warning']);
    expect(of('shared-memory')?.advice).toContain('--shm-size');
  });

  it('warns of a RAM tier that leaves nothing to others', async () => {
    cli.facts = { memoryBytes: 4 * GiB };
    expect((await doctor('--ram', '3GiB')).of('memory')?.severity).toBe('ok');
    expect((await doctor('--ram', '3500MiB')).of('memory')?.severity).toBe('warning');
  });

  it('judges folders: not writable, no O_DIRECT, little space', async () => {
    cli.probes = { folder: () => ({ exists: false, writable: false, direct: undefined, problem: 'EACCES' }) };
    const locked = await doctor();
    expect([locked.exit, locked.of('data-dir')?.severity, locked.of('ssd')?.severity]).toEqual([1, 'problem', 'problem']);
    cli.probes = { folder: () => ({ exists: true, writable: true, direct: false, problem: '' }) };
    expect((await doctor()).of('o-direct')?.severity).toBe('warning');
    expect((await doctor('--ssd-direct', 'on')).of('o-direct')?.severity).toBe('problem');
    expect((await doctor('--ssd-direct', 'off')).of('o-direct')?.severity).toBe('ok');
    cli.probes = {};
    expect((await doctor('--ssd', '500GiB')).of('ssd')?.severity).toBe('warning');
    expect((await doctor('--ssd', 'off')).of('ssd')?.message).toBe('The SSD tier is off');
  });

  it('judges limits against what the configuration wants', async () => {
    cli.probes = { limits: () => ({ openFiles: 1024, lockedBytes: 64 * 1024 }) };
    const tight = await doctor('--ram-hugepages');
    expect([tight.of('open-files')?.severity, tight.of('locked-memory')?.severity]).toEqual(['warning', 'warning']);
    const modest = await doctor('--resp-max-connections', '64');
    expect([modest.of('open-files')?.severity, modest.of('locked-memory')?.severity]).toEqual(['ok', 'ok']);
    cli.probes = { limits: () => ({ openFiles: undefined, lockedBytes: undefined }) };
    expect((await doctor()).of('open-files')?.severity).toBe('ok');
  });

  it('names the driver where there is one, and is content without', async () => {
    expect((await doctor()).of('driver')).toMatchObject({ severity: 'ok', message: stringContaining('not installed') });
    cli.probes = { library: (name) => `/usr/lib/${name}`, gpus: () => Promise.resolve({ reason: 'it has none' }) };
    expect((await doctor()).of('driver')?.message).toBe('libcuda.so.1 is at /usr/lib/libcuda.so.1, and no device: it has none');
  });

  it('needs Linux', async () => {
    cli.facts = { platform: 'darwin' };
    expect((await doctor()).of('platform')?.severity).toBe('problem');
  });

  it('asks a live agent why nothing is found, and then judges neither ports nor shared memory', async () => {
    cli = createCliHarness();
    cli.api.control.overrides = { puts: 500, probes: 400 };
    cli.probes = { port: () => Promise.resolve('taken') };
    const { exit, of, findings } = await doctor();
    expect(exit).toBe(1);
    expect(of('disjoint-hashes')?.severity).toBe('problem');
    expect(findings.filter((finding) => finding.cause === 'port').every((finding) => finding.severity === 'ok')).toBe(true);
    expect(of('agent')?.message).toContain('http://127.0.0.1:7600');
    const remote = await doctor('--url', 'http://127.0.0.1:9');
    expect(remote.of('port')?.severity, 'an agent elsewhere holds no port here').toBe('problem');
  });

  it('looks at chunks of each model, so that a healthy model does not hide one that is never read', async () => {
    cli = createCliHarness();
    const namespace = simNamespace({ model: 'never-read' });
    for (let index = 0; index < 25; index += 1) cli.api.control.put({ key: `k${index}`, namespace, sizeBytes: 1, tiers: ['ram'] });
    cli.api.control.overrides = { puts: 500, probes: 400, probeHits: 300 };
    const { exit, of } = await doctor();
    expect([exit, of('disjoint-hashes')?.severity, of('disjoint-hashes')?.message]).toEqual([
      0,
      'warning',
      stringContaining('25 chunks of never-read'),
    ]);
  });

  it('works where the agent is down, was named wrongly, or wants a token', async () => {
    cli.down = true;
    expect((await doctor('--url', 'http://127.0.0.1:9')).of('agent')).toMatchObject({
      severity: 'warning',
      message: stringContaining('No agent answers'),
    });
    cli = createCliHarness(createApiHarness({ tokens: { admin: 'adm' } }));
    expect((await doctor()).findings.filter((finding) => finding.cause === 'agent')[1]).toMatchObject({
      severity: 'warning',
      advice: stringContaining('--token'),
    });
  });
});

describe('the probes of the host', () => {
  let root = '';
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'kvtier-doctor-'));
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  it('tries a folder and leaves nothing in it', () => {
    expect(lookAtFolder(root)).toMatchObject({ exists: true, writable: true, problem: '' });
    expect(lookAtFolder(join(root, 'a/b'))).toMatchObject({ exists: false, writable: true });
    expect(readdirSync(root)).toEqual([]);
    writeFileSync(join(root, 'file'), '');
    expect(lookAtFolder(join(root, 'file'))).toMatchObject({ writable: false, problem: stringContaining('is not a folder') });
    expect(lookAtFolder(join(root, 'file/below'))).toMatchObject({ writable: false });
    expect(lookAtFolder('/proc')).toMatchObject({ writable: false, direct: undefined });
  });

  it('reads the limits of this process', () => {
    expect(readLimits().openFiles).toBeGreaterThan(0);
  });

  it('finds a library on LD_LIBRARY_PATH first, and none that is absent', () => {
    mkdirSync(join(root, 'lib'));
    writeFileSync(join(root, 'lib/libkvtier-test.so.1'), '');
    expect(findLibrary('libkvtier-test.so.1', { LD_LIBRARY_PATH: `:${join(root, 'lib')}` })).toBe(join(root, 'lib/libkvtier-test.so.1'));
    expect(findLibrary('libkvtier-test.so.1', {})).toBeUndefined();
  });

  it('tells a free port from a taken one', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen({ host: '127.0.0.1', port: 0 }, resolve));
    const { port } = server.address() as AddressInfo;
    expect(await tryPort({ host: '127.0.0.1', port })).toContain('EADDRINUSE');
    await new Promise((resolve) => server.close(resolve));
    expect(await tryPort({ host: '127.0.0.1', port })).toBe('');
  });
});
