/** Memory, descriptors and threads of one process, sampled while it lives. */
import { readdirSync } from 'node:fs';
import { openDescriptors, privateBytes } from '#testsupport/agent-probes.ts';

export interface Resources {
  /** JavaScript heap of the main thread, as its metrics say; of the last time that they were asked. */
  readonly heapBytes: number;
  /** VmRSS less RssShmem. */
  readonly privateBytes: number;
  readonly descriptors: number;
  readonly threads: number;
}

export function resourcesOf(pid: number, heapBytes = 0): Resources {
  return {
    heapBytes,
    privateBytes: privateBytes(pid),
    descriptors: openDescriptors(pid),
    threads: readdirSync(`/proc/${pid}/task`).length,
  };
}

interface Sample extends Resources {
  readonly atMs: number;
}

const SAMPLE_MS = 500;
const HEAP_MS = 5000;

export class LifeWatch {
  readonly pid: number;
  readonly #samples: Sample[] = [];
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #startedAtMs = performance.now();

  readonly #heapTimer: ReturnType<typeof setInterval>;
  #heapBytes = 0;

  constructor(agent: { readonly pid: number; readonly url: string }) {
    this.pid = agent.pid;
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS);
    this.#heapTimer = setInterval(() => void this.#askHeap(agent.url), HEAP_MS);
  }

  async #askHeap(url: string): Promise<void> {
    try {
      const text = await (await fetch(`${url}/metrics`)).text();
      this.#heapBytes = Number(/^kvtier_process_heap_bytes (\S+)$/m.exec(text)?.[1] ?? 0);
    } catch {
      // It is stopped, or has just been killed: the last answer stands.
    }
  }

  #sample(): void {
    try {
      this.#samples.push({ atMs: performance.now() - this.#startedAtMs, ...resourcesOf(this.pid, this.#heapBytes) });
    } catch {
      // The process has just been killed; `stop` follows.
    }
  }

  stop(): void {
    clearInterval(this.#timer);
    clearInterval(this.#heapTimer);
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
