/**
 * Listens in at the cache's door for what a client cannot see: which probe took a lease, and when a put began. Calls go through
 * unchanged. One listener a life.
 *
 * Judges: a chunk under a lease stays, unless something explains its end (deletion, overwrite, invalidation, the owner's read); a put
 * that began before an invalidation which was acknowledged meanwhile stores nothing.
 */
import type { Cache } from '#cache/cache.ts';
import type { ChunkRef, LeaseOwner, PutTicket } from '#cache/door.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { Selector } from '#core/selector.ts';
import { isVolatile, matchesStable } from '#core/selector.ts';
import type { SimClock } from './sim-clock.ts';

interface Claim {
  readonly ref: ChunkRef;
  readonly owner: LeaseOwner;
  readonly untilMs: number;
}

interface Begun {
  readonly namespace: NamespaceDescriptor;
  readonly key: Uint8Array;
  readonly namespaceId: number;
  readonly at: number;
  readonly wallMs: number;
}

interface Done {
  readonly selector: Selector;
  readonly begin: number;
}

const latin1 = new TextDecoder('latin1');

export class SimListener {
  readonly #cache: Cache;
  readonly #clock: SimClock;
  readonly #leaseMs: number;
  /** By row, then owner. */
  readonly #claims = new Map<number, Map<LeaseOwner, Claim>>();
  readonly #tickets = new Map<PutTicket, Begun>();
  readonly #namespaces = new Map<number, NamespaceDescriptor>();
  #invalidations: Done[] = [];
  #underWay = 0;
  readonly #nowTick: () => number;
  /** Leases promise nothing about devices that break. */
  judgesLeases = true;
  claims = 0;

  constructor(cache: Cache, options: { clock: SimClock; leaseMs: number; tick: () => number }) {
    this.#cache = cache;
    this.#clock = options.clock;
    this.#leaseMs = options.leaseMs;
    this.#nowTick = options.tick;
    this.#listenToNames();
    this.#listenToReads();
    this.#listenToWrites();
    this.#listenToInvalidations();
  }

  #listenToNames(): void {
    const cache = this.#cache;
    const intern = cache.internNamespace.bind(cache);
    cache.internNamespace = (descriptor) => {
      const id = intern(descriptor);
      this.#namespaces.set(id, descriptor);
      return id;
    };
  }

  #listenToReads(): void {
    const cache = this.#cache;
    const probe = cache.probe.bind(cache);
    cache.probe = (namespace, key, owner) => {
      const before = cache.holdings().leases;
      const outcome = probe(namespace, key, owner);
      if (outcome !== undefined && owner !== undefined && cache.holdings().leases > before) this.#claim(outcome.ref, owner);
      return outcome;
    };
    const open = cache.open.bind(cache);
    cache.open = (namespace, key, owner) => {
      const found = cache.peek(namespace, key);
      if (found !== undefined && owner !== undefined) this.#claims.get(found.ref.entry)?.delete(owner);
      return open(namespace, key, owner);
    };
  }

  #claim(ref: ChunkRef, owner: LeaseOwner): void {
    let claims = this.#claims.get(ref.entry);
    if (claims === undefined) this.#claims.set(ref.entry, (claims = new Map<LeaseOwner, Claim>()));
    claims.set(owner, { ref, owner, untilMs: this.#clock.monotonicMs() + this.#leaseMs });
    this.claims += 1;
  }

  #listenToWrites(): void {
    const cache = this.#cache;
    const reserve = cache.reserve.bind(cache);
    cache.reserve = (request) => {
      const begun: Begun = {
        namespace: this.#namespaces.get(request.namespace) as NamespaceDescriptor,
        namespaceId: request.namespace,
        key: request.key.slice(),
        at: this.#nowTick(),
        wallMs: this.#clock.nowMs(),
      };
      const reserved = reserve(request);
      const keep = (outcome: Awaited<typeof reserved>): typeof outcome => {
        if (outcome.kind === 'ticket') this.#tickets.set(outcome, begun);
        return outcome;
      };
      return reserved instanceof Promise ? reserved.then(keep) : keep(reserved);
    };
    const commit = cache.commit.bind(cache);
    cache.commit = (ticket, checksum, options) => {
      const begun = this.#tickets.get(ticket);
      this.#tickets.delete(ticket);
      const outcome = commit(ticket, checksum, options);
      if (begun === undefined) return outcome;
      if (outcome === 'stored') this.#judgePut(begun);
      return outcome;
    };
    const abort = cache.abort.bind(cache);
    cache.abort = (ticket) => {
      this.#tickets.delete(ticket);
      abort(ticket);
    };
    const remove = cache.delete.bind(cache);
    cache.delete = (namespace, key) => {
      const had = remove(namespace, key);
      this.#dropStale();
      return had;
    };
  }

  /** While invalidations are under way claims are not judged: the scan ends them one after another. */
  #listenToInvalidations(): void {
    const cache = this.#cache;
    const flushAll = cache.flushAll.bind(cache);
    cache.flushAll = (actor) => this.#meanwhile(() => flushAll(actor));
    const { control } = cache;
    const invalidate = control.invalidate.bind(control);
    control.invalidate = (selector, options) => this.#meanwhile(() => invalidate(selector, options));
    const bumpEpoch = control.bumpEpoch.bind(control);
    control.bumpEpoch = (model, options) => this.#meanwhile(() => bumpEpoch(model, options));
  }

  async #meanwhile<T>(action: () => Promise<T>): Promise<T> {
    this.#underWay += 1;
    try {
      return await action();
    } finally {
      this.#claims.clear();
      this.#underWay -= 1;
    }
  }

  #judgePut(begun: Begun): void {
    // Rows are taken again: whatever was claimed of a chunk that is replaced is over.
    this.#dropStale();
    const facts = {
      namespace: begun.namespace,
      key: `${begun.namespace.keyPrefix}${latin1.decode(begun.key)}${begun.namespace.keyTail}`,
      createdAtMs: begun.wallMs,
    };
    for (const done of this.#invalidations) {
      if (done.begin > begun.at && matchesStable(done.selector, facts)) {
        throw new Error(`${facts.key} was stored although its put began before an invalidation by ${JSON.stringify(done.selector)}`);
      }
    }
    if (this.#tickets.size === 0) this.#invalidations = [];
  }

  /** An invalidation was acknowledged. */
  invalidated(selector: Selector, begin: number): void {
    if (!isVolatile(selector) && this.#tickets.size > 0) this.#invalidations.push({ selector, begin });
  }

  #dropStale(): void {
    for (const [entry, claims] of this.#claims) {
      for (const claim of claims.values()) if (!this.#cache.isCurrent(claim.ref)) claims.delete(claim.owner);
      if (claims.size === 0) this.#claims.delete(entry);
    }
  }

  check(): void {
    if (!this.judgesLeases || this.#underWay > 0) return this.#claims.clear();
    const now = this.#clock.monotonicMs();
    for (const [entry, claims] of this.#claims) {
      for (const claim of claims.values()) {
        if (claim.untilMs <= now) claims.delete(claim.owner);
        else if (!this.#cache.isCurrent(claim.ref)) throw new Error(`Row ${entry} was leased to client ${claim.owner} and is gone`);
      }
      if (claims.size === 0) this.#claims.delete(entry);
    }
  }
}
