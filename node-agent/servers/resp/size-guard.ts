/**
 * Protects LMCache's RESP client from values of another length than it expects: it would read replies out of the rest. The server
 * cannot see what is expected, but all chunks of one `model@kv_rank@group` have one length until the layout changes.
 *
 * Rule: a client's own lengths (stored or received) decide; without any, those stored by anybody in the last hour; a prefix with
 * several lengths is not guarded, and counted. Applies to object keys in the LMCache profile only.
 * Bounded: MAX_PREFIXES prefixes, the oldest forgotten first; MAX_LENGTHS lengths each.
 */
const MAX_PREFIXES = 10_000;
const MAX_LENGTHS = 4;
const RECENT_MS = 3_600_000;

class BoundedMap<V> extends Map<string, V> {
  override set(key: string, value: V): this {
    super.delete(key);
    super.set(key, value);
    if (this.size > MAX_PREFIXES) {
      const oldest = this.keys().next();
      if (oldest.done !== true) super.delete(oldest.value);
    }
    return this;
  }
}

export class SizeGuard {
  readonly #nowMs: () => number;
  /** `client NUL prefix` -> lengths that this client stored or received. */
  readonly #own = new BoundedMap<Set<number>>();
  /** prefix -> length -> when it was stored last. */
  readonly #recent = new BoundedMap<Map<number, number>>();
  unguardedCount = 0;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** The client stored a chunk of this length, or was given one. */
  learn(client: number, prefix: string, chunk: { readonly sizeBytes: number; readonly stored: boolean }): void {
    const { sizeBytes, stored } = chunk;
    const ownKey = `${client}\u0000${prefix}`;
    const own = this.#own.get(ownKey) ?? new Set<number>();
    if (own.size < MAX_LENGTHS) own.add(sizeBytes);
    this.#own.set(ownKey, own);
    if (!stored) return;
    const recent = this.#recent.get(prefix) ?? new Map<number, number>();
    if (recent.size < MAX_LENGTHS || recent.has(sizeBytes)) recent.set(sizeBytes, this.#nowMs());
    this.#recent.set(prefix, recent);
  }

  /** False: answer as a miss. */
  allows(client: number, prefix: string, sizeBytes: number): boolean {
    const own = this.#own.get(`${client}\u0000${prefix}`);
    const lengths = own ?? this.#recentLengths(prefix);
    if (lengths.size === 0) return true;
    if (lengths.size > 1) {
      this.unguardedCount += 1;
      return true;
    }
    return lengths.has(sizeBytes);
  }

  #recentLengths(prefix: string): Set<number> {
    const lengths = new Set<number>();
    const since = this.#nowMs() - RECENT_MS;
    for (const [sizeBytes, atMs] of this.#recent.get(prefix) ?? []) if (atMs >= since) lengths.add(sizeBytes);
    return lengths;
  }

  /** All of a client's sockets are gone: what comes back from its address may be another release with another layout. */
  forgetClient(client: number): void {
    const prefix = `${client}\u0000`;
    for (const key of this.#own.keys()) if (key.startsWith(prefix)) this.#own.delete(key);
  }
}
