/** What tests and benchmarks do with the answers of a device: a failure is an exception there. */
import { deviceFailed } from '#core/errors.ts';
import type { DeviceFailure } from '#ports/device-memory.ts';

export function okay<T extends { readonly ok: true }>(result: T | DeviceFailure): T {
  if (!result.ok) throw deviceFailed(result);
  return result;
}

/** Not `toEqual`, which takes seconds for MiB. */
export function same(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}
