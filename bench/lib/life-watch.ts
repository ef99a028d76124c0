/** Memory, descriptors and threads of one process, sampled while it lives. */
import { readdirSync } from 'node:fs';
import { openDescriptors, privateBytes } from '#testsupport/agent-probes.ts';

export interface Resources {
  /** VmRSS less RssShmem. */
  readonly privateBytes: number;
  readonly descriptors: number;
  readonly threads: number;
}

export function resourcesOf(pid: number): Resources {
  return { privateBytes: privateBytes(pid), descriptors: openDescriptors(pid), threads: readdirSync(`/proc/${pid}/task`).length };
}

interface Sample extends Resources {
  readonly atMs: number;
}

const SAMPLE_MS = 500;

export class LifeWatch {
  readonly pid: number;
  readonly #samples: Sample[] = [];
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #startedAtMs = performance.now();

  constructor(pid: number) {
    this.pid = pid;
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS);
  }

  #sample(): void {
    try {
      this.#samples.push({ atMs: performance.now() - this.#startedAtMs, ...resourcesOf(this.pid) });
    } catch {
      // The process has just been killed; `stop` follows.
    }
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  get seconds(): number {
    return (this.#samples.at(-1)?.atMs ?? 0) / 1000;
  }

  /** The median of a part of the life: of its second quarter, when all is warm, and of its last. */
  median(part: 'early' | 'late', field: keyof Resources): number {
    const { length } = this.#samples;
    const slice = part === 'early' ? this.#samples.slice(length / 4, length / 2) : this.#samples.slice((3 * length) / 4);
    const sorted = slice.map((sample) => sample[field]).toSorted((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? 0;
  }

  peak(field: keyof Resources): number {
    return this.#samples.reduce((most, sample) => Math.max(most, sample[field]), 0);
  }
}
