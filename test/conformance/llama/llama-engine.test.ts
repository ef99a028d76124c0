import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { EngineThread } from '#engines/llama/engine-thread.ts';
import { findModel } from '#engines/llama/model-files.ts';
import { describeEngine } from '#testsupport/llama-engine-contract.ts';
import { SimLlamaEngine } from '#testsupport/sim-llama-engine.ts';

const folder = mkdtempSync(join(tmpdir(), 'kvtier-llama-engine-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
/** One thread: those of llama.cpp spin at barriers, beside other tests for long. */
const options = { contextTokens: 5 * 256, threads: 1 };

describeEngine('SimLlamaEngine', {
  open: () => Promise.resolve(new SimLlamaEngine({ contextTokens: 20 })),
  close: () => Promise.resolve(),
});

const supported = process.platform === 'linux' && process.arch === 'x64';
describe.skipIf(!supported)('llama.cpp, which is built for linux-x64', () => {
  const opened: EngineThread[] = [];
  const open = async (): Promise<EngineThread> => {
    const engine = await EngineThread.open({ modelPath: findModel('t', folder).path, ...options });
    opened.push(engine);
    return engine;
  };
  describeEngine('EngineThread', { open, close: async () => await opened[0]?.close() });

  test('a file that is no model is refused in one line', async () => {
    const notModel = join(folder, 'not-a-model.gguf');
    await Bun.write(notModel, 'GGUF and then nothing of it');
    await expect(EngineThread.open({ modelPath: notModel, ...options })).rejects.toMatchObject({ code: 'BAD_REQUEST' });
    await expect(EngineThread.open({ modelPath: join(folder, 'absent'), ...options })).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  test('a CPU variant that is not there is refused', async () => {
    const path = findModel('t', folder).path;
    await expect(EngineThread.open({ modelPath: path, ...options, cpuVariant: 'pdp11' })).rejects.toMatchObject({ code: 'BAD_REQUEST' });
  });

  test('text becomes tokens and tokens text', async () => {
    const engine = await open();
    const tokens = await engine.tokenize('a word, 7 words; ä');
    expect(await engine.textOf(tokens)).toBe('<s> a word, 7 words; ä');
    await engine.close();
  });
});
