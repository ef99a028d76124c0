/**
 * Pins: which chunks leave a tier last (soft) or never for space (hard). A pin names a key as long as it has a value: an overwrite keeps
 * it, and whatever takes the chunk away for good (DEL, invalidation, expiry, a lost or rotten file) takes the pin along.
 *
 * Hard: the file on SSD is never evicted, and the RAM copy neither as far as pins fit into RAM_SHARE of RAM (HELD_IN_RAM); beyond that it
 * may be demoted, since the file stays. Pinned chunks take at most a quarter of each tier. What is only in RAM is written to SSD before
 * the pin counts, and an overwritten value soon, so that a restart finds it. Without an SSD tier a hard pin holds RAM alone, and outlives
 * the process where RAM does (ram.keep).
 *
 * Durable: the journal says which generations are pinned. A value that replaces a pinned one is journaled as pinned before its put is
 * acknowledged; a removal needs no record, since no later value has the same generation.
 *
 * The search for a victim passes pinned chunks by and moves them to the hot end of the order, so that each is passed once and not at
 * every eviction: without that, pinned chunks that nobody uses would gather at the cold end.
 *
 * Invariants (checkInvariants): a chunk is listed exactly if it is flagged, in one mode; at most MAX_PINS are; usage and the held bytes
 * are sums; a hard-pinned chunk that is dirty is held in RAM, but for one that a pin under way is about to write; what pins hold is
 * within the share of each tier.
 */
import { assert } from '#core/assert.ts';
import type { EntryIndex } from '#core/brand.ts';
import { KvtierError } from '#core/errors.ts';
import type { PinMode } from '#core/pin-mode.ts';
import { PIN_RECORD_GENERATIONS } from '#catalog/journal-record.ts';
import type { PinRecord } from '#catalog/journal-record.ts';
import type { CacheState } from './cache-state.ts';
import { HELD_IN_RAM, PINNED, PINNED_HARD, PINNED_SOFT } from './flags.ts';

/** Chunks that may be pinned at one time: 64 bytes of memory and 8 of journal each. */
export const MAX_PINS = 65_536;
/** Of a tier: the folders that are on, with headers and padding; the RAM that is backed, with the rounding of slots. */
const SHARE = 1 / 4;
/** Entries looked at for a victim in one pass. */
const SCAN_LIMIT = 4096;

/** An eviction order as the search for victims needs it. */
export interface VictimOrder {
  victim(isEvictable: (entry: number) => boolean): number;
  /** Makes the entry the hottest of its standing, without calling it used. */
  reheat(entry: number): void;
}

export interface PinUsage {
  chunks: number;
  bytes: number;
}

/** Why a hard pin cannot be taken: the share of the tier is used up, or the number of pins. */
export type PinRefusal = 'ram' | 'ssd' | 'count';

export class Pins {
  readonly #state: CacheState;
  readonly #pinned = new Map<EntryIndex, PinMode>();
  /** Generations that the journal calls pinned and that no file was found for yet. */
  readonly #replayed: Map<number, PinMode>;
  readonly usage = { ram: { soft: zero(), hard: zero() }, ssd: { soft: zero(), hard: zero() } };
  /** File bytes of all hard-pinned chunks, on SSD or not yet. */
  #hardFileBytes = 0;
  /** Slot bytes of RAM copies that are held. */
  #heldBytes = 0;
  /** Hard-pinned and only in RAM: to be written. */
  readonly #unwritten = new Set<EntryIndex>();
  /** Chunks whose new generation could not be journaled yet. */
  readonly #unjournaled = new Set<EntryIndex>();
  #writing = false;
  #stopped = false;
  /** Writes a chunk to SSD and syncs it; set by the writer. */
  persist: (entry: EntryIndex) => Promise<boolean> = () => Promise.resolve(false);

  constructor(state: CacheState) {
    this.#state = state;
    this.#replayed = state.tombstones.replayedPins;
    state.tombstones.alsoKept.push(() => this.#records());
  }

  /** Chunks that are pinned. */
  get count(): number {
    return this.#pinned.size;
  }

  get #hasSsd(): boolean {
    return this.#state.ssd.folders.length > 0;
  }

