import { badRequest } from '#core/errors.ts';

/**
 * One page of rows that are sorted by `order`, which is unique. The cursor is the order of the last row, so that rows that come
 * or go between pages make no other row appear twice or not at all. Errors: BAD_REQUEST for a cursor that is none of ours.
 */
export function pageOf<T>(
  sorted: readonly { readonly order: string; readonly row: T }[],
  page: { readonly kind: CursorKind; readonly cursor?: string | undefined; readonly limit: number },
): { readonly rows: T[]; readonly cursor: string | null } {
  const after = page.cursor === undefined ? undefined : decodeCursor(page.kind, page.cursor);
  const first = after === undefined ? 0 : sorted.findIndex(({ order }) => order > after);
  const rows = first < 0 ? [] : sorted.slice(first, first + page.limit);
  const last = rows.at(-1);
  const more = first >= 0 && first + rows.length < sorted.length;
  return { rows: rows.map(({ row }) => row), cursor: more && last !== undefined ? encodeCursor(page.kind, last.order) : null };
}

/** The listing that a cursor belongs to; part of it, so that one listing refuses the cursor of another. */
export type CursorKind = 'namespaces' | 'tenants' | 'chunks' | 'invalidations';

/** An opaque cursor around `position`, which is whatever the listing goes on from. */
export function encodeCursor(kind: CursorKind, position: string): string {
  return Buffer.from(`${kind} ${position}`, 'utf8').toString('base64url');
}

/** The position. Errors: BAD_REQUEST for a cursor that this listing did not give; the end of the list would be a wrong answer to it. */
export function decodeCursor(kind: CursorKind, cursor: string): string {
  const text = Buffer.from(cursor, 'base64url').toString('utf8');
  const position = text.slice(kind.length + 1);
  if (position === '' || encodeCursor(kind, position) !== cursor) {
    throw badRequest('Cannot continue the listing: the cursor is not one of a former page');
  }
  return position;
}
