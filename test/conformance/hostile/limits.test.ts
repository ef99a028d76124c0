/** Limits of the door: connections, idle time, and what a stopping agent still does. */
import { expect, test } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, command, concat, pattern, same } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;

test('connections above the limit are told so and closed; room comes back when others leave', async () => {
  const agent = await startAgent({ flags: ['--resp-max-connections', '4', '--ssd', 'off'] });
  const clients: ByteClient[] = [];
  for (let index = 0; index < 4; index += 1) clients.push(await ByteClient.connect(agent.resp));
  for (const client of clients) expect(await client.send('PING')).toBe('+PONG');
  for (let round = 0; round < 10; round += 1) {
    const surplus = await ByteClient.connect(agent.resp);
    expect(new TextDecoder().decode(await surplus.rest())).toMatch(/^-ERR max number of clients reached/);
  }
  for (const client of clients) expect(await client.send('PING')).toBe('+PONG');
  clients.pop()?.destroy();
  await until('a place is free', async () => (await agent.client.stats()).doors.find((row) => row.door === 'resp')?.connections === 3);
  const late = await ByteClient.connect(agent.resp);
  expect(await late.send('PING')).toBe('+PONG');
  for (const client of [...clients, late]) client.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});

test('a connection that is idle beyond --resp-idle is closed, one that works is not; without it nobody is', async () => {
  const agent = await startAgent({ flags: ['--resp-idle', '1s', '--ssd', 'off'] });
  const [idle, busy, half] = [
    await ByteClient.connect(agent.resp),
    await ByteClient.connect(agent.resp),
    await ByteClient.connect(agent.resp),
  ];
  expect(await idle.send('PING')).toBe('+PONG');
  half.write('*2\r\n$3\r\nGET\r\n$3\r\nab');
  let ended = false;
  void idle.closed.then(() => (ended = true));
  while (!ended) {
    expect(await busy.send('PING')).toBe('+PONG');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await half.closed;
  expect(busy.isClosed).toBe(false);
  busy.destroy();
  expect(await agent.stop(), agent.output()).toBe(0);
});

test('a stopping agent answers EXISTS :0, rejects SETs in the length of the profile, serves GETs, and finishes what is under way', async () => {
  const agent = await startAgent({ flags: ['--shutdown-drain', '20s', '--resp-stall', '60s'] });
  const key = (n: number): string => `m@01000100@0@0${n}`;
  const [holder, lmcache, redis] = [
    await ByteClient.connect(agent.resp),
    await ByteClient.connect(agent.resp),
    await ByteClient.connect(agent.resp),
  ];
  const value = pattern(8 * MiB, 1);
  expect(await lmcache.send('SET', key(1), value)).toBe('+OK');
  expect(await redis.send('PING')).toBe('+PONG');
  // A GET that is not read keeps the agent in its drain.
  holder.socket.pause();
  holder.write(concat(Array.from({ length: 6 }, () => command('GET', key(1)))));
  await until('the transfers are under way', async () => (await agent.client.stats()).hits.ram > 0);
  agent.process.kill('SIGTERM');
  await until('it drains', async () => (await agent.client.readiness()).state === 'draining');

  expect(await lmcache.send('EXISTS', key(1))).toBe(':0');
  for (const sizeBytes of [100, 1000_000]) {
    expect(await lmcache.send('SET', key(2), pattern(sizeBytes, 2))).toBe('-NO');
    expect(await redis.send('SET', key(2), pattern(sizeBytes, 2))).toMatch(/^-(OOM|LOADING|ERR) .*shutting down/);
  }
  expect(await redis.send('EXISTS', key(1))).toBe(':0');
  for (let round = 0; round < 3; round += 1) expect(same((await lmcache.send('GET', key(1))) as Uint8Array, value)).toBe(true);
  await expect(ByteClient.connect(agent.resp)).rejects.toThrow(/ECONNREFUSED|Failed to connect/);

  holder.socket.resume();
  for (let index = 0; index < 6; index += 1) expect(same((await holder.reply()) as Uint8Array, value), `held GET ${index}`).toBe(true);
  expect(await agent.exited).toBe(0);
  expect(agent.output()).toContain('nothing was only in RAM');
  for (const client of [holder, lmcache, redis]) await client.closed;
});
