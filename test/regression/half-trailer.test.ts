/** Found by the simulation: a value that had arrived whole with the first byte of its CRLF alone took the process down. */
import { expect, it } from 'vitest';
import { SimAgent } from '#testsupport/sim-agent.ts';
import { SimClient, encodeCommand } from '#testsupport/sim-client.ts';
import type { SimOutcome } from '#testsupport/sim-client.ts';
import { payloadOf } from '#testsupport/sim-cache.ts';

it('A value whose CR came with it and whose LF comes later is stored', () => {
  const agent = new SimAgent({ seed: 1 });
  agent.boot();
  while (!agent.isReady) if (!agent.stepIo()) agent.advance(10);
  const client = new SimClient(agent.network, '10.0.0.1');
  client.connect();
  const value = payloadOf(7, 40_000);
  const command = encodeCommand(['SET', 'key', value]);
  const replies: SimOutcome[] = [];
  client.command(['SET', 'key', value], (reply) => replies.push(reply));
  client.command(['GET', 'key'], (reply) => replies.push(reply));
  if (client.connection !== undefined) client.connection.bufferBytes = 64 * 1024;
  // What arrives; what the transport hands over; what the door then reads by itself: up to the CR.
  agent.network.script.push(command.length, 20_000, command.length - 1 - 20_000);
  while (agent.stepNetwork());
  expect(agent.problem).toBeUndefined();
  expect(replies).toEqual([
    { kind: 'simple', text: 'OK' },
    { kind: 'bulk', bytes: value },
  ]);
});
