/**
 * Why nothing is found: reads the statistics of a live agent and names causes, each with what to do. Pure. Causes that the
 * statistics can only suggest are worded as such; nothing is changed.
 */
import { formatBytes } from '#core/bytes.ts';
import { DEFAULT_TENANT } from '#core/namespace.ts';
import type { Namespace } from '#protocol/rest/chunks.ts';
import type { Stats } from '#protocol/rest/stats.ts';

export type Severity = 'problem' | 'warning' | 'ok';

export interface Finding {
  readonly severity: Severity;
  /** Stable name for programs. */
  readonly cause: string;
  /** What is, with the numbers. */
  readonly message: string;
  /** What to do; '' where nothing is. */
  readonly advice: string;
}

/** Below this many puts and questions a zero says nothing. */
const ENOUGH = 20;
/** Share of puts above which losing them explains misses. */
const MUCH = 0.05;

/** Chunks of one model that were looked at one by one. */
export interface ModelSample {
  readonly model: string;
  readonly chunks: number;
  /** How many of them were ever read. */
  readonly everRead: number;
}

export interface Evidence {
  /** The first page of /v1/namespaces. */
  readonly namespaces?: readonly Namespace[];
  /** Of the largest models: counters are of the whole agent, and one healthy model would hide a broken one. */
  readonly samples?: readonly ModelSample[];
}

/** Findings, problems first. */
export function diagnose(stats: Stats, evidence: Evidence = {}): readonly Finding[] {
  const misses = missFindings(stats, evidence.namespaces ?? []);
  const found = [
    ...trafficFindings(stats),
    ...misses,
    ...neverRead(stats, evidence.samples ?? []),
    ...lossFindings(stats),
    ...damageFindings(stats),
  ];
  const order: readonly Severity[] = ['problem', 'warning', 'ok'];
  return found.sort((left, right) => order.indexOf(left.severity) - order.indexOf(right.severity));
}

interface Totals {
  readonly hits: number;
  /** Yes to a question or bytes for a request. */
  readonly found: number;
  /** Keys asked about or for. */
  readonly asked: number;
}

function totals(stats: Stats): Totals {
  const hits = stats.hits.hbm + stats.hits.ram + stats.hits.ssd;
  return { hits, found: hits + stats.probeHits, asked: stats.probes + stats.lookups };
}

function count(value: number, noun: string): string {
  return `${value.toLocaleString('en-US')} ${noun}${value === 1 ? '' : 's'}`;
}

/** Whether anything arrives at all. */
function trafficFindings(stats: Stats): Finding[] {
  const { asked, found, hits } = totals(stats);
  if (asked === 0 && stats.puts === 0) {
    const connected = stats.doors.filter((door) => door.door !== 'http').reduce((sum, door) => sum + door.acceptedConnections, 0);
    return [
      {
        severity: 'warning',
        cause: 'no-traffic',
        message: `No client has stored or asked for anything${connected === 0 ? ', and none has connected' : `; ${count(connected, 'connection')} came`}`,
        advice: 'Point the engine at the RESP address: LMCache takes --l2-adapter \'{"type":"resp", …}\'.',
      },
    ];
  }
  if (asked >= ENOUGH && stats.puts === 0) {
    return [
      {
        severity: 'warning',
        cause: 'no-puts',
        message: `${count(asked, 'key')} were asked for, but nothing was ever stored`,
        advice:
          'Check that the engine stores: in LMCache, that the adapter is not read-only and that prompts reach one whole chunk (256 tokens by default).',
      },
    ];
  }
  if (asked === 0) {
    return [
      {
        severity: 'warning',
        cause: 'no-questions',
        message: `${count(stats.puts, 'chunk')} were stored, but no client has asked for any`,
        advice: 'Check that the engine looks up what it stores; a restarted engine asks only when a prompt repeats.',
      },
    ];
  }
  if (found === 0) return [];
  const rate = stats.lookups === 0 ? stats.probeHits / stats.probes : hits / stats.lookups;
  const what = stats.lookups === 0 ? 'keys asked about' : 'keys asked for';
  return [{ severity: 'ok', cause: 'hit-rate', message: `${Math.round(rate * 1000) / 10} % of the ${what} were found`, advice: '' }];
}

/** Why keys that should be there are not found: nothing found although much was stored and asked. */
function missFindings(stats: Stats, namespaces: readonly Namespace[]): Finding[] {
  const { found, asked } = totals(stats);
  const findings: Finding[] = [];
  const misses = stats.misses + (stats.probes - stats.probeHits);
  if (stats.sizeGuardMisses > 0 && (found === 0 || stats.sizeGuardMisses >= misses * MUCH)) {
    findings.push({
      severity: found === 0 ? 'problem' : 'warning',
      cause: 'size-guard',
      message: `${count(stats.sizeGuardMisses, 'key')} were there, but of another size than their client expects, and were answered as a miss`,
      advice:
        'Engines of different KV dtype, tokens per chunk, layers or world size use one model name. Give them different names, or, after a change of the engine, ' +
        'move the model to a new epoch (POST /v1/namespaces/{model}/epoch).',
    });
  }
  if (found > 0 || stats.puts < ENOUGH || asked < ENOUGH) return findings;
  const split = splitTenants(namespaces);
  for (const { model, tenants } of split) findings.push(tenantFinding(model, tenants));
  const evictions = stats.evictions.ram + stats.evictions.ssd;
  if (stats.sizeGuardMisses === 0 && stats.duplicatePuts === 0 && evictions < stats.puts * MUCH) {
    const models = stats.models.filter((row) => row.chunkCount > 0 && row.model !== '').map((row) => row.model);
    const of =
      models.length === 0 ? '' : ` of ${models.slice(0, 3).join(', ')}${models.length > 3 ? `, and ${models.length - 3} more` : ''}`;
    findings.push({
      severity: split.some(({ tenants }) => tenants > 1) ? 'warning' : 'problem',
      cause: 'disjoint-hashes',
      message: `${count(stats.puts, 'chunk')}${of} were stored and ${count(asked, 'key')} asked for, and the two have no key in common`,
      advice: HASH_ADVICE,
    });
  }
  return findings;
}

