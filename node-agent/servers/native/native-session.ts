/**
 * What one client of the native door holds: namespaces, leases, chunks that it looks at where they lie, memory that it shares; and the
 * requests that are about these and answered at once.
 *
 * Invariants: what is open is given back exactly once, by RELEASE, when its time is over, or with the session; a session that has ended
 * holds nothing.
 */
import type { CacheDoor, ChunkRef, DeviceRead, LeaseOwner, ReadHandle } from '#cache/door.ts';
import { assert } from '#core/assert.ts';
import type { Fd, NamespaceId } from '#core/brand.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { Span } from '#protocol/native/native-codec.ts';
import { isNativeKey, nativeDescriptor } from '#protocol/native/native-key.ts';
import { LOOKUP_PEEK, LOOKUP_PREFIX, tierNumbers } from '#protocol/native/native-schema.ts';
import { NO_DESCRIPTOR } from './frame-queue.ts';
import { NativeMemory } from './native-memory.ts';
import type { SharedRegion } from './native-memory.ts';
import { Refusal } from './native-request.ts';
import type { Reply, Request } from './native-request.ts';
import type { NativeServer } from './native-server.ts';

/** Of one request. */
export const MAX_KEYS = 4096;
const MAX_NAMESPACES = 256;
const MAX_OPEN = 4096;

interface OpenNamespace {
  readonly id: NamespaceId;
  readonly descriptor: NamespaceDescriptor;
}

/** What OPEN has given out. */
interface OpenChunk {
  readonly ref: ChunkRef;
  readonly handle: ReadHandle | undefined;
  readonly device: DeviceRead | undefined;
  readonly expiresAtMs: number;
}

export class NativeSession {
  readonly owner: LeaseOwner;
  readonly memory: NativeMemory;
  readonly #server: NativeServer;
  readonly #namespaces: OpenNamespace[] = [];
  readonly #open = new Map<number, OpenChunk>();
  readonly #shownArenas = new Set<number>();
  #nextLease = 1;
  #ended = false;

  constructor(server: NativeServer, owner: LeaseOwner) {
    this.#server = server;
    this.owner = owner;
    this.memory = new NativeMemory(server.options.regions, server.budget);
  }

