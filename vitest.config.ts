import { defineConfig } from 'vitest/config';
import { lanes } from './test/support/lanes.ts';

/** One project a lane. Run under Bun (`bun run test`), in threads: what the tests import needs bun:ffi and Bun's Workers. */
export default defineConfig({
  test: {
    pool: 'threads',
    projects: lanes.map((lane) => ({
      test: {
        name: lane.name,
        include: [`test/${lane.name}/**/*.test.ts`],
        pool: 'threads',
        fileParallelism: !lane.serial,
        testTimeout: lane.testTimeoutMs,
        hookTimeout: lane.testTimeoutMs,
        teardownTimeout: 5000,
        retry: 0,
      },
    })),
  },
});
