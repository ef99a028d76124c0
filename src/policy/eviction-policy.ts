/** What a policy may ask about an entry that is in the tier. Both answers are the same from its insertion to its removal. */
export interface EntryFacts {
  sizeOf(entry: number): number;
  /** A hash of the chunk's key, below 2^32: the same whenever the chunk comes again, under whatever number. */
  identityOf(entry: number): number;
}

/**
 * The order in which entries leave one tier. Pure: knows entry numbers and sizes, no clock, no I/O, so that the agent, the
 * trace replays and the simulation run the same code.
 *
 * The caller touches a chain's suffix first and its prefix last (on lookup and on insert); then every order below loses a
 * chain's tail before its head.
 */
export interface EvictionPolicy {
  /** `entry` came into the tier with `sizeBytes`; it must not be in it. */
  insert(entry: number, sizeBytes: number): void;
  /** `entry` was used, after it had come; it must be in the tier. */
  touch(entry: number): void;
  /**
   * `entry` is as hot as what is inserted now, without having been used: it is the chunk just stored, or one before it in its chain.
   * It must be in the tier.
   */
  refresh(entry: number): void;
  /** `entry` left the tier for whatever reason; it must be in it. */
  remove(entry: number): void;
  has(entry: number): boolean;
  /** Number of entries in the tier. */
  readonly size: number;
  /**
   * The next entry to evict for which `isEvictable` is true, or -1. Looks at no more than `scanLimit` entries, coldest first.
   * Does not remove it.
   */
  victim(isEvictable: (entry: number) => boolean, scanLimit?: number): number;
  /** Entries from the coldest to the hottest; stops when `visit` returns false. The policy must not change meanwhile. */
  forEachColdest(visit: (entry: number) => boolean): void;
  /** Larger is hotter. Comparable within this policy only; 0 where the entry is not in the tier. */
  temperature(entry: number): number;
  /** Throws InvariantError where the structure is broken. For tests. */
  checkInvariants(): void;
}
