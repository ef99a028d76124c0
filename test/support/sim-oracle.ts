/**
 * Begin and end of every operation, and the judge of every answer: a read gives the last acknowledged value, a later one, or a miss;
 * never bytes of another key, and never what was deleted, overwritten, invalidated or refused before the read began.
 *
 * Time is a counter of events. An operation is somewhere between its begin and its end; one whose answer was lost may end any time
 * later, but not after the process that had it. A value is dead from the moment at which an operation that followed it, wholly, has
 * ended: `kill`. What was seen has happened, whoever lost the answer.
 */
import type { Selector } from '#core/selector.ts';
import { isVolatile, matchesStable } from '#core/selector.ts';
import { tenantOfCredential } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { parseKey } from '#protocol/lmcache-key.ts';
import { payloadOf } from './sim-cache.ts';
import type { SimKeeping } from './sim-keeping.ts';

export interface SimValue {
  readonly id: number;
  readonly sizeBytes: number;
  readonly key: SimKey;
  /** When its SET was sent, and when its effect was over for sure. */
  readonly begin: number;
  end: number;
  state: 'open' | 'stored' | 'lost' | 'refused';
  /** From then on nobody may read it. */
  deadAt: number;
  /** As `deadAt`, by what a power cut cannot undo. */
  deadForGoodAt: number;
  why: string;
  /** Wall clock, ms: the chunk was created not before, not after. */
  readonly notBeforeMs: number;
  notAfterMs: number;
  /** The latest wall clock that was there since its SET was sent, where it jumped. */
  latestMs: number;
  /** Lifetime that its SET asked for, ms; undefined: none, or one that nobody can tell. */
  readonly ttlMs: number | undefined;
  /** As expiries are judged, ms: a read that begins later may not give it. */
  expiresByMs: number;
  /** Changes of its expiry under way, and whether any two of them overlapped: then nobody knows which is the last. */
  changing: number;
  overlapped: boolean;
}

export interface SimKey {
  /** As clients spell it: equal for keys of several tenants. */
  readonly name: string;
  /** For messages: `name`, with the tenant where it has a token. */
  readonly label: string;
  readonly namespace: NamespaceDescriptor;
  /** Newest last; those that are dead for long are forgotten. */
  readonly values: SimValue[];
  /** EXPIREs of it under way. */
  expiring: number;
}

export interface SimSpan {
  readonly begin: number;
  /** As expiries are judged, ms. */
  readonly atMs: number;
}

const KEPT_VALUES = 24;
const encoder = new TextEncoder();

export class SimOracle {
  readonly #keys = new Map<string, SimKey>();
  #now = 0;
  #nextValue = 1;
  readonly #owners = new Map<number, string>();
  readonly #payloads = new Map<string, Buffer>();
  reads = 0;
  hits = 0;
  /** Undefined: any miss is fine. */
  keeping: SimKeeping | undefined;

  readonly #nowMs: () => number;
  readonly #wallMs: () => number;

  /** Two clocks: that by which expiries are judged, and that on the wall, which may jump. */
  constructor(nowMs: () => number, wallMs: () => number) {
    this.#nowMs = nowMs;
    this.#wallMs = wallMs;
  }

  /** The key that `name` is for the bearer of a tenant's token, or for everybody else. */
  key(name: string, tenant?: string): SimKey {
    const label = tenant === undefined ? name : `${name} of ${tenant}`;
    let key = this.#keys.get(label);
    if (key === undefined) {
      const parsed = parseKey(encoder.encode(name), tenant === undefined ? {} : { tenant: tenantOfCredential(tenant) });
      if (parsed === 'too-long') throw new Error(`Key ${name} is too long`);
      this.#keys.set(label, (key = { name, label, namespace: parsed.descriptor, values: [], expiring: 0 }));
    }
    return key;
  }

  /** Its bytes inside of its namespace. */
  ownKey(key: SimKey): Uint8Array {
    const { keyPrefix, keyTail } = key.namespace;
    return encoder.encode(key.name.slice(keyPrefix.length, key.name.length - keyTail.length));
  }

  get keys(): Iterable<SimKey> {
    return this.#keys.values();
  }

