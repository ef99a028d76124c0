/**
 * The real client of LMCache while its agent is killed: without a front its sockets die for good, with one they live on, and what it asks while no
 * agent is there is answered by the next. The environment is that of test/e2e/engines/setup.sh.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { makeEngineEnvironment } from '#testsupport/engine-environment.ts';
import { startFront } from '#testsupport/front.ts';

const python = (await makeEngineEnvironment()).program('python');
const SOCKETS = 4;
const KILLS = 3;
const dataDir = mkdtempSync(join(tmpdir(), 'kvtier-e2e-front-'));
const shmDir = mkdtempSync('/dev/shm/kvtier-e2e-front-');

let passed = 0;
let failed = 0;

interface Answer {
  readonly ok?: boolean;
  readonly exists?: number;
  readonly right?: number;
  readonly error: string;
}

class Client {
  readonly #process;
  readonly #lines: AsyncIterator<string>;

  constructor(port: number) {
    this.#process = Bun.spawn([python, join(import.meta.dir, 'client.py'), String(port), String(SOCKETS)], {
      stdin: 'pipe',
      stdout: 'pipe',
      // What fails without a front, it says at length.
      stderr: 'ignore',
    });
    this.#lines = lines(this.#process.stdout);
  }

  tell(word: string): void {
    void this.#process.stdin.write(`${word}\n`);
    void this.#process.stdin.flush();
  }

  async answer(): Promise<Answer> {
    const line = await this.#lines.next();
    if (line.done === true) throw new Error('The client ended');
    return JSON.parse(line.value) as Answer;
  }

  ask(word: string): Promise<Answer> {
    this.tell(word);
    return this.answer();
  }

  async close(): Promise<void> {
    this.#process.kill('SIGKILL');
    await this.#process.exited;
  }
}

async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let text = '';
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      yield text.slice(0, end);
      text = text.slice(end + 1);
    }
  }
}

function check(claim: string, good: boolean, seen: unknown): void {
  console.log(`${good ? 'pass' : 'FAIL'}  ${claim}: ${JSON.stringify(seen)}`);
  if (good) passed += 1;
  else failed += 1;
}

function start(flags: readonly string[], respPort = 0): Promise<RunningAgent> {
  return startAgent({ dataDir, respPort, flags: ['--ram', '128MiB', '--ssd', 'off', '--ram-keep', 'on', '--shm-dir', shmDir, ...flags] });
}

async function withoutFront(): Promise<void> {
  let agent = await start([]);
  const { port } = agent.resp;
  const client = new Client(port);
  check('stored', (await client.ask('put')).ok === true, 'put');
  await agent.kill9();
  agent = await start([], port);
  const seen = await client.ask('check');
  check('without a front no socket of the client works after a restart', seen.right === 0 && seen.exists === 0, seen);
  await client.close();
  await agent.stop();
}

async function withFront(): Promise<void> {
  const front = await startFront(dataDir);
  const flags = ['--resp-front', front.socketPath];
  let agent = await start(flags);
  const client = new Client(front.address.port);
  check('stored', (await client.ask('put')).ok === true, 'put');
  for (let kill = 1; kill <= KILLS; kill += 1) {
    // The agent has answered something else, so the client's sockets are at rest.
    await agent.client.stats();
    await agent.kill9();
    client.tell('check');
    agent = await start(flags);
    const seen = await client.answer();
    check(`with a front it gets everything after kill -9 number ${kill}`, seen.right === 8 && seen.exists === 8, seen);
    check('and stores again', (await client.ask('put')).ok === true, 'put');
  }
  await client.close();
  await agent.stop();
  await front.stop();
}

try {
  await withoutFront();
  await withFront();
} finally {
  rmSync(dataDir, { recursive: true, force: true });
  rmSync(shmDir, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
