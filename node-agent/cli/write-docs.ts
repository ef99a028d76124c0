/** Writes docs/cli.md: `bun node-agent/cli/write-docs.ts`. */
import { writeFileSync } from 'node:fs';
import { cliPage } from './reference-page.ts';

writeFileSync(new URL('../../docs/cli.md', import.meta.url), cliPage());
