/**
 * What to do about each reason for which an agent calls itself degraded, in a sentence: the short form of the runbooks in
 * docs/operating.md. A test holds the two together. Pure.
 */
import type { Finding, Severity } from './diagnose.ts';

interface Known {
  readonly pattern: RegExp;
  readonly cause: string;
  /** `warning` where it ends by itself, or nothing is to be done. */
  readonly severity: Severity;
  readonly advice: string;
}

const RUNBOOKS = 'docs/operating.md has a runbook for it.';

const known: readonly Known[] = [
  {
    pattern: /^ssd: .*: the device does not answer \(/s,
    cause: 'folder-stalled',
    severity: 'problem',
    advice:
      'Look at dmesg and the device, or the state of the network file system; delete nothing. It is tried at least once a minute and comes back with all it had. ' +
      'If it is merely slow, raise --ssd-io-deadline.',
  },
  {
    pattern: /^ssd: .*: (?:writes fail \(|free space of .* is below the floor of )/s,
    cause: 'folder-read-only',
    severity: 'problem',
    advice: 'Free space, or lower --ssd or --ssd-free-space-floor; after EIO or EROFS look at the device. It writes again by itself.',
  },
  {
    pattern: /^ssd: .*: (?:the folder is gone|reads fail \(|it cannot be listed \()/s,
    cause: 'folder-off',
    severity: 'problem',
    advice: 'Mount it, replace the device, or take the folder out of --ssd-dir; then restart the agent. Its chunks are lost.',
  },
  {
    pattern: /^journal: /,
    cause: 'journal-stalled',
    severity: 'problem',
    advice:
      'Look at dmesg and the disk of the data directory. It is rewritten by itself, and takes deletions again, when the disk answers.',
  },
  {
    pattern: / is off for this run: |^ssd: .*: off for this run: /s,
    cause: 'folder-off',
    severity: 'problem',
    advice: 'Mend what the sentence names (permissions, a file in its place, a read-only mount), then restart the agent.',
  },
  {
    pattern: / missed a run of this agent or has no journal: its files are dropped$/s,
    cause: 'folder-dropped',
    severity: 'warning',
    advice: 'Nothing: its files are dropped, since deletions may have passed them by. The sentence goes with the next restart.',
  },
  {
    pattern: /: without its mark, this folder's files are dropped at the next start$/s,
    cause: 'folder-mark',
    severity: 'problem',
    advice: 'Its disk refused a small file: free space, or look at the device.',
  },
  {
    pattern: /^The journal is damaged \(/s,
    cause: 'journal-damaged',
    severity: 'problem',
    advice:
      'Find out what touched it: a lying disk, a restored backup, a hand. Set quotas and pins again. The old one is journal.damaged-<n> in the data directory.',
  },
  {
    pattern: /^ssd: .*: (?:no O_DIRECT here|ssd\.direct is on and the file system does not support O_DIRECT)/s,
    cause: 'no-direct-io',
    severity: 'warning',
    advice:
      'Put the folder on ext4 or xfs on a local device; overlay and network file systems often refuse O_DIRECT. Or --ssd-direct off, if meant to be.',
  },
  {
    pattern: /^ram: Shared memory is full: /s,
    cause: 'shared-memory',
    severity: 'problem',
    advice: 'Remove what fills --shm-dir, enlarge it, or lower --ram; then restart the agent.',
  },
  {
    pattern: /^catalog: /s,
    cause: 'catalog',
    severity: 'warning',
    advice:
      'End what holds it (fuser catalog.db), or free space. The cache works without it; queries on catalog.db lag behind and the next start reads file headers.',
  },
  {
    pattern: /^memory: /s,
    cause: 'memory-pressure',
    severity: 'problem',
    advice:
      'Lower --ram or raise the limit of the cgroup (leave 1 GiB beside --ram), or move other programs out of it; then restart the agent.',
  },
  {
    pattern: /^descriptors: .* connections at most and not /s,
    cause: 'open-files',
    severity: 'warning',
    advice:
      'Raise LimitNOFILE= of the unit or the ulimits of the container to the number in the sentence, or lower --resp-max-connections; then restart.',
  },
  {
    pattern: /^descriptors: all .* are in use, no connections are accepted; /s,
    cause: 'open-files',
    severity: 'problem',
    advice: 'Find who holds connections (ss -tnp): usually HTTP clients that never close. Raise the limit of open files.',
  },
  {
    pattern: /^hbm: no device can be used: /s,
    cause: 'no-device',
    severity: 'problem',
    advice:
      'Look at nvidia-smi; in a container give it the device and NVIDIA_DRIVER_CAPABILITIES=compute,utility. Slices (MIG) and drivers before CUDA 11 have no pool. ' +
      'RAM and SSD serve without; --hbm off if that is meant.',
  },
  {
    pattern: /^hbm: (?:there is no device .*, the driver has |device .* cannot be opened: )/s,
    cause: 'no-device',
    severity: 'problem',
    advice: 'Compare --hbm-devices with nvidia-smi -L as this user sees it, and look at dmesg for Xid; then restart the agent.',
  },
  {
    pattern: /^hbm: (?:device .* free and .* is wanted: it gets no pool$|.* \(GPU-.*\): .* could be allocated: )/s,
    cause: 'device-memory',
    severity: 'problem',
    advice: 'Lower --hbm, or the share that the engine takes of the card, and start the agent before the engine; then restart the agent.',
  },
  {
    pattern: /^hbm: RAM is not registered, copies go through a bounce buffer: /s,
    cause: 'not-registered',
    severity: 'warning',
    advice:
      'Raise the limit of locked memory (ulimits, LimitMEMLOCK=) or the memory of the container, or lower --ram; then restart. Copies are slower until then.',
  },
  {
    pattern: /^hbm: .* \(GPU-.*\): lost: /s,
    cause: 'device-lost',
    severity: 'problem',
    advice:
      'Look at dmesg for Xid and at nvidia-smi -q for ECC errors; mend or replace the card, then restart the agent. RAM and SSD serve meanwhile.',
  },
  {
    pattern: /^The front has ended: /s,
    cause: 'front',
    severity: 'problem',
    advice: 'Start kvtier front again, then restart the agent; until then no new client can connect.',
  },
];

/** A finding for each sentence that `/readyz` gives; one that nobody has foreseen is told as well. */
export function degradedFindings(reasons: readonly string[]): readonly Finding[] {
  return reasons.map((reason) => {
    const match = known.find(({ pattern }) => pattern.test(reason));
    const message = `The agent is degraded: ${reason}`;
    if (match === undefined) return { severity: 'problem', cause: 'degraded', message, advice: RUNBOOKS };
    return { severity: match.severity, cause: match.cause, message, advice: match.advice };
  });
}
