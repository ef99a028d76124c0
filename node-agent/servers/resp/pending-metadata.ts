/**
 * Metadata halves of redis:// entries that came before their values. LMCache's sentinel back end writes in that order; a half also waits
 * here whose value has gone between the two commands. Until the value comes it exists for nobody.
 *
 * Invariants
 * - At most MOST_WAITING wait; the oldest is forgotten for one more.
 * - Nothing that waited when an invalidation or a flush began is ever given out, whatever that one selected: a half that is forgotten is
 *   a miss, one that outlives an invalidation is a lie.
 * - Nothing is given out after its own expiry: it would take the value that has just come with it.
 */
import type { CacheDoor } from '#cache/door.ts';
import type { ParsedKey } from '#protocol/lmcache-key.ts';
import { keyId } from './key-id.ts';

export const MOST_WAITING = 1024;

export interface PendingMetadata {
  readonly value: Uint8Array;
  /** 0: it does not expire. */
  readonly expiresAtMs: number;
}

export class PendingMetadataTable {
  readonly #cache: Pick<CacheDoor, 'expiryNowMs' | 'invalidationCount'>;
  readonly #waiting = new Map<string, PendingMetadata>();
  /** Count of invalidations when the first of those that wait came. */
  #epoch = 0;

  constructor(cache: Pick<CacheDoor, 'expiryNowMs' | 'invalidationCount'>) {
    this.#cache = cache;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** Named by identity, not by namespace id: an id without chunks may be given to another namespace. */
  keep(parsed: ParsedKey, pending: PendingMetadata): void {
    this.#forgetInvalidated();
    const id = keyId(parsed);
    this.#waiting.delete(id);
    this.#waiting.set(id, pending);
    if (this.#waiting.size <= MOST_WAITING) return;
    const oldest = this.#waiting.keys().next();
    if (oldest.done !== true) this.#waiting.delete(oldest.value);
  }

  /** What waits for the value of this key, once; undefined where nothing does. */
  take(parsed: ParsedKey): PendingMetadata | undefined {
    if (this.#waiting.size === 0) return undefined;
    this.#forgetInvalidated();
    const id = keyId(parsed);
    const pending = this.#waiting.get(id);
    if (pending === undefined) return undefined;
    this.#waiting.delete(id);
    return pending.expiresAtMs !== 0 && pending.expiresAtMs <= this.#cache.expiryNowMs() ? undefined : pending;
  }

  #forgetInvalidated(): void {
    const { invalidationCount } = this.#cache;
    if (invalidationCount !== this.#epoch) this.#waiting.clear();
    this.#epoch = invalidationCount;
  }
}
