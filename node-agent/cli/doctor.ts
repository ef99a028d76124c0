/** The checks of `kvtier doctor` on the machine itself: what is, whether it will do, and what to do. */
import { formatBytes, MiB } from '#core/bytes.ts';
import { formatDuration } from '#core/duration.ts';
import type { AgentConfig } from '#config/agent-config.ts';
import type { MachineFacts } from '#config/derive.ts';
import { effectiveCores, effectiveMemory } from '#config/derive.ts';
import { formatAddress, type Address } from '#config/knob-types.ts';
import type { Finding } from './diagnose.ts';
import type { DoctorProbes } from './deps.ts';
import { gpuFindings } from './doctor-gpus.ts';

/** Descriptors that the agent needs beside one for each connection: files, arenas, the catalog, doors, duplicates in transfer. */
const SPARE_FILES = 512;

export interface DoctorInput {
  readonly config: AgentConfig;
  readonly facts: MachineFacts;
  readonly probes: DoctorProbes;
  /** A live agent holds the ports and part of shared memory, so those are not judged. */
  readonly agentRuns: boolean;
  readonly nowMs: number;
}

/** One finding for each check, 'ok' included, so that a person sees what was looked at. */
export async function checkMachine(input: DoctorInput): Promise<readonly Finding[]> {
  return [
    platform(input),
    memory(input),
    sharedMemory(input),
    ...keptRam(input),
    dataFolder(input),
    ...ssdFolders(input),
    openFiles(input),
    lockedMemory(input),
    ...(await gpuFindings(input)),
    ...(await ports(input)),
  ];
}

function ok(cause: string, message: string): Finding {
  return { severity: 'ok', cause, message, advice: '' };
}

function platform({ facts }: DoctorInput): Finding {
  if (facts.platform === 'linux') return ok('platform', 'Linux');
  return {
    severity: 'problem',
    cause: 'platform',
    message: `This is ${facts.platform}`,
    advice: 'The agent needs Linux: shared memory, epoll and O_DIRECT.',
  };
}

function memory({ facts, config }: DoctorInput): Finding {
  const bytes = effectiveMemory(facts);
  const text = `Memory is ${bytes.because}, with ${effectiveCores(facts).because}; the RAM tier takes ${formatBytes(config.ram.sizeBytes)}`;
  if (config.ram.sizeBytes <= bytes.value * 0.75) return ok('memory', text);
  return {
    severity: 'warning',
    cause: 'memory',
    message: text,
    advice: 'Leave the engine and the page cache at least a quarter: lower --ram.',
  };
}

function sharedMemory({ facts, config, agentRuns }: DoctorInput): Finding {
  const { shmDir, sizeBytes } = config.ram;
  const text = `${shmDir}: ${formatBytes(facts.shmFreeBytes)} of ${formatBytes(facts.shmTotalBytes)} free, ${formatBytes(sizeBytes)} wanted`;
  if (agentRuns) return ok('shared-memory', `${text} (an agent is running and has its share)`);
  const advice =
    'Enlarge it (mount -o remount,size=…; in a container --shm-size or a memory-backed emptyDir), lower --ram, or name another --shm-dir.';
  if (facts.shmFreeBytes < sizeBytes) return { severity: 'problem', cause: 'shared-memory', message: text, advice };
  if (facts.shmTotalBytes <= 64 * MiB) {
    return { severity: 'warning', cause: 'shared-memory', message: `${text}; 64 MiB is what containers get by default`, advice };
  }
  return ok('shared-memory', text);
}

/** One finding for each agent's: a machine has few. */
function keptRam({ config, probes, nowMs }: DoctorInput): Finding[] {
  const { shmDir } = config.ram;
  const kept = probes.keptRam(shmDir);
  if (kept.length === 0) return [ok('kept-ram', `${shmDir} holds no RAM of an agent that has ended`)];
  return kept.map(({ path, dataDir, sizeBytes, sinceMs, inUse }): Finding => {
    const age = formatDuration(Math.max(0, Math.round((nowMs - sinceMs) / 1000) * 1000));
    const what = `${path}-*: ${formatBytes(sizeBytes)} of ${dataDir === undefined ? 'an agent without ram.keep' : `the agent of ${dataDir}`}`;
    if (inUse) return ok('kept-ram', `${what}, which is running (or another user's)`);
    return {
      severity: 'ok',
      cause: 'kept-ram',
      message: `${what}, which has ended; made ${age} ago`,
      advice: dataDir === undefined ? 'The next agent of this user frees it.' : `To free it: kvtier ram drop --data-dir ${dataDir}`,
    };
  });
}

function dataFolder({ config, probes }: DoctorInput): Finding {
  const probe = probes.folder(config.dataDir);
  if (probe.writable) return ok('data-dir', `${config.dataDir} is writable${probe.exists ? '' : ' (it will be made)'}`);
  return {
    severity: 'problem',
    cause: 'data-dir',
    message: `${config.dataDir} is not writable: ${probe.problem}`,
    advice: 'Give the folder to the user of the agent, or name another --data-dir.',
  };
}

