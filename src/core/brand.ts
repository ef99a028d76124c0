/**
 * Branded primitives: an id or address that the compiler will not mix up with another.
 * Each brand is made in one place, by a parse function or by the class that owns the number space.
 */
export type Brand<T, Name extends string> = T & { readonly __brand: Name };

/** Dense number of an interned namespace; valid while a chunk or a ticket refers to it. */
export type NamespaceId = Brand<number, 'NamespaceId'>;
/** Row of the chunk index; reused after removal, so pair it with a Generation across an await. */
export type EntryIndex = Brand<number, 'EntryIndex'>;
/** Number of a slot in one slab allocator; reused after free, see `slotGeneration`. */
export type SlotIndex = Brand<number, 'SlotIndex'>;
/** Address of mapped memory in this process, in bytes; fits 2^53. */
export type Address = Brand<number, 'Address'>;
/** Address of memory of a GPU, in bytes; fits 2^53, means nothing to the host's processor. */
export type DevicePtr = Brand<number, 'DevicePtr'>;
/** An open file descriptor. */
export type Fd = Brand<number, 'Fd'>;
/** Grows with every put, delete and invalidation, across restarts: start epoch * 2^32 + counter. Fits 2^53. */
export type Generation = Brand<number, 'Generation'>;
/** A lease that is alive or was. Never reused. */
