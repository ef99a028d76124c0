/**
 * Entry of `bun run agent`, `bun run kvtier` and `bun run test`: installs what is missing, then becomes the program asked for.
 *
 *   bun node-agent/bootstrap.mjs [arguments]                       the agent's command line (node-agent/main.ts)
 *   bun node-agent/bootstrap.mjs --run PACKAGE-OR-FILE [arguments] the command of an installed package, or a program of this repository
 *   bun node-agent/bootstrap.mjs --install-only                    nothing more
 *
 * Invariants
 * - Imports built-ins only: on a fresh clone there is nothing else.
 * - The program runs in this very process, so signals, standard streams and exit codes need no hand-over and no parent can die first.
 * - Writes nothing to standard output: `kvtier stats --json` starts here too.
 * - Installs with the executable that runs this file: where Bun came from npx there may be none on PATH.
 * - Does not outlive the command that started it: npm dies of a SIGTERM without passing it on (see `watchLaunchers`).
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = resolve(fileURLToPath(import.meta.url), '..', '..');
const stampPath = join(root, 'node_modules', '.kvtier-install');
/** Exit codes of sysexits.h: the host lacks something (EX_UNAVAILABLE), the call is wrong (EX_USAGE). */
const exitUnavailable = 69;
const exitUsage = 64;
/** Half of the second within which the agent counts signals as one. */
const launcherPollMs = 500;

/** @param {number} exitCode @param {string} message @returns {never} */
function fail(exitCode, message) {
  process.stderr.write(`kvtier: ${message}\n`);
  process.exit(exitCode);
}

/** Refuses Node and a Bun older than package.json's `packageManager`. */
function requireBun() {
  const pinned = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).packageManager.split('@')[1];
  const running = process.versions.bun;
  if (running === undefined)
    fail(exitUnavailable, `Cannot run on Node ${process.versions.node}: want Bun, as in \`npx -y bun@${pinned} run agent\``);
  if (Bun.semver.order(running, pinned) < 0)
    fail(exitUnavailable, `Cannot run on Bun ${running}: want ${pinned} or newer, as in \`npx -y bun@${pinned} run agent\``);
}

/** What node_modules depends on: the manifest, the lock file and the platform whose native packages were chosen. */
function wantedStamp() {
  const hash = createHash('sha256');
  for (const name of ['package.json', 'bun.lock']) hash.update(readFileSync(join(root, name)));
  return `${process.platform}-${process.arch} ${hash.digest('hex')}\n`;
}

/** Installs when node_modules is absent or of another lock file. Returns whether it did; ends the process when it cannot. */
function ensureInstalled() {
  const wanted = wantedStamp();
  if (existsSync(stampPath) && readFileSync(stampPath, 'utf8') === wanted) return false;
  process.stderr.write('kvtier: installing dependencies (once for each change of bun.lock)\n');
  const result = spawnSync(process.execPath, ['install', '--frozen-lockfile'], { cwd: root, stdio: ['ignore', 2, 2] });
  if (result.error !== undefined) fail(exitUnavailable, `Cannot start ${process.execPath} install: ${result.error.message}`);
  if (result.signal !== null) process.kill(process.pid, result.signal);
  if (result.status !== 0)
    fail(
      exitUnavailable,
      `Cannot install dependencies: \`bun install --frozen-lockfile\` ended with ${result.status}; its messages are above`,
    );
  writeFileSync(stampPath, wanted);
  return true;
}

/**
 * Replaces this process by a fresh one of the same kind (execv): Bun remembers that the packages were absent when it started, and a
 * Worker would still not find them. Same pid, no parent. Returns only where the C library is not where it should be.
 */
async function startAfresh() {
  const { dlopen, ptr } = await import('bun:ffi');
  let libc;
  try {
    libc = dlopen('libc.so.6', { execv: { args: ['ptr', 'ptr'], returns: 'i32' } }).symbols;
  } catch {
    return; // Not Linux with glibc: the program starts here, and what it misses it says itself.
  }
  const words = [process.execPath, fileURLToPath(import.meta.url), ...process.argv.slice(2)].map((word) => Buffer.from(`${word}\0`));
  const pointers = new BigUint64Array([...words.map((word) => BigInt(ptr(word))), 0n]);
  libc.execv(ptr(words[0]), ptr(pointers));
}

/** Path of the file behind `--run NAME`: a file of this repository, or the command of that name in the package of that name. */
function programPath(name) {
  if (name.endsWith('.ts')) return join(root, name);
  const folder = join(root, 'node_modules', name);
  const manifestPath = join(folder, 'package.json');
  if (!existsSync(manifestPath)) fail(exitUsage, `Cannot run ${name}: it is neither a .ts file nor an installed package`);
  const { bin } = JSON.parse(readFileSync(manifestPath, 'utf8'));
  return join(folder, typeof bin === 'string' ? bin : bin[name]);
}

/** Parent of a process from /proc/PID/stat (proc(5): the field after the state), or 0 where there is none to read. */
function parentOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return 0; // Ended, or no /proc: the caller compares with what it saw at the start.
  }
}

/**
 * Sends this process SIGTERM once when a launcher above it is gone. `bun run` forwards signals, `npx` does not: it dies of SIGTERM and
 * its `sh -c` with it, and the agent would go on with the data directory locked. Watched are the parent, when a script runner started
 * us, and the parent's parent where npm is the outer runner; a shell further up may leave, as it does after `bun run agent &`.
 * The watch ends with the first signal of any origin: two signals more than a second apart mean "at once" to the agent.
 */
function watchLaunchers() {
  if (process.env.npm_lifecycle_event === undefined || parentOf(process.pid) === 0) return;
  // `bun run` replaces every npm_ variable but this one when another runner has set it.
  const underNpm = !basename(process.env.npm_execpath ?? 'bun').startsWith('bun');
  const read = () => {
    const parent = parentOf(process.pid);
    return `${parent} ${underNpm ? parentOf(parent) : 0}`;
  };
  const atStart = read();
  let listening = false;
  const timer = setInterval(() => {
    if (!listening && process.listenerCount('SIGTERM') > 0) {
      listening = true;
      for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => clearInterval(timer));
    }
    if (read() === atStart) return;
    clearInterval(timer);
    process.kill(process.pid, 'SIGTERM');
  }, launcherPollMs);
  timer.unref();
}

requireBun();
if (ensureInstalled()) await startAfresh();
const [first, second, ...rest] = process.argv.slice(2);
if (first !== '--install-only') {
  if (first === '--run' && second === undefined) fail(exitUsage, 'Cannot run nothing: --run wants the name of a package or file');
  const program = first === '--run' ? programPath(second) : join(root, 'node-agent', 'main.ts');
  const programArguments = first === '--run' ? rest : process.argv.slice(2);
  watchLaunchers();
  process.argv = [process.execPath, program, ...programArguments];
  await import(pathToFileURL(program).href);
}
