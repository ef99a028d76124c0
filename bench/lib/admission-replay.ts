/**
 * A trace through the real cache core, on simulated disks and time: what each mode of store admission writes to SSD, and what is hit.
 * A request reads its blocks up to the first miss and stores the rest, each behind the one before. Blocks are scaled down to 4 KiB of
 * payload (16 KiB where RAM would hold too few), so bytes are told in blocks.
 */
import type { SsdAdmission } from '#cache/cache-state.ts';
import { KiB, MiB } from '#core/bytes.ts';
import type { CompactTrace } from '#testsupport/policy-table.ts';
import { settle } from '#testsupport/sim-clock.ts';
import { SimCache } from '#testsupport/sim-cache.ts';

export const admissionModes = ['idle', 'demote', 'through', 'second-use', 'off'] as const satisfies readonly SsdAdmission[];
export const RAM_SHARE = 0.05;
export const SSD_SHARE = 0.25;
/** A pause in the trace that is longer tells the cache nothing new. */
const LONGEST_PAUSE_MS = 5000;
const HEADER_BYTES = 4 * KiB;

export interface AdmissionResult {
  readonly mode: SsdAdmission;
  readonly hitRatio: number;
  readonly writtenBlocks: number;
}

export async function replayAdmission(trace: CompactTrace, mode: SsdAdmission): Promise<AdmissionResult> {
  const blockBytes = trace.uniqueBlockCount * RAM_SHARE * 4 * KiB < MiB ? 16 * KiB : 4 * KiB;
  const ramBytes = Math.max(MiB, Math.ceil((trace.uniqueBlockCount * RAM_SHARE * blockBytes) / MiB) * MiB);
  const ssdBytes = Math.max(MiB, Math.ceil(trace.uniqueBlockCount * SSD_SHARE * (blockBytes + HEADER_BYTES)));
  const sim = await SimCache.start({
    admission: mode,
    ramPolicy: 'adaptive',
    ssdPolicy: 'adaptive',
    ramBytes,
    maxChunkBytes: 64 * KiB,
    ssdBytes: [ssdBytes],
    limits: { ssdIdleAfterMs: 2000, writesAtOnce: 8, readAheadBytes: 0, putWaitMs: 0 },
  });
  const payload = new Uint8Array(blockBytes);
  const view = new DataView(payload.buffer);
  let hits = 0;
  let nowMs = trace.timestampsMs[0] ?? 0;
  for (const [at, blocks] of trace.requests.entries()) {
    const untilMs = trace.timestampsMs[at] ?? nowMs;
    await pass(sim, Math.min(LONGEST_PAUSE_MS, Math.max(0, untilMs - nowMs)));
    nowMs = Math.max(nowMs, untilMs);
    let found = 0;
    while (found < blocks.length && (await sim.get(`b${blocks[found]}`)) !== undefined) found += 1;
    hits += found;
    for (let next = found; next < blocks.length; next += 1) {
      view.setUint32(0, blocks[next]!);
      const parent = next === 0 ? undefined : sim.peek(`b${blocks[next - 1]}`)?.ref;
      await sim.put(`b${blocks[next]}`, payload, parent === undefined ? {} : { parent });
    }
  }
  await pass(sim, LONGEST_PAUSE_MS);
  sim.check();
  return {
    mode,
    hitRatio: trace.requestedBlockCount === 0 ? 0 : hits / trace.requestedBlockCount,
    writtenBlocks: sim.cache.control.stats().storeAdmission.admittedChunks,
  };
}

/** Time, with the I/O that it sets off. */
async function pass(sim: SimCache, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 200) {
    await sim.clock.advance(Math.min(200, left));
    while (sim.io.jobs.length > 0) {
      while (sim.io.step(sim.rng));
      await settle();
    }
  }
}
