/**
 * Program: another process on the same card. Opens a handle, reads what is there, writes the bytes back turned by 1, and prints the sum of
 * what it read.
 *
 *   bun test/support/cuda-ipc-child.ts DRIVER-PATH HANDLE-IN-HEX SIZE
 */
import type { CudaMemory } from '#cuda/open-cuda-memory.ts';
import { openCudaMemory } from '#cuda/open-cuda-memory.ts';
import { okay } from './device-results.ts';
import { HostMemory } from './host-memory.ts';

const [driverPath = '', handleText = '', sizeText = ''] = process.argv.slice(2);
const sizeBytes = Number(sizeText);

function opened(): CudaMemory {
  const memory = openCudaMemory({ driverPath });
  if ('reason' in memory) throw new Error(memory.reason);
  return memory;
}

const memory = opened();
const device = memory.open(memory.devices[0]?.ordinal ?? 0);
if ('ok' in device) throw new Error(device.message);
using host = new HostMemory(sizeBytes);
okay(await memory.registerHost(host.address, host.sizeBytes));
const { pointer } = okay(device.openHandle(Uint8Array.fromHex(handleText)));
okay(await device.copy([{ direction: 'to-host', from: pointer, to: host.address, sizeBytes }]));
const sum = Bun.hash.xxHash3(host.bytes.subarray(0, sizeBytes));
for (let at = 0; at < sizeBytes; at += 1) host.bytes[at] = (host.bytes[at] ?? 0) + 1;
okay(await device.copy([{ direction: 'to-device', from: host.address, to: pointer, sizeBytes }]));
okay(device.closeHandle(pointer));
await memory.close();
console.log(JSON.stringify({ sum: String(sum), alive: memory.alive }));
process.exit(0);
