/** Connections that outlive their agent: idle ones go on where they were, as whom they were, and no others do. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { startFront, type RunningFront } from '#testsupport/front.ts';
import { makeKeys, startLoad, sweep } from '#testsupport/kill-load.ts';
import { KillOracle } from '#testsupport/kill-oracle.ts';
import { SeededRandom } from '#testsupport/kill-values.ts';
import { ConnectionLost, RespError, ValueClient } from '#testsupport/value-client.ts';

const seed = Number(process.env['KVTIER_TEST_SEED'] ?? Date.now() % 1_000_000_007);
const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-front-'));
const shmDir = mkdtempSync('/dev/shm/kvtier-front-');
let front: RunningFront;
let agent: RunningAgent | undefined;

beforeAll(async () => {
  front = await startFront(dataDir);
});
afterAll(async () => {
  await agent?.kill9();
  expect(await front.stop()).toBe(0);
  rmSync(dataDir, { recursive: true, force: true });
  rmSync(shmDir, { recursive: true, force: true });
});

async function start(...flags: readonly string[]): Promise<RunningAgent> {
  agent = await startAgent({
    dataDir,
    flags: [
      '--ram',
      '256MiB',
      '--ssd',
      'off',
      '--shm-dir',
      shmDir,
      '--ram-keep',
      'on',
      '--resp-front',
      front.socketPath,
      '--log-level',
      'warn',
      ...flags,
    ],
  });
  expect(agent.resp.port).toBe(front.address.port);
  return agent;
}

/** SIGTERM or SIGKILL. */
async function end(kill: boolean): Promise<void> {
  // An answer is out before its connection is at rest; when the agent has answered something else, it is.
  if (agent !== undefined) await fetch(`${agent.url}/healthz`);
  if (kill) await agent?.kill9();
  else expect(await agent?.stop()).toBe(0);
  agent = undefined;
}

test('a connection at rest goes on after kill -9 and after a stop, and what it asks meanwhile is answered by the next agent', async () => {
  await start();
  const clients = await Promise.all(Array.from({ length: 20 }, () => ValueClient.connect(front.address)));
  const value = Buffer.alloc(3_000_000, 7);
  for (const [index, client] of clients.entries()) await client.command('SET', `front-${index}`, value);
  const young = await ValueClient.connect(front.address);
  for (let round = 0; round < 4; round += 1) {
    await end(round % 2 === 0);
    const answers = clients.map((client, index) => client.get(`front-${index}`));
    await start();
    for (const answer of answers) expect((await answer)?.equals(value)).toBe(true);
    for (const [index, client] of clients.entries()) expect(await client.command('SET', `front-${index}`, value)).toBe('OK');
  }
  // It never said a word, and came before four agents.
  expect(await young.command('PING')).toBe('PONG');
  for (const client of [...clients, young]) client.close();
  await end(true);
});

test('a connection in the middle of a command or of an answer is closed, never taken for one at rest', async () => {
  const running = await start();
  const client = await ValueClient.connect(front.address);
  await client.command('SET', 'large', Buffer.alloc(30_000_000, 1));
  client.close();
  const ends: Promise<void>[] = [];
  const begin = (text: string): void => {
    const socket = connect(front.address.port, front.address.host);
    socket.pause();
    socket.on('error', () => undefined);
    ends.push(new Promise((resolve) => void socket.on('close', () => resolve())));
    socket.write(text);
    setTimeout(() => socket.resume(), 1500);
  };
  for (const text of [
    '*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nabc',
    '*2\r\n$3\r\nGE',
    'PIN',
    '*1\r\n$4\r\nPING\r',
    '*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n',
  ])
    begin(text);
  // All of them are known to the agent, and it has taken what there was.
  const other = await ValueClient.connect(front.address);
  while ((await running.client.stats()).doors.find(({ door }) => door === 'resp')?.connections !== 6) await other.command('PING');
  for (let turn = 0; turn < 50; turn += 1) await other.command('PING');
  await end(true);
  await Promise.all(ends);
  const answer = other.command('PING');
  await start();
  expect(await answer).toBe('PONG');
  other.close();
  await end(true);
});

test('a connection goes on as whom it was: protocol and role stay, and where the token does not stand for the same any more it is closed', async () => {
  await start('--token', 'admin-secret', '--read-token', 'read-secret');
  const connectAs = async (token: string | undefined): Promise<ValueClient> => {
    const client = await ValueClient.connect(front.address);
    if (token !== undefined) expect(await client.command('AUTH', token)).toBe('OK');
    return client;
  };
  const [admin, reader, nobody] = await Promise.all([connectAs('admin-secret'), connectAs('read-secret'), connectAs(undefined)]);
  expect(await admin.command('SET', 'whose', 'mine')).toBe('OK');
  await expect(nobody.command('GET', 'whose')).rejects.toThrow('NOAUTH');
  await end(true);
  await start('--token', 'admin-secret', '--read-token', 'read-secret');
  expect(String(await reader.get('whose'))).toBe('mine');
  await expect(reader.command('SET', 'whose', 'theirs')).rejects.toThrow(RespError);
  expect(await admin.command('SET', 'whose', 'still mine')).toBe('OK');
  await expect(nobody.command('GET', 'whose')).rejects.toThrow('NOAUTH');
  await end(true);
  // The reader's token is the admin's now, and the admin's is nobody's.
  await start('--token', 'read-secret');
  await expect(reader.command('SET', 'whose', 'theirs')).rejects.toThrow(ConnectionLost);
  await expect(admin.command('GET', 'whose')).rejects.toThrow(ConnectionLost);
  await expect(nobody.command('GET', 'whose')).rejects.toThrow('NOAUTH');
  await end(true);
  await start();
  await expect(nobody.command('GET', 'whose')).rejects.toThrow(ConnectionLost);
  expect(front.output()).not.toContain('secret');
  await end(true);
});

test('killed 10 times under load through the front, the agent serves nothing that is wrong or dead, and no connection is out of step', async () => {
  const random = new SeededRandom(seed);
  const keys = makeKeys(100, 8);
  const oracle = new KillOracle(keys.names.length);
  const profile = ['--resp-profile', 'redis', '--resp-size-guard', 'off'];
  let running = await start(...profile);
  await running.client.invalidate({ selector: { all: true } });
  for (let round = 0; round < 10; round += 1) {
    const load = startLoad({ agent: running, oracle, keys, seed: random.below(2 ** 31), writers: 6, invalidationPauseMs: 80 });
    await new Promise((resolve) => setTimeout(resolve, 100 + random.next() * 300));
    await running.kill9();
    const stopped = load.stop();
    running = await start(...profile);
    await stopped;
    await sweep(running, { oracle, keys });
    // Connections went on, so what nobody has answered may have happened in either life.
    oracle.died();
    expect(oracle.violations, `seed ${seed}, round ${round}`).toEqual([]);
  }
  await end(true);
});
