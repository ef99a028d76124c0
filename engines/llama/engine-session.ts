/** One engine with a prefix cache over a store: questions in, answers out. */
import { createHash } from 'node:crypto';
import type { Answer, Question, Ready } from './ask.ts';
import { type ChunkNamespace, chunkNamespaceOf } from './chunk-keys.ts';
import type { ChunkStore } from './chunk-store.ts';
import { EngineThread } from './engine-thread.ts';
import type { EngineOptions } from './llama-engine.ts';
import { PrefixCache } from './prefix-cache.ts';

const DEFAULT_GENERATED = 8;

export class EngineSession {
  readonly #engine: EngineThread;
  readonly #store: ChunkStore;
  readonly #cache: PrefixCache;
  readonly #openMs: number;

  /** `openStore` makes the store of the engine's namespace, which `close` closes. Errors: those of LlamaEngine's constructor. */
  static async open(options: EngineOptions, openStore: (namespace: ChunkNamespace) => Promise<ChunkStore>): Promise<EngineSession> {
    const startMs = performance.now();
    const engine = await EngineThread.open(options);
    const openMs = performance.now() - startMs;
    return new EngineSession(engine, await openStore(chunkNamespaceOf(engine.facts)), openMs);
  }

  constructor(engine: EngineThread, store: ChunkStore, openMs: number) {
    this.#engine = engine;
    this.#store = store;
    this.#cache = new PrefixCache(engine, store);
    this.#openMs = openMs;
  }

  ready(): Ready {
    const { build, cpuVariant, kvType, parameterCount, chunkBytes, chunkTokens } = this.#engine.facts;
    const { model, layout } = chunkNamespaceOf(this.#engine.facts);
    return {
      ready: true,
      model,
      fingerprint: layout,
      build,
      cpuVariant,
      kvType,
      parameterCount,
      chunkBytes,
      chunkTokens,
      openMs: this.#openMs,
    };
  }

  /** Answers when everything that is new is stored. */
  async ask(question: Question): Promise<Answer> {
    const startMs = performance.now();
    const tokens = (await this.#engine.tokenize(question.prompt)).subarray(0, question.promptTokens);
    const tokenizeMs = performance.now() - startMs;
    const prefill = await this.#cache.prefill(tokens);
    const ttftMs = performance.now() - startMs;
    const generated = await this.#cache.generate(prefill.logits, question.generate ?? DEFAULT_GENERATED);
    const { logits } = prefill;
    return {
      tokens: prefill.tokenCount,
      restoredTokens: prefill.restoredTokens,
      foundChunks: prefill.foundChunks,
      storedChunks: await prefill.stored,
      stoppedBy: prefill.stoppedBy,
      tokenizeMs,
      lookupMs: prefill.lookupMs,
      restoreMs: prefill.restoreMs,
      computeMs: prefill.computeMs,
      ttftMs,
      logitsSha256: createHash('sha256')
        .update(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength))
        .digest('hex'),
      text: await this.#engine.textOf(generated),
    };
  }

  async close(): Promise<void> {
    await this.#store.close();
    await this.#engine.close();
  }
}