function ssdFolders({ config, facts, probes, agentRuns }: DoctorInput): Finding[] {
  if (config.ssd.folders.length === 0) return [ok('ssd', 'The SSD tier is off')];
  return config.ssd.folders.flatMap((folder): Finding[] => {
    const probe = probes.folder(folder.path);
    if (!probe.writable) {
      return [
        {
          severity: 'problem',
          cause: 'ssd',
          message: `${folder.path} is not writable: ${probe.problem}`,
          advice: 'Mount the device, give the folder to the user of the agent, or name another --ssd-dir.',
        },
      ];
    }
    const disk = facts.disks.find((candidate) => candidate.path === folder.path);
    const free = disk?.freeBytes ?? 0;
    const text = `${folder.path}: ${formatBytes(free)} of ${formatBytes(disk?.totalBytes ?? 0)} free, ${formatBytes(folder.sizeBytes)} wanted`;
    const tight = !agentRuns && disk?.rememberedBytes === undefined && free < folder.sizeBytes + config.ssd.freeSpaceFloorBytes;
    const space: Finding = tight
      ? {
          severity: 'warning',
          cause: 'ssd',
          message: text,
          advice: 'The tier stops at ssd.freeSpaceFloor before it reaches its size: free some space or lower --ssd.',
        }
      : ok('ssd', text);
    return [space, directIo(folder.path, probe.direct, config.ssd.direct)];
  });
}

function directIo(path: string, direct: boolean | undefined, wanted: AgentConfig['ssd']['direct']): Finding {
  if (wanted === 'off') return ok('o-direct', `${path}: O_DIRECT is turned off`);
  if (direct === true) return ok('o-direct', `${path} takes O_DIRECT`);
  if (direct === undefined)
    return {
      severity: 'warning',
      cause: 'o-direct',
      message: `${path}: O_DIRECT could not be tried`,
      advice: 'Run doctor as the user of the agent.',
    };
  return {
    severity: wanted === 'on' ? 'problem' : 'warning',
    cause: 'o-direct',
    message: `${path} refuses O_DIRECT`,
    advice: 'Use a local ext4 or xfs file system; with --ssd-direct auto the page cache is used, which costs memory and CPU.',
  };
}

function openFiles({ config, probes }: DoctorInput): Finding {
  const limit = probes.limits().openFiles;
  const doors = [config.resp.listen, config.lm.listen].filter((address) => address !== undefined).length;
  const connections = config.resp.maxConnections * doors;
  const wanted = connections * 2 + SPARE_FILES;
  if (limit === undefined) return ok('open-files', 'The limit of open files is not known');
  const text = `${Number.isFinite(limit) ? limit.toLocaleString('en-US') : 'unlimited'} open files allowed, ${wanted.toLocaleString('en-US')} wanted for ${connections.toLocaleString('en-US')} connections`;
  if (limit >= wanted) return ok('open-files', text);
  return {
    severity: 'warning',
    cause: 'open-files',
    message: text,
    advice: 'Raise it (ulimit -n, LimitNOFILE= in systemd), or lower --resp-max-connections.',
  };
}

function lockedMemory({ config, probes }: DoctorInput): Finding {
  const limit = probes.limits().lockedBytes;
  if (limit === undefined) return ok('locked-memory', 'The limit of locked memory is not known');
  const text = `${Number.isFinite(limit) ? formatBytes(limit) : 'unlimited'} of memory may be locked`;
  if (!config.ram.hugepages || limit >= config.ram.sizeBytes) return ok('locked-memory', text);
  return {
    severity: 'warning',
    cause: 'locked-memory',
    message: `${text}, the RAM tier is ${formatBytes(config.ram.sizeBytes)}`,
    advice: 'Raise it (ulimit -l, LimitMEMLOCK= in systemd) for ram.hugepages.',
  };
}

async function ports({ config, probes, agentRuns }: DoctorInput): Promise<Finding[]> {
  const doors: readonly (readonly [string, string, Address | undefined])[] = [
    ['HTTP', '--http', config.http.listen],
    ['RESP', '--resp', config.resp.listen],
    ['lm', '--lm', config.lm.listen],
  ];
  const findings: Finding[] = [];
  for (const [door, flag, address] of doors) {
    if (address === undefined) findings.push(ok('port', `The ${door} door is off`));
    else if (agentRuns) findings.push(ok('port', `${door} ${formatAddress(address)}: not tried, an agent is running`));
    else {
      const problem = await probes.port(address);
      if (problem === '') findings.push(ok('port', `${door} ${formatAddress(address)} is free`));
      else {
        findings.push({
          severity: 'problem',
          cause: 'port',
          message: `${door} cannot listen on ${formatAddress(address)}: ${problem}`,
          advice: `Stop what listens there, or choose another address with ${flag}; port 0 picks a free one.`,
        });
      }
    }
  }
  return findings;
}
