import { LeafLru } from '#policy/leaf-lru.ts'; // canary: no-restricted-imports

export const wrong: unknown = LeafLru;
