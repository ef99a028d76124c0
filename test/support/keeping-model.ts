/**
 * A random client and operator beside a naive oracle for pins and quotas. It knows nothing of orders or flags: it adds up the list of
 * chunks, remembers what was promised, and says when a promise is broken.
 *
 * - Usage: what a tenant holds is the sum over the list of chunks.
 * - Quota: once a tenant was seen within its quota, it is never seen above it.
 * - Others: a tenant that never had a quota loses nothing where the tiers have room for all (`roomy`), and a put of a tenant that is at its
 *   quota in RAM costs nobody else a chunk there.
 * - Hard pin: a key stays until somebody unpins, deletes or invalidates it, or a pin is counted as lost; after a crash, if it was on SSD.
 * - Soft pin: a key goes only where every chunk without a pin in that tier is in use (RAM alone, one size).
 */
import type { ChunkInfo } from '#cache/control.ts';
import type { PutRejected, PutTicket, ReadHandle } from '#cache/door.ts';
import { KiB, MiB } from '#core/bytes.ts';
import type { Selector } from '#core/selector.ts';
import { settle } from './sim-clock.ts';
import { payloadOf, SimCache } from './sim-cache.ts';

export interface KeepingOptions {
  readonly seed: number;
  readonly steps: number;
  /** The tiers hold everything that is ever stored. */
  readonly roomy?: boolean;
  /** No SSD, one size: soft pins are judged. */
  readonly ramOnly?: boolean;
  readonly crashes?: number;
}

const tenants = ['default', 'ann', 'bob', 'cid'] as const;
type Tenant = (typeof tenants)[number];
/** Never gets a quota. */
const FREE: Tenant = 'default';
const KEYS = 40;
const sizes = [4 * KiB, 20 * KiB, 64 * KiB];

interface Quota {
  readonly ramBytes: number | undefined;
  readonly ssdBytes: number | undefined;
  /** Seen within it since it was set: from then on it holds. */
  reached: boolean;
}

export class KeepingModel {
  readonly sim: SimCache;
  readonly #options: KeepingOptions;
  readonly #quotas = new Map<Tenant, Quota>();
  /** Keys that must stay. */
  readonly #kept = new Set<string>();
  /** Stored by the tenant without a quota, and not taken away since. */
  readonly #owed = new Set<string>();
  readonly #held: { readonly key: string; readonly handle: ReadHandle }[] = [];
  readonly #trace: string[] = [];
  #before = new Map<string, ChunkInfo>();
  #lost = 0;
  #nextValue = 1;
  rejected = 0;
  softLosses = 0;
  putsAtQuota = 0;

  constructor(options: KeepingOptions) {
    this.#options = options;
    const small = { ramBytes: 1 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: options.ramOnly === true ? [] : [2 * MiB] };
    const large = { ramBytes: 32 * MiB, maxChunkBytes: 256 * KiB, ssdBytes: [64 * MiB] };
    this.sim = new SimCache({ seed: options.seed, ...(options.roomy === true ? large : small) });
  }

  static async run(options: KeepingOptions): Promise<KeepingModel> {
    const model = new KeepingModel(options);
    try {
      await model.sim.restart();
      for (let step = 0; step < options.steps; step += 1) {
        await model.#one();
        await settle();
        model.#inspect();
      }
      await model.#end();
    } catch (problem) {
      const text = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
      throw new Error(`Seed ${options.seed}: ${text}\n  ${model.#trace.slice(-40).join('\n  ')}`, { cause: problem });
    }
    return model;
  }

  async #one(): Promise<void> {
    const { rng } = this.sim;
    const action = rng.weighted({
      put: 30,
      get: 12,
      release: 6,
      delete: 2,
      invalidate: 0.7,
      pin: 4,
      unpin: 1.5,
      quota: 3,
      advance: 8,
      io: 14,
      evict: 1,
      crash: 100 * (this.#options.crashes ?? 0),
    });
    if (action === 'put') return await this.#put();
    if (action === 'get') return await this.#get();
    if (action === 'release') return this.#release();
    if (action === 'delete') return this.#delete();
    if (action === 'invalidate') return await this.#invalidate();
    if (action === 'pin') return await this.#pin();
    if (action === 'unpin') return await this.#unpin();
    if (action === 'quota') return await this.#quota();
    if (action === 'advance') return await this.sim.clock.advance(rng.pick([10, 100, 300, 1000, 3000]));
    if (action === 'evict') return await this.#evict();
    if (action === 'crash') return await this.#crash();
    for (let steps = rng.below(5); steps >= 0; steps -= 1) await this.sim.step();
  }

