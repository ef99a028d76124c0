/**
 * What LMCache's lm:// protocol keeps with an object and wants back unchanged: the client allocates from it. Six four-byte signed
 * integers whose values are LMCache's own (docs/formats/wire-lm.md); they are opaque to us.
 */
export interface LmBlock {
  readonly fmt: number;
  readonly dtype: number;
  readonly shape: readonly [number, number, number, number];
}

export function sameLmBlock(a: LmBlock, b: LmBlock): boolean {
  return a.fmt === b.fmt && a.dtype === b.dtype && a.shape.every((extent, index) => extent === b.shape[index]);
}

/** `[fmt,dtype,shape0,shape1,shape2,shape3]`: how the catalog holds a block, readable by people and by SQLite's json functions. */
export function formatLmBlock({ fmt, dtype, shape }: LmBlock): string {
  return JSON.stringify([fmt, dtype, ...shape]);
}

/** Exactly what `formatLmBlock` writes; undefined for anything else. */
export function parseLmBlock(text: string): LmBlock | undefined {
  if (!/^\[-?\d{1,10}(?:,-?\d{1,10}){5}\]$/.test(text)) return undefined;
  const [fmt, dtype, ...extents] = text.slice(1, -1).split(',').map(Number);
  const [shape0, shape1, shape2, shape3] = extents;
  if (fmt === undefined || dtype === undefined) return undefined;
  if (shape0 === undefined || shape1 === undefined || shape2 === undefined || shape3 === undefined) return undefined;
  const block: LmBlock = { fmt, dtype, shape: [shape0, shape1, shape2, shape3] };
  return [fmt, dtype, ...block.shape].every((value) => value === (value | 0)) && formatLmBlock(block) === text ? block : undefined;
}
