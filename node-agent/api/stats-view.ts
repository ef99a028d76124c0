/** The cache's statistics as the REST API prints them. Names of tenants are those that `control` gives: see shown-control.ts. */
import type { CacheControl, HbmStats, NamespaceStats } from '#cache/control.ts';
import { namespaceIdentity } from '#core/namespace.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import type { Namespace, Tenant } from '#protocol/rest/chunks.ts';
import type { Quota } from '#protocol/rest/quotas.ts';
import type { Stats } from '#protocol/rest/stats.ts';
import { digestShape } from '#telemetry/shown-names.ts';
import { tenantDigest } from '#telemetry/tenant-digest.ts';
import { addTierBytes, allTierBytes } from '#telemetry/tier-bytes.ts';
import type { TierBytes } from '#telemetry/tier-bytes.ts';
import type { AgentInfo } from './deps.ts';

export function statsView(
  control: CacheControl,
  agent: AgentInfo,
  { nowMs, tenant }: { readonly nowMs: number; readonly tenant: string | undefined },
): Stats {
  const { hbm, ...stats } = finiteNumbers(control.stats());
  const namespaces = control.namespaces();
  const epochs = epochsByModel(control);
  const models = sums(namespaces, (namespace) => namespace.descriptor.model);
  const tenants = sums(namespaces, (namespace) => namespace.descriptor.tenant);
  const quotas = quotasByTenant(control);
  return {
    scope: tenant ?? 'agent',
    version: agent.version,
    uptimeSeconds: Math.max(0, nowMs - agent.startedAtMs) / 1000,
    state: agent.health().state,
    ...stats,
    ...(hbm === undefined ? {} : { hbm: withoutDevices(hbm) }),
    tiers: stats.tiers.map(({ folders, reasons, ...tier }) => ({
      ...tier,
      reasons: [...reasons],
      ...(folders === undefined ? {} : { folders: folders.map((folder) => ({ ...folder })) }),
    })),
    doors: tenant === undefined ? [...agent.doors()] : [],
    modelCount: models.length,
    models: models
      .slice(0, restLimits.statsGroups)
      .map(({ name, chunkCount, bytes }) => ({ model: name, epoch: epochs.get(name) ?? 0, chunkCount, bytes })),
    tenantCount: tenants.length,
    tenants: tenants
      .slice(0, restLimits.statsGroups)
      .map(({ name, chunkCount, bytes }) => ({ tenant: name, chunkCount, bytes, quota: quotas.get(name) ?? null })),
  };
}

function withoutDevices({ promotions, demotions, loads, checksumMismatches, exports }: HbmStats): NonNullable<Stats['hbm']> {
  return { promotions, demotions, loads, checksumMismatches, exports };
}

/** Ordered by identity, the order that pages follow. */
export function namespaceViews(control: CacheControl): readonly { readonly order: string; readonly row: Namespace }[] {
  const epochs = epochsByModel(control);
  return control
    .namespaces()
    .map(({ label, descriptor, chunkCount, bytes }) => ({
      order: namespaceIdentity(descriptor),
      row: {
        label,
        ...descriptor,
        tags: { ...descriptor.tags },
        epoch: epochs.get(descriptor.model) ?? 0,
        chunkCount,
        bytes: { ...bytes },
      },
    }))
    .toSorted(byOrder);
}

/** Who has chunks or a quota, ordered by name, the order that pages follow. */
export function tenantViews(control: CacheControl): readonly { readonly order: string; readonly row: Tenant }[] {
  const quotas = quotasByTenant(control);
  const rows = new Map(sums(control.namespaces(), (namespace) => namespace.descriptor.tenant).map((sum) => [sum.name, sum]));
  return [...new Set([...rows.keys(), ...quotas.keys()])]
    .map((name) => ({ order: name, row: tenantRow(name, rows.get(name), quotas.get(name)) }))
    .toSorted(byOrder);
}

/** One tenant, known or not. */
export function tenantView(control: CacheControl, name: string): Tenant {
  const own = control.namespaces().filter((namespace) => namespace.descriptor.tenant === name);
  return tenantRow(name, sums(own, () => name)[0], quotasByTenant(control).get(name));
}

/** A name that is a digest already is its own: salts are shown by digest unless they are revealed. */
function digestOf(name: string): string {
  return digestShape.test(name) ? name : tenantDigest(name);
}

function tenantRow(name: string, sum: Sum | undefined, quota: Quota | undefined): Tenant {
  const { namespaceCount, chunkCount, bytes } = sum ?? { namespaceCount: 0, chunkCount: 0, bytes: { ram: 0, ssd: 0 } };
  return { tenant: name, digest: digestOf(name), namespaceCount, chunkCount, bytes: { ...bytes }, quota: quota ?? null };
}

function quotasByTenant(control: CacheControl): ReadonlyMap<string, Quota> {
  return new Map(
    control.quotas().map(({ tenant, ramBytes, ssdBytes }) => [tenant, { ramBytes: ramBytes ?? null, ssdBytes: ssdBytes ?? null }]),
  );
}

interface Sum {
  readonly name: string;
  readonly namespaceCount: number;
  readonly chunkCount: number;
  readonly bytes: TierBytes;
}

/** Largest first, ties by name. */
function sums(namespaces: readonly NamespaceStats[], nameOf: (namespace: NamespaceStats) => string): Sum[] {
  const byName = new Map<string, Sum>();
  for (const namespace of namespaces) {
    const name = nameOf(namespace);
    const sum = byName.get(name);
    byName.set(name, {
      name,
      namespaceCount: (sum?.namespaceCount ?? 0) + 1,
      chunkCount: (sum?.chunkCount ?? 0) + namespace.chunkCount,
      bytes: addTierBytes(sum?.bytes ?? { ram: 0, ssd: 0 }, namespace.bytes),
    });
  }
  const size = ({ bytes }: Sum): number => allTierBytes(bytes);
  return [...byName.values()].toSorted((a, b) => size(b) - size(a) || (a.name < b.name ? -1 : 1));
}

function epochsByModel(control: CacheControl): ReadonlyMap<string, number> {
  return new Map(control.epochs().map(({ model, epoch }) => [model, epoch]));
}

/** A quantile or a bandwidth of nothing is NaN or infinite, which JSON cannot say; here it is 0. */
function finiteNumbers<T>(value: T): T {
  if (typeof value === 'number') return Number.isFinite(value) ? value : (0 as T);
  if (Array.isArray(value)) return value.map(finiteNumbers) as T;
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, finiteNumbers(inner)])) as T;
}

function byOrder(a: { readonly order: string }, b: { readonly order: string }): number {
  return a.order < b.order ? -1 : Number(a.order > b.order);
}
