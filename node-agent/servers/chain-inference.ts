/**
 * Finds prefix chains in what arrives over RESP, where nobody names them. LMCache splits one batch of keys into tiles, a tile per
 * socket, the keys of a tile in prefix order.
 *
 * A lookup is a run of EXISTS of one namespace on one client's sockets close together. Tiles are joined by what earlier lookups tell:
 * their cuts lay elsewhere; else the longer before the shorter, as the client cuts them, in the order in which they began. And the keys that were not found are remembered too: they are what the client computes and stores next. So a SET finds
 * its place in the chain however its batch is spread over sockets and time. SETs that no lookup announced form runs of their own,
 * by socket and time. Every later lookup corrects what an earlier one guessed.
 *
 * Inferred edges order eviction and admission; they never decide what is correct.
 * Bounded: MAX_KEYS keys in remembered lookups, MAX_RUNS runs, MAX_RUN_KEYS keys in a run.
 */
import type { CacheDoor, ChunkRef } from '#cache/door.ts';
import type { Clock } from '#core/clock.ts';

/** A key that a lookup named; one object for all lookups that name it. */
interface KeyState {
  readonly id: string;
  /** Its chunk, as far as we saw; may be stale. */
  ref: ChunkRef | undefined;
  /** The latest lookup that named it, and its place there. */
  lookup: Lookup | undefined;
  position: number;
  /** The key that came before it on one socket: certain, where the joints between tiles are guesses. */
  before: KeyState | undefined;
}

interface Lookup {
  readonly order: readonly KeyState[];
}

interface ProbeRun {
  readonly kind: 'probe';
  readonly tiles: Map<number, KeyState[]>;
  keyCount: number;
  lastAtMs: number;
}

/** SETs without a lookup: the last chunk of each socket. */
interface PutRun {
  readonly kind: 'put';
  readonly tiles: Map<number, { readonly first: ChunkRef; last: ChunkRef }>;
  keyCount: number;
  lastAtMs: number;
}

/** LMCache's threads start their tiles within a millisecond or two; between two lookups an engine step passes. */
const RUN_GAP_MS = 50;
const MAX_RUNS = 256;
const MAX_RUN_KEYS = 65_536;
const MAX_KEYS = 65_536;
const latin1 = new TextDecoder('latin1');

type Cache = Pick<CacheDoor, 'link' | 'touchChain' | 'isCurrent'>;

export class ChainInference {
  readonly #cache: Cache;
  readonly #clock: Clock;
  /** By namespace. */
  readonly #runs = new Map<number, ProbeRun | PutRun>();
  readonly #keys = new Map<string, KeyState>();
  /** Oldest first. */
  readonly #lookups = new Set<Lookup>();
  readonly #openPuts = new Map<object, KeyState>();
  readonly #waiters: (() => void)[] = [];
  #timer: (() => void) | undefined;

  constructor(cache: Cache, clock: Clock) {
    this.#cache = cache;
    this.#clock = clock;
  }

