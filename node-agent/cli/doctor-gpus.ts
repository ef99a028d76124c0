/** The checks of `kvtier doctor` on GPUs. A context is made only where a pool is wanted and no agent has its own. */
import { formatBytes } from '#core/bytes.ts';
import type { AgentConfig } from '#config/agent-config.ts';
import type { DoctorProbes, GpuProbe } from './deps.ts';
import type { Finding } from './diagnose.ts';

/** The driver that the HBM tier would use. */
const DRIVER = 'libcuda.so.1';

interface GpuInput {
  readonly config: AgentConfig;
  readonly probes: DoctorProbes;
  readonly agentRuns: boolean;
}

export async function gpuFindings({ config, probes, agentRuns }: GpuInput): Promise<readonly Finding[]> {
  const wanted = config.hbm.share === 'sizes';
  const path = config.hbm.driver === 'emulated' ? 'emulated' : (config.hbm.driverPath ?? probes.library(DRIVER));
  if (!wanted && path === undefined) return [ok('driver', `${DRIVER} is not installed: no tier in GPU memory; RAM and SSD need none`)];
  if (agentRuns && config.hbm.driver === 'emulated')
    return [ok('driver', 'The driver is emulated: no GPU; not tried, an agent is running')];
  const found = await probes.gpus(config, { copies: wanted && !agentRuns });
  if ('reason' in found) {
    if (!wanted) return [ok('driver', `${DRIVER} is at ${path ?? ''}, and no device: ${found.reason}`)];
    return [
      {
        severity: 'problem',
        cause: 'driver',
        message: `No device for the HBM tier: ${found.reason}`,
        advice:
          'Look at nvidia-smi; in a container at NVIDIA_VISIBLE_DEVICES and NVIDIA_DRIVER_CAPABILITIES=compute,utility. Or --hbm off.',
      },
    ];
  }
  const driver = ok(
    'driver',
    `${path ?? DRIVER}: driver of CUDA ${found.driverVersion}${found.kind === 'cuda' ? '' : ` (${found.kind}: no GPU)`}`,
  );
  const skipped = wanted ? 'copies not tried, an agent is running' : 'copies not tried without --hbm';
  return [driver, ...found.devices.map((device) => deviceFinding(device, { kind: found.kind, skipped }))];
}

function deviceFinding(device: GpuProbe, { kind, skipped }: { readonly kind: string; readonly skipped: string }): Finding {
  const { ordinal, name, uuid, totalBytes, link, copy } = device;
  const what = `Device ${ordinal}: ${name} (${uuid}), ${formatBytes(totalBytes)}, link ${link === '' ? 'not known' : link}`;
  if (copy === undefined) return ok('device', `${what}; ${skipped}`);
  if ('reason' in copy) {
    return {
      severity: 'problem',
      cause: 'device',
      message: `${what}; copies fail: ${copy.reason}`,
      advice: 'Look at dmesg for Xid, and whether something else has the memory (nvidia-smi).',
    };
  }
  const called = kind === 'cuda' ? '' : `${kind}, says nothing of a GPU: `;
  const rates = `${called}${formatBytes(copy.toDeviceBytesPerSecond)}/s in, ${formatBytes(copy.toHostBytesPerSecond)}/s out`;
  if (typeof copy.pinning === 'number')
    return ok('device', `${what}, ${formatBytes(copy.freeBytes)} free; ${rates}; pinning takes ${Math.round(copy.pinning)} ms a GiB`);
  return {
    severity: 'warning',
    cause: 'device',
    message: `${what}; ${rates}; memory cannot be pinned: ${copy.pinning}`,
    advice: 'Raise the limit of locked memory (ulimit -l, LimitMEMLOCK=): copies go through a bounce buffer until then.',
  };
}

function ok(cause: string, message: string): Finding {
  return { severity: 'ok', cause, message, advice: '' };
}
