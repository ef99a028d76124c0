/** Eviction policies as one would write them with arrays, to compare with: slow, and as close to the papers as to the code. */
import type { PolicyName } from '#policy/create-policy.ts';

export interface NaivePolicy {
  insert(entry: number): void;
  touch(entry: number): void;
  refresh(entry: number): void;
  remove(entry: number): void;
  /** Coldest first. */
  order(): number[];
}

export interface NaiveFacts {
  readonly sizeOf: (entry: number) => number;
  readonly identityOf: (entry: number) => number;
}

const without = (list: readonly number[], entry: number): number[] => list.filter((other) => other !== entry);

class NaiveFifo implements NaivePolicy {
  list: number[] = [];
  insert(entry: number): void {
    this.list.push(entry);
  }
  touch(_entry: number): void {}
  refresh(entry: number): void {
    this.list = [...without(this.list, entry), entry];
  }
  remove(entry: number): void {
    this.list = without(this.list, entry);
  }
  order(): number[] {
    return this.list;
  }
}

class NaiveLru extends NaiveFifo {
  override touch(entry: number): void {
    this.refresh(entry);
  }
}

class NaiveSlru implements NaivePolicy {
  readonly #facts: NaiveFacts;
  probation: number[] = [];
  protected: number[] = [];
  constructor(facts: NaiveFacts) {
    this.#facts = facts;
  }
  insert(entry: number): void {
    this.probation.push(entry);
  }
  touch(entry: number): void {
    this.probation = without(this.probation, entry);
    this.protected = [...without(this.protected, entry), entry];
    this.#demote();
  }
  refresh(entry: number): void {
    if (this.protected.includes(entry)) this.protected = [...without(this.protected, entry), entry];
    else this.probation = [...without(this.probation, entry), entry];
  }
  remove(entry: number): void {
    this.probation = without(this.probation, entry);
    this.protected = without(this.protected, entry);
    this.#demote();
  }
  order(): number[] {
    return [...this.probation, ...this.protected];
  }
  #demote(): void {
    const sum = (list: number[]): number => list.reduce((total, entry) => total + this.#facts.sizeOf(entry), 0);
    while (sum(this.protected) > sum(this.order()) * 0.2) this.probation.push(this.protected.shift() as number);
  }
}

interface Ghost {
  readonly identity: number;
  readonly size: number;
}

class NaiveArc implements NaivePolicy {
  readonly #facts: NaiveFacts;
  readonly #settings: { readonly history: number; readonly start: number; readonly settleBelow: number };
  once: number[] = [];
  again: number[] = [];
  leftOnce: Ghost[] = [];
  leftAgain: Ghost[] = [];
  target: number | undefined;
  /** Entries in the order of their moves. */
  moves: number[] = [];

  constructor(facts: NaiveFacts, settings: { readonly history: number; readonly start: number; readonly settleBelow: number }) {
    this.#facts = facts;
    this.#settings = settings;
  }

  insert(entry: number): void {
    const size = this.#facts.sizeOf(entry);
    const identity = this.#facts.identityOf(entry);
    const tier = this.#sum([...this.once, ...this.again]) + size;
    const [b1, b2] = [this.#ghostSum(this.leftOnce), this.#ghostSum(this.leftAgain)];
    const target = this.target ?? (tier - size) * this.#settings.start;
    const isKnown = (ghost: Ghost): boolean => ghost.identity === identity;
    let isAgain = false;
    if (this.leftOnce.some(isKnown)) {
      this.target = Math.min(tier, target + Math.max(1, b2 / b1) * size);
      this.leftOnce = this.leftOnce.filter((ghost) => !isKnown(ghost));
      isAgain = true;
    } else if (this.leftAgain.some(isKnown)) {
      this.target = Math.max(0, target - Math.max(1, b1 / b2) * size);
      this.leftAgain = this.leftAgain.filter((ghost) => !isKnown(ghost));
      isAgain = this.target >= this.#settings.settleBelow * tier;
    }
    (isAgain ? this.again : this.once).push(entry);
    this.moves.push(entry);
    while (this.#ghostSum(this.leftOnce) > Math.max(0, tier * this.#settings.history - this.#sum(this.once))) this.leftOnce.shift();
    while (this.#ghostSum(this.leftAgain) > tier * this.#settings.history - this.#ghostSum(this.leftOnce)) this.leftAgain.shift();
  }

  touch(entry: number): void {
    this.once = without(this.once, entry);
    this.again = [...without(this.again, entry), entry];
    this.moves = [...without(this.moves, entry), entry];
  }

  refresh(entry: number): void {
    if (this.again.includes(entry)) this.again = [...without(this.again, entry), entry];
    else this.once = [...without(this.once, entry), entry];
    this.moves = [...without(this.moves, entry), entry];
  }

  remove(entry: number): void {
    const ghost = { identity: this.#facts.identityOf(entry), size: this.#facts.sizeOf(entry) };
    const others = (list: Ghost[]): Ghost[] => list.filter(({ identity }) => identity !== ghost.identity);
    if (this.again.includes(entry)) this.leftAgain = [...others(this.leftAgain), ghost];
    else this.leftOnce = [...others(this.leftOnce), ghost];
    this.once = without(this.once, entry);
    this.again = without(this.again, entry);
    this.moves = without(this.moves, entry);
  }

  /** Evicts from copies until nothing is left. */
  order(): number[] {
    const [once, again, order] = [[...this.once], [...this.again], [] as number[]];
    const target = this.target ?? this.#sum([...once, ...again]) * this.#settings.start;
    while (once.length + again.length > 0) {
      const oldest = this.moves.find((entry) => once.includes(entry) || again.includes(entry)) as number;
      const fromOnce = again.length === 0 || (once.length > 0 && (this.#sum(once) > target || once[0] === oldest));
      order.push((fromOnce ? once : again).shift() as number);
    }
    return order;
  }

  #sum(list: readonly number[]): number {
    return list.reduce((total, entry) => total + this.#facts.sizeOf(entry), 0);
  }

  #ghostSum(list: readonly Ghost[]): number {
    return list.reduce((total, { size }) => total + size, 0);
  }
}

export function naivePolicy(name: PolicyName, facts: NaiveFacts): NaivePolicy {
  if (name === 'fifo') return new NaiveFifo();
  if (name === 'leaf-lru') return new NaiveLru();
  if (name === 'slru') return new NaiveSlru(facts);
  return new NaiveArc(facts, name === 'arc' ? { history: 1, start: 0, settleBelow: 0 } : { history: 1.5, start: 0.25, settleBelow: 0.02 });
}
