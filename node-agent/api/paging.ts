import { badRequest } from '#core/errors.ts';

/**
 * One page of rows that are sorted by `order`, which is unique. The cursor is the order of the last row, so that rows that come
 * or go between pages make no other row appear twice or not at all. Errors: BAD_REQUEST for a cursor that is none of ours.
 */
export function pageOf<T>(
  sorted: readonly { readonly order: string; readonly row: T }[],
  page: { readonly cursor?: string | undefined; readonly limit: number },
): { readonly rows: T[]; readonly cursor: string | null } {
  const after = page.cursor === undefined ? undefined : decodeCursor(page.cursor);
  const first = after === undefined ? 0 : sorted.findIndex(({ order }) => order > after);
  const rows = first < 0 ? [] : sorted.slice(first, first + page.limit);
  const last = rows.at(-1);
  const more = first >= 0 && first + rows.length < sorted.length;
  return { rows: rows.map(({ row }) => row), cursor: more && last !== undefined ? encodeCursor(last.order) : null };
}

function encodeCursor(order: string): string {
  return Buffer.from(order, 'utf8').toString('base64url');
}

function decodeCursor(cursor: string): string {
  const order = Buffer.from(cursor, 'base64url').toString('utf8');
  if (order === '' || encodeCursor(order) !== cursor)
    throw badRequest('Cannot continue the listing: the cursor is not one of a former page');
  return order;
}
