/**
 * A random client, operator and machine beside an oracle that must explain every answer of the cache.
 *
 * The rule: a key gives its last acknowledged value or a miss. Operations that take time (reads, invalidations) may be explained by
 * any moment between their call and their answer. A crash changes nothing in that: what was acknowledged is the last value still.
 * A miss is always allowed, but for a key under a lease.
 */
import type { PutTicket, PutRejected, ReadHandle } from '#cache/door.ts';
import { KvtierError } from '#core/errors.ts';
import { KiB } from '#core/bytes.ts';
import type { Selector } from '#core/selector.ts';
import { isVolatile, matchesStable } from '#core/selector.ts';
import { KeyParser } from '#protocol/lmcache-key.ts';
import { CrashMischief, drainIterable, endKeeping, injectFault, keepSomething, matchesLive, randomSelector } from './cache-mischief.ts';
import { hbmActions, HbmModel, noHbmActions } from './cache-model-hbm.ts';
import { keyName } from './cache-model-parts.ts';
import type { Held, Invalidation, Key, LeaseClaim, Put, Read, Value } from './cache-model-parts.ts';
import { ExpiryOracle } from './expiry-oracle.ts';
import { settle } from './sim-clock.ts';
import { payloadOf, SimCache } from './sim-cache.ts';
import type { SimCacheOptions } from './sim-cache.ts';

export interface ModelOptions extends SimCacheOptions {
  readonly steps: number;
  /** Probability of each step to be a crash with restart. */
  readonly crashes?: number;
  /** Device faults, lost catalogs and journals, damaged files. */
  readonly faults?: boolean;
  /** Pins and quotas come and go. */
  readonly keeping?: boolean;
  /** Chunks that expire, and a wall clock that jumps. Off, so that older seeds mean what they meant. */
  readonly expiries?: boolean;
  readonly keyCount?: number;
  /** Invariants are checked every so many steps. */
  readonly checkEvery?: number;
}

const LEASE_MS = 30_000;
const sizes = [0, 1, 100, 4096, 5000, 16 * KiB, 20 * KiB, 40 * KiB, 64 * KiB];

export class CacheModel {
  readonly sim: SimCache;
  readonly trace: string[] = [];
  readonly #options: ModelOptions;
  readonly #parser = new KeyParser();
  readonly #keys: Key[];
  readonly #puts = new Set<Put>();
  readonly #reads = new Set<Read>();
  readonly #held: Held[] = [];
  readonly #invalidations = new Set<Invalidation>();
  readonly #leases = new Map<Key, LeaseClaim>();
  readonly #mischief = new CrashMischief();
  readonly #expiry: ExpiryOracle;
  #background = 0;
  readonly #hbm: HbmModel;
  #nextValue = 1;
  #step = 0;
  #life = 0;
  /** What the oracle found wrong in a callback. */
  #problem: Error | undefined;
  hits = 0;
  misses = 0;
  crashes = 0;

  constructor(options: ModelOptions) {
    this.#options = options;
    this.sim = new SimCache(options);
    this.#expiry = new ExpiryOracle(this.sim);
    this.#hbm = new HbmModel(this.sim, (value) => this.#payload(value));
    this.#keys = Array.from({ length: options.keyCount ?? 12 }, (_, index) => ({ name: keyName(index), current: undefined }));
  }

  /** Runs all steps and the quiet end. Throws with seed and trace where the oracle cannot explain something. */
  static async run(options: ModelOptions): Promise<CacheModel> {
    const model = new CacheModel(options);
    try {
      await model.#run();
    } catch (problem) {
      const text = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
      throw new Error(
        `Seed ${model.sim.seed}, step ${model.#step}: ${text}\n  ${model.trace.slice(-Number(process.env['KVTIER_TRACE'] ?? 60)).join('\n  ')}`,
        { cause: problem },
      );
    }
    return model;
  }

