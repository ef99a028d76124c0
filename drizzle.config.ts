import { defineConfig } from 'drizzle-kit';

/** `bunx drizzle-kit generate` writes the next file of migrations/ from the schema. A released migration is never edited. */
export default defineConfig({ dialect: 'sqlite', schema: './src/catalog/schema.ts', out: './migrations' });
