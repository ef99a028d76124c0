/**
 * Finds prefix chains in what arrives over RESP, where nobody names them. LMCache splits one batch into tiles, a tile per socket,
 * keys of a tile in prefix order. So: SETs, or EXISTS, of one namespace on one client's sockets close together form a run;
 * consecutive keys of a socket are parent and child at once; when the run ends, the tiles are joined in the order in which they
 * began. What is stored after a lookup continues the chain that the lookup found. A later EXISTS run corrects earlier guesses.
 *
 * Inferred edges order eviction and admission; they never decide what is correct.
 * Bounded: MAX_RUNS runs and as many remembered lookups per client, MAX_RUN_KEYS keys in a run.
 */
import type { Clock } from '#core/clock.ts';
import type { CacheDoor, ChunkRef } from '#cache/door.ts';

type RunKind = 'probe' | 'put';

interface Tile {
  readonly socket: number;
  readonly first: ChunkRef;
  last: ChunkRef;
}

interface Run {
  readonly kind: RunKind;
  readonly tiles: Tile[];
  keyCount: number;
  lastAtMs: number;
}

/** LMCache's threads start their tiles within a millisecond or two; between two lookups an engine step passes. */
const RUN_GAP_MS = 50;
/** A store that comes later than this after a lookup belongs to another request. */
const PREFILL_MS = 60_000;
const MAX_RUNS = 256;
const MAX_RUN_KEYS = 65_536;

export class ChainInference {
  readonly #cache: Pick<CacheDoor, 'link' | 'touchChain'>;
  readonly #clock: Clock;
  /** By namespace. */
  readonly #runs = new Map<number, Run>();
  /** By namespace: the last chunk that a lookup found, and when. */
  readonly #found = new Map<number, { readonly ref: ChunkRef; readonly atMs: number }>();
  #timer: (() => void) | undefined;

  constructor(cache: Pick<CacheDoor, 'link' | 'touchChain'>, clock: Clock) {
    this.#cache = cache;
    this.#clock = clock;
  }

  /** The chunk before the one that this socket is about to store, where the run tells. */
  parentFor(namespace: number, socket: number): ChunkRef | undefined {
    const run = this.#runs.get(namespace);
    if (run !== undefined && run.kind === 'put' && !this.#isOver(run)) return run.tiles.find((tile) => tile.socket === socket)?.last;
    if (run !== undefined) this.#end(namespace, run);
    const found = this.#found.get(namespace);
    this.#found.delete(namespace);
    return found !== undefined && this.#clock.monotonicMs() - found.atMs < PREFILL_MS ? found.ref : undefined;
  }

  /** A chunk was probed (and found) or stored. */
  note(kind: RunKind, namespace: number, at: { socket: number; ref: ChunkRef }): void {
    let run = this.#runs.get(namespace);
    if (run !== undefined && (run.kind !== kind || this.#isOver(run) || run.keyCount >= MAX_RUN_KEYS)) {
      this.#end(namespace, run);
      run = undefined;
    }
    if (run === undefined) {
      if (this.#runs.size >= MAX_RUNS) this.endAll();
      run = { kind, tiles: [], keyCount: 0, lastAtMs: 0 };
      this.#runs.set(namespace, run);
      this.#arm();
    }
    run.lastAtMs = this.#clock.monotonicMs();
    run.keyCount += 1;
    const tile = run.tiles.find((candidate) => candidate.socket === at.socket);
    if (tile === undefined) run.tiles.push({ socket: at.socket, first: at.ref, last: at.ref });
    else {
      this.#cache.link(tile.last, at.ref);
      tile.last = at.ref;
    }
  }

  /** A probe found nothing: a lookup is under way, so what was being stored is complete. */
  noteMiss(namespace: number): void {
    const run = this.#runs.get(namespace);
    if (run?.kind === 'put') this.#end(namespace, run);
    // A lookup that begins with a miss has no chain to continue.
    if (run?.kind !== 'probe') this.#found.delete(namespace);
  }

  /** Something else happened in this namespace (a GET, a miss): the next key begins a new run. */
  end(namespace: number): void {
    const run = this.#runs.get(namespace);
    if (run !== undefined) this.#end(namespace, run);
  }

  endAll(): void {
    for (const [namespace, run] of this.#runs) this.#end(namespace, run);
  }

  #isOver(run: Run): boolean {
    return this.#clock.monotonicMs() - run.lastAtMs > RUN_GAP_MS;
  }

  #end(namespace: number, run: Run): void {
    this.#runs.delete(namespace);
    for (let index = 1; index < run.tiles.length; index += 1) {
      const before = run.tiles[index - 1];
      const tile = run.tiles[index];
      if (before !== undefined && tile !== undefined) this.#cache.link(before.last, tile.first);
    }
    const tail = run.tiles.at(-1);
    if (run.kind === 'probe' && tail !== undefined) this.#remember(namespace, tail.last);
    if (run.tiles.length > 1 && tail !== undefined) this.#cache.touchChain([tail.last]);
  }

  #remember(namespace: number, ref: ChunkRef): void {
    if (this.#found.size >= MAX_RUNS) this.#found.clear();
    this.#found.set(namespace, { ref, atMs: this.#clock.monotonicMs() });
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
    this.#found.clear();
  }
}
