/** Clients of the native door on bad days: killed, too many, deaf, of another version. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NativeClient } from '#engines/client/native-client.ts';
import { NativeConnection } from '#engines/client/native-connection.ts';
import { encodeFrame, errorShape } from '#protocol/native/native-codec.ts';
import { nativeOperations, statuses } from '#protocol/native/native-schema.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { cpuMs, openDescriptors, until } from '#testsupport/agent-probes.ts';
import { NativeGuest, keysOf, spansOf, storeChunks } from '#testsupport/native-guest.ts';

const MiB = 1024 * 1024;
const nothing = new Uint8Array(0);
const child = new URL('../../support/native-client-child.ts', import.meta.url).pathname;
let agent: RunningAgent;

beforeAll(async () => {
  agent = await startAgent({ flags: ['--lease-duration', '1h', '--resp-stall', '2s'] });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
});

function mappings(pid: number): number {
  return readFileSync(`/proc/${pid}/maps`, 'utf8')
    .split('\n')
    .filter((line) => line.includes('memfd:kvtier')).length;
}

/** Without sockets: those of the native door are counted as connections, and HTTP keeps some alive. */
function files(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return !readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:');
    } catch {
      return false; // closed meanwhile
    }
  }).length;
}

async function holdings(): Promise<unknown> {
  const stats = await agent.client.stats();
  const native = stats.doors.find(({ door }) => door === 'native');
  return { leases: stats.leases, descriptors: files(agent.pid), mappings: mappings(agent.pid), connections: native?.connections };
}

describe.each(['leases', 'reserve', 'store', 'load'])('a client that is killed in the middle of %s', (what) => {
  test('leaves nothing behind', async () => {
    // The arena's read-only descriptor is made once, for the first who opens a chunk.
    const first = await NativeGuest.greet(agent.socket);
    const shared = await first.share(MiB);
    const namespace = await first.namespace({ model: 'first' });
    await storeChunks(first, shared, { namespace, keys: keysOf('f', 1), sizeBytes: 1000 });
    await first.ask('OPEN', { namespace, key: keysOf('f', 1)[0] as Uint8Array });
    first.close();
    await until('the first client is gone', async () => JSON.stringify(await holdings()).includes('"connections":0'));
    const before = await holdings();
    for (let round = 0; round < 3; round += 1) {
      const killed = spawn(process.execPath, [child, agent.socket, what], { stdio: ['ignore', 'pipe', 'inherit'] });
      await new Promise<void>((resolve) => void killed.stdout.once('data', () => resolve()));
      expect(mappings(agent.pid)).toBeGreaterThan(0);
      await Bun.sleep(round * 7);
      killed.kill('SIGKILL');
      await expect.poll(holdings, { timeout: 20_000 }).toEqual(before);
    }
    // No chunk is leased or read any more: all of RAM can be had.
    const { evicted, skipped } = await agent.client.evict({ tier: 'ram', selector: { model: 'killed' } });
    expect([evicted > 0, skipped]).toEqual([true, 0]);
  });
});

test('a thousand clients are served and forgotten', async () => {
  const first = await NativeGuest.greet(agent.socket);
  const before = openDescriptors(agent.pid);
  first.close();
  const guests: NativeGuest[] = [];
  // The kernel keeps 512 that wait to be accepted, and turns away who comes then and does not wait.
  while (guests.length < 1000) guests.push(...(await Promise.all(Array.from({ length: 200 }, () => NativeGuest.greet(agent.socket)))));
  const numbers = await Promise.all(guests.map((guest, index) => guest.namespace({ model: `thousand-${index % 10}` })));
  expect(new Set(numbers)).toEqual(new Set([0]));
  const found = await Promise.all(guests.map((guest) => guest.ask('LOOKUP', { namespace: 0, flags: 0, keys: keysOf('x', 64) })));
  expect(found.every(({ tiers }) => tiers.length === 64)).toBe(true);
  for (const guest of guests) guest.close();
  await until('they are forgotten', () => openDescriptors(agent.pid) < before);
});