  get #cache(): CacheDoor {
    return this.#server.options.cache;
  }

  /** `tenant`: of the connection's token. */
  openNamespace(request: Request<'NAMESPACE'>, tenant: string | undefined): number {
    if (this.#namespaces.length >= MAX_NAMESPACES) throw new Refusal('busy', `a connection has at most ${MAX_NAMESPACES} namespaces`);
    const descriptor = nativeDescriptor(request, tenant);
    if (typeof descriptor === 'string') throw new Refusal('invalid', descriptor);
    this.#namespaces.push({ id: this.#cache.internNamespace(descriptor), descriptor });
    return this.#namespaces.length - 1;
  }

  namespace(number: number): OpenNamespace {
    const namespace = this.#namespaces[number];
    if (namespace === undefined) throw new Refusal('unknown', `namespace ${number} was not opened on this connection`);
    return namespace;
  }

  checkKeys(keys: readonly Uint8Array[]): void {
    if (keys.length > MAX_KEYS) throw new Refusal('invalid', `${keys.length} keys, at most ${MAX_KEYS} in one request`);
    for (const key of keys)
      if (!isNativeKey(key)) throw new Refusal('invalid', 'a key has 1 to 512 printable ASCII characters, none of them @');
  }

  region(number: number, spans: readonly Span[]): SharedRegion {
    const shared = this.memory.get(number);
    if (shared === undefined) throw new Refusal('unknown', `region ${number} is not attached`);
    for (const span of spans) {
      if (!shared.covers(span))
        throw new Refusal('invalid', `[${span.offset}, +${span.length}) does not lie in a region of ${shared.region.sizeBytes} bytes`);
    }
    return shared;
  }

  reserve({ sizes }: Request<'RESERVE'>): { readonly reply: Reply<'RESERVE'>; readonly fd: Fd } {
    if (sizes.length > MAX_KEYS) throw new Refusal('invalid', `${sizes.length} sizes, at most ${MAX_KEYS}`);
    const reserved = this.memory.reserved();
    if ('problem' in reserved) throw new Refusal('busy', reserved.problem);
    const room = reserved.shared.reservations;
    assert(room !== undefined, 'memory of the agent has reservations');
    const spans = Array.from(sizes, (length) => {
      const offset = room.take(length);
      return offset < 0 ? { offset: 0, length: 0 } : { offset, length };
    });
    return { reply: { region: reserved.id, spans }, fd: reserved.isNew ? reserved.shared.region.fd : NO_DESCRIPTOR };
  }

  abort({ spans }: Request<'ABORT'>): number {
    const room = this.memory.reservations?.reservations;
    let count = 0;
    for (const { offset } of spans) if (room?.giveBack(offset) === true) count += 1;
    return count;
  }

  lookup({ namespace, flags, keys }: Request<'LOOKUP'>): Reply<'LOOKUP'> {
    const { id } = this.namespace(namespace);
    this.checkKeys(keys);
    const probe = { namespace: id, keys, owner: this.owner, prefix: (flags & LOOKUP_PREFIX) !== 0, peek: (flags & LOOKUP_PEEK) !== 0 };
    const tiers = new Uint8Array(keys.length);
    const sizes = new Uint32Array(keys.length);
    const count = this.#cache.probeAll(probe, (index, tier, sizeBytes) => {
      tiers[index] = tierNumbers[tier];
      sizes[index] = sizeBytes;
    });
    return { tiers: tiers.subarray(0, count), sizes: sizes.subarray(0, count) };
  }

  letGo({ namespace, keys }: Request<'LET_GO'>): number {
    const { id } = this.namespace(namespace);
    this.checkKeys(keys);
    let count = 0;
    for (const key of keys) {
      const found = this.#cache.peek(id, key);
      if (found !== undefined && this.#cache.endLease(found.ref, this.owner)) count += 1;
    }
    return count;
  }

  touch({ namespace, keys }: Request<'TOUCH'>): number {
    const { id } = this.namespace(namespace);
    this.checkKeys(keys);
    const refs: ChunkRef[] = [];
    for (const key of keys) {
      const found = this.#cache.peek(id, key);
      if (found !== undefined) refs.push(found.ref);
    }
    this.#cache.touchChain(refs);
    return refs.length;
  }

  async openChunk({ namespace, key }: Request<'OPEN'>): Promise<{ readonly reply: Reply<'OPEN'>; readonly fd: Fd }> {
    const { options } = this.#server;
    const { id } = this.namespace(namespace);
    this.checkKeys([key]);
    if (!options.sharesArenas) throw new Refusal('denied', 'where tenants have tokens, nobody is shown an arena: use LOAD');
    this.endOld();
    if (this.#open.size >= MAX_OPEN) throw new Refusal('busy', `${MAX_OPEN} chunks are open on this connection`);
    const nothing = { tier: 0, lease: 0, arena: 0, offset: 0, sizeBytes: 0, device: '', handle: new Uint8Array(0) };
    const found = this.#cache.peek(id, key);
    const device = found?.tier === 'hbm' ? this.#cache.openDevice(found.ref) : undefined;
    if (found !== undefined && device !== undefined) {
      const lease = this.#lend({ ref: found.ref, handle: undefined, device });
      const { offsetBytes: offset, sizeBytes, deviceUuid, handle } = device;
      return { reply: { ...nothing, tier: tierNumbers.hbm, lease, offset, sizeBytes, device: deviceUuid, handle }, fd: NO_DESCRIPTOR };
    }
    const handle = await this.#cache.open(id, key, this.owner);
    if (handle === undefined || found === undefined) return { reply: nothing, fd: NO_DESCRIPTOR };
    const { ref } = found;
    // What was put in its place meanwhile is not what was found, and may not be vouched for by its name.
    if (this.#ended || this.#open.size >= MAX_OPEN || !this.#cache.isCurrent(ref)) {
      handle.release();
      return { reply: nothing, fd: NO_DESCRIPTOR };
    }
    const place = options.arenas.locate(handle.address);
    const lease = this.#lend({ ref, handle, device: undefined });
    const reply = { ...nothing, tier: tierNumbers.ram, lease, arena: place.arena, offset: place.offset, sizeBytes: handle.sizeBytes };
    if (this.#shownArenas.has(place.arena)) return { reply, fd: NO_DESCRIPTOR };
    this.#shownArenas.add(place.arena);
    return { reply, fd: options.arenas.readOnlyDescriptor(place.arena) };
  }

  #lend(chunk: Omit<OpenChunk, 'expiresAtMs'>): number {
    const { clock, leaseMs } = this.#server.options;
    const lease = this.#nextLease;
    this.#nextLease = (this.#nextLease % 0xffff_fffe) + 1;
    this.#open.set(lease, { ...chunk, expiresAtMs: clock.monotonicMs() + leaseMs });
    return lease;
  }

  release({ leases }: Request<'RELEASE'>): Uint8Array {
    const held = new Uint8Array(leases.length);
    for (const [index, lease] of leases.entries()) {
      const chunk = this.#open.get(lease);
      if (chunk === undefined) continue;
      const inTime = chunk.expiresAtMs > this.#server.options.clock.monotonicMs();
      held[index] = this.#giveBack(lease, chunk) && inTime ? 1 : 0;
    }
    return held;
  }

  /** True where the chunk is still what it was. */
  #giveBack(lease: number, { ref, handle, device }: OpenChunk): boolean {
    this.#open.delete(lease);
    handle?.release();
    const heldOnDevice = device?.release() ?? true;
    return heldOnDevice && this.#cache.expiresAtMs(ref) !== undefined;
  }

  endOld(): void {
    const now = this.#server.options.clock.monotonicMs();
    for (const [lease, chunk] of this.#open) {
      // Given out in order, with one duration.
      if (chunk.expiresAtMs > now) return;
      this.#giveBack(lease, chunk);
    }
  }

  /** Everything that the client holds. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const [lease, chunk] of this.#open) this.#giveBack(lease, chunk);
    this.#cache.endLeases(this.owner);
    this.memory.close();
  }

  /** Not before the last job has ended: it names chunks by them. */
  endNamespaces(): void {
    assert(this.#ended, 'namespaces end after all else');
    for (const { id } of this.#namespaces.splice(0)) this.#cache.releaseNamespace(id);
  }

  checkInvariants(): void {
    assert(this.#open.size <= MAX_OPEN, 'what a client holds is bounded');
    assert(!this.#ended || this.#open.size === 0, 'a client that is gone holds nothing');
    this.memory.checkInvariants();
  }
}
