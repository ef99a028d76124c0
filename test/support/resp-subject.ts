/**
 * What the RESP conformance suites test: the server at KVTIER_TEST_RESP (`host:port`; it is flushed!), or an agent started for the suite.
 * `KVTIER_TEST_RESP=redis` compares redis with itself, which tests the suite.
 */
import { existsSync } from 'node:fs';
import { startRedisServer } from './redis-server.ts';

export interface RespSubject {
  readonly host: string;
  readonly port: number;
  /** 'redis' where the suite tests itself: tests of what is documented as different do not apply. */
  readonly kind: 'kvtier' | 'redis';
  stop(): Promise<void>;
}

interface AgentModule {
  startAgent(
    options: Record<string, never>,
  ): Promise<{ readonly resp: { readonly host: string; readonly port: number }; stop(): Promise<void> }>;
}

/** Loaded by address, so that this file stands without it. */
const agentModule = new URL('./agent.ts', import.meta.url);
const address = process.env['KVTIER_TEST_RESP'] ?? (existsSync(agentModule) ? '' : 'redis');

/** Known before the subject runs, so that a suite can say what it skips. */
export const respSubjectKind: RespSubject['kind'] = address === 'redis' ? 'redis' : 'kvtier';

export async function startRespSubject(): Promise<RespSubject> {
  if (address === 'redis') {
    const redis = await startRedisServer();
    return { host: redis.host, port: redis.port, kind: 'redis', stop: () => redis.stop() };
  }
  if (address !== '') {
    const [host = '', port = ''] = address.split(/:(?=\d+$)/);
    return { host, port: Number(port), kind: 'kvtier', stop: () => Promise.resolve() };
  }
  const { startAgent } = (await import(agentModule.href)) as AgentModule;
  const agent = await startAgent({});
  return { host: agent.resp.host, port: agent.resp.port, kind: 'kvtier', stop: () => agent.stop() };
}
