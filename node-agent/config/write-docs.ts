/** Writes docs/configuration.md: `bun node-agent/config/write-docs.ts`. */
import { writeFileSync } from 'node:fs';
import { referencePage } from './reference-page.ts';

writeFileSync(new URL('../../docs/configuration.md', import.meta.url), referencePage());
