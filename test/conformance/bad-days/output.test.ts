/** What becomes of the agent and of commands where what they print is not taken. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Cleanup, until } from '#testsupport/bad-days.ts';
import { cleanEnvironment } from '#testsupport/cli-process.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const root = new URL('../../..', import.meta.url).pathname;
const shell = (script: string): string[] => ['sh', '-c', script];

/** Runs `kvtier` as `"$0" "$@"` of a shell, which says where its output goes. */
function run(script: string, args: readonly string[]): ReturnType<typeof spawn> {
  const [program = '', ...words] = [...shell(script), process.execPath, join(root, 'node-agent/main.ts'), ...args];
  return spawn(program, words, { env: cleanEnvironment(), stdio: ['ignore', 'pipe', 'pipe'] });
}

test('an agent whose log is on a full disk goes on, and counts what was lost', async () => {
  const agent = await cleanup.agent({ dataDir: cleanup.folder(), launcher: shell('exec "$0" "$@" 2>/dev/full') });
  await until('a line is lost', async () => {
    const text = await (await fetch(`${agent.url}/metrics`)).text();
    return Number(/^kvtier_log_writes_lost_total (\d+)$/m.exec(text)?.[1] ?? 0) > 0;
  });
  expect((await agent.client.readiness()).state).toBe('ready');
  expect(await agent.stop()).toBe(0);
});

test('an agent whose start screen and log have no reader any more goes on', async () => {
  const agent = await cleanup.agent({ dataDir: cleanup.folder() });
  agent.process.stdout?.destroy();
  agent.process.stderr?.destroy();
  // An invalidation of everything over RESP writes a line.
  for (const _ of [1, 2, 3]) await agent.client.invalidate({ selector: { all: true } });
  expect(await agent.stop()).toBe(0);
});

test('a command whose result finds a full disk ends with 74 and says so', async () => {
  const child = run('"$0" "$@" >/dev/full', ['version']);
  let said = '';
  child.stderr?.on('data', (data: Buffer) => void (said += data.toString()));
  expect(await new Promise((resolve) => void child.on('close', resolve))).toBe(74);
  expect(said).toContain('Cannot write the result: ');
  expect(said).not.toContain('bug');
});

test('a result that is larger than a pipe arrives whole at a reader that is slow', async () => {
  const agent = await cleanup.agent({ dataDir: cleanup.folder() });
  const keys = Array.from({ length: 9000 }, (_, index) => `a-key-that-nobody-has-stored-${index}`);
  const child = run('exec "$0" "$@"', ['lookup', '--json', '--url', agent.url, ...keys]);
  const ended = new Promise((resolve) => void child.on('close', resolve));
  await until('the agent has answered', async () => {
    const text = await (await fetch(`${agent.url}/metrics`)).text();
    return text.includes('kvtier_http_responses_total{route="/v1/lookup",status="200"} 1');
  });
  let printed = '';
  child.stdout?.on('data', (data: Buffer) => void (printed += data.toString()));
  expect(await ended).toBe(1);
  expect((JSON.parse(printed) as { answers: unknown[] }).answers).toHaveLength(keys.length);
});
