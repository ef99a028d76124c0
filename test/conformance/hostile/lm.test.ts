/** Peers of the lm door that lie about lengths, reset, stall or never read: others do not feel it, and nothing is lost. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { brimChunks, openDescriptors, privateBytes, until } from '#testsupport/agent-probes.ts';
import { ByteClient, concat, pattern, same } from '#testsupport/byte-client.ts';
import { LmClient, blockOf, engineKey, frame, putFrame } from '#testsupport/lm-client.ts';

const MiB = 1024 ** 2;
const ramBytes = 128 * MiB;
const flags = ['--ram', '128MiB', '--ssd', 'off', '--put-wait', '100ms', '--resp-stall', '5s'];
let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent({ flags, lmPort: 0 });
  await until('the tier is grown', async () => (await agent.client.stats()).tiers[0]?.state === 'ok');
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

const door = async (of = agent) => (await of.client.stats()).doors.find((row) => row.door === 'lm');
const connections = async (of = agent): Promise<number> => (await door(of))?.connections ?? -1;
const chunkCount = async (of = agent): Promise<number> => (await of.client.stats()).tiers[0]?.chunkCount ?? -1;
/** What is in a frame of a PUT without its payload. */
const putHead = (key: string, length: number, id = 1): Uint8Array => frame('PUT', key, { length, block: blockOf(id) });

