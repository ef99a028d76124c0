import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const root = resolve(import.meta.dirname, '..', '..');
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { readonly packageManager: string };

/** A clone in small: the real bootstrap.mjs, one dependency that needs no network, and a main.ts that tells what it got. */
const clone = mkdtempSync(join(tmpdir(), 'kvtier-bootstrap-'));
const bootstrap = join(clone, 'node-agent', 'bootstrap.mjs');
const stamp = join(clone, 'node_modules', '.kvtier-install');

/** The first Node on PATH. Under `bun --bun` the first `node` there is a link to Bun. */
const node = (process.env.PATH ?? '')
  .split(':')
  .map((folder) => join(folder, 'node'))
  .find((path) => existsSync(path) && !basename(realpathSync(path)).startsWith('bun'));

const mainProgram = `
import { answer } from 'local';
if (process.argv.includes('--wait')) {
  process.on('SIGTERM', () => { console.log('SIGTERM'); process.exit(7); });
  setInterval(() => undefined, 1000);
} else process.exitCode = answer;
console.log(JSON.stringify({ arguments: process.argv.slice(2), pid: process.pid, answer }));
`;

beforeAll(() => {
  const write = (path: string, text: string): void => {
    mkdirSync(join(clone, path, '..'), { recursive: true });
    writeFileSync(join(clone, path), text);
  };
  const scripts = { agent: 'bun node-agent/bootstrap.mjs --wait' };
  write(
    'package.json',
    JSON.stringify({ name: 'clone', packageManager: manifest.packageManager, scripts, dependencies: { local: 'file:./local' } }),
  );
  write('bunfig.toml', '[run]\nbun = true\n');
  write('local/package.json', JSON.stringify({ name: 'local', version: '1.0.0', main: 'index.mjs', bin: 'bin.mjs' }));
  write('local/index.mjs', 'export const answer = 42;\n');
  write('local/bin.mjs', "console.log('bin', ...process.argv.slice(2));\n");
  write('node-agent/main.ts', mainProgram);
  cpSync(join(root, 'node-agent', 'bootstrap.mjs'), bootstrap);
  expect(Bun.spawnSync([process.execPath, 'install', '--lockfile-only'], { cwd: clone, stderr: 'ignore' }).exitCode).toBe(0);
});

afterAll(() => rmSync(clone, { recursive: true, force: true }));

interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly pid: number;
}

function start(...argv: readonly string[]): Ended {
  const run = Bun.spawnSync([process.execPath, bootstrap, ...argv], { cwd: tmpdir() });
  return { exitCode: run.exitCode, stdout: run.stdout.toString(), stderr: run.stderr.toString(), pid: run.pid };
}

/** Reads lines of a child as they come; `next` rejects when the output ends first. */
function linesOf(stream: ReadableStream<Uint8Array>): { readonly next: () => Promise<string> } {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let text = '';
  return {
    next: async () => {
      while (!text.includes('\n')) {
        const { done, value } = await reader.read();
        if (done) throw new Error(`Cannot read another line: the output ended with ${JSON.stringify(text)}`);
        text += decoder.decode(value, { stream: true });
      }
      const end = text.indexOf('\n');
      const line = text.slice(0, end);
      text = text.slice(end + 1);
      return line;
    },
  };
}

