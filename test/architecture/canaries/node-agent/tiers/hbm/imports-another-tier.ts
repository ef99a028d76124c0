import { SsdTier } from '#tiers/ssd/ssd-tier.ts'; // canary: no-restricted-imports

export const wrong: unknown = SsdTier;
