/**
 * What an operator asks of pins: pin and unpin whatever a selector matches now. Chunks that come later are not pinned by it.
 *
 * Order of a hard pin: the chunk is marked, so that it is not evicted meanwhile; written to SSD where it is only in RAM; journaled; and
 * when all are, the journal is synced and the answer given. A crash before the answer leaves some pinned and some not.
 */
import type { EntryIndex } from '#core/brand.ts';
import type { PinMode } from '#core/pin-mode.ts';
import type { Selector } from '#core/selector.ts';
import type { CacheState } from './cache-state.ts';
import type { PinAnswer, PinSum, UnpinAnswer } from './control.ts';
import { HELD_IN_RAM } from './flags.ts';

interface Found {
  readonly entry: EntryIndex;
  readonly generation: number;
}

export interface PinOrderParts {
  readonly state: CacheState;
  readonly matches: (selector: Selector) => Promise<readonly Found[]>;
  /** Writes a chunk to SSD and syncs it; false where it cannot be. */
  readonly persist: (entry: EntryIndex) => Promise<boolean>;
  /** Copies what HBM has into RAM, where that has room. */
  readonly bring: (entry: EntryIndex) => Promise<unknown>;
}

/** Chunks between two turns of the event loop, and in one record of the journal. */
const BATCH = 1000;

export class PinOrders {
  readonly #state: CacheState;
  readonly #parts: PinOrderParts;

  constructor(parts: PinOrderParts) {
    this.#parts = parts;
    this.#state = parts.state;
  }

  /** Durable when it resolves. Throws KvtierError where the journal cannot be written; then nothing more is pinned than before. */
  async pin(selector: Selector, mode: PinMode): Promise<PinAnswer> {
    const found = await this.#parts.matches(selector);
    const run = new PinRun(this.#parts, mode);
    let next = 0;
    const worker = async (): Promise<void> => {
      for (let ref = found[next++]; ref !== undefined; ref = found[next++]) {
        await run.one(ref);
        if (next % BATCH === 0) await this.#turn();
      }
    };
    try {
      await Promise.all(Array.from({ length: this.#state.limits.writesAtOnce }, worker));
      run.flush();
      await this.#state.tombstones.sync();
    } catch (problem) {
      run.takeBack();
      throw problem;
    }
    return run.answer(notFound(selector, found.length));
  }

  /** Ends pins of either mode. Durable when it resolves. */
  async unpin(selector: Selector): Promise<UnpinAnswer> {
    const { pins, index, tombstones } = this.#state;
    const found = await this.#parts.matches(selector);
    const pinned = found.filter((ref) => this.#state.isSame(ref) && pins.modeOf(ref.entry) !== undefined);
    pins.journal(
      'none',
      pinned.map(({ generation }) => generation),
    );
    const unpinned = sum();
    for (const { entry } of pinned) {
      add(unpinned, index.sizeBytes(entry));
      pins.unpin(entry);
    }
    if (pinned.length > 0) this.#state.onRoom();
    await tombstones.sync();
    return { unpinned, notPinned: found.length - pinned.length, notFound: notFound(selector, found.length) };
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => void this.#state.clock.schedule(0, resolve));
  }
}

/** One order under way, with what becomes its answer. */
class PinRun {
  readonly #state: CacheState;
  readonly #persist: (entry: EntryIndex) => Promise<boolean>;
  readonly #bring: (entry: EntryIndex) => Promise<unknown>;
  readonly #mode: PinMode;
  readonly #taken: { readonly ref: Found; readonly former: PinMode | undefined; readonly sizeBytes: number }[] = [];
  #journaled = 0;
  readonly #already = sum();
  readonly #refused = { ram: sum(), ssd: sum(), count: sum(), unwritten: sum() };
  #gone = 0;

  constructor({ state, persist, bring }: PinOrderParts, mode: PinMode) {
    this.#state = state;
    this.#bring = bring;
    this.#persist = persist;
    this.#mode = mode;
  }

  async one(ref: Found): Promise<void> {
    const state = this.#state;
    const { pins, index } = state;
    const { entry } = ref;
    // What only HBM has comes to RAM first: a hard pin holds no memory of a device.
    if (this.#mode === 'hard' && state.isSame(ref) && state.hbm?.strays.has(entry) === true) await this.#bring(entry);
    if (!state.isSame(ref)) return void (this.#gone += 1);
    const sizeBytes = index.sizeBytes(entry);
    if (this.#mode === 'hard' && state.hbm?.strays.has(entry) === true) return add(this.#refused.unwritten, sizeBytes);
    const former = pins.modeOf(entry);
    if (former === this.#mode) return add(this.#already, sizeBytes);
    const refusal = pins.refusal(entry, this.#mode);
    if (refusal !== undefined) return add(this.#refused[refusal], sizeBytes);
    pins.pin(entry, this.#mode);
    if (this.#mode === 'hard' && state.ssd.folders.length > 0 && state.isDirty(entry)) {
      const written = await this.#persist(entry);
      // Removed or replaced while it was written: a value that took its pin over keeps that.
      if (!state.isSame(ref)) return void (this.#gone += 1);
      if (!written || state.isDirty(entry)) {
        if (pins.modeOf(entry) === this.#mode) this.#restore(entry, former);
        return add(this.#refused.unwritten, sizeBytes);
      }
    }
    this.#taken.push({ ref, former, sizeBytes });
    if (this.#taken.length - this.#journaled >= BATCH) this.flush();
  }

  flush(): void {
    const batch = this.#taken.slice(this.#journaled).filter(({ ref }) => this.#isPinned(ref));
    this.#state.pins.journal(
      this.#mode,
      batch.map(({ ref }) => ref.generation),
    );
    this.#journaled = this.#taken.length;
  }

  #isPinned(ref: Found): boolean {
    return this.#state.isSame(ref) && this.#state.pins.modeOf(ref.entry) === this.#mode;
  }

  /** The journal refused: as before, in memory. What it took of this order already is a pin at the next start at most. */
  takeBack(): void {
    for (const { ref, former } of this.#taken) if (this.#isPinned(ref)) this.#restore(ref.entry, former);
  }

  #restore(entry: EntryIndex, former: PinMode | undefined): void {
    const { pins } = this.#state;
    if (former === undefined) pins.unpin(entry);
    else pins.pin(entry, former);
  }

  answer(missing: number): PinAnswer {
    const pinned = sum();
    let heldInRam = 0;
    let gone = this.#gone;
    for (const { ref, sizeBytes } of this.#taken) {
      if (!this.#isPinned(ref)) gone += 1;
      else {
        add(pinned, sizeBytes);
        if (this.#state.has(ref.entry, HELD_IN_RAM)) heldInRam += 1;
      }
    }
    return { mode: this.#mode, pinned, heldInRam, alreadyPinned: this.#already, refused: this.#refused, notFound: missing + gone };
  }
}

type MutableSum = { -readonly [Field in keyof PinSum]: PinSum[Field] };

function sum(): MutableSum {
  return { chunks: 0, bytes: 0 };
}

function add(total: MutableSum, sizeBytes: number): void {
  total.chunks += 1;
  total.bytes += sizeBytes;
}

/** Keys that were named and are not there; 0 for selectors that name none. */
function notFound({ keys }: Selector, matched: number): number {
  return keys === undefined ? 0 : Math.max(0, new Set(keys).size - matched);
}
