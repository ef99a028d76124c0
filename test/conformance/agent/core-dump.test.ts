/** What a core dump of the agent holds of the RAM tier: nothing. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import { ByteClient } from '#testsupport/byte-client.ts';

test('every mapping of an arena is marked to stay out of core dumps, libraries are not', async () => {
  const agent = await startAgent();
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('SET', 'k', 'x'.repeat(1_000_000))).toBe('+OK');
  const smaps = readFileSync(`/proc/${agent.pid}/smaps`, 'utf8');
  const mappings = smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const flags = (mapping: string): readonly string[] => (/^VmFlags: (.*)$/m.exec(mapping)?.[1] ?? '').trim().split(' ');
  const arenas = mappings.filter((mapping) => /\/kvtier-[^ ]*\.arena/.test(mapping.split('\n')[0] ?? ''));
  expect(arenas.length).toBeGreaterThan(0);
  for (const arena of arenas) expect(flags(arena), arena.split('\n')[0]).toContain('dd');
  const files = mappings.filter((mapping) => /\.so(\.\d+)*$/.test(mapping.split('\n')[0] ?? ''));
  expect(files.some((mapping) => !flags(mapping).includes('dd'))).toBe(true);
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});
