import type { EvictionPolicy } from './eviction-policy.ts';

/** The `victim` of a policy whose order of eviction is that of `forEachColdest`. */
export function firstEvictable(policy: EvictionPolicy, isEvictable: (entry: number) => boolean, scanLimit: number): number {
  let found = -1;
  let left = scanLimit;
  policy.forEachColdest((entry) => {
    left -= 1;
    if (left < 0) return false;
    if (isEvictable(entry)) found = entry;
    return found < 0;
  });
  return found;
}
