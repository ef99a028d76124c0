/**
 * What can go wrong around a running agent, from outside: its files, its disks, its peers, its process. Each fault is over when its
 * promise settles; none needs the agent's help. The oracle of the load is not told: no fault excuses a wrong byte.
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  linkSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { RunningAgent } from '#testsupport/agent.ts';
import { fillDisk, holdCatalog } from '#testsupport/bad-days.ts';
import { ByteClient, command, pattern, setHead } from '#testsupport/byte-client.ts';
import type { SeededRandom } from '#testsupport/kill-values.ts';

const MiB = 1024 * 1024;

export interface FaultPlace {
  readonly agent: () => RunningAgent;
  readonly dataDir: string;
  /** Folders whose files may be damaged. */
  readonly folders: readonly string[];
  /** A small file system of its own that may be filled; undefined: there is none. */
  readonly smallDisk: string | undefined;
  /** A folder that may go away for the rest of the process' life. */
  readonly doomed: string;
  readonly random: SeededRandom;
}

export const faultNames = [
  'bits of chunk files flipped',
  'chunk file cut',
  'chunk files deleted',
  'disk full',
  'device hangs',
  'folder gone and back',
  'client resets in the middle of a value',
  'client resets in the middle of a reply',
  'client stalls',
  'client trickles',
  'client sends garbage',
  'process stopped and continued',
  'catalog locked',
  'catalog removed',
] as const;
export type FaultName = (typeof faultNames)[number];

export function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Chunk files as they are at this moment; they may be gone in the next. Not the FIFOs of a device that hangs. */
function files(place: FaultPlace): string[] {
  const found: string[] = [];
  for (const folder of place.folders) {
    if (!existsSync(folder)) continue;
    for (const shard of readdirSync(folder).filter((name) => /^[0-9a-f]{2}$/.test(name))) {
      for (const entry of readdirSync(join(folder, shard), { withFileTypes: true }))
        if (entry.isFile() && entry.name.endsWith('.kv')) found.push(join(folder, shard, entry.name));
    }
  }
  return found;
}

/** Does something to a file that the agent may take away at any time. */
function tryFile(act: () => void): void {
  try {
    act();
  } catch (problem) {
    if ((problem as { code?: string }).code !== 'ENOENT') throw problem;
  }
}

function flip(path: string, random: SeededRandom): void {
  const fd = openSync(path, 'r+');
  try {
    for (let count = 1 + random.below(3); count > 0; count -= 1) {
      const at = random.below(random.below(2) === 0 ? 4096 : 256 * 1024);
      const byte = new Uint8Array(1);
      if (readSync(fd, byte, 0, 1, at) === 0) continue;
      byte[0] = (byte[0] ?? 0) ^ (1 << random.below(8));
      writeSync(fd, byte, 0, 1, at);
    }
  } finally {
    closeSync(fd);
  }
}

