/** Running estimates of a device: bandwidth by direction, and a latency histogram. Pure. */

/** Exponentially weighted bandwidth; follows a device that slows down within about ten transfers. */
export class BandwidthEstimate {
  #bytesPerSecond = 0;

  add(sizeBytes: number, elapsedMs: number): void {
    if (sizeBytes < 64 * 1024 || elapsedMs <= 0) return; // too small to say anything about bandwidth
    const sample = (sizeBytes * 1000) / elapsedMs;
    this.#bytesPerSecond = this.#bytesPerSecond === 0 ? sample : this.#bytesPerSecond * 0.8 + sample * 0.2;
  }

  /** 0 until the first sample. Of one transfer; several at once may move more together. */
  get bytesPerSecond(): number {
    return Math.round(this.#bytesPerSecond);
  }
}

/** The last 1,024 latencies; percentiles on demand. */
export class LatencyWindow {
  readonly #samples = new Float64Array(1024);
  #count = 0;

  add(elapsedMs: number): void {
    this.#samples[this.#count % this.#samples.length] = elapsedMs;
    this.#count += 1;
  }

  /** Milliseconds; 0 without samples. */
  percentile(fraction: number): number {
    const filled = Math.min(this.#count, this.#samples.length);
    if (filled === 0) return 0;
    const sorted = this.#samples.slice(0, filled).sort();
    return sorted[Math.min(filled - 1, Math.floor(filled * fraction))] ?? 0;
  }
}
