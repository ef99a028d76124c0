import Database from 'better-sqlite3'; // canary: no-restricted-imports

export const wrong: unknown = Database;
