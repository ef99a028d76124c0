/**
 * Listens in at the cache's door for what a client cannot see: which probe took a lease, and when a put began. Calls go through
 * unchanged. One listener a life.
 *
 * Judges: a chunk under a lease stays, unless something explains its end (deletion, overwrite, invalidation, the owner's read); a put
 * that began before an invalidation which was acknowledged meanwhile stores nothing.
 */
import type { Cache } from '#cache/cache.ts';
import type { LeaseOwner, PutTicket } from '#cache/door.ts';
import type { NamespaceId } from '#core/brand.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { Selector } from '#core/selector.ts';
import { isVolatile, matchesStable } from '#core/selector.ts';
import type { SimClock } from './sim-clock.ts';

interface Claim {
  readonly namespaceId: NamespaceId;
  readonly key: Uint8Array;
  /** PINNED for a hard pin. */
  readonly owner: LeaseOwner;
  /** The replica that is promised; undefined: any. */
  readonly tier: 'ram' | undefined;
  readonly untilMs: number;
  /** Wall clock, as of the last look; 0: never. */
  expiresAtMs: number;
}

interface Begun {
  readonly namespace: NamespaceDescriptor;
  readonly key: Uint8Array;
  readonly namespaceId: NamespaceId;
  readonly at: number;
  readonly wallMs: number;
}

interface Done {
  readonly selector: Selector;
  readonly begin: number;
}

/** No client: clients begin at 1. */
const PINNED: LeaseOwner = -1;
const latin1 = new TextDecoder('latin1');

export class SimListener {
  readonly #cache: Cache;
  readonly #clock: SimClock;
  readonly #leaseMs: number;
  /** By namespace and key, then owner. */
  readonly #claims = new Map<string, Map<LeaseOwner, Claim>>();
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
      if (outcome !== undefined && owner !== undefined && cache.holdings().leases > before) {
        this.#claim(namespace, key, {
          owner,
          tier: outcome.tier === 'ram' ? 'ram' : undefined,
          untilMs: this.#clock.monotonicMs() + this.#leaseMs,
        });
      }
      return outcome;
    };
    const open = cache.open.bind(cache);
    cache.open = (namespace, key, owner) => {
      if (owner !== undefined) this.#claims.get(claimId(namespace, key))?.delete(owner);
      return open(namespace, key, owner);
    };
  }

  #claim(namespaceId: NamespaceId, key: Uint8Array, promise: Pick<Claim, 'owner' | 'tier' | 'untilMs'>): void {
    const id = claimId(namespaceId, key);
    let claims = this.#claims.get(id);
    if (claims === undefined) this.#claims.set(id, (claims = new Map<LeaseOwner, Claim>()));
    claims.set(promise.owner, { namespaceId, key: key.slice(), expiresAtMs: 0, ...promise });
    this.claims += 1;
  }

  /** A hard pin of a key was acknowledged: its chunk stays until somebody takes it away or the pin. */
  pinned(descriptor: NamespaceDescriptor, key: Uint8Array): void {
    const namespace = this.#cache.internNamespace(descriptor);
    if (this.#cache.peek(namespace, key) !== undefined)
      this.#claim(namespace, key, { owner: PINNED, tier: undefined, untilMs: Number.POSITIVE_INFINITY });
    this.#cache.releaseNamespace(namespace);
  }

  /** Pins may end from now on. */
  unpinned(): void {
    for (const claims of this.#claims.values()) claims.delete(PINNED);
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
      this.#claims.delete(claimId(namespace, key));
      return had;
    };
    const setExpiry = cache.setExpiry.bind(cache);
    cache.setExpiry = (ref, atMs) => {
      if (atMs !== 0 && atMs <= cache.expiryNowMs()) this.#claims.clear();
      return setExpiry(ref, atMs);
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
    this.#claims.delete(claimId(begun.namespaceId, begun.key));
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

  check(): void {
    if (!this.judgesLeases || this.#underWay > 0) return this.#claims.clear();
    const now = this.#clock.monotonicMs();
    for (const [id, claims] of this.#claims) {
      for (const claim of claims.values()) this.#checkOne(claim, claims, now);
      if (claims.size === 0) this.#claims.delete(id);
    }
  }

  #checkOne(claim: Claim, claims: Map<LeaseOwner, Claim>, now: number): void {
    const found = this.#cache.peek(claim.namespaceId, claim.key);
    if (claim.untilMs <= now) return void claims.delete(claim.owner);
    if (found !== undefined) claim.expiresAtMs = this.#cache.expiresAtMs(found.ref) ?? 0;
    const isOver = claim.expiresAtMs !== 0 && claim.expiresAtMs <= this.#cache.expiryNowMs();
    if (isOver) return void claims.delete(claim.owner);
    const what = claim.owner === PINNED ? 'pinned' : `leased to client ${claim.owner}`;
    if (found === undefined) throw new Error(`${latin1.decode(claim.key)} was ${what} and is gone`);
    if (claim.tier === 'ram' && found.tier !== 'ram') throw new Error(`${latin1.decode(claim.key)} was ${what} in RAM and left it`);
  }
}

function claimId(namespace: NamespaceId, key: Uint8Array): string {
  return `${namespace} ${latin1.decode(key)}`;
}
