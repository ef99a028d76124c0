import { formatBytes } from '#core/bytes.ts';
import { printable } from '#core/printable.ts';

export interface Column {
  readonly head: string;
  /** Numbers stand right. */
  readonly right?: true;
}

/** Heads of columns; one that starts with `>` stands right. */
export function columns(...heads: readonly string[]): readonly Column[] {
  return heads.map((head) => (head.startsWith('>') ? { head: head.slice(1), right: true } : { head }));
}

/** A table for people: two spaces between columns, no lines, text of others made printable. '' where there are no rows. */
export function renderTable(heads: readonly Column[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return '';
  const cells = [heads.map((column) => column.head), ...rows.map((row) => heads.map((_, index) => printable(row[index] ?? '')))];
  const widths = heads.map((_, index) => Math.max(...cells.map((row) => row[index]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, index) => (heads[index]?.right === true ? cell.padStart(widths[index] ?? 0) : cell.padEnd(widths[index] ?? 0)))
      .join('  ')
      .trimEnd();
  return `${cells.map(line).join('\n')}\n`;
}

/** Heads and cells of bytes by tier: HBM where any row has such a tier. */
export function tierColumns(rows: readonly { readonly bytes: TierBytes }[]): {
  readonly heads: readonly string[];
  readonly cells: (bytes: TierBytes) => readonly string[];
} {
  const hasHbm = rows.some(({ bytes }) => bytes.hbm !== undefined);
  return {
    heads: [...(hasHbm ? ['>HBM'] : []), '>RAM', '>SSD'],
    cells: ({ hbm, ram, ssd }) => [...(hasHbm ? [formatBytes(hbm ?? 0)] : []), formatBytes(ram), formatBytes(ssd)],
  };
}

interface TierBytes {
  readonly hbm?: number | undefined;
  readonly ram: number;
  readonly ssd: number;
}

/** `1,234,567`. */
export function formatCount(value: number): string {
  return value.toLocaleString('en-US');
}

/** `42.5 %`; `-` where there is nothing to divide by. */
export function formatShare(part: number, whole: number): string {
  return whole === 0 ? '-' : `${Math.round((part / whole) * 1000) / 10} %`;
}
