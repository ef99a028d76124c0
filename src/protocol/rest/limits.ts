/** Bounds of the REST door. The schemas, the server and the client read the same numbers; docs/rest.md prints them. */
export const restLimits = {
  /** Whole request body; 10,000 keys of LMCache (about 100 bytes each) fit. */
  bodyBytes: 1024 * 1024,
  /** Keys in one selector, lookup or prefetch. */
  keyCount: 10_000,
  /** Characters of one key: the key limit of the RESP door. */
  keyLength: 2048,
  /** Characters of a model, tenant, tag or namespace label; a label joins several fields of a key. */
  nameLength: 4096,
  /** Characters of the reason kept in the audit log. */
  reasonLength: 1000,
  /** Rows of one page. */
  pageSize: 1000,
  /** Rows of a page where the caller asks for none. */
  defaultPageSize: 100,
  /** Characters of an opaque cursor; one that names a tenant carries its name. */
  cursorLength: 16_384,
  /** Models and tenants listed in the statistics, largest first. */
  statsGroups: 100,
} as const;
