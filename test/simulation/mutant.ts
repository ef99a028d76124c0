/** What a deliberate bug is. */
import type { ProfileName } from './profiles.ts';

interface Edit {
  readonly file: string;
  /** Occurs exactly once in the file. */
  readonly find: string;
  readonly replace: string;
}

export interface Mutant {
  readonly name: string;
  /** What is wrong then, and what a client would see. */
  readonly why: string;
  readonly profile: ProfileName;
  readonly edits: readonly Edit[];
}