const HASH_ADVICE =
  'If prompts do repeat, the engines hash them differently: set PYTHONHASHSEED to one value (0) for every engine and worker, and use one hash algorithm, ' +
  'tokens per chunk and LMCache version. A cache_salt that is sent with one side only does the same. If no prompt was repeated yet, this is as it should be.';

/** Several tenants explain it; one that is not the default may. */
function tenantFinding(model: string, tenants: number): Finding {
  const under = tenants === 1 ? 'one cache_salt' : `${tenants} tenants`;
  return {
    severity: tenants > 1 ? 'problem' : 'warning',
    cause: 'tenant-mismatch',
    message: `${model} is stored under ${under}, and nothing was found: chunks of one cache_salt do not exist for another, or for requests without`,
    advice: 'Send the same cache_salt with every request that may share KV; a salt per request or per session makes every prompt new.',
  };
}

/** Models of which many chunks are held and none was ever read, beside others that are. */
function neverRead(stats: Stats, samples: readonly ModelSample[]): Finding[] {
  if (totals(stats).found === 0) return []; // Then the whole agent is judged, see missFindings.
  return samples
    .filter((sample) => sample.chunks >= ENOUGH && sample.everRead === 0)
    .map((sample) => ({
      severity: 'warning',
      cause: 'disjoint-hashes',
      message: `Of ${count(sample.chunks, 'chunk')} of ${sample.model} that were looked at, none was ever read, while others are`,
      advice: HASH_ADVICE,
    }));
}

/** Models that are stored under more than one tenant, or under one that is not the default. */
function splitTenants(namespaces: readonly Namespace[]): readonly { readonly model: string; readonly tenants: number }[] {
  const byModel = new Map<string, Set<string>>();
  for (const row of namespaces) {
    if (row.model === '' || row.chunkCount === 0) continue;
    byModel.set(row.model, (byModel.get(row.model) ?? new Set()).add(row.tenant));
  }
  return [...byModel]
    .filter(([, tenants]) => tenants.size > 1 || !tenants.has(DEFAULT_TENANT))
    .map(([model, tenants]) => ({ model, tenants: tenants.size }));
}

/** What was stored and lost, or refused. */
function lossFindings(stats: Stats): Finding[] {
  const findings: Finding[] = [];
  const { found } = totals(stats);
  const severity: Severity = found === 0 ? 'problem' : 'warning';
  const offered = stats.puts + Object.values(stats.rejectedPuts).reduce((sum, refused) => sum + refused, 0);
  const lost = stats.rejectedPuts.shed + stats.droppedDirtyChunks + stats.storeAdmission.shedChunks;
  if (lost > 0 && lost >= offered * MUCH) {
    findings.push({
      severity,
      cause: 'shed-writes',
      message:
        `${count(lost, 'chunk')} of ${offered.toLocaleString('en-US')} offered were lost to a slow or full SSD: ${stats.rejectedPuts.shed} refused, ` +
        `${stats.droppedDirtyChunks} dropped before they were written, ${stats.storeAdmission.shedChunks} shed from the write queue`,
      advice:
        'Give the RAM tier more room (--ram), the SSD tier more bandwidth (another --ssd-dir, a higher --ssd-write-budget), or store less.',
    });
  }
  if (stats.rejectedPuts.tooLarge > 0 && stats.rejectedPuts.tooLarge >= offered * MUCH) {
    findings.push({
      severity,
      cause: 'too-large',
      message: `${count(stats.rejectedPuts.tooLarge, 'put')} of ${offered.toLocaleString('en-US')} were over the largest chunk`,
      advice: 'Raise --ram-max-chunk (at most a quarter of --ram), or use fewer tokens per chunk.',
    });
  }
  const ssdOff = !stats.tiers.some((tier) => tier.tier === 'ssd' && tier.state !== 'off' && tier.capacityBytes > 0);
  const gone = ssdOff ? stats.evictions.ram : stats.evictions.ssd;
  if (stats.misses > 0 && stats.puts > 0 && gone >= stats.puts / 2) {
    const capacity = stats.tiers.reduce((sum, tier) => sum + (tier.state === 'off' ? 0 : tier.capacityBytes), 0);
    findings.push({
      severity: found === 0 ? 'problem' : 'warning',
      cause: 'too-small',
      message: `${count(gone, 'chunk')} of ${stats.puts.toLocaleString('en-US')} were evicted for good; the tiers hold ${formatBytes(capacity)}`,
      advice: ssdOff
        ? 'Turn the SSD tier on (--ssd), or give the RAM tier more room (--ram).'
        : 'Give the SSD tier more room (--ssd, another --ssd-dir).',
    });
  }
  return findings;
}

/** What the agent found wrong with its files; what it is degraded by, /readyz says. */
function damageFindings(stats: Stats): Finding[] {
  const findings: Finding[] = [];
  if (stats.io.checksumMismatches > 0) {
    findings.push({
      severity: 'problem',
      cause: 'checksum-mismatch',
      message: `${count(stats.io.checksumMismatches, 'read')} from SSD did not match the checksum; ${count(stats.io.quarantinedFiles, 'file')} are in quarantine`,
      advice: 'Check the device (smartctl, dmesg), then run `kvtier verify`.',
    });
  }
  return findings;
}