/** Whoever waits at the FIFO finds an empty file. */
function letGo(path: string): void {
  try {
    closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch (problem) {
    // Nobody waits at it.
    if ((problem as { code?: string }).code !== 'ENXIO') throw problem;
  }
}

function garbage(random: SeededRandom): Uint8Array {
  const pieces = [
    '*3\r\n$3\r\nSET\r\n',
    '$-1\r\n',
    '*-5\r\n',
    '$99999999999\r\n',
    'GET / HTTP/1.1\r\n',
    '"',
    '\r\n',
    '*1048577\r\n',
    'MSET',
    '\0',
  ];
  const parts = Array.from({ length: 1 + random.below(8) }, () =>
    random.below(3) === 0 ? pattern(1 + random.below(3000), random.below(2 ** 30)) : new TextEncoder().encode(random.pick(pieces)),
  );
  return new Uint8Array(Buffer.concat(parts));
}

/** Whether the process that shall hold the catalog's lock is on its way to it: SQLite gives up where the file goes meanwhile. */
let lockUnderWay = false;

/** False: it could not be done this time, and nothing is wrong. */
const faults: Readonly<Record<FaultName, (place: FaultPlace) => Promise<void | false> | void | false>> = {
  'bits of chunk files flipped'(place) {
    const all = files(place);
    for (let count = Math.min(3, all.length); count > 0; count -= 1) tryFile(() => flip(place.random.pick(all), place.random));
  },
  'chunk file cut'(place) {
    const all = files(place);
    if (all.length > 0) tryFile(() => truncateSync(place.random.pick(all), place.random.below(64 * 1024)));
  },
  'chunk files deleted'(place) {
    const all = files(place);
    for (let count = Math.min(4, all.length); count > 0; count -= 1) tryFile(() => rmSync(place.random.pick(all)));
  },
  async 'disk full'({ smallDisk }) {
    if (smallDisk === undefined) return;
    const filler = fillDisk(smallDisk);
    await wait(4000);
    rmSync(filler, { force: true });
  },
  /**
   * A FIFO in place of a file holds whoever opens it; as many as it takes for somebody to come by. Each has a second name, so that who
   * waits at it is let go also where the agent has removed the first.
   */
  async 'device hangs'(place) {
    const all = files(place);
    const chosen = new Set(Array.from({ length: Math.min(20, all.length) }, () => place.random.pick(all)));
    const hanging = [...chosen].map((path, index) => ({ path, name: join(place.dataDir, `fifo-${index}`) }));
    if (hanging.length > 0)
      execFileSync(
        'mkfifo',
        hanging.map(({ name }) => name),
      );
    for (const { path, name } of hanging) {
      rmSync(path, { force: true });
      tryFile(() => linkSync(name, path));
    }
    await wait(4000);
    for (const { path } of hanging) rmSync(path, { force: true });
    // Somebody may have been on the way to it.
    for (let turn = 0; turn < 10; turn += 1) {
      for (const { name } of hanging) letGo(name);
      await wait(100);
    }
    for (const { name } of hanging) rmSync(name);
  },
  async 'folder gone and back'({ doomed }) {
    if (!existsSync(doomed)) return;
    renameSync(doomed, `${doomed}.away`);
    await wait(3000);
    rmSync(doomed, { recursive: true, force: true });
    renameSync(`${doomed}.away`, doomed);
  },
  async 'client resets in the middle of a value'({ agent, random }) {
    const client = await ByteClient.connect(agent().resp);
    const sizeBytes = 1 + random.below(8 * MiB);
    client.write(setHead(`mischief:${random.below(50)}`, sizeBytes));
    await Promise.race([client.written(pattern(random.below(sizeBytes), 1)), wait(2000)]);
    client.reset();
  },
  async 'client resets in the middle of a reply'({ agent, random }) {
    const client = await ByteClient.connect(agent().resp);
    // Cut off where it was too slow: a machine that does much else, or an agent that is stopped meanwhile.
    const stored = client.send('SET', 'mischief:large', pattern(6 * MiB, 2)).catch(() => undefined);
    await Promise.race([stored, wait(3000)]);
    if (client.isClosed) return false;
    client.write(Buffer.concat(Array.from({ length: 8 }, () => command('GET', 'mischief:large'))));
    await wait(random.below(30));
    client.reset();
  },
  async 'client stalls'({ agent, random }) {
    const client = await ByteClient.connect(agent().resp);
    client.socket.pause();
    if (random.below(2) === 0) client.write(setHead('mischief:stall', 4 * MiB));
    else client.write(Buffer.concat(Array.from({ length: 16 }, () => command('GET', 'mischief:large'))));
    client.write(pattern(MiB, 3));
    await wait(5000);
    client.destroy();
  },
  async 'client trickles'({ agent }) {
    const client = await ByteClient.connect(agent().resp);
    client.write(setHead('mischief:trickle', 2 * MiB));
    client.write(pattern(MiB, 4));
    for (let turn = 0; turn < 50 && !client.isClosed; turn += 1) {
      client.write(new Uint8Array(1));
      await wait(100);
    }
    client.destroy();
  },
  async 'client sends garbage'({ agent, random }) {
    const clients = await Promise.all(Array.from({ length: 4 }, () => ByteClient.connect(agent().resp)));
    for (const client of clients) client.write(garbage(random));
    await wait(300);
    for (const client of clients) client.destroy();
  },
  async 'process stopped and continued'({ agent, random }) {
    const { pid } = agent();
    process.kill(pid, 'SIGSTOP');
    await wait(200 + random.below(1500));
    process.kill(pid, 'SIGCONT');
  },
  async 'catalog locked'({ dataDir }) {
    lockUnderWay = true;
    // The agent too may put a file that was damaged aside.
    const held = await holdCatalog(join(dataDir, 'catalog.db'), 'BEGIN IMMEDIATE').catch(() => undefined);
    lockUnderWay = false;
    if (held === undefined) return false;
    await wait(4000);
    await held.release();
  },
  'catalog removed'({ dataDir }) {
    if (lockUnderWay) return false;
    for (const suffix of ['', '-wal', '-shm']) rmSync(join(dataDir, `catalog.db${suffix}`), { force: true });
  },
};

/** False where it could not be done here or now: no such disk, a client that was too slow, another fault in the way. */
export async function inject(name: FaultName, place: FaultPlace): Promise<boolean> {
  if (name === 'disk full' && place.smallDisk === undefined) return false;
  return (await faults[name](place)) !== false;
}
