/** What the cache counts. Plain numbers, changed in place; `CacheStats` (control.ts) is their snapshot. */
export class CacheCounters {
  probes = 0;
  probeHits = 0;
  lookups = 0;
  hitsHbm = 0;
  hitsRam = 0;
  hitsSsd = 0;
  misses = 0;
  puts = 0;
  putBytes = 0;
  duplicatePuts = 0;
  rejectedTooLarge = 0;
  rejectedShed = 0;
  rejectedDraining = 0;
  rejectedQuota = 0;
  rejectedQuotaSlot = 0;
  quotaEvictionsRam = 0;
  quotaEvictionsSsd = 0;
  lostPins = 0;
  droppedDirtyChunks = 0;
  evictionsHbm = 0;
  evictionsRam = 0;
  evictionsSsd = 0;
  demotions = 0;
  promotions = 0;
  deletes = 0;
  invalidatedChunks = 0;
  expiredChunks = 0;
  sizeGuardMisses = 0;
  refusedLookups = 0;
  admittedChunks = 0;
  skippedChunks = 0;
  shedChunks = 0;
  /** Chunks that a former process left in RAM and whose bytes were not right. */
  keptMismatches = 0;
}
