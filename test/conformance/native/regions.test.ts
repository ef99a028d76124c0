/** Memory of clients: what may be attached, and what becomes of a job when it is taken away. */
import { chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { SharedMemory } from '#engines/client/shared-memory.ts';
import { loadOutcomes, storeOutcomes } from '#protocol/native/native-schema.ts';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { openDescriptors, until } from '#testsupport/agent-probes.ts';
import { pattern, same } from '#testsupport/byte-client.ts';
import { NativeGuest, keysOf, spansOf, storeChunks } from '#testsupport/native-guest.ts';

const MiB = 1024 * 1024;
const nothing = new Uint8Array(0);
let agent: RunningAgent;
let guest: NativeGuest;
let folder: string;
let count = 0;

beforeAll(async () => {
  folder = mkdtempSync('/dev/shm/kvtier-regions-');
  agent = await startAgent({ flags: ['--ssd-admission', 'demote', '--socket-region-roots', folder] });
});
afterAll(async () => {
  expect(await agent.stop(), agent.output()).toBe(0);
  rmSync(folder, { recursive: true });
});
beforeEach(async () => {
  guest = await NativeGuest.greet(agent.socket);
});
afterEach(() => guest.close());

function file(name: string, sizeBytes: number): string {
  const path = join(folder, `${name}-${count++}`);
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  return path;
}

describe('by path, a region', () => {
  test('is a file under an allowed folder', async () => {
    expect(await guest.attachPath(file('good', MiB))).toBeGreaterThan(0);
    mkdirSync(join(folder, 'below'));
    expect(await guest.attachPath(file('below/good', MiB))).toBeGreaterThan(0);
  });

  const refused: readonly (readonly [string, () => string])[] = [
    ['a relative path', () => 'dev/shm/x'],
    ['nothing', () => ''],
    ['a path with a zero byte', () => `${folder}/a\0b`],
    ['what is not there', () => join(folder, 'absent')],
    ['a folder', () => folder],
    ['the folder itself, with a slash', () => `${folder}/`],
    ['a file of another folder in memory', () => join('/dev/shm', `kvtier-outside-${process.pid}`)],
    ['a file that `..` leads out to', () => join(folder, 'x/../..', `kvtier-outside-${process.pid}`)],
    ['a file of size 0', () => file('empty', 0)],
    ['a file that is no memory', () => join(tmpdir(), `kvtier-outside-${process.pid}`)],
    ['a device', () => '/dev/null'],
    [
      'a symbolic link to a good file',
      () => {
        const path = join(folder, `link-${count++}`);
        symlinkSync(file('good', MiB), path);
        return path;
      },
    ],
    [
      'a file behind a link out of the folder',
      () => {
        const path = join(folder, `away-${count++}`);
        symlinkSync('/dev/shm', path);
        return join(path, `kvtier-outside-${process.pid}`);
      },
    ],
    [
      'a pipe',
      () => {
        const path = join(folder, `pipe-${count++}`);
        expect(Bun.spawnSync(['mkfifo', path]).exitCode).toBe(0);
        return path;
      },
    ],
  ];
  test.each(refused)('is not %s', async (_, pathOf) => {
    const outside = [join('/dev/shm', `kvtier-outside-${process.pid}`), join(tmpdir(), `kvtier-outside-${process.pid}`)];
    for (const path of outside) writeFileSync(path, new Uint8Array(4096));
    const before = openDescriptors(agent.pid);
    await expect(guest.attachPath(pathOf())).rejects.toMatchObject({ status: 'denied' });
    expect(openDescriptors(agent.pid)).toBe(before);
    for (const path of outside) rmSync(path);
  });

  test.skipIf(process.getuid?.() !== 0)('is not a file of another user, also where the agent is root', async () => {
    const path = file('foreign', MiB);
    chownSync(path, 12_345, 12_345);
    await expect(guest.attachPath(path)).rejects.toMatchObject({ status: 'denied' });
  });
});

describe('by descriptor, a region', () => {
  test('is not memory that may only be read or appended to, a device or a file that is no memory, and the descriptor is closed', async () => {
    const path = file('readonly', MiB);
    const { openSync, closeSync } = await import('node:fs');
    const disk = join(tmpdir(), `kvtier-disk-${process.pid}`);
    writeFileSync(disk, new Uint8Array(4096));
    const fds = [openSync(path, 'r'), openSync(path, 'a+'), openSync('/dev/null', 'r+'), openSync(disk, 'r+')];
    const before = openDescriptors(agent.pid);
    for (const fd of fds) await expect(guest.attach(fd)).rejects.toMatchObject({ status: 'denied' });
    expect(openDescriptors(agent.pid)).toBe(before);
    for (const fd of fds) closeSync(fd);
    rmSync(disk);
  });

  test('comes in any number, one behind the other and while other requests are asked', async () => {
    const memories = Array.from({ length: 8 }, () => SharedMemory.create(MiB));
    const asked = memories.map((memory) => guest.attach(memory.fd));
    const pings = Array.from({ length: 50 }, (_, index) => guest.ask('PING', { payload: new Uint8Array([index]) }));
    expect(new Set(await Promise.all(asked)).size).toBe(8);
    expect((await Promise.all(pings)).map(({ payload }) => payload[0])).toEqual(Array.from({ length: 50 }, (_, index) => index));
    for (const memory of memories) memory.close();
  });

  test('that does not come, or something else in its place, ends the connection and nothing else', async () => {
    const raw = connect(agent.socket);
    const bytes: Buffer[] = [];
    raw.on('data', (chunk: Buffer) => void bytes.push(chunk));
    const ended = new Promise<void>((resolve) => void raw.on('close', () => resolve()));
    const { encodeFrame } = await import('#protocol/native/native-codec.ts');
    const { nativeOperations } = await import('#protocol/native/native-schema.ts');
    raw.write(encodeFrame({ op: 1, tag: 1 }, nativeOperations.HELLO.request, { version: 1, client: '', token: '' }));
    raw.write(encodeFrame({ op: 4, tag: 2 }, nativeOperations.ATTACH.request, { how: 1, path: '' }));
    await until('the agent asks for the descriptor', () => Buffer.concat(bytes).includes(Buffer.from([0, 0, 0, 0, 5, 0])));
    raw.write(encodeFrame({ op: 2, tag: 3 }, nativeOperations.PING.request, { payload: nothing }));
    await ended;
    expect((await guest.ask('PING', { payload: nothing })).payload.length).toBe(0);
  });

  test('is one of at most 64 of a connection', async () => {
    const memory = SharedMemory.create(4096);
    for (let index = 0; index < 64; index += 1) await guest.attach(memory.fd);
    await expect(guest.attach(memory.fd)).rejects.toMatchObject({ status: 'busy' });
    memory.close();
  });
});

describe('a region that is cut under a job', () => {
  const sizeBytes = 2 * MiB + 777;
  const keys = keysOf('cut', 4);

  async function ssdState(): Promise<unknown> {
    const ssd = (await agent.client.stats()).tiers.find(({ tier }) => tier === 'ssd');
    const { quarantinedFiles, readErrors, checksumMismatches } = (await agent.client.stats()).io;
    return { folders: ssd?.folders?.map(({ state }) => state), tier: ssd?.state, quarantinedFiles, readErrors, checksumMismatches };
  }

  test.each(['ram', 'ssd'])('is a fault of LOAD from %s; the agent, the device and the chunk are well', async (tier) => {
    const namespace = await guest.namespace({ model: `cut-${tier}` });
    const own = await guest.share(16 * MiB);
    expect(await storeChunks(guest, own, { namespace, keys, sizeBytes, seed: 5 })).toEqual([0, 0, 0, 0]);
    if (tier === 'ssd') await agent.client.evict({ tier: 'ram', selector: { model: 'cut-ssd' } });
    const before = await ssdState();
    const path = file('cut', 16 * MiB);
    const region = await guest.attachPath(path);
    truncateSync(path, 2 * sizeBytes);
    const load = { namespace, region, deadlineMs: 0, keys, spans: spansOf(4, sizeBytes) };
    const { outcomes } = await guest.ask('LOAD', load);
    expect(outcomes[0]).toBe(loadOutcomes.loaded);
    expect([...outcomes.slice(2)]).toEqual([loadOutcomes.fault, loadOutcomes.fault]);
    // Cut while it runs: whatever the moment, there is an answer.
    for (let round = 0; round < 10; round += 1) {
      truncateSync(path, 16 * MiB);
      const asked = guest.ask('LOAD', load);
      if (round % 2 === 1) await Bun.sleep(round / 3);
      truncateSync(path, 0);
      for (const outcome of (await asked).outcomes) expect([loadOutcomes.loaded, loadOutcomes.fault] as number[]).toContain(outcome);
    }
    expect(await ssdState()).toEqual(before);
    own.memory.view().fill(0);
    expect([...(await guest.ask('LOAD', { ...load, region: own.region })).outcomes]).toEqual([0, 0, 0, 0]);
    for (const [index, span] of load.spans.entries())
      expect(same(own.memory.view(span.offset, span.length), pattern(span.length, 5 + index))).toBe(true);
  });

  test('is a fault of STORE, and nothing of it is stored', async () => {
    const namespace = await guest.namespace({ model: 'cut-store' });
    const path = file('cut', 16 * MiB);
    const region = await guest.attachPath(path);
    truncateSync(path, 100);
    const store = { namespace, region, flags: 0, ttlMs: 0, parent: nothing, keys, spans: spansOf(4, sizeBytes, 4096) };
    expect([...(await guest.ask('STORE', store)).outcomes]).toEqual(Array<number>(4).fill(storeOutcomes.fault));
    expect([...(await guest.ask('LOOKUP', { namespace, flags: 2, keys })).tiers]).toEqual([0, 0, 0, 0]);
    const { tiers } = await agent.client.stats();
    expect(tiers.find(({ tier }) => tier === 'ram')).toBeDefined();
  });

  test('or written to by its client while SSD is read into it, is a fault at worst, and costs no file', async () => {
    const namespace = await guest.namespace({ model: 'scribble' });
    const own = await guest.share(16 * MiB);
    const big = 4 * MiB;
    await storeChunks(guest, own, { namespace, keys: keys.slice(0, 1), sizeBytes: big, seed: 9 });
    await agent.client.evict({ tier: 'ram', selector: { model: 'scribble' } });
    const before = await ssdState();
    const load = { namespace, region: own.region, deadlineMs: 0, keys: keys.slice(0, 1), spans: spansOf(1, big) };
    let faults = 0;
    for (let round = 0; round < 200 && faults === 0; round += 1) {
      let ended = false;
      const asked = guest.ask('LOAD', load).finally(() => (ended = true));
      while (!ended) {
        own.memory.view(0, big).fill(round);
        await Bun.sleep(0);
      }
      const outcome = (await asked).outcomes[0];
      expect([loadOutcomes.loaded, loadOutcomes.fault] as (number | undefined)[]).toContain(outcome);
      if (outcome === loadOutcomes.fault) faults += 1;
    }
    expect(faults, 'the scribble has met a read').toBeGreaterThan(0);
    expect(await ssdState()).toEqual(before);
    expect([...(await guest.ask('LOAD', load)).outcomes]).toEqual([0]);
    expect(same(own.memory.view(0, big), pattern(big, 9))).toBe(true);
  });
});
