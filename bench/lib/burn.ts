/** Burns a share of one core until it is killed: `bun bench/lib/burn.ts SHARE NICE`. In slices of 5 ms, as threads that move bytes do. */
import { setPriority } from 'node:os';

const SLICE_MS = 5;
const share = Number(process.argv[2]);
setPriority(Number(process.argv[3]));
const memory = new Uint8Array(64 * 1024 ** 2);
let owedMs = 0;
let lastMs = performance.now();
for (;;) {
  // By what the clock says, so that a slice that was taken away by others is made up for, as work in a queue is.
  const nowMs = performance.now();
  owedMs = Math.min(10 * SLICE_MS, owedMs + (nowMs - lastMs) * share);
  lastMs = nowMs;
  if (owedMs < SLICE_MS) {
    await Bun.sleep(1);
    continue;
  }
  const startedMs = process.cpuUsage();
  let used = 0;
  while (used < SLICE_MS) {
    memory.copyWithin(0, 32 * 1024 ** 2, 33 * 1024 ** 2);
    const usage = process.cpuUsage(startedMs);
    used = (usage.user + usage.system) / 1000;
  }
  owedMs -= used;
}
