/** A SET that would push out the chain that it continues is answered OK and not stored: then nothing else is under its key either. */
import { expect, test } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import { hashOf } from '#testsupport/agent-chunks.ts';
import { ByteClient, pattern, same } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;

test('a value that is not stored for the sake of its own chain leaves no former value to be read', async () => {
  const agent = await startAgent({ flags: ['--ram', '16MiB', '--ssd', 'off', '--put-wait', '100ms'] });
  const client = await ByteClient.connect(agent.resp);
  const keys = Array.from({ length: 24 }, (_, index) => `m@01000100@0@${hashOf(index + 1)}`);
  for (const key of keys) expect(await client.send('EXISTS', key)).toBe(':0');
  for (const [index, key] of keys.entries()) expect(await client.send('SET', key, pattern(MiB, index))).toBe('+OK');
  const stored: number[] = [];
  for (const [index, key] of keys.entries()) if ((await client.send('EXISTS', key)) === ':1') stored.push(index);
  // The head of the chain fills the tier.
  expect(stored.length).toBeGreaterThan(8);
  const last = stored.at(-1) ?? 0;
  expect(await client.send('SET', keys[last] ?? '', pattern(MiB, 1000))).toBe('+OK');
  const found = await client.send('GET', keys[last] ?? '');
  const isFormer = found instanceof Uint8Array && same(found, pattern(MiB, last));
  expect(isFormer, `the former value of key ${last} of ${stored.length}`).toBe(false);
  client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});
