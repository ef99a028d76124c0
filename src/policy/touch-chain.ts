import type { EvictionPolicy } from './eviction-policy.ts';

/**
 * Touches a chain in the one right order: suffix first, prefix last, so that the prefix stays hotter than what hangs on it
 * (leaf-lru.ts says why). Entries that are not in this tier are passed over: a chain may lie in two tiers.
 *
 * `entriesInPrefixOrder` is what a lookup answered; `count` is how many of its numbers are meant, by default all.
 */
export function touchChain(policy: EvictionPolicy, entriesInPrefixOrder: ArrayLike<number>, count = entriesInPrefixOrder.length): void {
  for (let at = count - 1; at >= 0; at -= 1) {
    const entry = entriesInPrefixOrder[at]!;
    if (policy.has(entry)) policy.touch(entry);
  }
}
