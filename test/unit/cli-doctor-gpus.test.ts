import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { DoctorProbes, GpuProbe } from '#cli/deps.ts';
import type { Finding } from '#cli/diagnose.ts';
import { GiB } from '#core/bytes.ts';
import { readPciLink } from '#host/doctor-probes.ts';
import { createCliHarness } from '#testsupport/cli-harness.ts';

const card: GpuProbe = { ordinal: 0, name: 'Card', uuid: 'GPU-1', totalBytes: 80 * GiB, link: '32.0 GT/s PCIe x16', copy: undefined };
const copied = { freeBytes: 70 * GiB, toDeviceBytesPerSecond: 50 * GiB, toHostBytesPerSecond: 40 * GiB, pinning: 31.4 };

interface Looked {
  readonly findings: readonly Finding[];
  /** Whether copies were asked for; undefined: nobody looked. */
  readonly copies: boolean | undefined;
}

/** Findings on GPUs of a machine whose probe answers so. */
async function look(answer: Awaited<ReturnType<DoctorProbes['gpus']>>, argv: readonly string[], agentRuns = false): Promise<Looked> {
  const cli = createCliHarness();
  if (!agentRuns) cli.files.delete('/srv/.kvtier/agent.json');
  let copies: boolean | undefined;
  cli.probes = {
    library: () => '/usr/lib/libcuda.so.1',
    gpus: (_config, options) => {
      ({ copies } = options);
      return Promise.resolve(answer);
    },
  };
  const { out } = await cli.run('doctor', '--json', ...argv);
  const { findings } = JSON.parse(out) as { findings: Finding[] };
  return { findings: findings.filter(({ cause }) => cause === 'driver' || cause === 'device'), copies };
}

const working = (copy: GpuProbe['copy'], kind = 'cuda') => ({ kind, driverVersion: '12.4', devices: [{ ...card, copy }] });

describe('kvtier doctor on GPUs', () => {
  it('lists devices with driver version and PCIe link, and makes no context unless a share is wanted', async () => {
    const { findings, copies } = await look(working(undefined), []);
    expect(copies).toBe(false);
    expect(findings).toMatchObject([
      { severity: 'ok', message: '/usr/lib/libcuda.so.1: driver of CUDA 12.4' },
      { severity: 'ok', message: 'Device 0: Card (GPU-1), 80 GiB, link 32.0 GT/s PCIe x16; copies not tried without --hbm' },
    ]);
  });

  it('tries copies where a share is wanted and no agent has its own, and tells both directions and pinning', async () => {
    const { findings, copies } = await look(working(copied), ['--hbm', '8GiB']);
    expect(copies).toBe(true);
    expect(findings[1]?.message).toContain('70 GiB free; 50 GiB/s in, 40 GiB/s out; pinning takes 31 ms a GiB');
    const running = await look(working(undefined), ['--hbm', '8GiB'], true);
    expect(running.copies).toBe(false);
    expect(running.findings[1]?.message).toContain('copies not tried, an agent is running');
  });

  it('calls a device that is none emulated, beside its numbers, and leaves the machine of a live agent alone', async () => {
    const flags = ['--hbm', '1GiB', '--hbm-driver', 'emulated'];
    const { findings } = await look(working(copied, 'emulated'), flags);
    expect(findings[0]?.message).toContain('(emulated: no GPU)');
    expect(findings[1]?.message).toContain('emulated, says nothing of a GPU: 50 GiB/s in');
    expect((await look(working(copied, 'emulated'), flags, true)).copies).toBeUndefined();
  });

  it('says what to do where there is no device, where copies fail, and where memory cannot be pinned', async () => {
    const none = await look({ reason: 'No CUDA driver' }, ['--hbm', '1GiB']);
    expect(none.findings).toMatchObject([{ severity: 'problem', message: 'No device for the HBM tier: No CUDA driver' }]);
    const failing = await look(working({ reason: 'CUDA_ERROR_ECC_UNCORRECTABLE' }), ['--hbm', '1GiB']);
    expect(failing.findings[1]).toMatchObject({ severity: 'problem', cause: 'device' });
    expect(failing.findings[1]?.message).toContain('copies fail: CUDA_ERROR_ECC_UNCORRECTABLE');
    const pageable = await look(working({ ...copied, pinning: 'CUDA_ERROR_OUT_OF_MEMORY' }), ['--hbm', '1GiB']);
    expect(pageable.findings[1]).toMatchObject({ severity: 'warning', cause: 'device' });
    for (const { advice } of [none.findings[0], failing.findings[1], pageable.findings[1]] as Finding[])
      expect(advice.length).toBeGreaterThan(40);
  });
});

describe('readPciLink', () => {
  let root = '';
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  it('reads speed and width of a device, and nothing where the kernel does not say or the name is none', () => {
    root = mkdtempSync(join(tmpdir(), 'kvtier-pci-'));
    const folder = join(root, 'sys/bus/pci/devices/0000:3b:00.0');
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'current_link_speed'), '16.0 GT/s PCIe\n');
    expect(readPciLink('0000:3B:00.0', root)).toBe('');
    writeFileSync(join(folder, 'current_link_width'), '16\n');
    expect(readPciLink('0000:3B:00.0', root)).toBe('16.0 GT/s PCIe x16');
    expect(readPciLink('0000:01:00.0', root)).toBe('');
    expect(readPciLink('../../devices/0000:3b:00.0', root)).toBe('');
  });
});
