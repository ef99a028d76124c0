/**
 * Feeds a target with valid inputs and with what mutators make of them, and holds it to time and memory. Everything follows from
 * the seed: `bun run fuzz TARGET --seed S --index I` gives one input again, without the others.
 *
 * Invariants
 * - An input depends on the seed, the target's name and its index alone; what a target keeps between inputs lasts one batch.
 * - A target that throws, takes longer than `inputLimitMs` for one input, or holds more than `heapLimitBytes` after the run than
 *   after its first part, has failed.
 */
import { heapStats } from 'bun:jsc';
import fc from 'fast-check';
import { SeededRandom } from '#testsupport/kill-values.ts';
import { mutate } from './mutators.ts';

/** Judges one input: throws where something is wrong. `random` for all further choices, so that they replay. */
export type Check = (input: Uint8Array, random: SeededRandom, valid: boolean) => void | Promise<void>;

export interface FuzzTarget {
  readonly name: string;
  /** Valid inputs. Sizes of a few hundred bytes: more is reached by many inputs than by long ones. */
  readonly corpus: fc.Arbitrary<Uint8Array>;
  /** Makes checksums and the like right again, so that more than the first check is reached. Called for some of the mutated inputs. */
  readonly mend?: (input: Uint8Array, random: SeededRandom) => Uint8Array;
  /** A fresh check for each batch: state that inputs leave behind is part of the test, and bounded. */
  readonly begin: () => Check;
}

export interface FuzzOptions {
  readonly seed: number;
  readonly inputs: number;
  /** Runs this input alone. */
  readonly index?: number;
  readonly inputLimitMs?: number;
  readonly heapLimitBytes?: number;
  readonly progress?: (done: number) => void;
}

export interface FuzzReport {
  readonly target: string;
  readonly seed: number;
  readonly inputs: number;
  readonly valid: number;
  readonly seconds: number;
  readonly slowestMs: number;
  readonly slowestIndex: number;
  /** Heap after the run less heap after its first part, both after a collection. */
  readonly heapGrowthBytes: number;
}

export class FuzzFailure extends Error {
  override readonly name = 'FuzzFailure';
}

/** Valid inputs of a batch, each mutated a few times: making one costs more than judging one. */
const CORPUS_PER_BATCH = 128;
const BATCH_INPUTS = 2048;
/** A pause of the collector and seven other jobs on two cores are no hang. */
const INPUT_LIMIT_MS = 3000;
const HEAP_LIMIT_BYTES = 24 * 1024 * 1024;
/** Batches before the heap is measured first: code is compiled and caches are filled by then. */
const WARM_UP_BATCHES = 2;

/** Runs `inputs` inputs, in whole batches. Throws FuzzFailure with the command that replays the input. */
export async function fuzz(target: FuzzTarget, options: FuzzOptions): Promise<FuzzReport> {
  const inputLimitMs = options.inputLimitMs ?? INPUT_LIMIT_MS;
  const startedAt = performance.now();
  let [done, valid, slowestMs, slowestIndex, heapBefore] = [0, 0, 0, 0, 0];
  const firstBatch = options.index === undefined ? 0 : Math.floor(options.index / BATCH_INPUTS);
  for (let batch = firstBatch; done < options.inputs; batch += 1) {
    if (batch === WARM_UP_BATCHES) heapBefore = heapBytes();
    const corpus = corpusOf(target, options.seed, batch);
    const check = target.begin();
    for (let slot = 0; slot < BATCH_INPUTS && done < options.inputs; slot += 1) {
      const index = batch * BATCH_INPUTS + slot;
      if (options.index !== undefined && index > options.index) break;
      const made = makeInput(target, corpus, { seed: options.seed, index });
      const began = performance.now();
      try {
        const pending = check(made.input, made.random, made.valid);
        if (pending !== undefined) await pending;
      } catch (problem) {
        throw failure(target, { seed: options.seed, index, input: made.input }, problem);
      }
      const tookMs = performance.now() - began;
      if (tookMs > slowestMs) [slowestMs, slowestIndex] = [tookMs, index];
      if (tookMs > inputLimitMs) {
        const problem = new Error(`took ${Math.round(tookMs)} ms, ${inputLimitMs} ms are allowed`);
        throw failure(target, { seed: options.seed, index, input: made.input }, problem);
      }
      done += 1;
      if (made.valid) valid += 1;
    }
    options.progress?.(done);
    if (options.index !== undefined) break;
  }
  const heapGrowthBytes = heapBefore === 0 ? 0 : heapBytes() - heapBefore;
  if (heapGrowthBytes > (options.heapLimitBytes ?? HEAP_LIMIT_BYTES)) {
    throw new FuzzFailure(`${target.name} keeps ${heapGrowthBytes} bytes after ${done} inputs of seed ${options.seed}`);
  }
  const seconds = (performance.now() - startedAt) / 1000;
  return { target: target.name, seed: options.seed, inputs: done, valid, seconds, slowestMs, slowestIndex, heapGrowthBytes };
}

function corpusOf(target: FuzzTarget, seed: number, batch: number): readonly Uint8Array[] {
  return fc.sample(target.corpus, { seed: mix(seed, batch) | 0, numRuns: CORPUS_PER_BATCH });
}

interface Made {
  readonly input: Uint8Array;
  readonly valid: boolean;
  readonly random: SeededRandom;
}

/** One in eight stays valid; of the others half are mended where the target can. */
function makeInput(target: FuzzTarget, corpus: readonly Uint8Array[], place: { readonly seed: number; readonly index: number }): Made {
  const random = new SeededRandom(mix(mix(place.seed, place.index), 0x51ed_270b));
  const base = random.pick(corpus);
  if (random.below(8) === 0) return { input: base.slice(), valid: true, random };
  let input = mutate(base, random, () => random.pick(corpus));
  if (target.mend !== undefined && random.below(4) !== 0) input = target.mend(input, random);
  return { input: input === base ? base.slice() : input, valid: false, random };
}

function mix(a: number, b: number): number {
  let mixed = Math.imul(a ^ 0x9e37_79b9, 0x85eb_ca6b) ^ Math.imul(b + 0x7f4a_7c15, 0xc2b2_ae35);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x7feb_352d);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

/** After a full collection. Counts what typed arrays hold outside of the heap too. */
function heapBytes(): number {
  Bun.gc(true);
  const stats = heapStats();
  return stats.heapSize + stats.extraMemorySize;
}

function failure(
  target: FuzzTarget,
  place: { readonly seed: number; readonly index: number; readonly input: Uint8Array },
  problem: unknown,
): FuzzFailure {
  const said = problem instanceof Error ? (problem.stack ?? problem.message) : String(problem);
  const shown = place.input.subarray(0, 512);
  return new FuzzFailure(
    `${target.name}: input ${place.index} of seed ${place.seed}, ${place.input.length} bytes: ${said}\n` +
      `text: ${JSON.stringify(new TextDecoder('latin1').decode(shown))}\n` +
      `again: bun run fuzz ${target.name} --seed ${place.seed} --index ${place.index}`,
    { cause: problem },
  );
}

/** Throws with both sides where they differ. */
export function demandEqual(got: unknown, wanted: unknown, what: string): void {
  if (!Bun.deepEquals(got, wanted, true)) throw new Error(`${what}:\n  is     ${Bun.inspect(got)}\n  wanted ${Bun.inspect(wanted)}`);
}

export function demand(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}
