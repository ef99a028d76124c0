import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startAgent } from '#testsupport/agent.ts';
import type { RunningAgent } from '#testsupport/agent.ts';
import { encodeCommand } from '#testsupport/naive-resp.ts';
import { RawRespClient } from '#testsupport/raw-resp.ts';

const key = (hash: string): string => `llama@01000100@0@${hash.padStart(64, '0')}`;

describe('a GET whose chunk went after EXISTS said yes', () => {
  let agent: RunningAgent;
  let client: RawRespClient;
  beforeAll(async () => {
    agent = await startAgent();
    client = await RawRespClient.connect(agent.resp);
  });
  afterAll(async () => {
    client.close();
    await agent.stop();
  });

  const call = async (...words: string[]): Promise<string> => {
    const { replies } = await client.exchange([encodeCommand(words)], 1);
    return replies[0] ?? '';
  };

  it('is answered in the length that LMCache reads, and the connection stays in step', async () => {
    await call('SET', key('a1'), 'x'.repeat(300_000));
    expect(await call('EXISTS', key('a1'))).toBe(':1\r\n');
    await agent.client.invalidate({ selector: { keys: [key('a1')] } });
    expect(await call('GET', key('a1'))).toBe('-MISSIN\r\n');
    expect(await call('GET', key('a1'))).toBe('$-1\r\n');
    expect(await call('EXISTS', key('a1'))).toBe(':0\r\n');
  });

  it('is nil for the halves of a redis:// entry, whichever half was asked about', async () => {
    const entry = (half: string): string => `llama@1@0@abcdef@bfloat16${half}`;
    await call('SET', entry('kv_bytes'), 'x'.repeat(1000));
    expect(await call('EXISTS', entry('kv_bytes'))).toBe(':1\r\n');
    expect(await call('GET', entry('metadata'))).toBe('$-1\r\n');
    await call('SET', entry('metadata'), 'm'.repeat(28));
    expect(await call('EXISTS', entry('metadata'))).toBe(':1\r\n');
    await call('DEL', entry('kv_bytes'));
    expect(await call('GET', entry('metadata'))).toBe('$-1\r\n');
    expect(await call('GET', entry('kv_bytes'))).toBe('$-1\r\n');
  });

  it('is nil where nothing was promised', async () => {
    expect(await call('GET', key('a2'))).toBe('$-1\r\n');
  });
});
