/**
 * What EXISTS promised to a client. LMCache's RESP client (seen with 0.5.6, test/e2e/lmcache/wire_rules.py) asks for a value only
 * after a lookup said yes, and then reads exactly as many bytes as the header of that value has: `$-1` leaves it waiting for ever.
 * A chunk that was deleted, invalidated or found corrupt in between is therefore answered by an error line of that length, which
 * the client takes for a miss of that key and stays in step. Releases that read up to the newline take it for a miss too.
 *
 * Bounded: MAX_PROMISES a client, the oldest forgotten first; a promise ends with the GET, or after `lifetimeMs`.
 */
const MAX_PROMISES = 65_536;
const FILLING = 'MISSING_________________';

export class Promises {
  readonly #lifetimeMs: number;
  readonly #byKey = new Map<string, { readonly sizeBytes: number; readonly atMs: number }>();

  constructor(lifetimeMs: number) {
    this.#lifetimeMs = lifetimeMs;
  }

  keep(key: string, sizeBytes: number, nowMs: number): void {
    this.#byKey.delete(key);
    this.#byKey.set(key, { sizeBytes, atMs: nowMs });
    if (this.#byKey.size <= MAX_PROMISES) return;
    const oldest = this.#byKey.keys().next();
    if (oldest.done !== true) this.#byKey.delete(oldest.value);
  }

  /** Length that the client waits for; undefined where nothing was promised lately. The promise is over. */
  take(key: string, nowMs: number): number | undefined {
    const promise = this.#byKey.get(key);
    if (promise === undefined) return undefined;
    this.#byKey.delete(key);
    return nowMs - promise.atMs <= this.#lifetimeMs ? promise.sizeBytes : undefined;
  }
}

/** An error line as long as the bulk header of a value of `sizeBytes`: `-MISSING_\r\n` for 33554432. */
export function matchedMiss(sizeBytes: number): Uint8Array {
  const digits = String(sizeBytes).length;
  return new TextEncoder().encode(`-${FILLING.slice(0, digits)}\r\n`);
}
