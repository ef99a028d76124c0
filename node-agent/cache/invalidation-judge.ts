/**
 * Judges files by the invalidations of the journal, at recovery: a hundred thousand files by a thousand invalidations, in the time of
 * a start. Equal selectors count once, with the newest generation, and lists of keys are looked up rather than searched.
 */
import { isVolatile, matchesStable } from '#core/selector.ts';
import type { ChunkFacts, Selector } from '#core/selector.ts';

export class InvalidationJudge {
  /** Whole key -> newest generation of a selector that names it, and nothing else. */
  readonly #byKey = new Map<string, number>();
  /** Selector as text -> newest generation. */
  readonly #others = new Map<string, { readonly selector: Selector; readonly generation: number }>();

  /** Volatile selectors were resolved to keys when they were journaled: they judge nothing here. */
  add(selector: Selector, generation: number): void {
    if (isVolatile(selector)) return;
    const { keys, ...rest } = selector;
    if (keys !== undefined && Object.keys(rest).length === 0) {
      for (const key of keys) if ((this.#byKey.get(key) ?? -1) < generation) this.#byKey.set(key, generation);
      return;
    }
    const text = JSON.stringify(selector);
    if ((this.#others.get(text)?.generation ?? -1) < generation) this.#others.set(text, { selector, generation });
  }

  /** True where an invalidation matches that is not older than the file. */
  isDead(facts: ChunkFacts, generation: number): boolean {
    if ((this.#byKey.get(facts.key) ?? -1) >= generation) return true;
    for (const other of this.#others.values()) if (other.generation >= generation && matchesStable(other.selector, facts)) return true;
    return false;
  }

  clear(): void {
    this.#byKey.clear();
    this.#others.clear();
  }
}