  /** EXISTS of a key, found or not. */
  noteProbe(namespace: number, socket: number, probe: { readonly key: Uint8Array; readonly ref: ChunkRef | undefined }): void {
    let run = this.#runs.get(namespace);
    if (run !== undefined && (run.kind !== 'probe' || this.#isOver(run))) {
      this.#end(namespace, run);
      run = undefined;
    }
    if (run === undefined) {
      run = { kind: 'probe', tiles: new Map(), keyCount: 0, lastAtMs: 0 };
      this.#begin(namespace, run);
    }
    if (run.kind !== 'probe') return;
    const id = idOf(namespace, probe.key);
    const state = this.#keys.get(id) ?? { id, ref: undefined, lookup: undefined, position: 0, before: undefined };
    if (probe.ref !== undefined) state.ref = probe.ref;
    const tile = run.tiles.get(socket);
    if (tile === undefined) run.tiles.set(socket, [state]);
    else {
      state.before = tile.at(-1);
      tile.push(state);
      const { before } = state;
      if (before?.ref !== undefined && probe.ref !== undefined) this.#cache.link(before.ref, probe.ref);
    }
    this.#count(namespace, run);
  }

  /** The chunk before the one that this socket is about to store, where that is known. */
  parentFor(namespace: number, socket: number, key: Uint8Array): ChunkRef | undefined {
    const state = this.#stateOf(namespace, key);
    if (state?.lookup !== undefined) return this.#before(state.lookup, state.position);
    const run = this.#runs.get(namespace);
    return run?.kind === 'put' && !this.#isOver(run) ? run.tiles.get(socket)?.last : undefined;
  }

  /** A chunk was stored. */
  notePut(namespace: number, socket: number, put: { readonly key: Uint8Array; readonly ref: ChunkRef }): void {
    const state = this.#stateOf(namespace, put.key);
    if (state?.lookup !== undefined) {
      state.ref = put.ref;
      // Its successor may have come first, on another socket.
      const after = state.lookup.order[state.position + 1]?.ref;
      if (after !== undefined) this.#cache.link(put.ref, after);
      return;
    }
    let run = this.#runs.get(namespace);
    if (run !== undefined && (run.kind !== 'put' || this.#isOver(run))) {
      this.#end(namespace, run);
      run = undefined;
    }
    if (run === undefined) {
      run = { kind: 'put', tiles: new Map(), keyCount: 0, lastAtMs: 0 };
      this.#begin(namespace, run);
    }
    if (run.kind !== 'put') return;
    const tile = run.tiles.get(socket);
    if (tile === undefined) run.tiles.set(socket, { first: put.ref, last: put.ref });
    else {
      this.#cache.link(tile.last, put.ref);
      tile.last = put.ref;
    }
    this.#count(namespace, run);
  }

  /** A lookup ended: the client loads or stores. */
  end(namespace: number): void {
    const run = this.#runs.get(namespace);
    if (run?.kind === 'probe') this.#end(namespace, run);
  }

  /** Rows that storing this key must not push out: the chain that the lookup named. */
  spareFor(namespace: number, key: Uint8Array): ReadonlySet<number> | undefined {
    const lookup = this.#stateOf(namespace, key)?.lookup;
    if (lookup === undefined) return undefined;
    const rows = new Set<number>();
    for (const { ref } of lookup.order) if (ref !== undefined && this.#cache.isCurrent(ref)) rows.add(ref.entry);
    return rows;
  }

  /**
   * Chunks that may go for this key: those that come later in its chain, the last first. A chain that is longer than the tier keeps
   * its head that way, whichever tile is faster.
   */
  *sacrificesFor(namespace: number, key: Uint8Array): Generator<ChunkRef> {
    const state = this.#stateOf(namespace, key);
    if (state?.lookup === undefined) return;
    const { order } = state.lookup;
    for (let position = order.length - 1; position > state.position; position -= 1) {
      const ref = order[position]?.ref;
      if (ref !== undefined && this.#cache.isCurrent(ref)) yield ref;
    }
  }

  /** A put of an announced key has its room; `settled` must follow. */
  opened(put: object, namespace: number, key: Uint8Array): void {
    const state = this.#stateOf(namespace, key);
    if (state?.lookup !== undefined) this.#openPuts.set(put, state);
  }

  /** The put was committed or aborted: who waits for its room may look again. */
  settled(put: object): void {
    if (!this.#openPuts.delete(put)) return;
    for (const wake of this.#waiters.splice(0)) wake();
  }

  /** True where a put of a later key of the same chain is under way: its room is better used by this one, once it is over. */
  laterIsOpen(namespace: number, key: Uint8Array): boolean {
    const state = this.#stateOf(namespace, key);
    if (state?.lookup === undefined) return false;
    for (const open of this.#openPuts.values()) if (open.lookup === state.lookup && open.position > state.position) return true;
    return false;
  }

  /** Resolves at the next `settled`. */
  nextSettled(): Promise<void> {
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  endAll(): void {
    for (const [namespace, run] of this.#runs) this.#end(namespace, run);
  }

  #stateOf(namespace: number, key: Uint8Array): KeyState | undefined {
    this.end(namespace);
    return this.#keys.size === 0 ? undefined : this.#keys.get(idOf(namespace, key));
  }

  /** The nearest chunk before a place in a chain that is there. */
  #before(lookup: Lookup, position: number): ChunkRef | undefined {
    for (let at = position - 1; at >= 0; at -= 1) {
      const ref = lookup.order[at]?.ref;
      if (ref !== undefined && this.#cache.isCurrent(ref)) return ref;
    }
    return undefined;
  }

  #begin(namespace: number, run: ProbeRun | PutRun): void {
    if (this.#runs.size >= MAX_RUNS) this.endAll();
    this.#runs.set(namespace, run);
    this.#arm();
  }

  #count(namespace: number, run: ProbeRun | PutRun): void {
    run.lastAtMs = this.#clock.monotonicMs();
    run.keyCount += 1;
    if (run.keyCount >= MAX_RUN_KEYS) this.#end(namespace, run);
  }

  #isOver(run: ProbeRun | PutRun): boolean {
    return this.#clock.monotonicMs() - run.lastAtMs > RUN_GAP_MS;
  }

  #end(namespace: number, run: ProbeRun | PutRun): void {
    this.#runs.delete(namespace);
    if (run.kind === 'probe') this.#endLookup(run);
    else this.#endPuts(run);
  }

  #endLookup(run: ProbeRun): void {
    const lookup: Lookup = { order: orderTiles([...run.tiles.values()]).flat() };
    let before: ChunkRef | undefined;
    let tail: ChunkRef | undefined;
    for (const [position, state] of lookup.order.entries()) {
      this.#keys.set(state.id, state);
      state.lookup = lookup;
      state.position = position;
      if (before !== undefined && state.ref !== undefined) this.#cache.link(before, state.ref);
      before = state.ref;
      tail = state.ref ?? tail;
    }
    if (tail !== undefined) this.#cache.touchChain([tail]);
    this.#lookups.add(lookup);
    for (const oldest of this.#lookups) {
      if (this.#keys.size <= MAX_KEYS || oldest === lookup) break;
      this.#forget(oldest);
    }
  }

  #forget(lookup: Lookup): void {
    this.#lookups.delete(lookup);
    for (const state of lookup.order) {
      if (state.lookup !== lookup) continue;
      state.before = undefined; // or a chain of forgotten keys would stay alive behind it
      state.lookup = undefined;
      this.#keys.delete(state.id);
    }
  }

  #endPuts(run: PutRun): void {
    let tail: ChunkRef | undefined;
    for (const { first, last } of run.tiles.values()) {
      if (tail !== undefined) this.#cache.link(tail, first);
      tail = last;
    }
    if (tail !== undefined && run.tiles.size > 1) this.#cache.touchChain([tail]);
  }

  #arm(): void {
    if (this.#timer !== undefined) return;
    this.#timer = this.#clock.schedule(RUN_GAP_MS, () => {
      this.#timer = undefined;
      for (const [namespace, run] of this.#runs) if (this.#isOver(run)) this.#end(namespace, run);
      if (this.#runs.size > 0) this.#arm();
    });
  }

  /** The client is gone. */
  close(): void {
    this.#timer?.();
    this.#runs.clear();
    this.#keys.clear();
    this.#lookups.clear();
    this.#openPuts.clear();
    for (const wake of this.#waiters.splice(0)) wake();
  }
}

function idOf(namespace: number, key: Uint8Array): string {
  return `${namespace} ${latin1.decode(key)}`;
}

/**
 * Tiles in prefix order. Where the key before a tile's first one is known and ends another tile, the two belong together. Of the rest,
 * what begins with a key that is known as a root goes first.
 */
function orderTiles(tiles: readonly (readonly KeyState[])[]): readonly (readonly KeyState[])[] {
  const byLast = new Map(tiles.map((tile) => [tile.at(-1), tile]));
  const after = new Map<readonly KeyState[], readonly KeyState[]>();
  const heads: (readonly KeyState[])[] = [];
  for (const tile of tiles) {
    const known = tile[0]?.before;
    const before = known === undefined ? undefined : byLast.get(known);
    if (before === undefined || before === tile || after.has(before)) heads.push(tile);
    else after.set(before, tile);
  }
  const isRoot = (tile: readonly KeyState[]): number => (tile[0]?.lookup !== undefined && tile[0].before === undefined ? 0 : 1);
  heads.sort((a, b) => isRoot(a) - isRoot(b) || b.length - a.length);
  const ordered = new Set<readonly KeyState[]>();
  for (const head of heads) {
    for (let tile: readonly KeyState[] | undefined = head; tile !== undefined && !ordered.has(tile); tile = after.get(tile))
      ordered.add(tile);
  }
  // What is left hangs in a circle: two lookups contradict each other.
  for (const tile of tiles) ordered.add(tile);
  return [...ordered];
}
