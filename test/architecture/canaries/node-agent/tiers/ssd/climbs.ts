import { RamTier } from '../ram/ram-tier.ts'; // canary: no-restricted-imports
import { RamTier as Again } from './../ram/ram-tier.ts'; // canary: no-restricted-imports

export const wrong: unknown = [RamTier, Again];