  async #run(): Promise<void> {
    await this.sim.restart();
    for (this.#step = 1; this.#step <= this.#options.steps; this.#step += 1) {
      await this.#one();
      await settle();
      this.#inspect(this.#step % (this.#options.checkEvery ?? 1) === 0);
    }
    await this.#end();
  }

  #inspect(deep: boolean): void {
    if (this.#problem !== undefined) throw this.#problem;
    if (deep) {
      this.sim.check();
      this.#expiry.inspect(this.#keys);
      for (const held of this.#held) this.#compare(held.key, held.handle, held.value);
    }
    this.#checkLeases();
    if (this.#options.faults !== true) {
      const { io, hbm } = this.sim.cache.control.stats();
      if (hbm !== undefined && hbm.checksumMismatches > 0) throw new Error('HBM had wrong bytes without a fault');
      if (io.checksumMismatches + io.quarantinedFiles + io.readErrors + io.writeErrors > 0) {
        throw new Error(`Trouble without a fault: ${JSON.stringify(io)} ${this.sim.log.slice(-3).join('; ')}`);
      }
    }
  }

  #checkLeases(): void {
    const now = this.sim.clock.monotonicMs();
    if (this.#options.faults === true) return; // leases promise nothing about devices that break
    for (const [key, claim] of this.#leases) {
      const isOver = claim.untilMs <= now || this.#expiry.mayBeOver(key);
      if (isOver || key.current !== claim.value || this.#isBeingInvalidated(key)) this.#leases.delete(key);
      else if (this.sim.peek(key.name) === undefined) throw new Error(`${key.name} is leased and gone`);
    }
  }

  #isBeingInvalidated(key: Key): boolean {
    for (const invalidation of this.#invalidations) if (invalidation.doomed.has(key)) return true;
    return false;
  }

  readonly #payloads = new Map<string, Buffer>();

  #payload(value: { readonly id: number; readonly sizeBytes: number }): Buffer {
    const name = `${value.id}/${value.sizeBytes}`;
    let payload = this.#payloads.get(name);
    if (payload === undefined) this.#payloads.set(name, (payload = Buffer.from(payloadOf(value.id, value.sizeBytes).buffer)));
    return payload;
  }

  #note(text: string): void {
    this.trace.push(`${this.#step}: ${text}`);
  }

  async #one(): Promise<void> {
    const { rng } = this.sim;
    const faults = this.#options.faults === true ? 1 : 0;
    const expiries = this.#options.expiries === true ? 1 : 0;
    const action = rng.weighted({
      put: 16,
      begin: 6,
      settlePut: 8,
      probe: 8,
      open: 20,
      release: 6,
      delete: 2,
      expire: 4 * expiries,
      jump: 0.8 * expiries,
      invalidate: 1.2,
      dryRun: 0.3,
      flush: 0.1,
      evict: 1.5,
      persist: 1.5,
      prefetch: 1.5,
      metadata: 1.5,
      link: 3,
      advance: 8,
      io: 24,
      catalog: 4,
      verify: 0.3,
      epoch: 0.2,
      crash: 100 * (this.#options.crashes ?? 0),
      fault: 2 * faults,
      keep: this.#options.keeping === true ? 6 : 0,
      ...(this.#options.hbmBytes === undefined ? noHbmActions : hbmActions),
    });
    if (action === 'put') return await this.#put();
    if (action === 'begin') return void this.#begin();
    if (action === 'settlePut') return this.#settlePut();
    if (action === 'probe') return this.#probe();
    if (action === 'open') return this.#open();
    if (action === 'release') return this.#release();
    if (action === 'delete') return this.#delete();
    if (action === 'expire') return this.#expire(this.#key());
    if (action === 'jump') return this.#note(this.#expiry.jump());
    if (action === 'invalidate') return await this.#invalidate(this.#selector());
    if (action === 'dryRun') return await this.#dryRun(this.#selector());
    if (action === 'flush') return await this.#invalidate({ all: true });
    if (action === 'evict')
      return this.#inBackground('evict', this.sim.cache.control.evict(rng.pick(['ram', 'ssd'] as const), this.#broadSelector()));
    if (action === 'persist') return this.#inBackground('persist', this.sim.cache.control.persist(this.#broadSelector()));
    if (action === 'prefetch') return this.#inBackground('prefetch', this.sim.cache.control.prefetch([this.#key().name, this.#key().name]));
    if (action === 'metadata') return this.#metadata();
    if (action === 'link') return this.#link();
    if (action === 'advance') return await this.#advance();
    if (action === 'io') {
      for (let steps = rng.below(4); steps >= 0; steps -= 1) await this.sim.step();
      return;
    }
    if (action === 'catalog') return this.sim.life.catalog.commit(rng.below(20));
    if (action === 'verify') return this.#inBackground('verify', drainIterable(this.sim.cache.control.verify()));
    if (action === 'epoch') return await this.#epoch();
    if (action === 'fault') return this.#fault();
    if (action === 'hbmPrefetch')
      return this.#inBackground('prefetch to hbm', this.sim.cache.control.prefetch([this.#key().name, this.#key().name], { tier: 'hbm' }));
    if (action === 'hbmEvict') return this.#inBackground('evict from hbm', this.sim.cache.control.evict('hbm', this.#broadSelector()));
    if (action === 'ramEvict')
      return this.#inBackground('evict from ram', this.sim.cache.control.evict('ram', { keys: [this.#key().name, this.#key().name] }));
    if (action === 'export') return void this.#hbm.open(this.#key());
    if (action === 'copyExport') return this.#hbm.copy();
    if (action === 'releaseExport') return this.#hbm.release();
    if (action === 'deviceFault') return this.#note(faults > 0 && rng.chance(0.5) ? this.#hbm.rot() : this.#hbm.fault());
    if (action === 'loseDevice') {
      this.#note(this.#hbm.lose());
      return this.#leases.clear();
    }
    if (action === 'keep') return this.#inBackground('keep', keepSomething(this.sim, this.#broadSelector()));
    await this.#crash();
  }

  /** Half of the time one of the first few: keys that are hot meet themselves. */
  #key(): Key {
    const { rng } = this.sim;
    return rng.chance(0.5) ? rng.pick(this.#keys.slice(0, 5)) : rng.pick(this.#keys);
  }

  /** The same bytes again now and then, else new ones. */
  #newValue(key: Key): { id: number; sizeBytes: number } {
    if (key.current !== undefined && this.sim.rng.chance(0.2)) return { id: key.current.id, sizeBytes: key.current.sizeBytes };
    return { id: this.#nextValue++, sizeBytes: this.sim.rng.pick(sizes) };
  }

  #begin(): Put | undefined {
    const { rng } = this.sim;
    if (this.#puts.size >= 6) return undefined;
    const key = this.#key();
    const { id, sizeBytes } = this.#newValue(key);
    const put: Put = { key, id, sizeBytes, startedAtMs: this.sim.clock.nowMs(), doomed: false, ticket: undefined };
    const life = this.#life;
    const placed = (outcome: PutTicket | PutRejected): void => {
      if (life !== this.#life) return;
      if (outcome.kind === 'rejected') {
        this.#note(`put ${key.name} = ${id} was refused: ${outcome.reason}`);
        this.#puts.delete(put);
        return;
      }
      put.ticket = outcome;
      // Bytes land in two halves, so that memory which is somebody else's would be seen.
      outcome.view().set(this.#payload(put).subarray(0, rng.below(sizeBytes + 1)));
    };
    this.#note(`begin ${key.name} = ${id} (${sizeBytes})`);
    this.#puts.add(put);
    const reserved = this.sim.reserve(key.name, sizeBytes);
    if (reserved instanceof Promise) reserved.then(placed, (problem: unknown) => this.#fail(problem));
    else placed(reserved);
    return put;
  }

  #fail(problem: unknown): void {
    this.#problem ??= problem instanceof Error ? problem : new Error(String(problem));
  }

  async #put(): Promise<void> {
    const put = this.#begin();
    await settle();
    if (put?.ticket !== undefined) this.#commit(put);
  }

  #settlePut(): void {
    const ready = [...this.#puts].filter((put) => put.ticket !== undefined);
    if (ready.length === 0) return;
    const put = this.sim.rng.pick(ready);
    if (this.sim.rng.chance(0.2)) {
      this.#note(`abort ${put.key.name} = ${put.id}`);
      this.#puts.delete(put);
      this.sim.cache.abort(put.ticket as PutTicket);
    } else this.#commit(put);
  }

  #commit(put: Put): void {
    const { rng } = this.sim;
    const { key } = put;
    const onlyIf = rng.weighted({ always: 8, absent: 1, present: 1 });
    const parent = rng.chance(0.3) ? this.sim.peek(this.#key().name)?.ref : undefined;
    const there = this.sim.peek(key.name) !== undefined;
    const expiry = this.#options.expiries === true ? this.#expiry.randomSpec() : undefined;
    const expiresAtMs = this.#expiry.expected(expiry, this.sim.expiresAt(key.name));
    this.#puts.delete(put);
    const outcome = this.sim.commit(put.ticket as PutTicket, this.#payload(put), {
      ...(onlyIf === 'always' ? {} : { onlyIf }),
      ...(parent === undefined ? {} : { parent }),
      ...(expiry === undefined ? {} : { expiry }),
    });
    this.#note(`commit ${key.name} = ${put.id} ${onlyIf} until ${expiresAtMs}: ${outcome}`);
    if (outcome === 'failed') {
      if (this.#options.faults !== true) throw new Error('A commit failed without a fault');
      return;
    }
    if (outcome === 'condition') {
      if (onlyIf === 'always' || (onlyIf === 'present') === there) throw new Error(`Condition ${onlyIf} judged wrongly`);
      return;
    }
    if (onlyIf !== 'always' && (onlyIf === 'present') !== there)
      throw new Error(`${outcome} although ${key.name} is ${there ? 'present' : 'absent'}`);
    if (outcome === 'dropped') return;
    if (put.doomed) throw new Error(`${key.name} took value ${put.id}, whose put began before an invalidation that was acknowledged`);
    if (outcome === 'duplicate') {
      const same = key.current !== undefined && this.#payload(key.current).equals(this.#payload(put));
      if (!same || key.current === undefined) throw new Error(`${key.name} took ${put.id} for a duplicate of ${key.current?.id}`);
      this.#expiry.acknowledged(key.current, expiresAtMs);
      return;
    }
    const value = { id: put.id, sizeBytes: put.sizeBytes, createdAtMs: this.sim.clock.nowMs(), order: this.#step };
    this.#expiry.acknowledged(value, expiresAtMs);
    this.#setCurrent(key, value);
  }

  #setCurrent(key: Key, value: Value | undefined): void {
    key.current = value;
    this.#leases.delete(key);
    for (const read of this.#reads) if (read.key === key) read.candidates.push(value);
  }

  #probe(): void {
    const { rng } = this.sim;
    const key = this.#key();
    const owner = rng.chance(0.8) ? rng.below(3) : undefined;
    const before = this.sim.cache.holdings().leases;
    const outcome = this.sim.probe(key.name, owner);
    this.#note(`probe ${key.name} by ${owner}: ${outcome?.tier}`);
    if (outcome === undefined) return;
    if (key.current === undefined) throw new Error(`${key.name} should be gone, probe says ${outcome.sizeBytes} bytes in ${outcome.tier}`);
    if (outcome.sizeBytes !== key.current.sizeBytes)
      throw new Error(`${key.name} has ${key.current.sizeBytes} bytes, probe says ${outcome.sizeBytes}`);
    this.#expiry.served(key, 'a probe');
    if (owner === undefined || this.sim.cache.holdings().leases === before) return;
    this.#leases.set(key, {
      value: key.current,
      owner,
      untilMs: this.sim.clock.monotonicMs() + (this.#options.limits?.leaseMs ?? LEASE_MS),
    });
  }

  #open(): void {
    const { rng } = this.sim;
    const key = this.#key();
    const owner = rng.chance(0.5) ? rng.below(3) : undefined;
    const claim = this.#leases.get(key);
    if (claim !== undefined && claim.owner === owner) this.#leases.delete(key);
    const read: Read = { key, candidates: [key.current] };
    const life = this.#life;
    const answered = (handle: ReadHandle | undefined): void => {
      if (life !== this.#life) return;
      this.#reads.delete(read);
      if (handle === undefined) {
        this.misses += 1;
        this.#note(`open ${key.name}: miss`);
        return;
      }
      this.hits += 1;
      const bytes = handle.view();
      const view = Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length);
      const value = read.candidates.find((candidate) => candidate !== undefined && view.equals(this.#payload(candidate)));
      this.#note(`open ${key.name}: ${value?.id ?? 'wrong bytes'} from ${handle.tier}`);
      if (value === undefined) {
        throw new Error(`${key.name} gave ${view.length} bytes that are none of ${JSON.stringify(read.candidates)}: ${this.#whose(view)}`);
      }
      if (value === key.current) this.#expiry.served(key, 'a read');
      this.#held.push({ key, handle, value });
    };
    this.#reads.add(read);
    const opened = this.sim.open(key.name, owner);
    if (opened instanceof Promise) opened.then(answered).catch((problem: unknown) => this.#fail(problem));
    else answered(opened);
    if (this.#held.length > 4) this.#release();
  }

  #whose(bytes: Buffer): string {
    for (let id = 1; id < this.#nextValue; id += 1) if (bytes.equals(payloadOf(id, bytes.length))) return `value ${id}`;
    return "nobody's value";
  }

  #compare(key: Key, handle: ReadHandle, value: Value): void {
    if (!this.#payload(value).equals(handle.view())) throw new Error(`The bytes of ${key.name} changed under a reader`);
  }

  #release(): void {
    const held = this.#held.splice(this.sim.rng.below(this.#held.length), 1)[0];
    if (held === undefined) return;
    this.#compare(held.key, held.handle, held.value);
    held.handle.release();
  }

  #delete(): void {
    const key = this.#key();
    try {
      const had = this.sim.delete(key.name);
      this.#note(`delete ${key.name}: ${had}`);
      this.#setCurrent(key, undefined);
    } catch (problem) {
      if (!(problem instanceof KvtierError) || this.#options.faults !== true) throw problem;
      this.#note(`delete ${key.name} failed: ${problem.code}`);
    }
  }

  #expire(key: Key): void {
    try {
      if (this.#expiry.change(key, (text) => this.#note(text))) this.#setCurrent(key, undefined);
    } catch (problem) {
      if (!(problem instanceof KvtierError) || this.#options.faults !== true) throw problem;
      this.#note(`expiry of ${key.name} failed: ${problem.code}`);
    }
  }

  #selector(): Selector {
    return randomSelector(this.sim, () => this.#key().name);
  }

  #broadSelector(): Selector {
    return this.sim.rng.chance(0.3) ? { all: true } : { keys: [this.#key().name, this.#key().name] };
  }

  #matchesValue(selector: Selector, key: Key, createdAtMs: number): boolean {
    const parsed = this.#parser.parse(new TextEncoder().encode(key.name));
    if (parsed === 'too-long') return false;
    return matchesStable(selector, { namespace: parsed.descriptor, key: key.name, createdAtMs });
  }

  /** Keys whose chunk matches now, volatile fields included, judged by the oracle out of what the chunk list says. */
  #matchingNow(selector: Selector): Map<Key, Value> {
    const { chunks } = this.sim.cache.control.chunks({}, { limit: 10_000 });
    const byId = new Map(chunks.map((chunk) => [chunk.id, chunk]));
    const matching = new Map<Key, Value>();
    for (const key of this.#keys) {
      if (key.current === undefined) continue;
      const chunk = chunks.find((candidate) => candidate.key === key.name);
      // What the index does not know may still come out of a file that is not adopted yet: stable fields are judged for it too.
      if (isVolatile(selector) ? chunk !== undefined && matchesLive(selector, chunk, byId) : true) {
        if (this.#matchesValue(selector, key, key.current.createdAtMs)) matching.set(key, key.current);
      }
    }
    return matching;
  }

  async #invalidate(selector: Selector): Promise<void> {
    const doomed = this.#matchingNow(selector);
    const invalidation: Invalidation = { selector, doomed };
    const begun = isVolatile(selector) ? [] : [...this.#puts].filter((put) => this.#matchesValue(selector, put.key, put.startedAtMs));
    this.#invalidations.add(invalidation);
    this.#note(`invalidate ${JSON.stringify(selector)} begins`);
    const life = this.#life;
    const running = this.sim.invalidate(selector).then(
      (answer) => {
        if (life !== this.#life) return;
        this.#invalidations.delete(invalidation);
        this.#note(`invalidate ${JSON.stringify(selector)}: ${answer.matchedChunks}`);
        for (const put of begun) put.doomed = true;
        for (const [key, value] of doomed) if (key.current === value && !this.#escaped(selector, key)) this.#setCurrent(key, undefined);
      },
      (problem: unknown) => {
        if (life !== this.#life) return;
        this.#invalidations.delete(invalidation);
        this.#note(`invalidate failed: ${String(problem)}`);
        if (!(problem instanceof KvtierError) || this.#options.faults !== true) this.#fail(problem);
      },
    );
    // A volatile selector may match more while its scan stands still: nothing but I/O and time happens in between.
    if (!isVolatile(selector)) return;
    for (const key of this.#leases.keys()) if (this.#matchesValue(selector, key, 0)) this.#leases.delete(key);
    await this.sim.run(running);
  }

  /** Used, written or linked while the scan stood still, it matches the volatile fields no more. */
  #escaped(selector: Selector, key: Key): boolean {
    if (!isVolatile(selector)) return false;
    const { chunks } = this.sim.cache.control.chunks({}, { limit: 10_000 });
    const chunk = chunks.find((candidate) => candidate.key === key.name);
    return chunk !== undefined && !matchesLive(selector, chunk, new Map(chunks.map((other) => [other.id, other])));
  }

  async #dryRun(selector: Selector): Promise<void> {
    await this.sim.run(this.sim.invalidate(selector, true));
  }

  async #epoch(): Promise<void> {
    const doomed = this.#matchingNow({ model: 'model-a' });
    try {
      await this.sim.run(this.sim.cache.control.bumpEpoch('model-a', { reason: 'test', actor: 'admin' }));
      this.#note('epoch of model-a');
      for (const [key, value] of doomed) if (key.current === value) this.#setCurrent(key, undefined);
    } catch (problem) {
      if (!(problem instanceof KvtierError) || this.#options.faults !== true) throw problem;
    }
  }

  #inBackground(name: string, work: Promise<unknown>): void {
    const life = this.#life;
    this.#note(name);
    this.#background += 1;
    work.then(
      () => {
        if (life === this.#life) this.#background -= 1;
      },
      (problem: unknown) => this.#fail(problem),
    );
  }

  #metadata(): void {
    const key = this.#key();
    const found = this.sim.peek(key.name);
    if (found === undefined) return;
    this.#note(`metadata of ${key.name}`);
    try {
      // Rather than keep a chunk beside the wrong twin the cache may forget it.
      if (!this.sim.cache.setMetadata(found.ref, payloadOf(this.sim.rng.below(3), 20))) this.#leases.delete(key);
    } catch (problem) {
      if (!(problem instanceof KvtierError) || this.#options.faults !== true) throw problem;
    }
  }

  #link(): void {
    const parent = this.sim.peek(this.#key().name);
    const child = this.sim.peek(this.#key().name);
    if (parent === undefined || child === undefined) return;
    this.sim.cache.link(parent.ref, child.ref);
    this.sim.cache.touchChain([parent.ref, child.ref]);
  }

  async #advance(): Promise<void> {
    const ms = this.sim.rng.pick([1, 10, 100, 300, 1000, 3000, 10_000, 40_000]);
    this.#note(`advance ${ms}`);
    // In slices, so that a lease that ends is not taken for one that was broken.
    await this.sim.clock.advance(ms);
  }

  #fault(): void {
    this.#note(`fault ${injectFault(this.sim)}`);
    this.#leases.clear();
  }

  async #crash(): Promise<void> {
    this.#life += 1;
    this.crashes += 1;
    this.sim.crash();
    this.#puts.clear();
    this.#reads.clear();
    this.#held.length = 0;
    this.#hbm.crashed();
    this.#invalidations.clear();
    this.#leases.clear();
    this.#background = 0;
    const damage = this.#mischief.damage(this.sim);
    this.#note(`crash, ${damage}`);
    if (this.#options.expiries === true)
      this.#expiry.crashed({ maySetBack: this.#options.faults !== true, journalGone: damage.startsWith('journal') });
    await this.sim.restart();
    this.#expiry.restarted(this.#keys);
  }

  /** Everything is let go and everything under way ends: nothing may be left over. */
  async #end(): Promise<void> {
    this.#note('end');
    const { sim } = this;
    sim.io.faults.length = 0;
    sim.life.hbm.devices.faults.length = 0;
    sim.disk.deviceBytes.clear();
    sim.life.catalog.unlock();
    if (this.#options.keeping === true) await endKeeping(sim);
    for (let round = 0; round < 45; round += 1) {
      if (round === 40) for (const key of this.#keys) await sim.get(key.name); // what was declined is written once it is used
      while (this.#held.length > 0) this.#release();
      this.#hbm.releaseAll();
      for (const put of [...this.#puts]) if (put.ticket !== undefined) this.#commit(put);
      await sim.quiet(1000, 1000);
      sim.life.catalog.commit();
      if (this.#problem !== undefined) throw this.#problem;
    }
    if (this.#reads.size + this.#puts.size + this.#background + this.#invalidations.size > 0) {
      throw new Error(
        `Never ended: ${this.#reads.size} reads, ${this.#puts.size} puts, ${this.#background} others, ${this.#invalidations.size} invalidations`,
      );
    }
    this.#inspect(true);
    const { leases } = sim.cache.holdings();
    if (leases !== 0) throw new Error(`${leases} leases never ended`);
    if (this.#options.faults !== true) {
      sim.checkQuiet();
      // SSD folders of the default size take everything; smaller ones evict, and what they evict stays in RAM alone.
      const dirtyBytes = sim.cache.control.stats().tiers.reduce((sum, tier) => sum + tier.dirtyBytes, 0);
      if ((this.#options.admission ?? 'idle') === 'idle' && this.#options.ssdBytes === undefined && dirtyBytes !== 0)
        throw new Error(`${dirtyBytes} bytes are still dirty`);
    } else sim.check();
    for (const key of this.#keys) {
      const got = await sim.get(key.name);
      if (got === undefined) continue;
      if (key.current === undefined || !this.#payload(key.current).equals(got)) throw new Error(`${key.name} is wrong at the end`);
      this.#expiry.served(key, 'the end');
    }
  }
}
