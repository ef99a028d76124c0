/**
 * What a cache that is killed over and over may answer. Knows when each operation began and ended, on a logical clock of its own,
 * and whether it was acknowledged; judges every read against it.
 *
 * A version is dead for a read if an acknowledged put, delete or invalidation of its key began after the version's put was over and
 * ended before the read began. The put of an operation that nobody answered is over when the process dies. A read that was served
 * another version says the same: what was over when that read began is dead for later reads.
 *
 * The halves of a redis:// twin are one entry under two keys: the metadata half ends with its value half, may be missing where that may,
 * and is taken away by the next value, unless it had come to no value and waited for one.
 */
export interface Put {
  readonly key: number;
  readonly version: number;
  readonly begin: number;
  /** Infinity while it is under way. */
  end: number;
  acknowledged: boolean;
  /** Its bytes were damaged on disk, or its file is not to be trusted. */
  dead: boolean;
  /** How long it was put to live, ms; undefined: without an end. */
  readonly ttlMs: number | undefined;
  /** Wall clock from which nobody may read it; infinity without an end. */
  expiresBy: number;
  /** It had an end once, so that it may be gone. */
  mayExpire: boolean;
  /** For the metadata half of a twin: the put of the value half that it came for. */
  readonly entry: Put | undefined;
  /**
   * A metadata half that nobody has seen at its value: the value may have gone before, and then the half waits, and ends with
   * whichever value comes next.
   */
  mayWait: boolean;
}

export interface PutOptions {
  readonly ttlMs?: number | undefined;
  readonly entry?: Put | undefined;
}

export interface Removal {
  readonly begin: number;
  /** By the next value of an entry: what waits for one stays. */
  readonly byValue: boolean;
  readonly matches: (key: number) => boolean;
}

interface KeyHistory {
  readonly puts: Map<number, Put>;
  last: Put | undefined;
  /** Puts that were over before this are dead. */
  floor: number;
  /** The same for halves that may wait: the next value does not take them away. */
  waitingFloor: number;
  /** End of the last operation that may have removed or replaced something, acknowledged or not. */
  lastChangeEnd: number;
  seen: { readonly version: number; readonly begin: number } | undefined;
}

/** What a read needs to remember from its beginning to its end. */
export interface ReadTicket {
  readonly key: number;
  readonly begin: number;
  /** Wall clock. */
  readonly beginMs: number;
  readonly floor: number;
  readonly waitingFloor: number;
  readonly seen: KeyHistory['seen'];
}

export class KillOracle {
  readonly keyCount: number;
  readonly #histories: KeyHistory[];
  readonly #openPuts = new Set<Put>();
  readonly #openRemovals = new Set<Removal>();
  #now = 0;
  #version = 0;
  /** When the present life of the process began. */
  #born = 0;
  /** Sentences; empty while the cache tells the truth. */
  readonly violations: string[] = [];
  acknowledged = 0;
  reads = 0;
  hits = 0;

