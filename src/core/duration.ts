/** Durations in milliseconds: `250ms`, `30s`, `5m`, `12h`, `7d`. A bare number is milliseconds. */
const units: Readonly<Record<string, number>> = { '': 1, ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds, or undefined where the text is no duration. */
export function parseDuration(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\s*$/.exec(text);
  if (match === null) return undefined;
  const value = Math.round(Number(match[1]) * (units[match[2] ?? ''] ?? Number.NaN));
  return Number.isSafeInteger(value) ? value : undefined;
}

/** `250 ms`, `30 s`, `5 min`, `2.5 h`. */
export function formatDuration(durationMs: number): string {
  if (durationMs < 1000) return `${Math.round(durationMs)} ms`;
  if (durationMs < 60_000) return `${Math.round(durationMs / 100) / 10} s`;
  if (durationMs < 3_600_000) return `${Math.round(durationMs / 6000) / 10} min`;
  return `${Math.round(durationMs / 360_000) / 10} h`;
}
