/** What one device's copies come to: bytes by direction, how long they took, how many failed. */
import type { CopyDone, DeviceCopy, DeviceFailure } from '#ports/device-memory.ts';

/** Latencies that the percentiles are taken from: the last so many. */
const WINDOW = 512;

export class CopyCounters {
  toDeviceBytes = 0;
  toHostBytes = 0;
  toDeviceCopies = 0;
  toHostCopies = 0;
  /** Time that the device spent on them, as it measured it. */
  toDeviceMs = 0;
  toHostMs = 0;
  errors = 0;
  inFlight = 0;
  readonly #latencies = new Float64Array(WINDOW);
  #count = 0;

  note(copy: DeviceCopy, outcome: CopyDone | DeviceFailure): void {
    if (!outcome.ok) {
      this.errors += 1;
      return;
    }
    this.#latencies[this.#count % WINDOW] = outcome.elapsedMs;
    this.#count += 1;
    if (copy.direction === 'to-host') {
      this.toHostBytes += copy.sizeBytes;
      this.toHostCopies += 1;
      this.toHostMs += outcome.elapsedMs;
    } else {
      this.toDeviceBytes += copy.sizeBytes;
      this.toDeviceCopies += 1;
      this.toDeviceMs += outcome.elapsedMs;
    }
  }

  /** Of the last copies, ms; 0 before the first. */
  latencyMs(share: number): number {
    const known = this.#latencies.subarray(0, Math.min(this.#count, WINDOW)).toSorted();
    return known[Math.min(known.length - 1, Math.floor(share * known.length))] ?? 0;
  }
}
