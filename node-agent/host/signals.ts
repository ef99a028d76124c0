/**
 * Signals that end the agent. A signal to the process group arrives twice (once from the terminal or supervisor, once from a
 * launcher that passes it on), so signals within a second of the first are one; a later one exits at once.
 */
const SAME_SIGNAL_MS = 1000;

/** Resolves at the first SIGTERM or SIGINT with its name. `onSecond` runs at one that comes later than a second after it. */
export function untilStopped(onSecond: (signal: string) => void): Promise<string> {
  return new Promise((resolve) => {
    let firstAtMs: number | undefined;
    const handle = (signal: string): void => {
      const now = performance.now();
      if (firstAtMs === undefined) {
        firstAtMs = now;
        resolve(signal);
      } else if (now - firstAtMs > SAME_SIGNAL_MS) onSecond(signal);
    };
    process.on('SIGTERM', () => handle('SIGTERM'));
    process.on('SIGINT', () => handle('SIGINT'));
  });
}
