/** Time and randomness as the core sees them. The simulated twins are SimClock and SimRng in test/support. */
export interface Clock {
  /** Wall clock in milliseconds since 1970; may jump. For records and people. */
  nowMs(): number;
  /** Milliseconds that only grow; for timeouts, leases and latencies. */
  monotonicMs(): number;
  /** Runs `callback` once after `delayMs`; returns a cancel function. Does not keep the process alive. */
  schedule(delayMs: number, callback: () => void): () => void;
}

export interface Rng {
  /** Uniform in [0, 2^32). */
  nextUint32(): number;
}
