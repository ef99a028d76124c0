import { describe } from 'vitest';
import { RespChunkStore } from '#engines/llama/resp-chunk-store.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { describeChunkStore } from '#testsupport/chunk-store-contract.ts';
import { MemoryChunkStore } from '#testsupport/memory-chunk-store.ts';
import { type RedisServer, redisServerVersion, startRedisServer } from '#testsupport/redis-server.ts';

describeChunkStore('MemoryChunkStore', {
  open: () => Promise.resolve(new MemoryChunkStore()),
  close: (store) => store.close(),
});

let agent: RunningAgent | undefined;
describeChunkStore('RespChunkStore, the agent', {
  open: async () => {
    agent = await startAgent({ token: 'secret' });
    return new RespChunkStore({ ...agent.resp, token: 'secret' });
  },
  close: async (store) => {
    await store.close();
    await agent?.stop();
  },
});

describe.skipIf(redisServerVersion() === undefined)('a redis-server, which is not everywhere', () => {
  let redis: RedisServer | undefined;
  describeChunkStore('RespChunkStore, redis-server', {
    open: async () => {
      redis = await startRedisServer();
      return new RespChunkStore(redis);
    },
    close: async (store) => {
      await store.close();
      await redis?.stop();
    },
  });
});
