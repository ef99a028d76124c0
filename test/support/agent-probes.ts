/** What tests ask of a running agent besides its replies: memory, files, and whether a slot was lost. */
import { readFileSync, readdirSync } from 'node:fs';
import type { RunningAgent } from './agent.ts';
import { ByteClient, pattern } from './byte-client.ts';

export interface ProcessMemory {
  readonly residentBytes: number;
  /** Shared memory, so the arenas. */
  readonly sharedBytes: number;
}

export function processMemory(pid: number): ProcessMemory {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024;
  return { residentBytes: field('VmRSS'), sharedBytes: field('RssShmem') };
}

/** Resident memory that is not arenas. */
export function privateBytes(pid: number): number {
  const { residentBytes, sharedBytes } = processMemory(pid);
  return residentBytes - sharedBytes;
}

/** Processor time that all threads of a process have used; in steps of 10 ms. */
export function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  // proc(5): utime and stime are fields 14 and 15, the state behind the name is field 3; ticks of 1/100 s.
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

export function openDescriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** Fills RAM to the brim with chunks of one size and answers how many stay: fewer than in a fresh agent means that slots leaked. */
export async function brimChunks(agent: RunningAgent, options: { readonly sizeBytes: number; readonly ramBytes: number }): Promise<number> {
  const client = await ByteClient.connect(agent.resp);
  await client.send('FLUSHALL');
  const count = Math.ceil((2 * options.ramBytes) / options.sizeBytes);
  for (let index = 0; index < count; index += 1) {
    const reply = await client.send('SET', `brim-${index}`, pattern(options.sizeBytes, index));
    if (reply !== '+OK') throw new Error(`SET ${index} of the brim: ${String(reply)}`);
  }
  const { tiers } = await agent.client.stats();
  await client.send('FLUSHALL');
  client.destroy();
  return tiers.find((tier) => tier.tier === 'ram')?.chunkCount ?? 0;
}

/** Polls a condition that comes true by itself; throws with `what` where it does not within `patienceMs`. */
export async function until(what: string, condition: () => boolean | Promise<boolean>, patienceMs = 20_000): Promise<void> {
  const startedAt = performance.now();
  while (!(await condition())) {
    if (performance.now() - startedAt > patienceMs) throw new Error(`Still not so after ${patienceMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
