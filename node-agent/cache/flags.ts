/** Bits of a chunk's row in the index. */

/** RAM holds bytes that SSD does not: a crash would lose them. */
export const DIRTY = 1;
/** A write to SSD is under way. */
export const WRITING = 2;
/** Not written to SSD by itself: its header does not fit, or its SSD copy was evicted for room; a touch by a reader clears the latter. */
export const UNFIT = 4;
export const DECLINED = 8;
/** The last probe found it below RAM; the hit that follows belongs there although it may have been moved meanwhile. */
export const PROBED_BELOW = 16;
/** Has a redis:// metadata twin or an lm block in a side table. */
export const HAS_METADATA = 32;
/** Is in the queue of chunks to be written. */
export const QUEUED = 64;
/** An unlink of its file is under way: a new file would have the same name, and go with it. */
export const UNLINKING = 128;
/** Pinned: soft goes after everything that is not, hard never goes for space. At most one of the two. */
export const PINNED_SOFT = 256;
export const PINNED_HARD = 512;
export const PINNED = PINNED_SOFT | PINNED_HARD;
/** The RAM copy of a hard-pinned chunk, held too: within the share of RAM that pins may take. */
export const HELD_IN_RAM = 1024;
/** Its tenant has a quota: the chunk is in the tenant's own orders. */
export const LIMITED = 2048;
/** Its bytes in RAM are those that a former process left, and their checksum has not been looked at. */
export const UNVERIFIED = 4096;
/** Under second-use admission: it was used again, or a chunk behind it was, so it may be written to SSD. */
export const ADMITTED = 8192;
/** Has a replica in the memory of a device. */
export const IN_HBM = 16_384;
