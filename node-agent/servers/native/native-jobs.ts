/**
 * LOAD and STORE: lists of chunks between a client's region and the cache. A job answers when nothing of it touches the region any more,
 * whatever became of its chunks.
 *
 * Invariants: at most CHUNKS_AT_ONCE chunks of one job are in work; every ticket and handle is settled exactly once; a region is held for
 * as long as a chunk of the job is in work.
 */
import type { CacheDoor, ChunkRef, LeaseOwner, PutRejection, PutTicket, ReadHandle } from '#cache/door.ts';
import type { NamespaceId } from '#core/brand.ts';
import type { Clock } from '#core/clock.ts';
import type { RegionIo } from '#ports/local-door.ts';
import type { Span } from '#protocol/native/native-codec.ts';
import { loadOutcomes, storeOutcomes } from '#protocol/native/native-schema.ts';
import type { SharedRegion } from './native-memory.ts';

/** More would only wait in the pool's queue; fewer would leave threads and the device idle. */
const CHUNKS_AT_ONCE = 16;

export interface JobParts {
  readonly cache: CacheDoor;
  readonly regions: RegionIo;
  readonly clock: Clock;
}

export interface Job {
  readonly namespace: NamespaceId;
  readonly owner: LeaseOwner;
  readonly shared: SharedRegion;
  /** Copies of their own: the frame they came in is gone by then. */
  readonly keys: readonly Uint8Array[];
  readonly spans: readonly Span[];
  /** True once nobody waits for the outcome. */
  readonly isCancelled: () => boolean;
}

export interface StoreOptions {
  readonly isChain: boolean;
  readonly parent: ChunkRef | undefined;
  readonly ttlMs: number;
}

/** Runs `work` for each index, a few at a time, in order. */
async function forEachIndex(count: number, work: (index: number) => Promise<void> | undefined): Promise<void> {
  let next = 0;
  const run = async (): Promise<void> => {
    while (next < count) {
      const index = next;
      next += 1;
      await work(index);
    }
  };
  // Also where one fails the others are waited for: until then they use the region.
  const runs = await Promise.allSettled(Array.from({ length: Math.min(count, CHUNKS_AT_ONCE) }, run));
  for (const outcome of runs) if (outcome.status === 'rejected') throw outcome.reason;
}

/** Outcomes as `loadOutcomes`, one for each key. */
export async function runLoad(parts: JobParts, job: Job, deadlineMs: number): Promise<Uint8Array> {
  const { clock } = parts;
  const outcomes = new Uint8Array(job.keys.length).fill(loadOutcomes.failed);
  const endsAtMs = deadlineMs === 0 ? Number.POSITIVE_INFINITY : clock.monotonicMs() + deadlineMs;
  job.shared.use();
  try {
    await forEachIndex(job.keys.length, async (index) => {
      const isLate = job.isCancelled() || clock.monotonicMs() > endsAtMs;
      outcomes[index] = isLate ? loadOutcomes.late : await loadOne(parts, job, index);
    });
  } finally {
    job.shared.done();
  }
  return outcomes;
}

async function loadOne({ cache, regions }: JobParts, job: Job, index: number): Promise<number> {
  const [key, span] = [job.keys[index], job.spans[index]];
  if (key === undefined || span === undefined) return loadOutcomes.failed;
  const to = { region: job.shared.region, offset: span.offset, sizeBytes: span.length };
  const opened = await cache.openInto(job.namespace, key, { owner: job.owner, span: to });
  if (typeof opened === 'string') return loadOutcomes[opened];
  return await copied(opened, (handle) => regions.copyOut({ address: handle.address }, to), span.length);
}

async function copied(
  handle: ReadHandle,
  copy: (handle: ReadHandle) => ReturnType<RegionIo['copyOut']>,
  wantedBytes: number,
): Promise<number> {
  try {
    // Replaced by one of another length between the look and the read.
    if (handle.sizeBytes !== wantedBytes) return loadOutcomes.size;
    const outcome = await copy(handle);
    if (outcome.ok) return loadOutcomes.loaded;
    if (outcome.late !== undefined) await outcome.late;
    return loadOutcomes.fault;
  } finally {
    handle.release();
  }
}