test('a client that never reads its answers stops being read, costs no processor time, and is closed', async () => {
  const raw = connect(agent.socket);
  raw.pause();
  const closed = new Promise<void>((resolve) => void raw.on('close', () => resolve()));
  raw.on('error', () => undefined);
  raw.write(encodeFrame({ op: 1, tag: 1 }, nativeOperations.HELLO.request, { version: 1, client: '', token: '' }));
  const ping = encodeFrame({ op: 2, tag: 2 }, nativeOperations.PING.request, { payload: new Uint8Array(64 * 1024) });
  for (let index = 0; index < 200; index += 1) raw.write(ping);
  for (let index = 0; index < 40; index += 1)
    raw.write(encodeFrame({ op: 13, tag: 100 + index }, nativeOperations.RESERVE.request, { sizes: [4096] }));
  await Bun.sleep(500);
  const cpuBefore = cpuMs(agent.pid);
  await Bun.sleep(500);
  expect(cpuMs(agent.pid) - cpuBefore).toBeLessThan(250);
  // Node tells of the end of a socket that is paused when it is read again.
  await until('it is closed', async () => (await agent.client.stats()).doors.find(({ door }) => door === 'native')?.connections === 0);
  raw.resume();
  await closed;
});

test('a client that is deaf to events slows nobody', async () => {
  const deaf = connect(agent.socket);
  deaf.pause();
  deaf.on('error', () => undefined);
  deaf.write(encodeFrame({ op: 1, tag: 1 }, nativeOperations.HELLO.request, { version: 1, client: '', token: '' }));
  deaf.write(encodeFrame({ op: 20, tag: 2 }, nativeOperations.EVENTS.request, { kinds: 3 }));
  const guest = await NativeGuest.greet(agent.socket);
  const shared = await guest.share(4 * MiB);
  const namespace = await guest.namespace({ model: 'e'.repeat(500) });
  for (let round = 0; round < 6; round += 1) {
    const keys = keysOf(`${'k'.repeat(400)}-${round}`, 4096);
    const outcomes = await storeChunks(guest, shared, { namespace, keys, sizeBytes: 16, seed: round });
    expect(outcomes.every((outcome) => outcome === 0)).toBe(true);
  }
  guest.close();
  deaf.destroy();
});

test('one that begins no HELLO, or stops in the middle of a frame, is closed after the time that a stall may last', async () => {
  const silent = connect(agent.socket);
  const half = connect(agent.socket);
  const ends = [silent, half].map((socket) => new Promise<void>((resolve) => void socket.on('close', () => resolve())));
  half.write(encodeFrame({ op: 1, tag: 1 }, nativeOperations.HELLO.request, { version: 1, client: '', token: '' }));
  half.write(new Uint8Array([9, 0, 0]));
  for (const socket of [silent, half]) socket.resume();
  await Promise.all(ends);
});

test('a client of another version is told so, and the connection ends', async () => {
  const connection = await NativeConnection.open(agent.socket);
  const answer = await connection?.call('HELLO', { version: 2, client: '', token: '' });
  expect(answer).toMatchObject({ ok: false, status: 'version' });
  await until('it ends', () => connection?.isOpen === false);
  const raw = connect(agent.socket);
  const bytes: Buffer[] = [];
  raw.on('data', (chunk: Buffer) => void bytes.push(chunk));
  const ended = new Promise<void>((resolve) => void raw.on('close', () => resolve()));
  // Fields that this version does not know stand behind the number.
  raw.write(encodeFrame({ op: 1, tag: 1 }, { version: 'u32', fields: 'u32s' }, { version: 7, fields: [1, 2, 3] }));
  await ended;
  expect(Buffer.concat(bytes).readUInt16LE(6)).toBe(statuses.version);
});

test('an agent of another version is a miss, and the client says why', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-version-'));
  const path = join(folder, 's.sock');
  const server = createServer((socket) => {
    const message = 'the client speaks version 1 of the native protocol, this agent 2';
    socket.once('data', () => void socket.end(encodeFrame({ op: 1, tag: 1, status: statuses.version }, errorShape, { message })));
  });
  await new Promise<void>((resolve) => void server.listen(path, resolve));
  const client = new NativeClient({ path, connectPatienceMs: 2000 });
  const namespace = client.namespace({ model: 'm', layout: '0123456789abcdef', rank: '', group: '', salt: '' });
  expect((await client.lookup(namespace, keysOf('k', 3))).tiers.length).toBe(0);
  expect(client.problem).toMatch(/version 1 .* this agent 2/);
  client.close();
  server.close();
  rmSync(folder, { recursive: true });
});

