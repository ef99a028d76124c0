/** The headings of the runbooks in docs/operating.md, as patterns of the sentences that /readyz gives. */
import { readFileSync } from 'node:fs';

const page = readFileSync(new URL('../../docs/operating.md', import.meta.url), 'utf8');
const section = page.slice(page.indexOf('\n## Runbooks\n'), page.indexOf('\n### Not degraded, and yet'));

/** Sentences as the headings spell them, `…` for what differs. */
export const runbookSentences: readonly string[] = section
  .split('\n')
  .filter((line) => line.startsWith('### '))
  .flatMap((line) => [...line.matchAll(/`([^`]+)`/g)].map(([, sentence]) => sentence ?? ''));

const patterns = runbookSentences.map((sentence) => {
  const parts = sentence.split('…').map((part) => part.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&'));
  return { sentence, pattern: new RegExp(`^${parts.join('.+')}$`, 's') };
});

/** The heading that a whole reason of /readyz is spelled like; undefined where there is no runbook for it. */
export function runbookOf(reason: string): string | undefined {
  return patterns.find(({ pattern }) => pattern.test(reason))?.sentence;
}