describe('bootstrap', () => {
  test('installs on a fresh clone, then runs main.ts with the arguments, in one process, its exit code kept', () => {
    rmSync(join(clone, 'node_modules'), { recursive: true, force: true });
    const run = start('serve', '--http', '0');
    expect(run.stderr).toContain('installing');
    expect(JSON.parse(run.stdout)).toEqual({ arguments: ['serve', '--http', '0'], pid: run.pid, answer: 42 });
    expect(run.exitCode).toBe(42);
  });

  test('installs nothing and says nothing when what is installed matches the lock file', () => {
    start('--install-only');
    expect(start('stats').stderr).toBe('');
  });

  test('installs again when the lock file has changed', () => {
    const lock = readFileSync(join(clone, 'bun.lock'), 'utf8');
    start('--install-only');
    const before = readFileSync(stamp, 'utf8');
    writeFileSync(join(clone, 'bun.lock'), `${lock}\n`);
    expect(start('stats').stderr).toContain('installing');
    expect(readFileSync(stamp, 'utf8')).not.toBe(before);
  });

  test('ends with 69 and leaves no stamp when the manifest does not match the lock file', () => {
    const text = readFileSync(join(clone, 'package.json'), 'utf8');
    rmSync(join(clone, 'node_modules'), { recursive: true, force: true });
    writeFileSync(join(clone, 'package.json'), text.replace('"dependencies":{', '"dependencies":{"other":"file:./other",'));
    const run = start('serve');
    writeFileSync(join(clone, 'package.json'), text);
    expect(run.exitCode).toBe(69);
    expect(run.stdout).toBe('');
    expect(run.stderr).toContain('Cannot install dependencies');
    expect(existsSync(stamp)).toBe(false);
  });

  test('runs the command of a package with the rest of the arguments', () => {
    expect(start('--run', 'local', 'run', '--flag').stdout).toBe('bin run --flag\n');
  });

  test.each([[['--run']], [['--run', 'nothing-of-that-name']]])('ends with 64 for %j', (argv) => {
    expect(start(...argv)).toMatchObject({ exitCode: 64, stdout: '' });
  });

  test.skipIf(node === undefined)('tells the user of Node how to get Bun', () => {
    const run = Bun.spawnSync([node ?? '', bootstrap, 'serve']);
    expect(run.exitCode).toBe(69);
    expect(run.stderr.toString()).toContain(`npx -y ${manifest.packageManager} run agent`);
  });

  test('hands SIGTERM to the program, under `bun run` too', async () => {
    const child = Bun.spawn([process.execPath, 'run', 'agent'], { cwd: clone, stdout: 'pipe', stderr: 'ignore' });
    const lines = linesOf(child.stdout);
    await lines.next();
    child.kill('SIGTERM');
    expect(await lines.next()).toBe('SIGTERM');
    expect(await child.exited).toBe(7);
  });

  test('sends itself SIGTERM when the command that started it was killed', async () => {
    const child = Bun.spawn([process.execPath, 'run', 'agent'], { cwd: clone, stdout: 'pipe', stderr: 'ignore' });
    const lines = linesOf(child.stdout);
    await lines.next();
    child.kill('SIGKILL');
    expect(await lines.next()).toBe('SIGTERM');
  });

  test('sends itself SIGTERM when npm dies above the shell that started Bun, but not when a shell above `bun run` leaves', async () => {
    const command = `"${process.execPath}" run agent & echo $!; wait`;
    const underNpm = Bun.spawn(['sh', '-c', command], {
      cwd: clone,
      stdout: 'pipe',
      stderr: 'ignore',
      env: { ...process.env, npm_execpath: '/usr/lib/npm-cli.js' },
    });
    const lines = linesOf(underNpm.stdout);
    await lines.next();
    await lines.next();
    underNpm.kill('SIGKILL');
    expect(await lines.next()).toBe('SIGTERM');

    const { npm_execpath: _, ...env } = process.env;
    const shell = Bun.spawn(['sh', '-c', command], { cwd: clone, stdout: 'pipe', stderr: 'ignore', env });
    const others = linesOf(shell.stdout);
    const runner = Number(await others.next());
    await others.next();
    shell.kill('SIGKILL');
    await shell.exited;
    // Nothing to wait for: three polls of the watch pass without a word, then the runner is asked to stop and the program answers.
    const word = others.next();
    expect(await Promise.race([word, new Promise((done) => void setTimeout(done, 1600, 'silent'))])).toBe('silent');
    process.kill(runner, 'SIGTERM');
    expect(await word).toBe('SIGTERM');
  });
});
