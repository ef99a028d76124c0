/**
 * Two-phase puts: reserve, then commit or abort. A chunk is invisible until commit.
 *
 * Invariants: every ticket is committed or aborted exactly once, and its slot then belongs to a chunk or is free; generations are
 * given at commit, so that of two puts of one key the one that was acknowledged last is the newer; a put that began before an
 * invalidation that matches it commits to nothing; a ticket's bytes are reserved for its tenant until it is settled.
 */
import { assert } from '#core/assert.ts';
import type { Address, EntryIndex, NamespaceId, SlotIndex } from '#core/brand.ts';
import { formatBytes } from '#core/bytes.ts';
import { KvtierError } from '#core/errors.ts';
import { sameLmBlock } from '#core/lm-block.ts';
import type { LmBlock } from '#core/lm-block.ts';
import type { PinMode } from '#core/pin-mode.ts';
import { UNVERIFIED } from './flags.ts';
import type { CacheState } from './cache-state.ts';
import type { CommitOptions, CommitOutcome, PutRejected, PutRejection, PutRequest, PutTicket } from './door.ts';
import type { NoRoom } from './ram-evictor.ts';
import type { RamSpace } from './ram-space.ts';
import type { TenantRow } from './tenant-table.ts';

/** A put that has begun: it waits for room or has a ticket. */
export interface OpenTicket {
  readonly namespace: NamespaceId;
  readonly key: Uint8Array;
  readonly sizeBytes: number;
  readonly startedAtMs: number;
  /** It commits to nothing: an invalidation that matches it came after its beginning. */
  doomed: boolean;
}

class Ticket implements PutTicket, OpenTicket {
  readonly kind = 'ticket';
  readonly namespace: NamespaceId;
  readonly key: Uint8Array;
  readonly sizeBytes: number;
  readonly slot: SlotIndex;
  readonly address: Address;
  readonly startedAtMs: number;
  /** Counts the slot from the ticket on. */
  readonly tenant: TenantRow;
  doomed: boolean;
  open = true;
  readonly #state: CacheState;

  constructor(state: CacheState, put: OpenTicket, slot: SlotIndex) {
    this.#state = state;
    this.namespace = put.namespace;
    this.key = put.key;
    this.sizeBytes = put.sizeBytes;
    this.slot = slot;
    this.address = state.ram.address(slot);
    this.startedAtMs = put.startedAtMs;
    this.tenant = state.namespaces.tenantOf(put.namespace);
    this.doomed = put.doomed;
  }

  view(): Uint8Array {
    assert(this.open, 'the ticket is open');
    return this.#state.ram.view(this.slot, this.sizeBytes);
  }
}

export class Puts {
  readonly #state: CacheState;
  readonly #space: RamSpace;
  readonly #tickets = new Set<Ticket>();
  readonly #waiting = new Set<OpenTicket>();

  constructor(state: CacheState, space: RamSpace) {
    this.#state = state;
    this.#space = space;
  }

  get openCount(): number {
    return this.#tickets.size;
  }

  /** Puts that an invalidation must look at; it dooms those that match. */
  *open(): Iterable<OpenTicket> {
    yield* this.#tickets;
    yield* this.#waiting;
  }

  reserve(request: PutRequest): PutTicket | PutRejected | Promise<PutTicket | PutRejected> {
    const refused = this.#refusal(request);
    if (refused !== undefined) return refused;
    const { quotas, namespaces } = this.#state;
    const tenant = namespaces.tenantOf(request.namespace);
    const { sizeBytes, spare } = request;
    const slot = this.#space.allocate(tenant, { ...request, withRow: true });
    if (typeof slot === 'number') return this.#ticket(this.#begin(request), slot);
    if (slot === 'index' || sizeBytes > tenant.ramLimit) return this.#rejectNoRoom(tenant, request, slot);
    if (!quotas.hasRamRoom(tenant, sizeBytes)) {
      if (quotas.onlySpareIsLeft(tenant, sizeBytes, spare)) {
        const refused = this.#reject('own-chain', 'Cannot store a value: the quota in ram is full of the prefix that it continues');
        return { ...refused, atQuota: true };
      }
    } else if (this.#space.evictor.onlySpareIsLeft(sizeBytes, spare))
      return this.#reject('own-chain', 'Cannot store a value: ram is full of the prefix that it continues');
    return this.#reserveLater(tenant, request);
  }

  async #reserveLater(tenant: TenantRow, request: PutRequest): Promise<PutTicket | PutRejected> {
    const state = this.#state;
    const { sizeBytes } = request;
    // The namespace must outlive the wait even if its last chunk goes meanwhile.
    state.namespaces.retain(request.namespace);
    const put = this.#begin(request);
    this.#waiting.add(put);
    try {
      const slot = await this.#space.allocateOrWait(tenant, { ...request, withRow: true }, state.limits.putWaitMs);
      if (typeof slot === 'number' && !state.draining) return this.#ticket(put, slot);
      if (typeof slot === 'number') this.#space.giveBack({ slot, tenant, sizeBytes });
      if (state.draining) return this.#reject('draining', 'Cannot store a value: the agent is shutting down');
      return this.#rejectNoRoom(tenant, request, slot as NoRoom);
    } finally {
      this.#waiting.delete(put);
      state.namespaces.release(request.namespace);
    }
  }

