/** Clients that reset in mid-transfer while others connect: descriptors and slots are used again, and no byte goes astray. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { brimChunks, until } from '#testsupport/agent-probes.ts';
import { ByteClient, command, concat, pattern, same, setHead } from '#testsupport/byte-client.ts';

const MiB = 1024 ** 2;
const ramBytes = 128 * MiB;
const rounds = 60;
let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent({ flags: ['--ram', '128MiB', '--ssd', 'off', '--resp-stall', '5s'] });
  await until('the tier is grown', async () => (await agent.client.stats()).tiers[0]?.state === 'ok');
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

const connections = async (): Promise<number> => (await agent.client.stats()).doors.find((row) => row.door === 'resp')?.connections ?? -1;

test('a client reset in the middle of a SET leaves no byte in what others store meanwhile', async () => {
  const wanted = await brimChunks(agent, { sizeBytes: MiB, ramBytes });
  for (let round = 0; round < rounds; round += 1) {
    const victims = await Promise.all(Array.from({ length: 4 }, () => ByteClient.connect(agent.resp)));
    for (const victim of victims) {
      victim.write(setHead(`victim-${round}`, 2 * MiB));
      victim.write(pattern(MiB + round * 1000, 0xdead));
    }
    if (round % 3 === 0) await Promise.all(victims.map((victim) => victim.written('')));
    for (const victim of victims) victim.reset();
    // They get the descriptors, and the slots, that the victims had.
    const heirs = await Promise.all(Array.from({ length: 4 }, () => ByteClient.connect(agent.resp)));
    const values = heirs.map((_, index) => pattern(2 * MiB - index, round * 8 + index));
    const stored = await Promise.all(heirs.map((heir, index) => heir.send('SET', `heir-${index}`, values[index] as Uint8Array)));
    expect(stored).toEqual(['+OK', '+OK', '+OK', '+OK']);
    const read = await Promise.all(heirs.map((heir, index) => heir.send('GET', `heir-${index}`)));
    for (const [index, value] of read.entries())
      expect(same(value as Uint8Array, values[index] as Uint8Array), `round ${round}`).toBe(true);
    for (const heir of heirs) {
      expect(heir.availableBytes).toBe(0);
      heir.destroy();
    }
  }
  const client = await ByteClient.connect(agent.resp);
  for (let round = 0; round < rounds; round += 1) expect(await client.send('EXISTS', `victim-${round}`)).toBe(':0');
  client.destroy();
  await until('all are gone', async () => (await connections()) === 0);
  expect(await brimChunks(agent, { sizeBytes: MiB, ramBytes })).toBe(wanted);
});

test('a client reset in the middle of a GET leaves no byte in what others receive', async () => {
  const client = await ByteClient.connect(agent.resp);
  const secret = pattern(8 * MiB, 0xbeef);
  const wanted = await brimChunks(agent, { sizeBytes: MiB, ramBytes });
  expect(await client.send('SET', 'secret', secret)).toBe('+OK');
  for (let round = 0; round < rounds; round += 1) {
    const victims = await Promise.all(Array.from({ length: 4 }, () => ByteClient.connect(agent.resp)));
    for (const victim of victims) victim.write(command('GET', 'secret'));
    // The first bytes are there: the transfer is under way.
    if (round % 2 === 0) await Promise.all(victims.map((victim) => victim.bytes(1000 + round)));
    else for (const victim of victims) victim.socket.pause();
    for (const victim of victims) victim.reset();
    const heirs = await Promise.all(Array.from({ length: 4 }, () => ByteClient.connect(agent.resp)));
    const values = heirs.map((_, index) => pattern(300_000 + index, round * 8 + index));
    const replies = await Promise.all(
      heirs.map(async (heir, index) => {
        expect(await heir.send('PING')).toBe('+PONG');
        expect(await heir.send('SET', `heir-${index}`, values[index] as Uint8Array)).toBe('+OK');
        return await heir.send('GET', `heir-${index}`);
      }),
    );
    for (const [index, value] of replies.entries())
      expect(same(value as Uint8Array, values[index] as Uint8Array), `round ${round}`).toBe(true);
    for (const heir of heirs) {
      expect(heir.availableBytes).toBe(0);
      heir.destroy();
    }
  }
  expect(same((await client.send('GET', 'secret')) as Uint8Array, secret)).toBe(true);
  client.destroy();
  await until('all are gone', async () => (await connections()) === 0);
  expect(await brimChunks(agent, { sizeBytes: MiB, ramBytes })).toBe(wanted);
});

test('a reset between two commands, behind a pipeline, or before a reply is taken does no harm', async () => {
  const value = pattern(MiB, 77);
  for (let round = 0; round < rounds; round += 1) {
    const victim = await ByteClient.connect(agent.resp);
    victim.write(
      concat([
        command('SET', `p-${round}`, value),
        command('GET', `p-${round}`),
        command('GET', `p-${round}`),
        command('DEL', `p-${round}`),
      ]),
    );
    if (round % 2 === 0) await victim.reply();
    victim.reset();
  }
  await until('all are gone', async () => (await connections()) === 0);
  const client = await ByteClient.connect(agent.resp);
  // Each SET was taken whole or not at all.
  for (let round = 0; round < rounds; round += 1) {
    const found = (await client.send('GET', `p-${round}`)) as Uint8Array | undefined;
    if (found !== undefined) expect(same(found, value)).toBe(true);
  }
  client.destroy();
});

test('a client that shuts its sending side gets the replies to what it had sent', async () => {
  const value = pattern(2 * MiB, 78);
  const setter = await ByteClient.connect(agent.resp);
  expect(await setter.send('SET', 'half-closed', value)).toBe('+OK');
  setter.destroy();
  for (const commands of [
    [command('PING')],
    [command('GET', 'half-closed')],
    [command('PING'), command('GET', 'half-closed'), command('PING')],
  ]) {
    for (let round = 0; round < 5; round += 1) {
      const client = await ByteClient.connect(agent.resp, { allowHalfOpen: true });
      client.socket.end(concat(commands));
      for (const sent of commands) {
        const reply = await client.reply();
        if (sent === commands[0] && commands.length !== 1) expect(reply).toBe('+PONG');
        if (reply instanceof Uint8Array) expect(same(reply, value)).toBe(true);
      }
      await client.closed;
      client.destroy();
    }
  }
});

test('a client that shuts its sending side in the middle of a SET stores nothing and is closed', async () => {
  for (let round = 0; round < 10; round += 1) {
    const client = await ByteClient.connect(agent.resp, { allowHalfOpen: true });
    client.write(setHead('cut', 2 * MiB));
    client.socket.end(pattern(round === 0 ? 10 : MiB, 79));
    await client.closed;
    expect(client.availableBytes).toBe(0);
    client.destroy();
  }
  const client = await ByteClient.connect(agent.resp);
  expect(await client.send('EXISTS', 'cut')).toBe(':0');
  client.destroy();
});