  #tenant(): Tenant {
    return this.sim.rng.pick(tenants);
  }

  #key(tenant: Tenant = this.#tenant()): string {
    const hash = `a1b2c3d4e5f60718${this.sim.rng.below(KEYS).toString(16).padStart(16, '0')}`;
    return tenant === FREE ? `model-a@00000001@0@${hash}` : `model-a@00000001@0@${hash}@${tenant}`;
  }

  #note(text: string): void {
    this.#trace.push(text);
  }

  async #put(): Promise<void> {
    const { sim } = this;
    const tenant = this.#tenant();
    const key = this.#key(tenant);
    const sizeBytes = this.#options.ramOnly === true ? 64 * KiB : sim.rng.pick(sizes);
    const owed = this.#othersInRam(tenant, sizeBytes);
    const outcome = sim.reserve(key, sizeBytes);
    const reserved: PutTicket | PutRejected = outcome instanceof Promise ? await sim.run(outcome) : outcome;
    for (const other of owed) {
      if (this.#chunk(other)?.tiers.includes('ram') !== true)
        throw new Error(`${other} went for ${key} (${sizeBytes}), whose tenant is at its quota`);
    }
    if (owed.length > 0) this.putsAtQuota += 1;
    if (reserved.kind === 'rejected') {
      this.#note(`put ${key}: ${reserved.reason}`);
      this.rejected += 1;
      if (reserved.reason === 'quota' && !this.#quotas.has(tenant)) throw new Error(`${tenant} was refused for a quota that it has not`);
      return;
    }
    const before = this.#chunk(key);
    const done = sim.commit(reserved, payloadOf(this.#nextValue++, sizeBytes));
    this.#note(`put ${key} (${sizeBytes}): ${done}`);
    if (tenant === FREE) this.#owed.add(key);
    if (before?.pinned !== undefined && this.#chunk(key)?.pinned !== before.pinned && this.#newlyLost() === 0)
      throw new Error(`${key} lost its pin by an overwrite, and nobody counted it`);
  }

  /** What a put may not take from others: nothing is named where the tenant is below its quota. Who is being trimmed loses by that. */
  #othersInRam(tenant: Tenant, sizeBytes: number): string[] {
    const quota = this.#quotas.get(tenant);
    const inRam = this.#list().filter(({ tiers }) => tiers.includes('ram'));
    const held = inRam.reduce((sum, chunk) => sum + (chunk.tenant === tenant ? chunk.sizeBytes : 0), 0);
    if (held + sizeBytes <= (quota?.ramBytes ?? Infinity)) return [];
    const isTrimmed = (other: string): boolean => this.#quotas.get(other as Tenant)?.reached === false;
    return inRam.filter((chunk) => chunk.tenant !== tenant && !isTrimmed(chunk.tenant)).map(({ key }) => key);
  }

  async #get(): Promise<void> {
    const key = this.#key();
    const opened = this.sim.open(key);
    const handle = opened instanceof Promise ? await this.sim.run(opened) : opened;
    this.#note(`get ${key}: ${handle === undefined ? 'miss' : handle.tier}`);
    if (handle === undefined) return;
    this.#held.push({ key, handle });
    if (this.#held.length > 5) this.#release();
  }

  #release(): void {
    this.#held.splice(this.sim.rng.below(this.#held.length), 1)[0]?.handle.release();
  }

  #delete(): void {
    const key = this.#key();
    this.sim.delete(key);
    this.#note(`delete ${key}`);
    this.#forget(key);
  }

  #forget(key: string): void {
    this.#kept.delete(key);
    this.#owed.delete(key);
  }

  async #invalidate(): Promise<void> {
    const tenant = this.#tenant();
    const selector: Selector = this.sim.rng.chance(0.8) ? { keys: [this.#key(tenant), this.#key(tenant)] } : { tenant };
    await this.sim.run(this.sim.invalidate(selector));
    this.#note(`invalidate ${JSON.stringify(selector)}`);
    for (const key of [...this.#kept, ...this.#owed]) if (selector.keys?.includes(key) ?? tenantOf(key) === tenant) this.#forget(key);
  }

  async #pin(): Promise<void> {
    const { rng } = this.sim;
    const mode = rng.pick(['soft', 'hard'] as const);
    const keys = [this.#key(), this.#key(), this.#key()];
    const answer = await this.sim.run(this.sim.cache.control.pin({ keys }, mode));
    this.#note(`pin ${mode} ${keys.join(' ')}: ${JSON.stringify(answer)}`);
    let pinned = 0;
    for (const key of new Set(keys)) {
      const found = this.#chunk(key);
      if (found?.pinned === mode) pinned += 1;
      if (found?.pinned === 'hard') this.#kept.add(key);
      else this.#kept.delete(key);
    }
    if (pinned < answer.pinned.chunks) throw new Error(`${answer.pinned.chunks} were pinned, ${pinned} are`);
    // Refused ones keep what they had.
  }

  async #unpin(): Promise<void> {
    const keys = [this.#key(), this.#key(), ...this.#kept].slice(0, 3);
    const answer = await this.sim.run(this.sim.cache.control.unpin({ keys }));
    this.#note(`unpin ${keys.join(' ')}: ${answer.unpinned.chunks}`);
    for (const key of keys) {
      if (this.#chunk(key)?.pinned !== undefined) throw new Error(`${key} is still pinned`);
      this.#kept.delete(key);
    }
  }

  async #quota(): Promise<void> {
    const { rng } = this.sim;
    const tenant = rng.pick(['ann', 'bob', 'cid'] as const);
    if (rng.chance(0.2)) {
      await this.sim.run(this.sim.cache.control.setQuota(tenant, undefined));
      this.#note(`quota of ${tenant}: none`);
      this.#quotas.delete(tenant);
      return;
    }
    const ramBytes = rng.chance(0.8) ? rng.below(500 * KiB) : undefined;
    const ssdBytes = ramBytes === undefined || rng.chance(0.6) ? rng.below(800 * KiB) : undefined;
    // Counted from the call on: a crash before the answer may have it or not, so there is none in between here.
    this.#quotas.set(tenant, { ramBytes, ssdBytes, reached: false });
    this.#note(`quota of ${tenant}: ${ramBytes} ${ssdBytes}`);
    await this.sim.run(this.sim.cache.control.setQuota(tenant, { ramBytes, ssdBytes }));
  }

  async #evict(): Promise<void> {
    if (this.#options.roomy === true || this.#options.ramOnly === true) return;
    const tier = this.sim.rng.pick(['ram', 'ssd'] as const);
    const answer = await this.sim.run(this.sim.cache.control.evict(tier, { keys: [this.#key(), this.#key()] }));
    this.#note(`evict from ${tier}: ${JSON.stringify(answer)}`);
  }

  async #crash(): Promise<void> {
    const onSsd = new Set(this.#list().flatMap(({ key, tiers }) => (tiers.includes('ssd') ? [key] : [])));
    this.sim.crash();
    this.#held.length = 0;
    if (this.sim.rng.chance(0.3)) this.sim.catalogDisk.clear();
    await this.sim.restart();
    await this.sim.drainIo();
    this.#note('crash');
    this.#lost = 0;
    for (const key of [...this.#kept, ...this.#owed]) if (!onSsd.has(key)) this.#forget(key);
    for (const key of this.#kept)
      if (this.#chunk(key)?.pinned !== 'hard' && this.#newlyLost() === 0) throw new Error(`${key} lost its pin in a crash`);
    for (const quota of this.#quotas.values()) quota.reached = false;
    const known = this.sim.cache.control.quotas().map(({ tenant, ramBytes, ssdBytes }) => [tenant, ramBytes, ssdBytes].join(' '));
    const wanted = [...this.#quotas].map(([tenant, { ramBytes, ssdBytes }]) => [tenant, ramBytes, ssdBytes].join(' '));
    if (known.toSorted().join() !== wanted.toSorted().join()) throw new Error(`Quotas are ${known.join()}, wanted ${wanted.join()}`);
  }

  #list(): readonly ChunkInfo[] {
    return this.sim.cache.control.chunks({}, { limit: 10_000 }).chunks;
  }

  #chunk(key: string): ChunkInfo | undefined {
    return this.#list().find((chunk) => chunk.key === key);
  }

  #newlyLost(): number {
    return this.sim.cache.control.stats().pins.lost - this.#lost;
  }

  #inspect(): void {
    this.sim.check();
    const chunks = new Map(this.#list().map((chunk) => [chunk.key, chunk]));
    this.#judgeQuotas(chunks);
    this.#judgeHard(chunks);
    if (this.#options.ramOnly === true) this.#judgeSoft(chunks);
    if (this.#options.roomy === true)
      for (const key of this.#owed)
        if (!chunks.has(key)) throw new Error(`${key} went, although its tenant has no quota and there is room`);
    this.#before = chunks;
  }

  #judgeQuotas(chunks: ReadonlyMap<string, ChunkInfo>): void {
    for (const tenant of tenants) {
      const sum = { ram: 0, ssd: 0 };
      for (const { sizeBytes, tiers, tenant: owner } of chunks.values()) {
        if (owner !== tenant) continue;
        if (tiers.includes('ram')) sum.ram += sizeBytes;
        if (tiers.includes('ssd')) sum.ssd += sizeBytes;
      }
      const told = { ram: 0, ssd: 0 };
      for (const { descriptor, bytes } of this.sim.cache.control.namespaces()) {
        if (descriptor.tenant !== tenant) continue;
        told.ram += bytes.ram;
        told.ssd += bytes.ssd;
      }
      if (JSON.stringify(sum) !== JSON.stringify(told))
        throw new Error(`${tenant} holds ${JSON.stringify(sum)}, told ${JSON.stringify(told)}`);
      const quota = this.#quotas.get(tenant);
      if (quota === undefined) continue;
      const within = sum.ram <= (quota.ramBytes ?? Infinity) && sum.ssd <= (quota.ssdBytes ?? Infinity);
      if (quota.reached && !within) throw new Error(`${tenant} is over its quota: ${JSON.stringify(sum)} of ${JSON.stringify(quota)}`);
      // What was under way when the quota was set may still arrive, and is given up then.
      quota.reached ||= within && this.sim.io.activeCount === 0;
    }
  }

  #judgeHard(chunks: ReadonlyMap<string, ChunkInfo>): void {
    let lost = this.#newlyLost();
    this.#lost += lost;
    for (const key of this.#kept) {
      const chunk = chunks.get(key);
      if (chunk?.pinned === 'hard') continue;
      // A value that replaced it was too large for what pins may take: from here on nothing is promised.
      if (lost === 0) throw new Error(`${key} is pinned hard and ${chunk === undefined ? 'gone' : 'not pinned'}`);
      lost -= 1;
      this.#kept.delete(key);
    }
  }

  /** Losses of this step against what is left: a chunk without a pin that nobody uses should have gone first. */
  #judgeSoft(chunks: ReadonlyMap<string, ChunkInfo>): void {
    const inUse = new Set(this.#held.map(({ key }) => key));
    const newest = this.#trace.at(-1) ?? '';
    for (const [key, former] of this.#before) {
      if (former.pinned !== 'soft' || chunks.has(key) || !newest.startsWith('put ')) continue;
      this.softLosses += 1;
      const spared = [...chunks.values()].filter(
        (chunk) => chunk.pinned === undefined && !inUse.has(chunk.key) && this.#before.has(chunk.key),
      );
      const quota = this.#quotas.get(tenantOf(key) as Tenant);
      const candidates = quota === undefined ? spared : spared.filter((chunk) => chunk.tenant === tenantOf(key));
      if (candidates.length > 0 && !newest.includes(candidates[0]?.key ?? ''))
        throw new Error(`${key} has a soft pin and went before ${candidates.map((chunk) => chunk.key).join(' ')}`);
    }
  }

  async #end(): Promise<void> {
    while (this.#held.length > 0) this.#release();
    await this.sim.quiet(60_000, 500);
    this.#inspect();
    this.sim.checkQuiet();
    for (const [tenant, quota] of this.#quotas) {
      // What is pinned hard and what is dirty without a place on SSD may keep a tenant over; everything else has gone by now.
      const pins = this.#list().some((chunk) => chunk.tenant === tenant && chunk.pinned === 'hard');
      if (!quota.reached && !pins) throw new Error(`${tenant} never came to its quota`);
    }
  }
}

function tenantOf(key: string): string {
  return key.split('@')[4] ?? FREE;
}