describe('lengths', () => {
  test.each([-1, -(2 ** 31), 512 * MiB + 1, 2 ** 31 - 1])(
    'a PUT that announces %d bytes ends the connection, behind what came before',
    async (length) => {
      const errors = (await door())?.errors ?? 0;
      const client = await LmClient.connect(agent.lm);
      client.raw.write(concat([frame('HEALTH', ''), frame('EXIST', engineKey('1')), putHead(engineKey('1'), length), frame('HEALTH', '')]));
      expect(await client.answer()).toBe(true);
      expect(await client.answer()).toBe(false);
      expect((await client.raw.rest()).length).toBe(0);
      expect((await door())?.errors).toBe(errors + 1);
    },
  );

  test.each([0, 6, -1, 1 << 24, 0x0a0d, 2 ** 31 - 1])(
    'an unknown command %d ends the connection, behind what came before',
    async (command) => {
      const client = await LmClient.connect(agent.lm);
      const bad = frame('HEALTH', '');
      new DataView(bad.buffer).setInt32(0, command, true);
      client.raw.write(concat([frame('HEALTH', ''), bad, frame('HEALTH', '')]));
      expect(await client.answer()).toBe(true);
      expect((await client.raw.rest()).length).toBe(0);
    },
  );

  test.each(['*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n'.repeat(20), 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'.padEnd(400)])(
    'another protocol is taken for an unknown command: %.10s',
    async (text) => {
      const client = await LmClient.connect(agent.lm);
      client.raw.write(text);
      expect((await client.raw.rest()).length).toBe(0);
    },
  );

  test('a payload larger than ram.maxChunk is read to its end without room, and the connection stays in step', async () => {
    const client = await LmClient.connect(agent.lm);
    // Its client takes it for stored: what was there is no answer any more.
    client.put(engineKey('2'), { bytes: pattern(1000, 2), block: blockOf(2) });
    expect(await client.ask('EXIST', engineKey('2'))).toBe(true);
    const before = privateBytes(agent.pid);
    client.raw.write(putHead(engineKey('2'), 200 * MiB));
    for (let index = 0; index < 200; index += 1) await client.raw.written(pattern(MiB, index));
    expect(await client.ask('EXIST', engineKey('2'))).toBe(false);
    expect(await client.get(engineKey('2'))).toBeUndefined();
    await client.inStep();
    expect(privateBytes(agent.pid) - before).toBeLessThan(100 * MiB);
    client.destroy();
  });

  test('a request that ends anywhere stores nothing and is closed', async () => {
    const whole = putFrame(engineKey('3'), { bytes: pattern(5000, 3), block: blockOf(3) });
    for (const length of [1, 35, 36, 185, 186, 187, 3000, whole.length - 1]) {
      const client = await ByteClient.connect(agent.lm, { allowHalfOpen: true });
      client.socket.end(whole.subarray(0, length));
      await client.closed;
      expect(client.availableBytes).toBe(0);
    }
    const client = await LmClient.connect(agent.lm);
    expect(await client.ask('EXIST', engineKey('3'))).toBe(false);
    client.destroy();
  });

  test('a client that shuts its sending side gets the replies to what it had sent', async () => {
    const object = { bytes: pattern(2 * MiB, 4), block: blockOf(4) };
    const raw = await ByteClient.connect(agent.lm, { allowHalfOpen: true });
    const client = new LmClient(raw);
    raw.socket.end(concat([putFrame(engineKey('4'), object), frame('GET', engineKey('4')), frame('HEALTH', '')]));
    const found = await client.object();
    expect(found !== undefined && same(found.bytes, object.bytes)).toBe(true);
    await raw.closed;
    raw.destroy();
  });
});

describe('resets', () => {
  test('in the middle of a PUT leave no byte in what others store meanwhile, and no slot', async () => {
    const wanted = await brimChunks(agent, { sizeBytes: MiB, ramBytes });
    for (let round = 0; round < 25; round += 1) {
      const victims = await Promise.all(Array.from({ length: 4 }, () => LmClient.connect(agent.lm)));
      for (const victim of victims)
        victim.raw.write(concat([putHead(engineKey(round, 'victim'), 2 * MiB), pattern(MiB + round * 1000, 0xdead)]));
      if (round % 3 === 0) await Promise.all(victims.map((victim) => victim.raw.written('')));
      for (const victim of victims) victim.raw.reset();
      // They get the descriptors, and the slots, that the victims had.
      const heirs = await Promise.all(Array.from({ length: 4 }, () => LmClient.connect(agent.lm)));
      const objects = heirs.map((_, index) => ({ bytes: pattern(2 * MiB - index, round * 8 + index), block: blockOf(index) }));
      for (const [index, heir] of heirs.entries()) heir.put(engineKey(index, 'heir'), objects[index]!);
      const found = await Promise.all(heirs.map((heir, index) => heir.get(engineKey(index, 'heir'))));
      for (const [index, object] of found.entries()) {
        expect(object?.block).toEqual(blockOf(index));
        expect(object !== undefined && same(object.bytes, objects[index]!.bytes), `round ${round}`).toBe(true);
      }
      for (const heir of heirs) heir.destroy();
    }
    await until('all are gone', async () => (await connections()) === 0);
    const client = await LmClient.connect(agent.lm);
    for (let round = 0; round < 25; round += 1) expect(await client.ask('EXIST', engineKey(round, 'victim'))).toBe(false);
    client.destroy();
    expect(await brimChunks(agent, { sizeBytes: MiB, ramBytes })).toBe(wanted);
  });

  test('in the middle of a GET leave no byte in what others receive, and no slot', async () => {
    const wanted = await brimChunks(agent, { sizeBytes: MiB, ramBytes });
    const secret = { bytes: pattern(8 * MiB, 0xbeef), block: blockOf(6) };
    const client = await LmClient.connect(agent.lm);
    client.put(engineKey('5e'), secret);
    await client.inStep();
    for (let round = 0; round < 25; round += 1) {
      const victims = await Promise.all(Array.from({ length: 4 }, () => LmClient.connect(agent.lm)));
      for (const victim of victims) victim.raw.write(frame('GET', engineKey('5e')));
      if (round % 2 === 0) await Promise.all(victims.map((victim) => victim.raw.bytes(1000 + round)));
      else for (const victim of victims) victim.raw.socket.pause();
      for (const victim of victims) victim.raw.reset();
      const heirs = await Promise.all(Array.from({ length: 4 }, () => LmClient.connect(agent.lm)));
      for (const [index, heir] of heirs.entries()) {
        const object = { bytes: pattern(300_000 + index, round * 8 + index), block: blockOf(index) };
        heir.put(engineKey(index, 'after'), object);
        const found = await heir.get(engineKey(index, 'after'));
        expect(found !== undefined && same(found.bytes, object.bytes), `round ${round}`).toBe(true);
        expect(heir.raw.availableBytes).toBe(0);
        heir.destroy();
      }
    }
    const found = await client.get(engineKey('5e'));
    expect(found !== undefined && same(found.bytes, secret.bytes)).toBe(true);
    client.destroy();
    await until('all are gone', async () => (await connections()) === 0);
    expect(await brimChunks(agent, { sizeBytes: MiB, ramBytes })).toBe(wanted);
  });
});

test('further connections than allowed are closed without a byte, and the others are served', async () => {
  const few = await startAgent({ flags: ['--ram', '32MiB', '--ssd', 'off', '--resp-max-connections', '3'], lmPort: 0 });
  const allowed = await Promise.all(Array.from({ length: 3 }, () => LmClient.connect(few.lm)));
  for (const client of allowed) await client.inStep();
  const extra = await ByteClient.connect(few.lm);
  expect((await extra.rest()).length).toBe(0);
  for (const client of allowed) await client.inStep();
  allowed[0]?.destroy();
  await until('one is gone', async () => (await connections(few)) === 2);
  const next = await LmClient.connect(few.lm);
  await next.inStep();
  // The doors do not take each other's places.
  const resp = await ByteClient.connect(few.resp);
  expect(await resp.send('PING')).toBe('+PONG');
  for (const client of [...allowed, next]) client.destroy();
  resp.destroy();
  expect(await few.stop(), few.output()).toBe(0);
});

describe('stalls', () => {
  const peers = 64;

  /** 64 PUTs of which half came, 64 times four GETs that nobody reads, and 64 requests that stop in the middle. */
  async function stallEverywhere(of: RunningAgent): Promise<LmClient[]> {
    const connect = (): Promise<LmClient[]> => Promise.all(Array.from({ length: peers }, () => LmClient.connect(of.lm)));
    const [writers, readers, mute] = [await connect(), await connect(), await connect()];
    const half = pattern(MiB, 6);
    for (const [index, writer] of writers.entries()) writer.raw.write(concat([putHead(engineKey(index, 'stalled'), 2 * MiB), half]));
    for (const [index, reader] of readers.entries()) {
      reader.raw.socket.pause();
      reader.raw.write(concat([0, 1, 2, 3].map((ahead) => frame('GET', engineKey((index + ahead) % 8, 'large')))));
    }
    for (const [index, client] of mute.entries()) client.raw.write(putHead(engineKey(index, 'mute'), 5).subarray(0, 1 + index));
    await until(
      'every one has begun',
      async () => ((await door(of))?.connections ?? 0) >= 3 * peers && ((await door(of))?.requests ?? 0) >= 2 * peers,
    );
    return [...writers, ...readers, ...mute];
  }

  async function storeLarge(client: LmClient): Promise<void> {
    for (let id = 0; id < 8; id += 1) client.put(engineKey(id, 'large'), { bytes: pattern(4 * MiB, id), block: blockOf(id) });
    await client.inStep();
  }

  test.each(['closed by themselves', 'closed by the stall limit'])(
    '192 peers that stall cost no slot, descriptor or chunk, %s',
    async (how) => {
      const byLimit = how === 'closed by the stall limit';
      const large = ['--ram', '512MiB', '--ssd', 'off', '--put-wait', '100ms', '--resp-stall', byLimit ? '1s' : '30s'];
      const fresh = await startAgent({ flags: large, lmPort: 0 });
      await until('the tier is grown', async () => (await fresh.client.stats()).tiers[0]?.state === 'ok');
      const client = await LmClient.connect(fresh.lm);
      await client.inStep();
      const wanted = await brimChunks(fresh, { sizeBytes: 3 * MiB, ramBytes: 512 * MiB });
      const descriptors = openDescriptors(fresh.pid);
      await storeLarge(client);
      const { leases } = await fresh.client.stats();
      const stalled = await stallEverywhere(fresh);
      // Another client is served while they stall: a value that the main thread moves, and one that the pool does.
      for (const [id, size] of [60_000, 3 * MiB, 60_001, 3 * MiB + 1].entries()) {
        client.put(engineKey(id, 'beside'), { bytes: pattern(size, id), block: blockOf(id) });
        const found = await client.get(engineKey(id, 'beside'));
        expect(found !== undefined && same(found.bytes, pattern(size, id))).toBe(true);
      }
      if (byLimit) for (const [index, peer] of stalled.entries()) await (index < peers || index >= 2 * peers ? peer.raw.closed : undefined);
      for (const [index, peer] of byLimit ? [] : stalled.entries()) {
        if (index % 2 === 0) peer.raw.reset();
        else peer.destroy();
      }
      // A reader that is paused does not see that it was closed.
      await until('the stalled peers are gone', async () => (await connections(fresh)) === 1);
      for (const peer of stalled) peer.destroy();
      expect(await chunkCount(fresh)).toBe(8 + 4);
      expect((await fresh.client.stats()).leases).toBe(leases);
      for (let index = 0; index < peers; index += 1) expect(await client.ask('EXIST', engineKey(index, 'stalled'))).toBe(false);
      // Two for the keep-alive of the statistics, one for the client of the brim.
      await until('their descriptors are closed', () => openDescriptors(fresh.pid) <= descriptors + 3);
      expect(await brimChunks(fresh, { sizeBytes: 3 * MiB, ramBytes: 512 * MiB })).toBe(wanted);
      client.destroy();
      expect(await fresh.stop(), fresh.output()).toBe(0);
    },
  );

  test('a payload that trickles is cut off at the least rate, and its slot is free', async () => {
    const strict = ['--ram', '64MiB', '--ssd', 'off', '--resp-stall', '1s', '--resp-min-rate', '16MiB'];
    const slow = await startAgent({ flags: strict, lmPort: 0 });
    const client = await LmClient.connect(slow.lm);
    client.raw.write(putHead(engineKey('7a'), 8 * MiB));
    await client.raw.written(pattern(7 * MiB, 1));
    const timer = setInterval(() => client.raw.write(Uint8Array.of(1)), 100);
    await client.raw.closed;
    clearInterval(timer);
    await until('the connection is gone', async () => (await connections(slow)) === 0);
    const other = await LmClient.connect(slow.lm);
    for (let id = 0; id < 16; id += 1) other.put(engineKey(id, 'fill'), { bytes: pattern(4 * MiB, id), block: blockOf(id) });
    expect(await other.ask('EXIST', engineKey('7a'))).toBe(false);
    expect((await door(slow))?.errors).toBe(0);
    other.destroy();
    expect(await slow.stop(), slow.output()).toBe(0);
  });

  test('a connection that is quiet between two requests stays, however long', async () => {
    const short = await startAgent({ flags: ['--ram', '32MiB', '--ssd', 'off', '--resp-stall', '100ms'], lmPort: 0 });
    const quiet = await LmClient.connect(short.lm);
    const inside = await LmClient.connect(short.lm);
    await quiet.inStep();
    inside.raw.write(frame('HEALTH', '').subarray(0, 100));
    // The sweep that closes it has looked at the other one too.
    await inside.raw.closed;
    await quiet.inStep();
    quiet.destroy();
    expect(await short.stop(), short.output()).toBe(0);
  });
});

test('while the agent stops, EXIST says no and PUTs are refused; what is under way ends', async () => {
  const stopping = await startAgent({ flags: ['--ram', '64MiB', '--ssd', 'off', '--shutdown-drain', '20s'], lmPort: 0 });
  const client = await LmClient.connect(stopping.lm);
  const object = { bytes: pattern(3 * MiB, 1), block: blockOf(1) };
  client.put(engineKey('f1'), object);
  await client.inStep();
  const slow = await LmClient.connect(stopping.lm);
  slow.raw.write(concat([putHead(engineKey('f2'), 3 * MiB), object.bytes.subarray(0, 2 * MiB)]));
  await until('it has begun', async () => ((await door(stopping))?.requests ?? 0) >= 3);
  stopping.process.kill('SIGTERM');
  await until('it drains', async () => ((await (await fetch(`${stopping.url}/readyz`)).json()) as { state?: string }).state === 'draining');
  expect(await client.ask('EXIST', engineKey('f1'))).toBe(false);
  const refused = (await door(stopping))?.errors ?? 0;
  client.put(engineKey('f3'), object);
  expect(await client.get(engineKey('f3'))).toBeUndefined();
  expect((await door(stopping))?.errors).toBe(refused + 1);
  await client.inStep();
  slow.raw.write(object.bytes.subarray(2 * MiB));
  expect(await stopping.exited, stopping.output()).toBe(0);
  client.destroy();
  slow.destroy();
});
