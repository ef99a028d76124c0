/** What LMCache's sockets end at: our agent, or redis-server as the oracle. Both keep what they were given across SIGKILL. */
import { spawnSync } from 'node:child_process';
import { startAgent } from '#testsupport/agent.ts';
import { eventually } from '#testsupport/engine-process.ts';
import { startRedisServer } from '#testsupport/redis-server.ts';

export interface Peer {
  readonly name: string;
  readonly host: string;
  readonly port: number;
  /** Reads that were answered with a value since the process started. */
  hits(): Promise<number>;
  /** Resolves when SIGKILL would lose nothing. */
  settled(): Promise<void>;
  kill9(): Promise<void>;
}

export interface OraclePeer extends Peer {
  /** Makes all bytes of every value zero. */
  zero(): void;
}

export type StartPeer<P extends Peer = Peer> = (folder: string, port?: number) => Promise<P>;

/** Enough for every chunk of the lane, 5.6 MiB each. */
const flags = ['--ram', '1GiB', '--ssd', '2GiB'];

export const startKvtier: StartPeer = async (folder, port = 0) => {
  const agent = await startAgent({ dataDir: folder, respPort: port, flags });
  return {
    name: 'kvtier',
    ...agent.resp,
    async hits() {
      const { hits } = await agent.client.stats();
      return hits.hbm + hits.ram + hits.ssd;
    },
    async settled() {
      await eventually('dirtyBytes 0 in every tier', 180_000, async () => {
        const { tiers } = await agent.client.stats();
        return tiers.every((tier) => tier.dirtyBytes === 0) || undefined;
      });
    },
    kill9: agent.kill9,
  };
};

export const startRedis: StartPeer<OraclePeer> = async (folder, port) => {
  const redis = await startRedisServer({ folder, ...(port === undefined ? {} : { port }) });
  return {
    name: 'redis-server',
    host: redis.host,
    port: redis.port,
    hits() {
      const info = spawnSync('redis-cli', ['-p', String(redis.port), 'INFO', 'stats'], { encoding: 'utf8' }).stdout;
      const found = /keyspace_hits:(\d+)/.exec(info)?.[1];
      if (found === undefined) throw new Error(`redis-server's INFO has no keyspace_hits: ${info.slice(0, 200)}`);
      return Promise.resolve(Number(found));
    },
    settled: () => Promise.resolve(), // Appended before it is acknowledged; the page cache outlives the process.
    kill9: redis.stop,
    zero() {
      const cli = (...args: string[]): string =>
        spawnSync('redis-cli', ['-p', String(redis.port), ...args], { encoding: 'utf8' }).stdout.trim();
      for (const key of cli('--scan').split('\n')) {
        const length = Number(cli('STRLEN', key));
        // A bitmap of as many zeroes: SETRANGE from the command line would need them as an argument.
        cli('DEL', key);
        cli('SETBIT', key, String(length * 8 - 1), '0');
        if (Number(cli('STRLEN', key)) !== length) throw new Error(`Cannot zero ${key}: its length changed`);
      }
    },
  };
};
