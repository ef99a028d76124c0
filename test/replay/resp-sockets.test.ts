import { describe, expect, test } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import { replayThroughSockets } from '#testsupport/socket-replay.ts';
import { capacityOf } from '#testsupport/trace-replay.ts';
import { readTrace } from '#testsupport/trace.ts';

const KiB = 1024;
/** Smallest RAM tier that the agent takes. */
const MIN_RAM_BYTES = 16 * KiB * KiB;

/** Two shapes that tile a tier without a rest: 16 KiB values where many fit, else multiples of a page. */
function shapeOf(capacityBlocks: number): { ramBytes: number; valueBytes: number } {
  const wanted = Math.ceil(MIN_RAM_BYTES / capacityBlocks);
  const valueBytes = wanted <= 16 * KiB ? 16 * KiB : Math.ceil(wanted / (64 * KiB)) * 64 * KiB;
  return { ramBytes: capacityBlocks * valueBytes, valueBytes };
}

describe('a trace through eight RESP sockets, chains inferred, hits within 2 points of leaf LRU', () => {
  test.each([
    ['lmcache-agent', 0.05, 0.6722],
    ['lmcache-agent', 0.1, 0.8483],
    ['synthetic', 0.05, 0.1566],
    ['synthetic', 0.1, 0.2623],
  ] as const)('%s at %f of its unique blocks', { timeout: 240_000 }, async (name, share, reference) => {
    const trace = readTrace(name);
    // A page of the allocator holds four values of 16 KiB.
    const capacityBlocks = Math.round(capacityOf(trace, share) / 4) * 4;
    const { ramBytes, valueBytes } = shapeOf(capacityBlocks);
    const agent = await startAgent({
      flags: ['--ram', String(ramBytes), '--ssd', 'off', '--lease-duration', '10ms', '--log-level', 'warn'],
    });
    try {
      const hitRatio = await replayThroughSockets(trace, { address: agent.resp, sockets: 8, valueBytes });
      expect(hitRatio).toBeGreaterThan(reference - 0.02);
      expect(hitRatio).toBeLessThan(reference + 0.02);
    } finally {
      await agent.stop();
    }
  });
});
