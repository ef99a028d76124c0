/** Sizes in bytes: `64GiB`, `512 MiB`, `4096`. Decimal units (MB, GB) mean powers of ten. */
const units: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kib: 1024,
  mib: 1024 ** 2,
  gib: 1024 ** 3,
  tib: 1024 ** 4,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
};

export const KiB = 1024;
export const MiB = 1024 ** 2;
export const GiB = 1024 ** 3;
/** Sector and page size that O_DIRECT, DMA and mmap all accept. */
export const BLOCK_BYTES = 4096;

/** Bytes, or undefined where the text is no size, negative, or beyond 2^53. */
export function parseBytes(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*$/.exec(text);
  if (match === null) return undefined;
  const unit = units[(match[2] ?? '').toLowerCase()];
  if (unit === undefined) return undefined;
  const value = Math.round(Number(match[1]) * unit);
  return Number.isSafeInteger(value) ? value : undefined;
}

/** `4 GiB`, `1.5 MiB`, `17 B`: at most one decimal. */
export function formatBytes(sizeBytes: number): string {
  const steps = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;
  let value = sizeBytes;
  let step = 0;
  while (Math.abs(value) >= 1024 && step < steps.length - 1) {
    value /= 1024;
    step += 1;
  }
  const text = Number.isInteger(value) ? String(value) : value.toFixed(1).replace(/\.0$/, '');
  return `${text} ${steps[step] ?? 'B'}`;
}

/** Smallest multiple of `multiple` that is at least `value`. */
export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
