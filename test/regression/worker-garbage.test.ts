/**
 * A socket worker keeps no garbage of its transfers. A view of an arena counts as much as the arena to its collector, which then waited
 * for another arena's worth of garbage: 4 KiB of each transfer stayed, without end.
 */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import { ByteClient, command, concat, pattern } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
const valueBytes = 2 * MiB;

test('memory outside the arenas does not follow the number of transfers', async () => {
  const agent = await startAgent({ flags: ['--ram', '1GiB', '--ssd', 'off'] });
  const privateMiB = (): number => Number(/RssAnon:\s+(\d+) kB/.exec(readFileSync(`/proc/${agent.pid}/status`, 'utf8'))?.[1]) / 1024;
  const clients = await Promise.all(Array.from({ length: 4 }, () => ByteClient.connect(agent.resp)));
  const burst = (index: number): Uint8Array => concat([command('SET', `key-${index}`, pattern(valueBytes, index))]);
  const bursts = clients.map((_, index) => burst(index));
  const transfers = async (count: number): Promise<void> => {
    await Promise.all(
      clients.map(async (client, index) => {
        for (let done = 0; done < count; done += clients.length) {
          client.write(bursts[index] as Uint8Array);
          expect(await client.reply()).toBe('+OK');
        }
      }),
    );
  };
  await transfers(3000);
  const warm = privateMiB();
  await transfers(9000);
  // 35 MiB with the garbage of each; the heap of the main thread breathes by some MiB.
  expect(privateMiB() - warm).toBeLessThan(24);
  for (const client of clients) client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
}, 120_000);