  modeOf(entry: EntryIndex): PinMode | undefined {
    if (!this.#state.has(entry, PINNED)) return undefined;
    return this.#state.has(entry, PINNED_HARD) ? 'hard' : 'soft';
  }

  // --- pinning --------------------------------------------------------------------------------------------------------------------

  /** Why the chunk cannot be pinned in this mode; undefined: it can. One that is pinned already counts once. */
  refusal(entry: EntryIndex, mode: PinMode): PinRefusal | undefined {
    const known = this.modeOf(entry);
    if (known === undefined && this.#pinned.size >= MAX_PINS) return 'count';
    if (mode === 'soft' || known === 'hard') return undefined;
    const sizeBytes = this.#state.index.sizeBytes(entry);
    if (this.#hasSsd) return this.#fitsSsd(sizeBytes) ? undefined : 'ssd';
    return this.#fitsRam(sizeBytes) ? undefined : 'ram';
  }

  #fitsSsd(sizeBytes: number): boolean {
    const { ssd } = this.#state;
    return !this.#hasSsd || this.#hardFileBytes + ssd.fileBytes(sizeBytes) <= ssd.capacityBytes * SHARE;
  }

  #fitsRam(sizeBytes: number): boolean {
    const { ram } = this.#state;
    return this.#heldBytes + ram.classBytes(sizeBytes) <= ram.backedBytes * SHARE;
  }

  /** Pins in memory; the caller journals. There must be no refusal. */
  pin(entry: EntryIndex, mode: PinMode): void {
    if (this.modeOf(entry) === mode) return;
    this.unpin(entry);
    this.#mark(entry, mode);
    const { index } = this.#state;
    if (index.ramSlot(entry) >= 0) this.attached(entry, 'ram');
    if (index.ssdFolder(entry) >= 0) this.attached(entry, 'ssd');
  }

  unpin(entry: EntryIndex): void {
    const { index } = this.#state;
    if (this.modeOf(entry) === undefined) return;
    if (index.ramSlot(entry) >= 0) this.#leftTier(entry, 'ram');
    if (index.ssdFolder(entry) >= 0) this.#leftTier(entry, 'ssd');
    this.removed(entry);
  }

  #mark(entry: EntryIndex, mode: PinMode): void {
    const state = this.#state;
    this.#pinned.set(entry, mode);
    state.set(entry, mode === 'hard' ? PINNED_HARD : PINNED_SOFT);
    if (mode === 'hard') this.#hardFileBytes += state.ssd.fileBytes(state.index.sizeBytes(entry));
  }

  /** Appends what these chunks are now; throws where the journal cannot be written. `sync` of the tombstones makes it durable. */
  journal(mode: PinMode | 'none', generations: readonly number[]): void {
    if (generations.length > 0) this.#state.tombstones.append(recordsOf(mode, generations));
  }

  // --- hooks of CacheState, for chunks that are pinned ------------------------------------------------------------------------------

  attached(entry: EntryIndex, tier: 'ram' | 'ssd'): void {
    const state = this.#state;
    const mode = this.modeOf(entry) as PinMode;
    const usage = this.usage[tier][mode];
    usage.chunks += 1;
    usage.bytes += state.index.sizeBytes(entry);
    if (mode === 'soft') return;
    if (tier === 'ssd') this.#unwritten.delete(entry);
    else this.#hold(entry);
  }

  #hold(entry: EntryIndex): boolean {
    const state = this.#state;
    const sizeBytes = state.index.sizeBytes(entry);
    if (state.index.ssdFolder(entry) < 0) this.#unwritten.add(entry);
    if (!this.#fitsRam(sizeBytes)) return false;
    state.set(entry, HELD_IN_RAM);
    this.#heldBytes += state.ram.classBytes(sizeBytes);
    return true;
  }

  detached(entry: EntryIndex, tier: 'ram' | 'ssd'): void {
    this.#leftTier(entry, tier);
    const state = this.#state;
    if (!state.has(entry, PINNED_HARD)) return;
    // Pins hold no memory of devices: what lives on in HBM alone is like any other.
    if (state.isInHbm(entry) && state.index.ramSlot(entry) < 0 && state.index.ssdFolder(entry) < 0) return this.#lose(entry);
    if (tier === 'ram' || state.index.ramSlot(entry) < 0) return;
    // Its file was lost or became too old: only RAM has it, and where RAM may not hold it, nothing keeps the promise.
    if (state.has(entry, HELD_IN_RAM)) this.#unwritten.add(entry);
    else if (!this.#hold(entry)) this.#lose(entry);
  }

  #leftTier(entry: EntryIndex, tier: 'ram' | 'ssd'): void {
    const state = this.#state;
    const sizeBytes = state.index.sizeBytes(entry);
    const usage = this.usage[tier][this.modeOf(entry) as PinMode];
    usage.chunks -= 1;
    usage.bytes -= sizeBytes;
    if (tier === 'ssd' || !state.has(entry, HELD_IN_RAM)) return;
    state.clear(entry, HELD_IN_RAM);
    this.#heldBytes -= state.ram.classBytes(sizeBytes);
  }

