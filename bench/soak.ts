/**
 * `bun run bench:soak`: 50 GiB of SETs through 1 GiB of RAM and 4 GiB of SSD. What must not grow is the memory outside the arenas:
 * VmRSS less RssShmem of /proc/PID/status, from the moment that the agent is ready to the highest sample on the way.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { LoadClient, payload, stamp } from './lib/load-client.ts';
import { parseFlags } from './lib/flags.ts';
import { compare, publish } from './lib/report.ts';
import { startAgent } from '#testsupport/agent.ts';
import { privateBytes } from '#testsupport/agent-probes.ts';

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;
const flags = parseFlags('bench:soak');
const totalBytes = flags.smoke ? GiB : 50 * GiB;
const [ram, ssd] = flags.smoke ? ['128MiB', '256MiB'] : ['1GiB', '4GiB'];
const chunkBytes = 8 * MiB;
const connections = 4;
const TARGET_MIB = 150;
const SAMPLE_MS = 100;

// On the file system of the working directory: a /tmp in memory would be no SSD.
const dataDir = mkdtempSync(join(process.cwd(), '.bench-soak-'));
const agent = await startAgent({ dataDir, flags: ['--ram', ram, '--ssd', ssd, '--log-level', 'warn'] });
const startBytes = privateBytes(agent.pid);
let peakBytes = startBytes;
const sampling = setInterval(() => void (peakBytes = Math.max(peakBytes, privateBytes(agent.pid))), SAMPLE_MS);
let next = 0;
const count = Math.ceil(totalBytes / chunkBytes);
const startedAt = performance.now();

async function store(): Promise<void> {
  const client = await LoadClient.connect(agent.resp);
  const value = payload(chunkBytes);
  for (let index = next++; index < count; index = next++) {
    stamp(value, index);
    await client.set(`soak-${index}`, value);
  }
  client.close();
}

try {
  await Promise.all(Array.from({ length: connections }, store));
  const seconds = (performance.now() - startedAt) / 1000;
  clearInterval(sampling);
  const endBytes = privateBytes(agent.pid);
  const stats = await agent.client.stats();
  if (stats.puts !== count) throw new Error(`${count} chunks were stored, the agent counted ${stats.puts}`);
  const size = `${Math.round(totalBytes / GiB)} GiB of SETs of 8 MiB, ${ram} RAM, ${ssd} SSD`;
  const growth = (bytes: number): number => Math.max(1, (bytes - startBytes) / MiB);
  publish('bench:soak', flags, [
    compare({
      case: `growth outside the arenas, peak, ${size}`,
      unit: 'MiB',
      better: 'lower',
      ours: growth(peakBytes),
      peer: TARGET_MIB,
      peerName: 'target',
    }),
    compare({
      case: 'growth outside the arenas, at the end',
      unit: 'MiB',
      better: 'lower',
      ours: growth(endBytes),
      peer: TARGET_MIB,
      peerName: 'target',
    }),
  ]);
  const rate = (totalBytes / seconds / 1e9).toFixed(2);
  console.log(
    `${rate} GB/s over ${Math.round(seconds)} s; ready with ${Math.round(startBytes / MiB)} MiB outside the arenas; ` +
      `${stats.droppedDirtyChunks} chunks dropped before they were on SSD, ${stats.evictions.ssd} evicted from SSD, ${stats.io.writeErrors} write errors`,
  );
} finally {
  clearInterval(sampling);
  await agent.kill9();
  rmSync(dataDir, { recursive: true, force: true });
}
process.exit(0);