  constructor(keyCount: number) {
    this.keyCount = keyCount;
    this.#histories = Array.from({ length: keyCount }, () => ({
      puts: new Map(),
      last: undefined,
      floor: 0,
      waitingFloor: 0,
      lastChangeEnd: 0,
      seen: undefined,
    }));
  }

  #tick(): number {
    return (this.#now += 1);
  }

  #history(key: number): KeyHistory {
    const history = this.#histories[key];
    if (history === undefined) throw new RangeError(`There is no key ${key}`);
    return history;
  }

  beginPut(key: number, { ttlMs, entry }: PutOptions = {}): Put {
    this.#version += 1;
    const put: Put = {
      key,
      version: this.#version,
      begin: this.#tick(),
      end: Number.POSITIVE_INFINITY,
      acknowledged: false,
      dead: false,
      ttlMs,
      expiresBy: Number.POSITIVE_INFINITY,
      mayExpire: ttlMs !== undefined,
      entry,
      mayWait: entry !== undefined,
    };
    const history = this.#history(key);
    history.puts.set(put.version, put);
    history.last = put;
    this.#openPuts.add(put);
    return put;
  }

  /** `acknowledged`: the answer was OK. An error leaves open whether it happened. */
  endPut(put: Put, acknowledged: boolean): void {
    put.end = this.#tick();
    put.acknowledged = acknowledged;
    // Its time began before it was answered, or before the process that had it died.
    if (put.ttlMs !== undefined) put.expiresBy = Date.now() + put.ttlMs;
    this.#openPuts.delete(put);
    if (!acknowledged) return;
    this.acknowledged += 1;
    const history = this.#history(put.key);
    history.floor = Math.max(history.floor, put.begin);
    history.waitingFloor = Math.max(history.waitingFloor, put.begin);
  }

  /** A metadata half was seen where it belongs after it was acknowledged, by the only client that puts it. */
  foundAtItsValue(put: Put): void {
    put.mayWait = false;
  }

  /**
   * What the key has is about to get another end; `undefined`: none. Call the answer with whether it has got that, and not at all where
   * nobody answers: then its end is not known any more.
   */
  beginExpiry(key: number, ttlMs: number | undefined): (changed: boolean) => void {
    const { last, puts } = this.#history(key);
    const before = new Map([...puts.values()].map((put) => [put, put.expiresBy]));
    for (const put of puts.values()) {
      // Also where nobody answers: a value that may have got a sooner end is not missed, one that may have got a later end may be read.
      put.mayExpire = true;
      put.expiresBy = Number.POSITIVE_INFINITY;
    }
    return (changed) => {
      const asked = ttlMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + ttlMs;
      for (const [put, expiresBy] of before) {
        // Where the last put was refused, an earlier one may be what is there.
        const other = put === last && put.acknowledged ? asked : Math.max(expiresBy, asked);
        put.expiresBy = changed ? other : expiresBy;
      }
    };
  }

  /** True where the version may be gone by itself. */
  mayExpire(key: number, version: number): boolean {
    const put = this.#history(key).puts.get(version);
    return put !== undefined && (put.mayExpire || put.mayWait || put.entry?.mayExpire === true);
  }

  /** From when on nobody may read it, wall clock, as far as that is known. */
  #expiresBy({ expiresBy, entry, mayWait }: Put): number {
    return mayWait || entry === undefined ? expiresBy : Math.min(expiresBy, entry.expiresBy);
  }

  beginRemoval(matches: (key: number) => boolean, { byValue = false } = {}): Removal {
    const removal = { begin: this.#tick(), matches, byValue };
    this.#openRemovals.add(removal);
    return removal;
  }

  endRemoval(removal: Removal, acknowledged: boolean): void {
    const end = this.#tick();
    this.#openRemovals.delete(removal);
    if (acknowledged) this.acknowledged += 1;
    for (const [key, history] of this.#histories.entries()) {
      if (!removal.matches(key)) continue;
      history.lastChangeEnd = Math.max(history.lastChangeEnd, end);
      if (!acknowledged) continue;
      history.floor = Math.max(history.floor, removal.begin);
      if (!removal.byValue) history.waitingFloor = Math.max(history.waitingFloor, removal.begin);
    }
  }

  /** The process is gone: what nobody answered has happened by now or never will. */
  died(): void {
    for (const put of [...this.#openPuts]) this.endPut(put, false);
    for (const removal of [...this.#openRemovals]) this.endRemoval(removal, false);
    this.#born = this.#tick();
  }

  /** Between two lives: nothing of the former may be served. */
  forgetEverything(): void {
    const removal = this.beginRemoval(() => true);
    this.endRemoval(removal, true);
  }

  /** Between two lives: this version's file was damaged. */
  damaged(key: number, version: number): void {
    const put = this.#history(key).puts.get(version);
    if (put !== undefined) put.dead = true;
  }

  beginRead(key: number): ReadTicket {
    const { floor, waitingFloor, seen } = this.#history(key);
    return { key, begin: this.#tick(), beginMs: Date.now(), floor, waitingFloor, seen };
  }

  /** `version`: what was served, undefined for a miss, or a sentence about wrong bytes. */
  endRead(read: ReadTicket, version: number | string | undefined): void {
    this.reads += 1;
    if (version === undefined) return;
    this.hits += 1;
    const problem = typeof version === 'string' ? version : this.#judge(read, version);
    if (problem !== undefined) this.violations.push(`Key ${read.key}: the value ${problem} (read at ${read.begin})`);
    else if (typeof version === 'number') this.#history(read.key).seen = { version, begin: read.begin };
  }

  #judge(read: ReadTicket, version: number): string | undefined {
    const put = this.#history(read.key).puts.get(version);
    if (put === undefined) return `is version ${version}, which was never put`;
    const life = `version ${version}, put in [${put.begin}, ${put.end}]${put.acknowledged ? '' : ' unacknowledged'}`;
    if (put.dead) return `is ${life}, whose file was damaged`;
    const floor = put.mayWait ? read.waitingFloor : read.floor;
    if (put.end < floor) return `is ${life}, dead since an operation that began at ${floor}`;
    const expiresBy = this.#expiresBy(put);
    if (read.beginMs > expiresBy) return `is ${life}, which expired ${read.beginMs - expiresBy} ms ago`;
    const { seen } = read;
    if (seen !== undefined && seen.version !== version && put.end < seen.begin)
      return `is ${life}, although version ${seen.version} was read at ${seen.begin}`;
    return undefined;
  }

  /** A probe that answered yes needs at least one version that may be served. */
  endProbe(read: ReadTicket, exists: boolean): void {
    this.reads += 1;
    if (!exists) return;
    const { puts } = this.#history(read.key);
    for (const version of puts.keys()) if (this.#judge(read, version) === undefined) return;
    this.violations.push(`Key ${read.key}: EXISTS answers yes at ${read.begin}, but nothing that was put may be there`);
  }

  /** The version that must be there if nothing was lost in any life; undefined where anything may be. */
  kept(key: number): number | undefined {
    const { last, lastChangeEnd } = this.#history(key);
    if (last === undefined || !last.acknowledged || last.dead || last.begin < lastChangeEnd) return undefined;
    // One that nobody answers may happen any time.
    for (const removal of this.#openRemovals) if (removal.matches(key)) return undefined;
    return this.mayExpire(key, last.version) ? undefined : last.version;
  }

  /** The version that must be there if this life has lost nothing; undefined where anything may be, or a former life put it. */
  required(key: number): number | undefined {
    const { last } = this.#history(key);
    return last === undefined || last.begin < this.#born ? undefined : this.kept(key);
  }
}