  #lose(entry: EntryIndex): void {
    const { counters, logger } = this.#state;
    counters.lostPins += 1;
    logger.warn('A hard pin was given up: its file is gone, and RAM does not hold it or has no room left for pins', {
      sizeBytes: this.#state.index.sizeBytes(entry),
    });
    this.unpin(entry);
  }

  /** The chunk goes; it is in no tier any more. */
  removed(entry: EntryIndex): void {
    const state = this.#state;
    if (state.has(entry, PINNED_HARD)) this.#hardFileBytes -= state.ssd.fileBytes(state.index.sizeBytes(entry));
    this.#pinned.delete(entry);
    this.#unwritten.delete(entry);
    this.#unjournaled.delete(entry);
    state.clear(entry, PINNED);
  }

  /** The same value under a new generation. */
  renewed(entry: EntryIndex): void {
    this.#unjournaled.add(entry);
    this.#payJournal();
  }

  /**
   * Before an overwrite: the pin that the new value of `sizeBytes` takes over, journaled for its generation; undefined for none, or where
   * pins have no room for it. Throws where the journal cannot be written: then the put must not be acknowledged.
   */
  handOver(existing: EntryIndex, generation: number, sizeBytes: number): PinMode | undefined {
    const state = this.#state;
    const mode = this.modeOf(existing);
    if (mode === undefined) return undefined;
    if (mode === 'hard' && !this.#fitsInstead(existing, sizeBytes)) {
      state.counters.lostPins += 1;
      state.logger.warn('A hard pin was given up: the value that replaces its own is larger than what pins have left', { sizeBytes });
      return undefined;
    }
    this.journal(mode, [generation]);
    return mode;
  }

  #fitsInstead(existing: EntryIndex, sizeBytes: number): boolean {
    const { ram, ssd, index } = this.#state;
    const formerBytes = index.sizeBytes(existing);
    const held = this.#state.has(existing, HELD_IN_RAM) ? ram.classBytes(formerBytes) : 0;
    if (this.#heldBytes - held + ram.classBytes(sizeBytes) > ram.backedBytes * SHARE) return false;
    return !this.#hasSsd || this.#hardFileBytes - ssd.fileBytes(formerBytes) + ssd.fileBytes(sizeBytes) <= ssd.capacityBytes * SHARE;
  }

  /** The new row of an overwritten key, before its replicas are attached. */
  takeOver(entry: EntryIndex, mode: PinMode): void {
    this.#mark(entry, mode);
  }

  // --- start ----------------------------------------------------------------------------------------------------------------------

  get isRecovering(): boolean {
    return this.#replayed.size > 0;
  }

  /** A chunk was found; before its replicas are attached. */
  recover(entry: EntryIndex, generation: number): void {
    const mode = this.#replayed.get(generation);
    if (mode === undefined) return;
    // Tiers may be smaller than they were.
    if (this.#pinned.size >= MAX_PINS || (mode === 'hard' && !this.#fitsSsd(this.#state.index.sizeBytes(entry)))) {
      this.#state.counters.lostPins += 1;
      return;
    }
    this.#replayed.delete(generation);
    this.#mark(entry, mode);
  }

  /** Every file is known: what was pinned and not found is gone. */
  adoptionDone(): void {
    this.#replayed.clear();
  }

  #records(): PinRecord[] {
    const { index } = this.#state;
    const generations: Record<PinMode, number[]> = { soft: [], hard: [] };
    for (const [generation, mode] of this.#replayed) generations[mode].push(generation);
    for (const [entry, mode] of this.#pinned) generations[mode].push(index.generation(entry));
    return [...recordsOf('soft', generations.soft), ...recordsOf('hard', generations.hard)];
  }

  // --- eviction -------------------------------------------------------------------------------------------------------------------

  /** As `victim` in a tier's own order, which looks at `scanLimit` entries at a time. -1: none may go. */
  // oxlint-disable-next-line max-params -- three positional and an options object, as STYLE allows
  victimIn(
    tier: 'ram' | 'ssd',
    isEvictable: (entry: number) => boolean,
    scanLimit: number,
    { soft }: { readonly soft: boolean } = { soft: true },
  ): EntryIndex | -1 {
    const state = this.#state;
    const order = tier === 'ram' ? state.ramOrder : state.ssdOrder;
    if (this.#pinned.size === 0) return order.victim(isEvictable, scanLimit) as EntryIndex | -1;
    const view = {
      victim: (mayGo: (entry: number) => boolean) => order.victim(mayGo, scanLimit),
      reheat: (entry: number) => order.refresh(entry),
    };
    return this.victim(view, isEvictable, { tier, soft });
  }

  /**
   * The coldest that may go and is not pinned; with `soft`, where there is none, the coldest soft-pinned one. `isEvictable` refuses what is
   * hard-pinned. In RAM a hard-pinned chunk that is not held is like any other.
   */
  victim(
    order: VictimOrder,
    isEvictable: (entry: number) => boolean,
    { tier, soft }: { readonly tier: 'ram' | 'ssd'; readonly soft: boolean },
  ): EntryIndex | -1 {
    const hard = tier === 'ram' ? HELD_IN_RAM : PINNED_HARD;
    const found = this.#pass(order, isEvictable, hard | PINNED_SOFT);
    return found >= 0 || !soft ? found : this.#pass(order, isEvictable, hard);
  }

  #pass(order: VictimOrder, isEvictable: (entry: number) => boolean, passedBy: number): EntryIndex | -1 {
    for (let rounds = Math.ceil(this.#pinned.size / SCAN_LIMIT) + 1; rounds > 0; rounds -= 1) {
      const met: number[] = [];
      const found = order.victim((entry) => {
        if (!this.#state.has(entry as EntryIndex, passedBy)) return isEvictable(entry);
        met.push(entry);
        return false;
      });
      for (const entry of met) order.reheat(entry);
      if (found >= 0 || met.length === 0) return found as EntryIndex | -1;
    }
    return -1;
  }

  // --- in the background ------------------------------------------------------------------------------------------------------------

  /** Writes what is pinned and only in RAM, and journals what could not be. */
  housekeep(): void {
    this.#payJournal();
    if (this.#unwritten.size > 0 && !this.#writing && !this.#stopped && this.#state.ssd.writable) void this.#writeAll();
  }

  async #writeAll(): Promise<void> {
    this.#writing = true;
    for (const entry of [...this.#unwritten]) {
      if (this.#stopped || !this.#unwritten.has(entry)) continue;
      await this.persist(entry);
    }
    this.#writing = false;
  }

  #payJournal(): void {
    if (this.#unjournaled.size === 0) return;
    const { index } = this.#state;
    try {
      for (const entry of [...this.#unjournaled]) {
        this.journal(this.modeOf(entry) as PinMode, [index.generation(entry)]);
        this.#unjournaled.delete(entry);
      }
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      this.#state.logger.error('Cannot journal a pin; the next attempt follows', { code: problem.code });
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  checkInvariants(): void {
    const { index, ram, ssd } = this.#state;
    const usage = { ram: { soft: zero(), hard: zero() }, ssd: { soft: zero(), hard: zero() } };
    let pinned = 0;
    let heldBytes = 0;
    let hardFileBytes = 0;
    const count = (entry: EntryIndex, sum: PinUsage): void => {
      sum.chunks += 1;
      sum.bytes += index.sizeBytes(entry);
    };
    index.forEach((entry) => {
      const mode = this.modeOf(entry);
      const held = this.#state.has(entry, HELD_IN_RAM);
      assert(this.#pinned.get(entry) === mode, `chunk ${entry} is listed as it is pinned`);
      assert(!held || (mode === 'hard' && index.ramSlot(entry) >= 0), `chunk ${entry} is held only where it is pinned hard and in RAM`);
      if (mode === undefined) return;
      assert(!this.#state.has(entry, PINNED_SOFT) || mode === 'soft', `chunk ${entry} is pinned in one mode`);
      pinned += 1;
      if (index.ramSlot(entry) >= 0) count(entry, usage.ram[mode]);
      if (index.ssdFolder(entry) >= 0) count(entry, usage.ssd[mode]);
      if (held) heldBytes += ram.classBytes(index.sizeBytes(entry));
      if (mode === 'hard') {
        hardFileBytes += ssd.fileBytes(index.sizeBytes(entry));
        assert(this.#state.hbm?.strays.has(entry) !== true, `chunk ${entry} is pinned hard and in more than HBM`);
        assert(this.#unwritten.has(entry) === index.ssdFolder(entry) < 0, `chunk ${entry} waits to be written exactly if it is not on SSD`);
      }
    });
    assert(pinned === this.#pinned.size && pinned <= MAX_PINS, 'pinned chunks are chunks');
    assert(JSON.stringify(usage) === JSON.stringify(this.usage), 'usage of pins is the sum over the chunks');
    assert(heldBytes === this.#heldBytes && hardFileBytes === this.#hardFileBytes, 'held bytes are sums over the chunks');
    assert(heldBytes <= ram.backedBytes * SHARE, 'pins hold at most their share of RAM');
    const isWhole = this.#hasSsd && ssd.folders.every((folder) => folder.state !== 'off');
    assert(!isWhole || hardFileBytes <= ssd.capacityBytes * SHARE, 'pins hold at most their share of SSD while no folder is off');
  }
}

function zero(): PinUsage {
  return { chunks: 0, bytes: 0 };
}

function recordsOf(mode: PinMode | 'none', generations: readonly number[]): PinRecord[] {
  const records: PinRecord[] = [];
  for (let start = 0; start < generations.length; start += PIN_RECORD_GENERATIONS)
    records.push({ kind: 'pin', mode, generations: generations.slice(start, start + PIN_RECORD_GENERATIONS) });
  return records;
}
