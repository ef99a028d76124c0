import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LeaseTable } from '#cache/lease-table.ts';

const DURATION_MS = 3000;
const LIMIT_BYTES = 40_000;
type Tier = 'hbm' | 'ram' | 'ssd';

const entries = fc.constantFrom(0, 1, 2, 100_000);
const owners = fc.constantFrom(-1, 1, 2, 3, 2 ** 33);
const tiers = fc.constantFrom<Tier>('hbm', 'ram', 'ssd');
const commands = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({ kind: fc.constant('take' as const), entry: entries, owner: owners, tier: tiers, size: fc.nat(4000) }),
  },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('release' as const), entry: entries, owner: owners }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('owner' as const), owner: owners }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('entry' as const), entry: entries }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('tier' as const), entry: entries, tier: tiers }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('pass' as const), ms: fc.nat(2000) }) },
);
type Command = typeof commands extends fc.Arbitrary<infer T> ? T : never;

interface ModelLease {
  readonly entry: number;
  readonly owner: number;
  readonly tier: Tier;
  readonly bytes: number;
  expiresAtMs: number;
}

/** The table beside a list that says what it must answer. */
class Pair {
  readonly ended: number[] = [];
  readonly table = new LeaseTable({ durationMs: DURATION_MS, limit: () => LIMIT_BYTES, onEnd: (entry) => this.ended.push(entry) });
  #leases: ModelLease[] = [];
  #nowMs = 1000;

  run(command: Command): void {
    this.ended.length = 0;
    if (command.kind === 'take') return this.#take(command);
    if (command.kind === 'release') {
      const gone = this.#end((lease) => lease.entry === command.entry && lease.owner === command.owner);
      expect(this.table.release(command.entry, command.owner)).toBe(gone > 0);
    } else if (command.kind === 'owner') {
      const gone = this.#end((lease) => lease.owner === command.owner);
      expect(this.table.releaseOwner(command.owner)).toBe(gone > 0);
    } else if (command.kind === 'entry') {
      this.#end((lease) => lease.entry === command.entry);
      this.table.releaseEntry(command.entry);
    } else if (command.kind === 'tier') {
      this.#end((lease) => lease.entry === command.entry && lease.tier === command.tier);
      this.table.releaseTier(command.entry, command.tier);
    } else return this.#pass(command.ms);
    expect(this.ended.toSorted((a, b) => a - b)).toEqual(this.#gone);
  }

  #gone: number[] = [];

  #end(which: (lease: ModelLease) => boolean): number {
    this.#gone = this.#leases
      .filter(which)
      .map((lease) => lease.entry)
      .sort((a, b) => a - b);
    this.#leases = this.#leases.filter((lease) => !which(lease));
    return this.#gone.length;
  }

  #take({ entry, owner, tier, size }: Extract<Command, { kind: 'take' }>): void {
    const outcome = this.table.take({ entry, sizeBytes: size, tier }, owner, this.#nowMs);
    const known = this.#leases.find((lease) => lease.entry === entry && lease.owner === owner);
    const bytes = Math.max(size, 256);
    if (known !== undefined) {
      expect(outcome).toBe('renewed');
      known.expiresAtMs = this.#nowMs + DURATION_MS;
    } else if (this.#bytes(tier) + bytes > LIMIT_BYTES) expect(outcome).toBeUndefined();
    else {
      expect(outcome).toBe('new');
      this.#leases.push({ entry, owner, tier, bytes, expiresAtMs: this.#nowMs + DURATION_MS });
    }
  }

  /** What ended must have expired, and what expired a bucket ago must have ended. */
  #pass(ms: number): void {
    this.#nowMs += ms;
    const before = this.#leases;
    expect(this.table.expire(this.#nowMs)).toBe(this.ended.length > 0);
    this.#leases = before.filter(
      (lease) => this.#nowMs < (Math.floor(lease.expiresAtMs / 100) + 1) * 100 || lease.expiresAtMs > this.#nowMs,
    );
    expect(this.ended.length).toBe(before.length - this.#leases.length);
  }

  #bytes(tier: Tier): number {
    return this.#leases.filter((lease) => lease.tier === tier).reduce((sum, lease) => sum + lease.bytes, 0);
  }

  check(): void {
    this.table.checkInvariants();
    expect(this.table.count).toBe(this.#leases.length);
    for (const tier of ['hbm', 'ram', 'ssd'] as const) expect(this.table.bytes(tier)).toBe(this.#bytes(tier));
    for (const owner of [-1, 1, 2, 7]) {
      expect(this.table.countOfOwner(owner)).toBe(this.#leases.filter((lease) => lease.owner === owner).length);
    }
    for (const entry of [0, 1, 2, 3, 100_000, 200_000]) {
      const held = this.#leases.filter((lease) => lease.entry === entry);
      expect(this.table.countOf(entry)).toBe(held.length);
      expect(this.table.covers(entry, 'ram')).toBe(held.some((lease) => lease.tier === 'ram'));
    }
  }
}

describe('LeaseTable', () => {
  test('answers as a list of leases would, whatever ends them', () => {
    fc.assert(
      fc.property(fc.array(commands, { maxLength: 120 }), (run) => {
        const pair = new Pair();
        for (const command of run) {
          pair.run(command);
          pair.check();
        }
      }),
      { numRuns: 150 },
    );
  });

  test('holds many more leases than it has room for at first, and ends them', () => {
    const table = new LeaseTable({ durationMs: DURATION_MS, limit: () => Number.POSITIVE_INFINITY, onEnd: () => {} });
    for (let entry = 0; entry < 5000; entry += 1)
      for (const owner of [1, 2]) expect(table.take({ entry, sizeBytes: 1, tier: 'ram' }, owner, 0)).toBe('new');
    table.checkInvariants();
    expect(table.releaseOwner(1)).toBe(true);
    expect(table.count).toBe(5000);
    table.checkInvariants();
    expect(table.expire(2 * DURATION_MS)).toBe(true);
    expect(table.count).toBe(0);
    table.checkInvariants();
  });

  test('gives no lease to one client too many of one chunk', () => {
    const table = new LeaseTable({ durationMs: DURATION_MS, limit: () => Number.POSITIVE_INFINITY, onEnd: () => {} });
    for (let owner = 0; owner < 1024; owner += 1) expect(table.take({ entry: 7, sizeBytes: 1, tier: 'ram' }, owner, 0)).toBe('new');
    expect(table.take({ entry: 7, sizeBytes: 1, tier: 'ram' }, 1024, 0)).toBeUndefined();
    expect(table.take({ entry: 7, sizeBytes: 1, tier: 'ram' }, 3, 0)).toBe('renewed');
  });
});
