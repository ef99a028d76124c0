/**
 * What the RESP conformance suites test: the server at KVTIER_TEST_RESP (`host:port`; it is flushed!), or an agent started for the suite.
 * `KVTIER_TEST_RESP=redis` compares redis with itself, which tests the suite.
 */
import { startAgent } from './agent.ts';
import { startRedisServer } from './redis-server.ts';

export interface RespSubject {
  readonly host: string;
  readonly port: number;
  /** 'redis' where the suite tests itself: tests of what is documented as different do not apply. */
  readonly kind: 'kvtier' | 'redis';
  stop(): Promise<void>;
}

const address = process.env['KVTIER_TEST_RESP'] ?? '';

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
  const agent = await startAgent();
  const stop = async (): Promise<void> => {
    const code = await agent.stop();
    if (code !== 0) throw new Error(`The agent ended with code ${code}:\n${agent.output()}`);
  };
  return { host: agent.resp.host, port: agent.resp.port, kind: 'kvtier', stop };
}