  payload(value: { readonly id: number; readonly sizeBytes: number }): Buffer {
    const name = `${value.id}/${value.sizeBytes}`;
    let payload = this.#payloads.get(name);
    if (payload === undefined) {
      payload = Buffer.from(payloadOf(value.id, value.sizeBytes).buffer);
      this.#payloads.set(name, payload);
      if (this.#payloads.size > 200) for (const oldest of this.#payloads.keys()) if (this.#payloads.delete(oldest)) break;
    }
    return payload;
  }

  begin(): SimSpan {
    const span = { begin: ++this.#now, atMs: this.#nowMs() };
    this.keeping?.beginRead(span);
    return span;
  }

  /** Something that may take values of these keys away, or of all; call the answer once it is over, and not at all where nobody knows. */
  beginChange(keys?: readonly SimKey[]): () => void {
    return this.keeping?.beginChange(keys) ?? ((): void => {});
  }

  // --- writes ---------------------------------------------------------------------------------------------------------------

  /** A SET is sent. `again`: the bytes of a value that was sent before. */
  beginSet(
    key: SimKey,
    sizeBytes: number,
    options: { readonly again?: SimValue | undefined; readonly ttlMs?: number | undefined } = {},
  ): SimValue {
    const { again, ttlMs } = options;
    const id = again?.id ?? this.#nextValue++;
    const value: SimValue = {
      id,
      sizeBytes: again?.sizeBytes ?? sizeBytes,
      key,
      begin: ++this.#now,
      end: Number.POSITIVE_INFINITY,
      state: 'open',
      deadAt: Number.POSITIVE_INFINITY,
      deadForGoodAt: Number.POSITIVE_INFINITY,
      why: '',
      notBeforeMs: this.#wallMs(),
      notAfterMs: Number.POSITIVE_INFINITY,
      // The same bytes again may leave the chunk as it is, with its time of creation, which a jump back leaves ahead.
      latestMs: Math.max(...key.values.filter((value) => value.id === id).map((value) => value.latestMs), Number.NEGATIVE_INFINITY),
      ttlMs,
      expiresByMs: Number.POSITIVE_INFINITY,
      changing: 0,
      overlapped: key.expiring > 0,
    };
    this.#owners.set(id, key.label);
    this.keeping?.beginSet(value);
    key.values.push(value);
    if (key.values.length > KEPT_VALUES) this.#forget(key);
    return value;
  }

  #forget(key: SimKey): void {
    const limit = key.values.length > 4 * KEPT_VALUES ? 'deadAt' : 'deadForGoodAt';
    const at = key.values.findIndex((value) => value.state === 'refused' || value[limit] < this.#now);
    if (at >= 0) key.values.splice(at, 1);
  }

  /** 'lost': the answer never came, and the agent may still do it. */
  endSet(value: SimValue, outcome: 'stored' | 'refused' | 'lost'): void {
    value.state = outcome;
    if (outcome !== 'stored') return;
    this.#over(value);
    this.#limit(value);
    this.#kill(value.key, { begin: value.begin, why: `overwritten by ${value.id}`, but: value });
  }

  /** Its SET is over: it lives no longer than it asked for from now on. */
  #limit(value: SimValue): void {
    if (value.ttlMs !== undefined && value.changing === 0 && !value.overlapped) value.expiresByMs = this.#nowMs() + value.ttlMs;
  }

  /** EXPIRE, PERSIST and the like: until the answer nobody knows when the values of the key end. */
  beginExpire(key: SimKey): { readonly key: SimKey; readonly begin: number; readonly values: readonly SimValue[] } {
    const begin = ++this.#now;
    // What got an end once is not missed, whatever became of that.
    this.keeping?.beginChange([key])();
    const values = key.values.filter((value) => value.deadAt > begin);
    key.expiring += 1;
    for (const value of values) {
      value.overlapped = value.changing > 0 || value.end > begin;
      value.changing += 1;
      value.expiresByMs = Number.POSITIVE_INFINITY;
    }
    return { key, begin, values };
  }

  /** `ttlMs` from now at the latest; undefined: nobody knows, or never. */
  endExpire(change: ReturnType<SimOracle['beginExpire']>, ttlMs: number | undefined): void {
    change.key.expiring = Math.max(0, change.key.expiring - 1);
    for (const value of change.values) {
      value.changing -= 1;
      if (ttlMs !== undefined && !value.overlapped && value.changing === 0) value.expiresByMs = this.#nowMs() + ttlMs;
    }
  }

  #over(value: SimValue): void {
    value.end = Math.min(value.end, ++this.#now);
    value.notAfterMs = Math.min(value.notAfterMs, Math.max(value.latestMs, this.#wallMs()));
  }

  #kill(key: SimKey, by: { begin: number; why: string; but?: SimValue; forGood?: true; fits?: (value: SimValue) => boolean }): void {
    const at = ++this.#now;
    for (const value of key.values) {
      if (value === by.but || value.end > by.begin || by.fits?.(value) === false) continue;
      if (by.forGood === true) value.deadForGoodAt = Math.min(value.deadForGoodAt, at);
      if (value.deadAt <= at) continue;
      value.deadAt = at;
      value.why = by.why;
    }
  }

  /** A DEL that was acknowledged. */
  endDelete(key: SimKey, span: SimSpan): void {
    this.#kill(key, { begin: span.begin, why: 'deleted' });
  }

  /** An invalidation that was acknowledged; what it does not match stays. Volatile selectors are not judged. */
  endInvalidation(selector: Selector, span: SimSpan): void {
    if (isVolatile(selector)) return;
    const { createdBefore, ...rest } = selector;
    for (const key of this.#keys.values()) {
      if (!matchesStable(rest, { namespace: key.namespace, key: key.name, createdAtMs: 0 })) continue;
      const fits = (value: SimValue): boolean => createdBefore === undefined || value.notAfterMs < createdBefore;
      this.#kill(key, { begin: span.begin, why: `invalidated by ${JSON.stringify(selector)}`, fits, forGood: true });
    }
  }

  /** The wall clock jumps, away from what it is now. */
  jump(): void {
    const wallMs = this.#wallMs();
    for (const key of this.#keys.values()) for (const value of key.values) value.latestMs = Math.max(value.latestMs, wallMs);
  }

  /** A power cut: what was deleted or overwritten may be back, what was invalidated may not. */
  powerCut(): void {
    for (const key of this.#keys.values()) {
      for (const value of key.values) {
        value.deadAt = value.deadForGoodAt;
        // An expiry that came later than the value is in the journal, which need not have been synced.
        value.expiresByMs = Number.POSITIVE_INFINITY;
      }
    }
  }

  /** The process is gone: what it had under way is over, done or not. */
  endOfProcess(): void {
    const at = ++this.#now;
    for (const key of this.#keys.values()) {
      key.expiring = 0;
      for (const value of key.values) {
        if (value.state === 'open') value.state = 'lost';
        if (value.state === 'lost') {
          if (value.end > at) this.#limit(value);
          value.end = Math.min(value.end, at);
        }
        value.changing = 0;
      }
    }
  }

  // --- answers --------------------------------------------------------------------------------------------------------------

  /** The value that a read gave, and its id where the reader was told. Throws where nothing explains it. */
  endRead(key: SimKey, span: SimSpan, bytes: Uint8Array, id?: number): SimValue {
    this.reads += 1;
    this.hits += 1;
    const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    // Whoever puts the same bytes again leaves what they were first described by.
    const isNamed = id === undefined || key.values.some((value) => value.id === id && this.payload(value).equals(view));
    const same = key.values.filter((value) => isNamed && value.sizeBytes === view.length && this.payload(value).equals(view));
    const candidates = same.filter((candidate) => this.mayBeRead(candidate, span));
    const value = candidates.at(-1);
    if (value === undefined) {
      const found = same.at(-1);
      if (found === undefined) throw new Error(`${key.label} gave ${view.length} bytes that are none of its values: ${this.#whose(view)}`);
      throw new Error(
        `${key.label} gave value ${found.id}, which was ${found.state === 'refused' ? 'refused' : found.why || `to end at ${found.expiresByMs}, before the read at ${span.atMs}`} (sent at ${found.begin}, over at ${found.end}, dead at ${found.deadAt}, read from ${span.begin} on)`,
      );
    }
    // Where the same bytes were sent twice nobody can tell which of them was seen.
    if (candidates.length > 1) return value;
    this.#over(value);
    if (value.state === 'lost') value.state = 'stored';
    this.#kill(key, { begin: value.begin, why: `overwritten by ${value.id}, which was seen`, but: value });
    return value;
  }

  mayBeRead(value: SimValue, span: SimSpan): boolean {
    return value.state !== 'refused' && value.deadAt > span.begin && value.expiresByMs >= span.atMs;
  }

  endMiss(key: SimKey, span: SimSpan): void {
    this.reads += 1;
    this.keeping?.judgeMiss(key, span, 'A read of');
  }

  /** True where some value of the key may have been seen since `span` began. */
  mayExist(key: SimKey, span: SimSpan): boolean {
    return key.values.some((value) => this.mayBeRead(value, span));
  }

  #whose(bytes: Buffer): string {
    if (bytes.length < 4) return 'too short to tell';
    // payloadOf's first word is (id + 1) * 0x9e3779b1; 0x0e8b2f51 is the inverse of that factor.
    const id = (Math.imul(bytes.readUInt32LE(0), 0x0e8b_2f51) >>> 0) - 1;
    const owner = this.#owners.get(id);
    if (owner === undefined) return `they begin with ${bytes.subarray(0, 24).toString('latin1')}`;
    const whole = Buffer.from(payloadOf(id, bytes.length).buffer).equals(bytes);
    return `${whole ? 'all' : 'at least the first'} of value ${id} of ${owner}`;
  }
}
