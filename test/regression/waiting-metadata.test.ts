/**
 * Found by the crash lane's oracle: the metadata half of a redis:// entry that waits for its value outlived an invalidation of the entry, and
 * one that had expired while it waited took the value with it that came for it.
 */
import { expect, it } from 'vitest';
import { SimAgent } from '#testsupport/sim-agent.ts';
import { SimClient } from '#testsupport/sim-client.ts';
import type { SimOutcome } from '#testsupport/sim-client.ts';

const entry = 'llama@1@0@a1b2c3d4@half';
const value = `${entry}kv_bytes`;
const metadata = `${entry}metadata`;

class Waiting {
  readonly agent = new SimAgent({ seed: 1 });
  readonly #client = new SimClient(this.agent.network, '10.0.0.1');

  constructor() {
    this.agent.boot();
    this.settleUntil(() => this.agent.isReady);
    this.#client.connect();
  }

  settleUntil(isSo: () => boolean): void {
    while (!isSo()) if (!this.agent.stepNetwork() && !this.agent.stepIo()) this.agent.advance(1);
    expect(this.agent.problem).toBeUndefined();
  }

  /** As redis-cli prints it. */
  ask(...args: readonly string[]): string {
    let answer: SimOutcome | undefined;
    this.#client.command(args, (reply) => (answer = reply));
    this.settleUntil(() => answer !== undefined);
    if (answer === undefined || answer === 'lost') return 'lost';
    if (answer.kind === 'bulk') return Buffer.from(answer.bytes).toString();
    if (answer.kind === 'integer') return String(answer.value);
    return answer.kind === 'array' || answer.kind === 'null' ? answer.kind : answer.text;
  }

  invalidate(selector: object): void {
    let status = 0;
    void this.agent.request('POST', '/v1/invalidate', { body: { selector } }).then((response) => (status = response.status));
    this.settleUntil(() => status !== 0);
    expect(status).toBe(200);
  }
}

it('A metadata half that waits for its value is given to it, once', () => {
  const world = new Waiting();
  expect([world.ask('SET', metadata, 'm'), world.ask('EXISTS', metadata), world.ask('SET', value, 'v')]).toEqual(['OK', '0', 'OK']);
  expect([world.ask('GET', metadata), world.ask('GET', value)]).toEqual(['m', 'v']);
  expect([world.ask('SET', value, 'w'), world.ask('GET', metadata)]).toEqual(['OK', 'null']);
});

it.each([
  ['by its keys', (world: Waiting) => world.invalidate({ keys: [value] })],
  ['by its model', (world: Waiting) => world.invalidate({ model: 'llama' })],
  ['by the age of its use', (world: Waiting) => world.invalidate({ model: 'llama', olderThan: world.agent.clock.nowMs() + 1000 })],
  ['by FLUSHALL', (world: Waiting) => expect(world.ask('FLUSHALL')).toBe('OK')],
  ['by DEL of its value', (world: Waiting) => expect(world.ask('DEL', value)).toBe('0')],
])('A metadata half that waits for its value is invalidated %s', (_how, invalidate) => {
  const world = new Waiting();
  expect(world.ask('SET', metadata, 'before')).toBe('OK');
  invalidate(world);
  expect([world.ask('SET', value, 'v'), world.ask('GET', metadata)]).toEqual(['OK', 'null']);
  expect([world.ask('SET', metadata, 'after'), world.ask('GET', metadata)]).toEqual(['OK', 'after']);
});

it('A metadata half that comes after an invalidation waits for its value as ever', () => {
  const world = new Waiting();
  world.invalidate({ all: true });
  expect([world.ask('SET', metadata, 'm'), world.ask('SET', value, 'v'), world.ask('GET', metadata)]).toEqual(['OK', 'OK', 'm']);
});

it('A metadata half that has expired while it waited leaves the value alone that comes for it', () => {
  const world = new Waiting();
  expect(world.ask('SET', metadata, 'm', 'PX', '50')).toBe('OK');
  world.agent.advance(51);
  expect([world.ask('SET', value, 'v'), world.ask('GET', value), world.ask('GET', metadata)]).toEqual(['OK', 'v', 'null']);
  expect(world.ask('PTTL', value)).toBe('-1');
});

it('A metadata half without an expiry ends with its value, and one with an earlier expiry ends both', () => {
  const world = new Waiting();
  expect([world.ask('SET', value, 'v', 'PX', '500'), world.ask('SET', metadata, 'm')]).toEqual(['OK', 'OK']);
  expect(Number(world.ask('PTTL', metadata))).toBeGreaterThan(400);
  world.agent.advance(501);
  expect([world.ask('GET', metadata), world.ask('GET', value)]).toEqual(['null', 'null']);
  expect([world.ask('SET', value, 'v', 'PX', '5000'), world.ask('SET', metadata, 'm', 'PX', '100')]).toEqual(['OK', 'OK']);
  world.agent.advance(101);
  expect([world.ask('GET', metadata), world.ask('GET', value)]).toEqual(['null', 'null']);
});