  /** Names no tenant: a cache_salt is a secret. */
  #rejectNoRoom({ ramLimit }: TenantRow, { sizeBytes }: PutRequest, why: NoRoom): PutRejected {
    const size = formatBytes(sizeBytes);
    if (why === 'index') return this.#reject('shed', 'Cannot store a value: the index is full of chunks that are leased or being read');
    if (why === 'full') return this.#reject('shed', `Cannot store ${size} in ram: full of chunks that are leased or not yet on SSD`);
    const quota = `the tenant's quota in ram is ${formatBytes(ramLimit)}`;
    if (sizeBytes > ramLimit) return this.#reject('quota', `Cannot store ${size}: ${quota}`);
    if (why === 'quota')
      return this.#reject('quota', `Cannot store ${size}: ${quota}, full of chunks that are leased, pinned, being read or written`);
    return this.#reject('quota-slot', `Cannot store ${size}: ${quota}, and none of its own chunks would leave a slot of this size`);
  }

  #refusal(request: PutRequest): PutRejected | undefined {
    const { ram, draining } = this.#state;
    if (draining) return this.#reject('draining', 'Cannot store a value: the agent is shutting down');
    if (ram.canEverFit(request.sizeBytes)) return undefined;
    return this.#reject(
      'too-large',
      `Cannot store ${request.sizeBytes} bytes: the largest chunk is ${ram.maxChunkBytes} bytes (ram.maxChunk)`,
    );
  }

  #reject(reason: PutRejection, message: string): PutRejected {
    const { counters } = this.#state;
    if (reason === 'too-large') counters.rejectedTooLarge += 1;
    else if (reason === 'shed') counters.rejectedShed += 1;
    else if (reason === 'draining') counters.rejectedDraining += 1;
    else if (reason === 'quota') counters.rejectedQuota += 1;
    else if (reason === 'quota-slot') counters.rejectedQuotaSlot += 1;
    else counters.skippedChunks += 1;
    return { kind: 'rejected', reason, message };
  }

  /** The key is copied at once: it lies in a socket's buffer that is another command's after the first await. */
  #begin(request: PutRequest): OpenTicket {
    const { namespace, key, sizeBytes } = request;
    return { namespace, key: key.slice(), sizeBytes, startedAtMs: this.#state.clock.nowMs(), doomed: false };
  }

  #ticket(put: OpenTicket, slot: SlotIndex): PutTicket {
    const ticket = new Ticket(this.#state, put, slot);
    this.#state.namespaces.retain(ticket.namespace);
    this.#tickets.add(ticket);
    return ticket;
  }

  #close(ticket: PutTicket): Ticket {
    assert(ticket instanceof Ticket && ticket.open && this.#tickets.has(ticket), 'a ticket is settled once, by the cache that gave it');
    ticket.open = false;
    ticket.tenant.reservedRamBytes -= ticket.sizeBytes;
    this.#tickets.delete(ticket);
    return ticket;
  }

  abort(given: PutTicket): void {
    const ticket = this.#close(given);
    if (this.#state.ram.release(ticket.slot)) this.#state.onRoom();
    this.#state.namespaces.release(ticket.namespace);
  }

  commit(given: PutTicket, checksum: bigint, options: CommitOptions): CommitOutcome {
    const state = this.#state;
    const { index, counters } = state;
    const ticket = given as Ticket;
    const existing = state.expiry.find(ticket.namespace, ticket.key);
    if (options.onlyIf !== undefined && (options.onlyIf === 'present') !== existing >= 0) {
      this.abort(ticket);
      return 'condition';
    }
    if (ticket.doomed) {
      this.abort(ticket);
      return 'dropped';
    }
    const expiresAtMs = state.expiry.resolve(options.expiry, ticket.namespace, existing);
    counters.puts += 1;
    counters.putBytes += ticket.sizeBytes;
    if (
      existing >= 0 &&
      index.sizeBytes(existing as EntryIndex) === ticket.sizeBytes &&
      index.checksum(existing as EntryIndex) === checksum
    ) {
      if (index.expiresAtMs(existing as EntryIndex) !== expiresAtMs && !this.#changeExpiry(existing as EntryIndex, expiresAtMs)) {
        this.abort(ticket);
        return 'failed';
      }
      return this.#touchExisting(ticket, existing as EntryIndex, options);
    }
    const generation = state.nextGeneration();
    let pin: PinMode | undefined;
    try {
      this.#buryOld(ticket, existing, generation);
      if (existing >= 0) pin = state.pins.handOver(existing as EntryIndex, generation, ticket.sizeBytes);
    } catch (problem) {
      // The old value could not be declared dead for good, so the new one must not be acknowledged.
      this.#noteUnwritten(problem);
      this.abort(ticket);
      return 'failed';
    }
    this.#close(ticket);
    if (existing >= 0) state.remove(existing as EntryIndex);
    const entry = state.insert({
      namespace: ticket.namespace,
      key: ticket.key,
      generation,
      sizeBytes: ticket.sizeBytes,
      checksum,
      createdAtMs: state.clock.nowMs(),
      expiresAtMs,
    });
    // Before it becomes dirty: a write may begin at once, and its header has the block.
    if (options.lmBlock !== undefined) state.setLmBlock(entry, options.lmBlock);
    if (pin !== undefined) state.pins.takeOver(entry, pin);
    state.attachRam(entry, ticket.slot, true);
    this.#linkParent(entry, { ...options, isNew: true });
    state.remember(entry);
    state.secondUse?.stored(entry);
    state.touch(entry, 'stored');
    state.catalogPut(entry);
    state.watchers.tell('stored', entry);
    state.namespaces.release(ticket.namespace);
    return 'stored';
  }

  #noteUnwritten(problem: unknown): void {
    if (!(problem instanceof KvtierError)) throw problem;
    this.#state.logger.error('Cannot write the journal: a put was refused', { code: problem.code });
  }

  /** False where it cannot be made durable; then it stays. */
  #changeExpiry(entry: EntryIndex, atMs: number): boolean {
    try {
      this.#state.expiry.change(entry, atMs);
      return true;
    } catch (problem) {
      this.#noteUnwritten(problem);
      return false;
    }
  }

  /** Same bytes again: nothing is rewritten. A chunk that was on SSD only, or left in RAM by a former process, gets the copy for free. */
  #touchExisting(ticket: Ticket, entry: EntryIndex, options: CommitOptions): CommitOutcome {
    const state = this.#state;
    state.counters.duplicatePuts += 1;
    if (state.index.ramSlot(entry) < 0 || state.has(entry, UNVERIFIED)) {
      this.#close(ticket);
      state.detachRam(entry);
      state.attachRam(entry, ticket.slot, state.index.ssdFolder(entry) < 0);
      state.remember(entry);
      state.catalogReplicas(entry);
      state.namespaces.release(ticket.namespace);
    } else this.abort(ticket);
    this.#linkParent(entry, { ...options, isNew: false });
    state.secondUse?.used(entry);
    state.index.setLastUsedAtMs(entry, state.clock.nowMs());
    state.touch(entry, 'used');
    return this.#describe(entry, options.lmBlock) ? 'duplicate' : 'failed';
  }

  /** The latest description of the same bytes stands. False where the journal cannot bury the file that has the former one. */
  #describe(entry: EntryIndex, lmBlock: LmBlock | undefined): boolean {
    const state = this.#state;
    const known = state.lmBlocks.get(entry);
    if (lmBlock === undefined || (known !== undefined && sameLmBlock(known, lmBlock))) return true;
    state.setLmBlock(entry, lmBlock);
    try {
      state.outdateFile(entry);
      return true;
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      state.logger.error('Cannot write the journal: a put was refused', { code: problem.code });
      if (known === undefined) state.lmBlocks.delete(entry);
      else state.lmBlocks.set(entry, known);
      return false;
    }
  }

  #linkParent(entry: EntryIndex, options: CommitOptions & { isNew: boolean }): void {
    const { parent } = options;
    if (parent === undefined || parent.entry === entry || !this.#state.isSame(parent)) return;
    // A chunk that was made this moment has no children yet, so that no loop can close.
    if (options.isNew) this.#state.index.setParent(entry, parent.entry as EntryIndex);
    else this.#state.setParent(entry, parent.entry as EntryIndex);
  }

  /** Journals that every older file of the key is dead, where there may be one. */
  #buryOld(ticket: Ticket, existing: number, generation: number): void {
    const state = this.#state;
    const { tombstones, namespaces, index } = state;
    const descriptor = namespaces.descriptor(ticket.namespace);
    const onSsd = existing >= 0 && index.ssdFolder(existing as EntryIndex) >= 0;
    if (onSsd || tombstones.mayHaveFile(() => tombstones.keyId(descriptor, ticket.key)))
      tombstones.forget(descriptor, ticket.key, generation - 1);
  }
}
