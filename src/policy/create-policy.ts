import { Arc, arcSettings } from './arc.ts';
import type { EntryFacts, EvictionPolicy } from './eviction-policy.ts';
import { FifoOrder } from './fifo-order.ts';
import { LeafLru } from './leaf-lru.ts';
import { Slru } from './slru.ts';

/** The orders that a tier can be given. */
export const policyNames = ['adaptive', 'leaf-lru', 'slru', 'arc', 'fifo'] as const;
export type PolicyName = (typeof policyNames)[number];

/** An empty policy. `facts` are asked about its entries only. */
export function createPolicy(name: PolicyName, facts: EntryFacts): EvictionPolicy & { memoryBytes(): number } {
  switch (name) {
    case 'adaptive':
    case 'arc':
      return new Arc(facts, arcSettings[name]);
    case 'leaf-lru':
      return new LeafLru();
    case 'slru':
      return new Slru(facts);
    case 'fifo':
      return new FifoOrder();
  }
}
