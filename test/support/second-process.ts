/** An allocation that a second process opens by its handle, reads, and writes: what CUDA IPC is for. */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Device, DeviceMemory } from '#ports/device-memory.ts';
import { okay, same } from './device-results.ts';
import { HostMemory } from './host-memory.ts';

const CHILD_LIMIT_MS = 60_000;
/** What Bun prints of an error that nobody caught, without the source and the stack around it. */
export function lastWords(errors: string): string {
  return errors.split('\n').findLast((line) => /^\w*error: /i.test(line)) ?? errors.trim();
}

const program = fileURLToPath(new URL('cuda-ipc-child.ts', import.meta.url));

/**
 * Fresh bytes go to the device and are read by the other process, which writes them back turned by 1. Throws where either side saw other
 * bytes, or the other one kept something. `environment`: what the other needs to see the same devices.
 */
export async function shareWithSecondProcess(
  memory: DeviceMemory,
  device: Device,
  options: { readonly driverPath: string; readonly environment: Readonly<Record<string, string>>; readonly sizeBytes: number },
): Promise<void> {
  const { driverPath, environment, sizeBytes } = options;
  using source = new HostMemory(sizeBytes).fillRandom();
  using target = new HostMemory(sizeBytes);
  for (const host of [source, target]) okay(await memory.registerHost(host.address, host.sizeBytes));
  const { pointer } = okay(device.allocate(sizeBytes));
  try {
    okay(await device.copy([{ direction: 'to-device', from: source.address, to: pointer, sizeBytes }]));
    const { handle } = okay(device.exportHandle(pointer));
    const child = Bun.spawn([process.execPath, program, driverPath, handle.toHex(), String(sizeBytes)], {
      env: { ...process.env, ...environment },
      stdout: 'pipe',
      stderr: 'pipe',
      timeout: CHILD_LIMIT_MS,
    });
    const [output, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    assert.equal(await child.exited, 0, `the second process failed: ${lastWords(errors)}`);
    const answer = JSON.parse(output) as { readonly sum: string; readonly alive: Readonly<Record<string, number>> };
    assert.equal(answer.sum, String(Bun.hash.xxHash3(source.bytes.subarray(0, sizeBytes))), 'the second process read other bytes');
    assert.partialDeepStrictEqual(answer.alive, { imports: 0, contexts: 0 });
    okay(await device.copy([{ direction: 'to-host', from: pointer, to: target.address, sizeBytes }]));
    for (let at = 0; at < sizeBytes; at += 1) source.bytes[at] = (source.bytes[at] ?? 0) + 1;
    assert.ok(same(target.bytes.subarray(0, sizeBytes), source.bytes.subarray(0, sizeBytes)), 'what the second process wrote is here');
  } finally {
    for (const host of [source, target]) await memory.unregisterHost(host.address);
    device.free(pointer);
  }
}
