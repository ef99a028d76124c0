import { describe } from 'vitest';
import { NativeChunkStore } from '#engines/llama/native-chunk-store.ts';
import { RespChunkStore } from '#engines/llama/resp-chunk-store.ts';
import { startAgent, type RunningAgent } from '#testsupport/agent.ts';
import { describeChunkStore } from '#testsupport/chunk-store-contract.ts';
import { MemoryChunkStore } from '#testsupport/memory-chunk-store.ts';
import { type RedisServer, redisServerVersion, startRedisServer } from '#testsupport/redis-server.ts';

const namespace = { model: 'contract', layout: '0'.repeat(64) };

describeChunkStore('MemoryChunkStore', {
  open: () => Promise.resolve(new MemoryChunkStore()),
  close: (store) => store.close(),
});

let agent: RunningAgent | undefined;
describeChunkStore('RespChunkStore, the agent', {
  open: async () => {
    agent = await startAgent({ token: 'secret' });
    return new RespChunkStore({ ...agent.resp, namespace, token: 'secret' });
  },
  close: async (store) => {
    await store.close();
    await agent?.stop();
  },
});

let nativeAgent: RunningAgent | undefined;
describeChunkStore('NativeChunkStore', {
  open: async () => {
    nativeAgent = await startAgent({ token: 'secret' });
    return await NativeChunkStore.open({ path: nativeAgent.socket, namespace, token: 'secret' });
  },
  close: async (store) => {
    await store.close();
    await nativeAgent?.stop();
  },
});

describe.skipIf(redisServerVersion() === undefined)('a redis-server, which is not everywhere', () => {
  let redis: RedisServer | undefined;
  describeChunkStore('RespChunkStore, redis-server', {
    open: async () => {
      redis = await startRedisServer();
      return new RespChunkStore({ ...redis, namespace });
    },
    close: async (store) => {
      await store.close();
      await redis?.stop();
    },
  });
});
