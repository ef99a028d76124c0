/**
 * Listens in at the cache's door for what a client cannot see: which probe took a lease, and when a put began. Calls go through
 * unchanged. One listener a life.
 *
 * Judges: a chunk under a lease or a hard pin stays, unless something explains its end (deletion, overwrite, invalidation, expiry, the owner's
 * read, an unpin), and what is pinned hard is there again after a kill; a put that began before an invalidation which was acknowledged
 * meanwhile stores nothing.
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
  /** It had an end at some look: a kill may bring back an earlier one. */
  mayExpire: boolean;
}

/** A chunk that was pinned hard when its process was killed. */
export interface SimPinned {
  readonly descriptor: NamespaceDescriptor;
  readonly key: Uint8Array;
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
  /** Pinned when the process before this one was killed, and not yet looked for. By name. */
  readonly #carried = new Map<string, SimPinned>();
  /** Unpins under way, and when the last of them was over: what was pinned meanwhile may be unpinned. */
  #unpinning = 0;
  #unpinnedAt = 0;
  readonly #nowTick: () => number;
  readonly #fail: (problem: Error) => void;
  /** Leases promise nothing about devices that break. */
  judgesLeases = true;
  claims = 0;

  constructor(cache: Cache, options: { clock: SimClock; leaseMs: number; tick: () => number; fail: (problem: Error) => void }) {
    this.#cache = cache;
    this.#clock = options.clock;
    this.#leaseMs = options.leaseMs;
    this.#nowTick = options.tick;
    this.#fail = options.fail;
    this.#listenToNames();
    this.#listenToReads();
    this.#listenToExpiries();
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
      const id = claimId(namespace, key);
      const ended = (): void => void (owner !== undefined && this.#claims.get(id)?.delete(owner));
      ended();
      const opened = open(namespace, key, owner);
      if (!(opened instanceof Promise)) return opened;
      // A probe of the same client may have come while the read waited for SSD: the read ends its lease.
      return opened.then((handle) => {
        if (handle !== undefined) ended();
        return handle;
      });
    };
  }

  #claim(namespaceId: NamespaceId, key: Uint8Array, promise: Pick<Claim, 'owner' | 'tier' | 'untilMs'>): void {
    const id = claimId(namespaceId, key);
    let claims = this.#claims.get(id);
    if (claims === undefined) this.#claims.set(id, (claims = new Map<LeaseOwner, Claim>()));
    // It may meet its end before the next look.
    const found = this.#cache.peek(namespaceId, key);
    const expiresAtMs = (found && this.#cache.expiresAtMs(found.ref)) ?? 0;
    claims.set(promise.owner, { namespaceId, key: key.slice(), expiresAtMs, mayExpire: expiresAtMs !== 0, ...promise });
    this.claims += 1;
  }