/** Outcomes as `storeOutcomes`, one for each key. */
export async function runStore(parts: JobParts, job: Job, options: StoreOptions): Promise<Uint8Array> {
  const outcomes = new Uint8Array(job.keys.length).fill(storeOutcomes.failed);
  const refs: (ChunkRef | undefined)[] = [];
  job.shared.use();
  try {
    await forEachIndex(job.keys.length, async (index) => {
      if (job.isCancelled()) return;
      outcomes[index] = await storeOne(parts, job, { index, options, refs });
    });
  } finally {
    job.shared.done();
  }
  if (options.isChain) linkChain(parts.cache, options.parent, refs);
  return outcomes;
}

const rejections: Readonly<Record<PutRejection, number>> = {
  'too-large': storeOutcomes.tooLarge,
  shed: storeOutcomes.shed,
  draining: storeOutcomes.draining,
  'own-chain': storeOutcomes.ownChain,
  quota: storeOutcomes.quota,
  'quota-slot': storeOutcomes.quota,
};

async function storeOne(
  parts: JobParts,
  job: Job,
  { index, options, refs }: { readonly index: number; readonly options: StoreOptions; readonly refs: (ChunkRef | undefined)[] },
): Promise<number> {
  const { cache, regions } = parts;
  const { namespace } = job;
  const [key, span] = [job.keys[index], job.spans[index]];
  if (key === undefined || span === undefined) return storeOutcomes.failed;
  const spare = options.isChain ? spareOf(options.parent, refs) : undefined;
  const reserved = await cache.reserve({ namespace, key, sizeBytes: span.length, ...(spare === undefined ? {} : { spare }) });
  if (reserved.kind === 'rejected') return rejections[reserved.reason];
  if (job.isCancelled()) {
    cache.abort(reserved);
    return storeOutcomes.failed;
  }
  const from = { region: job.shared.region, offset: span.offset, sizeBytes: span.length };
  const outcome = await regions.copyIn(from, { address: reserved.address });
  if (!outcome.ok) {
    if (outcome.late !== undefined) await outcome.late;
    cache.abort(reserved);
    return storeOutcomes.fault;
  }
  return commit(cache, { ticket: reserved, checksum: outcome.checksum, namespace, key }, { index, options, refs });
}

function commit(
  cache: CacheDoor,
  put: { readonly ticket: PutTicket; readonly checksum: bigint; readonly namespace: NamespaceId; readonly key: Uint8Array },
  { index, options, refs }: { readonly index: number; readonly options: StoreOptions; readonly refs: (ChunkRef | undefined)[] },
): number {
  const parent = options.isChain ? (index === 0 ? options.parent : refs[index - 1]) : undefined;
  const outcome = cache.commit(put.ticket, put.checksum, {
    ...(parent === undefined ? {} : { parent }),
    ...(options.ttlMs === 0 ? {} : { expiry: { ttlMs: options.ttlMs } }),
  });
  if (outcome === 'failed' || outcome === 'condition') return storeOutcomes.failed;
  refs[index] = cache.peek(put.namespace, put.key)?.ref;
  return storeOutcomes[outcome];
}

function spareOf(parent: ChunkRef | undefined, refs: readonly (ChunkRef | undefined)[]): ReadonlySet<number> {
  const rows = new Set<number>();
  if (parent !== undefined) rows.add(parent.entry);
  for (const ref of refs) if (ref !== undefined) rows.add(ref.entry);
  return rows;
}

/** Chunks of one job are stored in any order; the order of the keys is the chain's. */
function linkChain(cache: CacheDoor, before: ChunkRef | undefined, refs: readonly (ChunkRef | undefined)[]): void {
  let parent = before;
  for (const ref of refs) {
    if (ref !== undefined && parent !== undefined && cache.isCurrent(parent) && cache.isCurrent(ref)) cache.link(parent, ref);
    parent = ref;
  }
  cache.touchChain(refs.filter((ref) => ref !== undefined));
}
