/** Traces of shapes that the fixtures do not have, from a seed. */
import { SimRng } from './sim-clock.ts';
import { compact } from './policy-table.ts';
import type { CompactTrace } from './policy-table.ts';

class Maker {
  readonly #rng: SimRng;
  #next = 0;
  readonly requests: { timestampMs: number; blockIds: readonly number[] }[] = [];

  constructor(seed: number) {
    this.#rng = new SimRng(seed);
  }

  random(): number {
    return this.#rng.nextUint32() / 2 ** 32;
  }

  below(bound: number): number {
    return Math.floor(this.random() * bound);
  }

  /** Blocks that no other prompt has. */
  fresh(count: number): number[] {
    return Array.from({ length: count }, () => this.#next++);
  }

  /** About `mean`, at least 1. */
  around(mean: number): number {
    return Math.max(1, Math.round(mean * (0.5 + this.random())));
  }

  request(blockIds: readonly number[]): void {
    this.requests.push({ timestampMs: this.requests.length * 900, blockIds });
  }
}

/** System prompts of very different popularity, each question asked once. */
export function sharedPrompts(requestCount: number, seed = 1): CompactTrace {
  const maker = new Maker(seed);
  const prompts = Array.from({ length: 400 }, () => maker.fresh(maker.around(12)));
  const weights: number[] = [];
  prompts.forEach((_prompt, at) => weights.push((weights.at(-1) ?? 0) + (at + 1) ** -0.9));
  for (let n = 0; n < requestCount; n += 1) {
    const drawn = maker.random() * (weights.at(-1) ?? 0);
    const prompt = prompts[weights.findIndex((sum) => sum >= drawn)] ?? [];
    maker.request([...prompt, ...maker.fresh(maker.around(6))]);
  }
  return compact('shared prompts (zipf 0.9)', maker.requests);
}

/** A few prompts in use, and in half of the requests a long document that is read once. */
export function scans(requestCount: number, seed = 2): CompactTrace {
  const maker = new Maker(seed);
  const prompts = Array.from({ length: 60 }, () => maker.fresh(10));
  for (let n = 0; n < requestCount; n += 1) {
    if (maker.random() < 0.5) maker.request(maker.fresh(30));
    else maker.request([...(prompts[maker.below(prompts.length)] ?? []), ...maker.fresh(1)]);
  }
  return compact('scans', maker.requests);
}

/** Conversations that grow by turns, some dozens at a time, and then are over. */
export function chats(requestCount: number, seed = 3): CompactTrace {
  const maker = new Maker(seed);
  const system = maker.fresh(4);
  const open: { blocks: number[]; turns: number }[] = [];
  while (maker.requests.length < requestCount) {
    while (open.length < 60) open.push({ blocks: [...system], turns: 1 + Math.floor(-Math.log(1 - maker.random()) * 8) });
    // Those that spoke last speak first.
    const [chat] = open.splice(Math.floor(maker.random() ** 2 * open.length), 1);
    if (chat === undefined) continue;
    chat.blocks.push(...maker.fresh(maker.around(3)));
    maker.request([...chat.blocks]);
    chat.turns -= 1;
    if (chat.turns > 0) open.unshift(chat);
  }
  return compact('chats', maker.requests);
}