  /** A hard pin that was asked for at `begin` was acknowledged: its chunk stays until somebody takes it away or the pin. */
  pinned({ descriptor, key }: SimPinned, begin: number): void {
    if (this.#unpinning > 0 || begin < this.#unpinnedAt) return;
    const namespace = this.#cache.internNamespace(descriptor);
    if (this.#cache.peek(namespace, key) !== undefined)
      this.#claim(namespace, key, { owner: PINNED, tier: undefined, untilMs: Number.POSITIVE_INFINITY });
    this.#cache.releaseNamespace(namespace);
  }

  /** These hard pins, or all, may end from now on. Call the answer when that is over. */
  unpin(which: readonly SimPinned[] | undefined): () => void {
    this.#unpinning += 1;
    this.#unpinned(which);
    return () => {
      this.#unpinned(which);
      this.#unpinning -= 1;
      this.#unpinnedAt = this.#nowTick();
    };
  }

  #unpinned(which: readonly SimPinned[] | undefined): void {
    if (which === undefined) this.#carried.clear();
    else for (const { descriptor, key } of which) this.#carried.delete(nameOf(descriptor, key));
    const names = which && new Set(which.map(({ descriptor, key }) => nameOf(descriptor, key)));
    for (const claims of this.#claims.values()) {
      const claim = claims.get(PINNED);
      if (claim === undefined) continue;
      if (names?.has(nameOf(this.#descriptorOf(claim.namespaceId), claim.key)) !== false) claims.delete(PINNED);
    }
  }

  #descriptorOf(namespace: NamespaceId): NamespaceDescriptor {
    return this.#namespaces.get(namespace) as NamespaceDescriptor;
  }

  /** What must be there after the next start, where the process is killed now. */
  pinnedNow(): readonly SimPinned[] {
    if (!this.judgesLeases || this.#underWay > 0) return [];
    const pinned = [...this.#carried.values()];
    for (const claims of this.#claims.values()) {
      const claim = claims.get(PINNED);
      if (claim !== undefined && !claim.mayExpire) pinned.push({ descriptor: this.#descriptorOf(claim.namespaceId), key: claim.key });
    }
    return pinned;
  }

  /** What was pinned in the life before: looked for once adoption is done. */
  expect(pinned: readonly SimPinned[]): void {
    for (const each of pinned) this.#carried.set(nameOf(each.descriptor, each.key), each);
  }

  #lookForCarried(): void {
    for (const { descriptor, key } of this.#carried.values()) {
      const namespace = this.#cache.internNamespace(descriptor);
      const isThere = this.#cache.peek(namespace, key) !== undefined;
      if (isThere) this.#claim(namespace, key, { owner: PINNED, tier: undefined, untilMs: Number.POSITIVE_INFINITY });
      this.#cache.releaseNamespace(namespace);
      if (!isThere) throw new Error(`${latin1.decode(key)} was pinned when the process was killed and is gone after the start`);
    }
    this.#carried.clear();
  }

  /** A key has another value, or none. */
  #ended(namespace: NamespaceId, key: Uint8Array): void {
    this.#claims.delete(claimId(namespace, key));
    if (this.#carried.size > 0) this.#carried.delete(nameOf(this.#descriptorOf(namespace), key));
  }

  /** A chunk that gets an end may meet it before the next check. */
  #listenToExpiries(): void {
    const cache = this.#cache;
    const setExpiry = cache.setExpiry.bind(cache);
    cache.setExpiry = (ref, atMs) => {
      for (const claims of this.#claims.values())
        for (const claim of claims.values()) {
          const found = cache.peek(claim.namespaceId, claim.key)?.ref;
          if (atMs !== 0 && found?.entry === ref.entry && found.generation === ref.generation) claim.mayExpire = true;
        }
      return setExpiry(ref, atMs);
    };
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
      // Its file is outdated, and until it is written again only RAM has it.
      if (options?.lmBlock !== undefined) this.#ended(begun.namespaceId, begun.key);
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
      this.#ended(namespace, key);
      return had;
    };
    const setExpiry = cache.setExpiry.bind(cache);
    cache.setExpiry = (ref, atMs) => {
      this.#carried.clear();
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
      this.#carried.clear();
      this.#underWay -= 1;
    }
  }

  #judgePut(begun: Begun): void {
    this.#ended(begun.namespaceId, begun.key);
    const facts = {
      namespace: begun.namespace,
      key: `${begun.namespace.keyPrefix}${latin1.decode(begun.key)}${begun.namespace.keyTail}`,
      createdAtMs: begun.wallMs,
    };
    for (const done of this.#invalidations) {
      if (done.begin > begun.at && matchesStable(done.selector, facts)) {
        const text = `${facts.key} was stored although its put began before an invalidation by ${JSON.stringify(done.selector)}`;
        this.#fail(new Error(text));
      }
    }
    if (this.#tickets.size === 0) this.#invalidations = [];
  }

  /** An invalidation was acknowledged. */
  invalidated(selector: Selector, begin: number): void {
    if (!isVolatile(selector) && this.#tickets.size > 0) this.#invalidations.push({ selector, begin });
  }

  /** Some of what was invalidated may be there still. */
  get isInvalidating(): boolean {
    return this.#underWay > 0;
  }

  check(): void {
    if (!this.judgesLeases || this.#underWay > 0) {
      this.#claims.clear();
      this.#carried.clear();
      return;
    }
    if (this.#carried.size > 0 && this.#cache.recovery.progress.done) this.#lookForCarried();
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
    if (claim.expiresAtMs !== 0) claim.mayExpire = true;
    const isOver = claim.expiresAtMs !== 0 && claim.expiresAtMs <= this.#cache.expiryNowMs();
    if (isOver) return void claims.delete(claim.owner);
    const what = claim.owner === PINNED ? 'pinned' : `leased to client ${claim.owner}`;
    if (found === undefined) throw new Error(`${latin1.decode(claim.key)} was ${what} and is gone`);
    if (claim.tier === 'ram' && found.tier !== 'ram') throw new Error(`${latin1.decode(claim.key)} was ${what} in RAM and left it`);
  }
}

function nameOf({ tenant, keyPrefix, keyTail }: NamespaceDescriptor, key: Uint8Array): string {
  return `${tenant} ${keyPrefix} ${keyTail} ${latin1.decode(key)}`;
}

function claimId(namespace: NamespaceId, key: Uint8Array): string {
  return `${namespace} ${latin1.decode(key)}`;
}
