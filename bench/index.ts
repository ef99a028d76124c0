/**
 * `bun run bench:index`: the chunk index against the figures that the cache core promises, and against a Map of strings.
 *
 * Keys are 64 hex digits in bytes, as a socket delivers them; the Map's side decodes them to a string, as it must. A lookup is
 * one chain of 64 keys, drawn at random each time so that neither index nor Map is warm for it; 'stored together' means that a
 * chain was put in order into a fresh index, 'scattered' that its rows lie anywhere, as after long churn.
 */
import { ChunkIndex } from '#cache/chunk-index.ts';
import type { EntryIndex, NamespaceId } from '#core/brand.ts';
import { LeafLru } from '#policy/leaf-lru.ts';
import { heapStats } from 'bun:jsc';
import { parseFlags } from './lib/flags.ts';
import type { BenchFlags } from './lib/flags.ts';
import { randomBelow, seededRng, shuffledNumbers } from './lib/random.ts';
import { compare, publish } from './lib/report.ts';
import type { BenchCase } from './lib/report.ts';
import { alternate, median } from './lib/stats.ts';

const KEY_BYTES = 64;
const CHAIN_KEYS = 64;
const ROUNDS = 5;
/** Lookups before the first that counts: 640,000 keys, enough for the last tier of the JIT. */
const WARM_UP_LOOKUPS = 10_000;
/** Bytes of index memory a chunk that the cache core promises at most, links of two tiers included. */
const TARGET_BYTES = 200;
const namespace = 0 as NamespaceId;

interface Fixture {
  readonly keyCount: number;
  /** All keys end to end. */
  readonly keyBytes: Uint8Array;
  readonly index: ChunkIndex;
  readonly map: Map<string, number>;
  readonly mapBytes: number;
  readonly insertNs: { readonly ours: number; readonly map: number };
}

/** Measures and publishes. `smoke` shrinks the large index to 20,000 chunks. */
async function benchIndex(flags: BenchFlags): Promise<void> {
  const small = 10_000;
  const large = flags.smoke ? 20_000 : 1_000_000;
  const chains = flags.smoke ? 50 : 1000;
  const cases: BenchCase[] = [];
  for (const [keyCount, targetUs] of [
    [small, 10],
    [large, 30],
  ] as const) {
    for (const layout of ['stored together', 'scattered'] as const) {
      const fixture = build(keyCount, layout, flags.seed);
      const name = `lookup of 64 keys, ${keyCount.toLocaleString('en-US')} chunks, ${layout}`;
      cases.push(...(await lookups(fixture, { name, targetUs, chains, smoke: flags.smoke, seed: flags.seed })));
      if (keyCount === large && layout === 'scattered') cases.push(...memoryAndRates(fixture, flags.seed), growth(fixture));
    }
  }
  publish('bench:index', flags, cases);
}

function build(keyCount: number, layout: 'stored together' | 'scattered', seed: number): Fixture {
  const rng = seededRng(seed);
  const keyBytes = new Uint8Array(keyCount * KEY_BYTES);
  for (let at = 0; at < keyBytes.length; at += 8) {
    let word = rng.nextUint32();
    for (let digit = 0; digit < 8; digit += 1, word >>>= 4) keyBytes[at + digit] = '0123456789abcdef'.charCodeAt(word & 15);
  }
  const order = layout === 'scattered' ? shuffledNumbers(rng, keyCount) : undefined;
  const index = new ChunkIndex(rng);
  const ours = time(() => {
    for (let n = 0; n < keyCount; n += 1) index.insert(namespace, keyAt(keyBytes, order?.[n] ?? n));
  });
  Bun.gc(true);
  const before = heapStats();
  const map = new Map<string, number>();
  const theirs = time(() => {
    for (let n = 0; n < keyCount; n += 1) map.set(textAt(keyBytes, order?.[n] ?? n), n);
  });
  Bun.gc(true);
  const mapBytes = heapStats().heapSize - before.heapSize;
  return { keyCount, keyBytes, index, map, mapBytes, insertNs: { ours: (ours * 1000) / keyCount, map: (theirs * 1000) / keyCount } };
}

interface LookupOptions {
  readonly name: string;
  readonly targetUs: number;
  readonly chains: number;
  readonly smoke: boolean;
  readonly seed: number;
}

