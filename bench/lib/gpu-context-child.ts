/**
 * Program: makes a context on the first device, as the agent does, says `open`, and keeps it until standard input ends.
 *
 *   bun bench/lib/gpu-context-child.ts DRIVER-PATH
 */
import { openCudaMemory } from '#cuda/open-cuda-memory.ts';

const memory = openCudaMemory({ driverPath: process.argv[2] ?? '' });
if ('reason' in memory) throw new Error(memory.reason);
const device = memory.open(memory.devices[0]?.ordinal ?? 0);
if ('ok' in device) throw new Error(device.message);
console.log('open');
await Bun.stdin.text();
await memory.close();
process.exit(0);
