/**
 * `bun run bench:quotas`: what it costs to find the coldest chunk of one tenant among many.
 *
 * Ours is a list for each tenant with a quota (cache/tenant-order.ts). The peer finds the same chunk by a walk along the tier's own order
 * that passes by the chunks of others: a bounded walk would stop before it gets there, since a busy tenant's chunks are the hot ones.
 */
import type { TenantList } from '#cache/tenant-order.ts';
import { TenantOrder } from '#cache/tenant-order.ts';
import { LeafLru } from '#policy/leaf-lru.ts';
import { parseFlags } from './lib/flags.ts';
import type { BenchFlags } from './lib/flags.ts';
import { randomBelow, seededRng } from './lib/random.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { alternate, median } from './lib/stats.ts';

const ROUNDS = 5;

interface Tier {
  readonly policy: LeafLru;
  readonly order: TenantOrder;
  readonly list: TenantList;
  /** Tenant of each entry; the measured one is 0. */
  readonly tenantOf: Uint16Array;
  readonly count: number;
}

/** `share` of the chunks are the tenant's; 'hot': they were all stored after everybody else's, 'mixed': in between. */
function build(count: number, share: number, layout: 'hot' | 'mixed'): Tier {
  const rng = seededRng(1);
  const tenantOf = new Uint16Array(count * 2).fill(1);
  const own = Math.round(count * share);
  const policy = new LeafLru();
  const order = new TenantOrder();
  const list: TenantList = { coldest: 0, hottest: 0, size: 0 };
  for (let entry = 0; entry < count; entry += 1) {
    const isOwn = layout === 'hot' ? entry >= count - own : randomBelow(rng, count) < own;
    policy.insert(entry, 1);
    if (!isOwn) continue;
    tenantOf[entry] = 0;
    order.insert(list, entry);
  }
  return { policy, order, list, tenantOf, count };
}

/** A tenant at its quota: each put evicts its coldest and brings a new chunk. Microseconds an eviction. */
function churn(tier: Tier, puts: number, find: (tier: Tier) => number): number {
  const { policy, order, list, tenantOf } = tier;
  const started = Bun.nanoseconds();
  for (let put = 0; put < puts; put += 1) {
    const victim = find(tier);
    policy.remove(victim);
    order.remove(list, victim);
    policy.insert(victim, 1);
    order.insert(list, victim);
    tenantOf[victim] = 0;
  }
  return (Bun.nanoseconds() - started) / 1000 / puts;
}

const byList = ({ order, list }: Tier): number => order.victim(list, () => true, 4096);
const byWalk = ({ policy, tenantOf }: Tier): number => policy.victim((entry) => tenantOf[entry] === 0);

/** Milliseconds to collect a tenant's chunks out of the tier's order when it gets its first quota. */
function collect({ policy, tenantOf }: Tier): number {
  const order = new TenantOrder();
  const list: TenantList = { coldest: 0, hottest: 0, size: 0 };
  const started = Bun.nanoseconds();
  policy.forEachColdest((entry) => {
    if (tenantOf[entry] === 0) order.insert(list, entry);
    return true;
  });
  return (Bun.nanoseconds() - started) / 1e6;
}

async function benchQuotas(flags: BenchFlags): Promise<void> {
  const count = flags.smoke ? 5000 : 100_000;
  const puts = flags.smoke ? 50 : 2000;
  const cases: BenchCase[] = [];
  for (const layout of ['hot', 'mixed'] as const) {
    const tier = build(count, 0.1, layout);
    const { ours, peer } = await alternate(ROUNDS, { ours: () => churn(tier, puts, byList), peer: () => churn(tier, puts, byWalk) });
    const name = `eviction for a quota, a tenth of ${count.toLocaleString('en-US')} chunks, ${layout}`;
    cases.push(
      compare({ case: name, unit: 'us', better: 'lower', ours: median(ours), peer: median(peer), peerName: "walk of the tier's order" }),
    );
  }
  const tier = build(count, 0.1, 'mixed');
  cases.push(
    compare({
      case: 'collecting at the first quota',
      unit: 'ms',
      better: 'lower',
      ours: median([1, 2, 3].map(() => collect(tier))),
      peer: 20,
      peerName: 'target',
    }),
  );
  publish('bench:quotas', flags, cases);
}

await benchQuotas(parseFlags('bench:quotas'));
