import Database from 'better-sqlite3'; // canary: no-restricted-imports
import { dlopen } from 'bun:ffi'; // canary: no-restricted-imports

export const wrong: unknown = [Database, dlopen];