const hostile: readonly (readonly [string, Uint8Array])[] = [
  ['a frame beyond the limit', new Uint8Array([0xff, 0xff, 0xff, 0xff, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])],
  ['a tag beyond 2^53', new Uint8Array([0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff])],
  [
    'a count of 2^32 - 1 keys',
    encodeFrame({ op: 7, tag: 2 }, { n: 'u32', f: 'u8', count: 'u32', bytes: 'u16' }, { n: 0, f: 0, count: 2 ** 32 - 1, bytes: 0 }),
  ],
  ['bytes behind the body', encodeFrame({ op: 22, tag: 2 }, { rest: 'u32' }, { rest: 0 })],
  ['a body that is cut', encodeFrame({ op: 7, tag: 2 }, { n: 'u32' }, { n: 0 })],
];
test.each(hostile)('%s ends the connection with a word about it', async (_, frame) => {
  const guest = await NativeGuest.greet(agent.socket);
  const raw = connect(agent.socket);
  const bytes: Buffer[] = [];
  raw.on('data', (chunk: Buffer) => void bytes.push(chunk));
  const ended = new Promise<void>((resolve) => void raw.on('close', () => resolve()));
  raw.write(encodeFrame({ op: 1, tag: 1 }, nativeOperations.HELLO.request, { version: 1, client: '', token: '' }));
  raw.write(frame);
  await ended;
  expect(Buffer.concat(bytes).toString('latin1')).toMatch(/frame|tag|are named|left/);
  await guest.ask('PING', { payload: nothing });
  guest.close();
});

describe('the socket', () => {
  test('has its mode and is gone after a stop; what a kill leaves behind is taken over, and what another listens on is not', async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-socket-'));
    const path = join(dataDir, 'own.sock');
    const flags = ['--socket', path, '--socket-mode', '0660', '--socket-group', '0', '--ram', '16MiB'];
    const first = await startAgent({ dataDir, flags });
    expect(first.socket).toBe(path);
    expect(statSync(path).mode & 0o777).toBe(0o660);
    const other = mkdtempSync(join(tmpdir(), 'kvtier-socket-'));
    await expect(startAgent({ dataDir: other, flags })).rejects.toThrow(/another process/);
    await first.kill9();
    expect(existsSync(path)).toBe(true);
    const second = await startAgent({ dataDir, flags });
    const guest = await NativeGuest.greet(path);
    guest.close();
    expect(await second.stop()).toBe(0);
    expect(existsSync(path)).toBe(false);
    for (const folder of [dataDir, other]) rmSync(folder, { recursive: true });
  });

  test.each([
    ['a path of 108 bytes', `/tmp/${'x'.repeat(103)}`, /107/],
    ['a folder that is not there', '/nowhere/at/all.sock', /listen|nowhere/],
    ['a file that is no socket', '/etc/hostname', /no socket/],
  ])('is refused for %s', async (_, path, message) => {
    await expect(startAgent({ flags: ['--socket', path] })).rejects.toThrow(message);
  });

  test('is off where it is switched off', async () => {
    const without = await startAgent({ flags: ['--socket', 'off', '--ram', '16MiB'] });
    expect(without.socket).toBe('');
    await without.stop();
  });
});

test('chunks that a client has in one region are those that another loads into two', async () => {
  const [one, two] = [await NativeGuest.greet(agent.socket), await NativeGuest.greet(agent.socket)];
  const shared = await one.share(4 * MiB);
  const region = await two.attach(shared.memory.fd);
  const namespace = await one.namespace({ model: 'two' });
  await two.namespace({ model: 'else' });
  const other = await two.namespace({ model: 'two' });
  const keys = keysOf('k', 2);
  await storeChunks(one, shared, { namespace, keys, sizeBytes: MiB });
  one.connection.close();
  const loaded = await two.ask('LOAD', { namespace: other, region, deadlineMs: 0, keys, spans: spansOf(2, MiB, 2 * MiB) });
  expect([...loaded.outcomes]).toEqual([0, 0]);
  expect(Buffer.compare(shared.memory.view(0, 2 * MiB), shared.memory.view(2 * MiB, 2 * MiB))).toBe(0);
  one.close();
  two.close();
});
