import { RamTier } from '#tiers/ram/ram-tier.ts'; // canary: no-restricted-imports

export const wrong: unknown = RamTier;
