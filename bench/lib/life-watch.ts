/** Memory, descriptors and threads of one process, sampled while it lives. */
import { readdirSync, readFileSync } from 'node:fs';
import { openDescriptors, privateBytes } from '#testsupport/agent-probes.ts';
import { memoryClasses, type MemoryClasses } from './memory-classes.ts';

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
/** The kernel walks all page tables for it. */
const CLASSES_MS = 30_000;

type Part = 'early' | 'late';

export class LifeWatch {
  readonly pid: number;
  readonly #samples: Sample[] = [];
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #startedAtMs = performance.now();

  readonly #heapTimer: ReturnType<typeof setInterval>;
  #heapBytes = 0;
  readonly #classesTimer: ReturnType<typeof setInterval>;
  /** What its memory was made of, every half minute from the beginning on. */
  readonly classes: (MemoryClasses & { readonly second: number })[] = [];

  constructor(agent: { readonly pid: number; readonly url: string }) {
    this.pid = agent.pid;
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS);
    this.#heapTimer = setInterval(() => void this.#askHeap(agent.url), HEAP_MS);
    this.#classesTimer = setInterval(() => this.#classify(), CLASSES_MS);
    this.#classify();
  }

  #classify(): void {
    try {
      const second = Math.round((performance.now() - this.#startedAtMs) / 1000);
      this.classes.push({ second, ...memoryClasses(readFileSync(`/proc/${this.pid}/smaps`, 'utf8')) });
    } catch {
      // The process has just been killed; `stop` follows.
    }
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
    clearInterval(this.#classesTimer);
  }

  get seconds(): number {
    return (this.#samples.at(-1)?.atMs ?? 0) / 1000;
  }

  /** The median of a part of the life: of its second quarter, when all is warm, and of its last. */
  median(part: Part, field: keyof Resources): number {
    return this.#quantile(part, field, 0.5);
  }

  /** What a tenth of the samples of that part do not exceed: garbage comes and goes above it, a leak lifts it. */
  floor(part: Part, field: keyof Resources): number {
    return this.#quantile(part, field, 0.1);
  }

  #quantile(part: Part, field: keyof Resources, share: number): number {
    const { length } = this.#samples;
    const slice = part === 'early' ? this.#samples.slice(length / 4, length / 2) : this.#samples.slice((3 * length) / 4);
    const sorted = slice.map((sample) => sample[field]).toSorted((a, b) => a - b);
    return sorted[Math.floor(sorted.length * share)] ?? 0;
  }

  peak(field: keyof Resources): number {
    return this.#samples.reduce((most, sample) => Math.max(most, sample[field]), 0);
  }
}
