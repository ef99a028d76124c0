/** Keys and salts that look like paths, or like nothing: cached or refused, and never a name in the file system. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { until } from '#testsupport/agent-probes.ts';
import { ByteClient, pattern, same } from '#testsupport/byte-client.ts';

const hash = 'ab'.repeat(32);
const object = (salt: string, model = 'org/model'): string => `${model}@01000100@0@${hash}${salt === '' ? '' : `@${salt}`}`;

const keys: readonly string[] = [
  '../../etc/passwd',
  '/',
  '//',
  '.',
  '..',
  '/etc/passwd',
  '../'.repeat(500),
  '~root',
  '$(touch pwned)',
  '`touch pwned`',
  '| touch pwned',
  '; rm -rf x',
  '\u0000',
  'a\u0000b',
  ' ',
  '  two spaces  ',
  '\r\n',
  '*1\r\n$8\r\nFLUSHALL\r\n',
  '\n',
  '\t',
  '%2e%2e%2f',
  '..\\..\\windows',
  'CON',
  '😀',
  'é',
  '%s%n',
  "'; drop table chunk; --",
  '',
  'k'.repeat(2048),
  '/'.repeat(2048),
  object('', '../../../tmp/model'),
  object('', '/abs/model'),
  object('', 'model\u0000nul'),
  object('../../salt'),
  object('/salt'),
  object('..'),
  object('.'),
  object('sa\u0000lt'),
  object('sa lt'),
  object('back\\slash'),
  object('x'.repeat(128)),
  object('x'.repeat(129)),
  `../m@1@0@${hash}@half`,
  `m@1@0@${hash}@half@t%../../x`,
  `m@1@0@${hash}@half@../../t%x`,
];
const binary: readonly Uint8Array[] = [
  Uint8Array.of(0xff),
  Uint8Array.of(0xc3),
  Uint8Array.of(0xed, 0xa0, 0x80),
  Uint8Array.of(0, 0xff, 0),
  pattern(2047, 1),
];

let parent: string;
let agent: RunningAgent;
const flags = ['--ram', '64MiB', '--ssd', '256MiB', '--ssd-admission', 'through'];
beforeAll(async () => {
  parent = mkdtempSync(join(tmpdir(), 'kvtier-paths-'));
  agent = await startAgent({ dataDir: join(parent, 'data'), flags });
});
afterAll(() => rmSync(parent, { recursive: true, force: true }));

/** Values of both kinds: small ones are arguments, large ones stream. */
const valueOf = (index: number): Uint8Array => pattern(index % 2 === 0 ? 1000 + index : 70_000 + index, index);

async function readAll(): Promise<void> {
  const client = await ByteClient.connect(agent.resp);
  for (const [index, key] of [...keys, ...binary].entries()) {
    expect(same((await client.send('GET', key)) as Uint8Array, valueOf(index)), `GET ${String(key).slice(0, 40)}`).toBe(true);
  }
  client.destroy();
}

test('keys and salts with path characters, controls and bytes that are no text are cached, each for itself', async () => {
  const client = await ByteClient.connect(agent.resp);
  for (const [index, key] of [...keys, ...binary].entries()) {
    expect(await client.send('SET', key, valueOf(index)), `SET ${String(key).slice(0, 40)}`).toBe('+OK');
    expect(await client.send('EXISTS', key)).toBe(':1');
  }
  client.destroy();
  await readAll();
});

test('a key of 2049 bytes is refused in every command, with small and with large values, and the connection stays', async () => {
  const client = await ByteClient.connect(agent.resp);
  const key = 'k'.repeat(2049);
  await client.send('PING');
  for (const args of [
    ['GET', key],
    ['SET', key, 'v'],
    ['EXISTS', key],
    ['DEL', key],
    ['STRLEN', key],
    ['TYPE', key],
    ['TOUCH', key],
  ]) {
    expect(await client.send(...args), args[0]).toMatch(/^-ERR .*key is too long: 2049 bytes, at most 2048/);
  }
  expect(await client.send('SET', key, pattern(200_000, 1))).toMatch(/^-ERR key is too long/);
  expect(await client.send('MSET', 'fine', 'v', key, 'v')).toMatch(/^-ERR key is too long/);
  expect(await client.send('MGET', 'fine', key)).toEqual([new TextEncoder().encode('v'), undefined]);
  expect(await client.send('DEL', 'fine')).toBe(':1');
  expect(await client.send('PING')).toBe('+PONG');
  client.destroy();
});

test('no file outside of the data directory, and none inside it is named by a key; all of it survives a restart', async () => {
  await until('all is on SSD', async () => (await agent.client.stats()).tiers[0]?.dirtyBytes === 0);
  expect(readdirSync(parent)).toEqual(['data']);
  const names = readdirSync(join(parent, 'data'), { recursive: true }) as string[];
  const known =
    /^(agent\.(json|lock|sock)|journal|catalog\.db(-wal|-shm)?|ssd(-budgets)?(\.json)?|ssd\/([0-9a-f]{2}(\/[0-9a-f]{16}\.kv)?|quarantine|kvtier-folder\.json))$/;
  expect(names.filter((name) => !known.test(name))).toEqual([]);
  expect(names.filter((name) => name.endsWith('.kv'))).toHaveLength(keys.length + binary.length);
  expect(await agent.stop(), agent.output()).toBe(0);
  agent = await startAgent({ dataDir: join(parent, 'data'), flags });
  await readAll();
  expect(await agent.stop(), agent.output()).toBe(0);
});
