/**
 * Program: files that never open make the pool replace all of its file workers, again and again. Prints the private memory of this
 * process in bytes, before and after, as JSON. A process of its own, since other tests share theirs.
 *
 *   bun test/support/replace-threads.ts FOLDER ROUNDS
 */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HostIoPool } from '#host/io-pool.ts';
import { privateBytes, until } from './agent-probes.ts';

const [folder = '', rounds = ''] = process.argv.slice(2);
const THREADS = 4;
const CHUNK_BYTES = 4 * 1024 ** 2;

const pool = await HostIoPool.start({
  socketWorkers: 1,
  fileWorkers: THREADS,
  fileDeadlineMs: 150,
  onCrash: (reason) => {
    throw new Error(reason);
  },
});
const sound = join(folder, 'sound');
writeFileSync(sound, new Uint8Array(4096 + CHUNK_BYTES));
const fifos = Array.from({ length: THREADS }, (_, index) => join(folder, `fifo-${index}`));
for (const path of fifos) execFileSync('mkfifo', [path]);

/** Lets whoever waits at the FIFO go on with an empty file. */
function release(path: string): void {
  try {
    closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch (problem) {
    // Nobody waits at it.
    if ((problem as { code?: string }).code !== 'ENXIO') throw problem;
  }
}

async function replaceAll(): Promise<void> {
  // Each thread has had a whole slice in its hands.
  await Promise.all(Array.from({ length: 2 * THREADS }, () => pool.files.checksumFile(sound, CHUNK_BYTES)));
  await Promise.all(fifos.map((path) => pool.files.checksumFile(path, 4096)));
  await until('the threads came back', () => {
    for (const path of fifos) release(path);
    return pool.files.stuckCount === 0;
  });
}

await replaceAll();
const beforeBytes = privateBytes(process.pid);
for (let round = 0; round < Number(rounds); round += 1) await replaceAll();
const afterBytes = privateBytes(process.pid);
await pool.close();
console.log(JSON.stringify({ threads: THREADS * Number(rounds), beforeBytes, afterBytes }));
process.exit(0);
