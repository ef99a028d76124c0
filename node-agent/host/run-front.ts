/** `kvtier front`: runs the front until it is told to stop. */
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import type { AgentConfig } from '#config/agent-config.ts';
import { assert } from '#core/assert.ts';
import { Front } from './front.ts';
import { untilStopped } from './signals.ts';

/** Resolves with the exit code. Throws KvtierError where an address is taken. */
export async function runFront(config: AgentConfig, print: (line: string) => void, onBug: (problem: unknown) => void): Promise<number> {
  const { listen, front: socketPath, maxConnections } = config.resp;
  assert(listen !== undefined && socketPath !== undefined, 'the command line has looked at both');
  mkdirSync(dirname(socketPath), { recursive: true, mode: 0o700 });
  const stopped = untilStopped(() => process.exit(1));
  const front = new Front({ listen, socketPath, maxConnections, onCrash: onBug, log: print });
  print(`Front on ${listen.host}:${front.port}, for agents at ${socketPath}`);
  await stopped;
  await front.close();
  return 0;
}