async function lookups(fixture: Fixture, options: LookupOptions): Promise<BenchCase[]> {
  const rng = seededRng(options.seed + 1);
  const request = new Uint8Array(CHAIN_KEYS * KEY_BYTES);
  const keys = Array.from({ length: CHAIN_KEYS }, (_, n) => request.subarray(n * KEY_BYTES, (n + 1) * KEY_BYTES));
  const texts = Buffer.from(request.buffer);
  const out = new Int32Array(CHAIN_KEYS);
  const round = (lookup: () => number): number => {
    const samples: number[] = [];
    for (let chain = 0; chain < options.chains; chain += 1) {
      const first = randomBelow(rng, fixture.keyCount - CHAIN_KEYS) * KEY_BYTES;
      request.set(fixture.keyBytes.subarray(first, first + request.length));
      const started = Bun.nanoseconds();
      const found = lookup();
      samples.push((Bun.nanoseconds() - started) / 1000);
      if (found !== CHAIN_KEYS) throw new Error(`Lookup found ${found} of ${CHAIN_KEYS} keys`);
    }
    return median(samples);
  };
  const ours = (): number => round(() => fixture.index.findMany(namespace, keys, out));
  const peer = (): number =>
    round(() => {
      let found = 0;
      while (found < CHAIN_KEYS && fixture.map.has(texts.toString('latin1', found * KEY_BYTES, (found + 1) * KEY_BYTES))) found += 1;
      return found;
    });
  const warmUps = options.smoke ? 1 : Math.ceil(WARM_UP_LOOKUPS / options.chains);
  for (let n = 0; n < warmUps; n += 1) {
    ours();
    peer();
  }
  const samples = await alternate(ROUNDS, { ours, peer });
  const own = median(samples.ours);
  const { name, targetUs } = options;
  return [
    compare({ case: name, unit: 'us', better: 'lower', ours: own, peer: targetUs, peerName: 'target' }),
    compare({ case: name, unit: 'us', better: 'lower', ours: own, peer: median(samples.peer), peerName: 'Map<string, number>' }),
  ];
}

function memoryAndRates(fixture: Fixture, seed: number): BenchCase[] {
  const { index, keyCount } = fixture;
  const tiers = [new LeafLru(), new LeafLru()];
  index.forEach((entry) => {
    for (const tier of tiers) tier.insert(entry, 1);
  });
  const bytes = (index.memoryBytes() + tiers.reduce((sum, tier) => sum + tier.memoryBytes(), 0)) / keyCount;
  const name = `index memory a chunk, ${keyCount.toLocaleString('en-US')} chunks, with two tiers`;
  const order = shuffledNumbers(seededRng(seed + 2), keyCount);
  const remove = time(() => {
    for (const n of order) index.remove(index.find(namespace, keyAt(fixture.keyBytes, n)) as EntryIndex);
  });
  const mapRemove = time(() => {
    for (const n of order) fixture.map.delete(textAt(fixture.keyBytes, n));
  });
  const rate = (case_: string, ours: number, peer: number): BenchCase =>
    compare({ case: case_, unit: 'a second', better: 'higher', ours: 1e9 / ours, peer: 1e9 / peer, peerName: 'Map<string, number>' });
  return [
    compare({ case: name, unit: 'B', better: 'lower', ours: bytes, peer: TARGET_BYTES, peerName: 'target' }),
    compare({
      case: 'of it rows, keys and table; the Map holds keys and a number',
      unit: 'B',
      better: 'lower',
      ours: index.memoryBytes() / keyCount,
      peer: fixture.mapBytes / keyCount,
      peerName: 'Map<string, number>',
    }),
    rate('insert, scattered', fixture.insertNs.ours, fixture.insertNs.map),
    rate('find and remove, scattered', (remove * 1000) / keyCount, (mapRemove * 1000) / keyCount),
  ];
}

/**
 * The longest pause that growth causes. Growth happens at the same insert in every build of one seed, the scheduler's pauses do
 * not: so each insert counts as the fastest of three builds.
 */
function growth(fixture: Fixture): BenchCase {
  const { keyBytes, keyCount } = fixture;
  const fastest = new Float64Array(keyCount).fill(Number.POSITIVE_INFINITY);
  for (let build = 0; build < 3; build += 1) {
    const index = new ChunkIndex(seededRng(1));
    for (let n = 0; n < keyCount; n += 1) {
      const key = keyAt(keyBytes, n);
      fastest[n] = Math.min(
        fastest[n]!,
        time(() => index.insert(namespace, key)),
      );
    }
  }
  let longestUs = 0;
  for (const us of fastest) longestUs = Math.max(longestUs, us);
  const name = `longest single insert up to ${keyCount.toLocaleString('en-US')} chunks`;
  return compare({ case: name, unit: 'us', better: 'lower', ours: longestUs, peer: 5000, peerName: 'target' });
}

function keyAt(keyBytes: Uint8Array, n: number): Uint8Array {
  return keyBytes.subarray(n * KEY_BYTES, (n + 1) * KEY_BYTES);
}

function textAt(keyBytes: Uint8Array, n: number): string {
  return Buffer.from(keyBytes.buffer, n * KEY_BYTES, KEY_BYTES).toString('latin1');
}

/** Microseconds that `action` takes. */
function time(action: () => void): number {
  const started = Bun.nanoseconds();
  action();
  return (Bun.nanoseconds() - started) / 1000;
}

await benchIndex(parseFlags('bench:index'));
