/**
 * An engine whose KV is a few bytes a token and whose logits depend on every byte of it, as those of a real one do: what is restored wrong
 * shows. Behaves as EngineThread does where the prefix cache can see it; test/support/llama-engine-contract.ts is the suite of both.
 */
import { createHash } from 'node:crypto';
import { toArrayBuffer } from 'bun:ffi';
import { assert } from '#core/assert.ts';
import { badRequest } from '#core/errors.ts';
import type { MemoryRange } from '#engines/llama/engine-messages.ts';
import type { Engine } from '#engines/llama/engine-thread.ts';
import type { EngineFacts } from '#engines/llama/llama-engine.ts';

const ROW_BYTES = 16;
const VOCABULARY = 16;

export class SimLlamaEngine implements Engine {
  readonly facts: EngineFacts;
  #rows: Uint8Array[] = [];
  /** What was called, in order, with the numbers of chunks. */
  readonly calls: string[] = [];
  /** Refuses to restore these. */
  readonly refused = new Set<number>();

  constructor(options: { readonly chunkTokens?: number; readonly contextTokens?: number; readonly name?: string } = {}) {
    const chunkTokens = options.chunkTokens ?? 4;
    this.facts = {
      modelName: options.name ?? 'sim',
      modelSha256: '0'.repeat(64),
      parameterCount: 0,
      vocabularySize: VOCABULARY,
      contextTokens: options.contextTokens ?? 256,
      build: 'simulation',
      cpuVariant: 'simulation',
      kvType: 'f16',
      flashAttention: true,
      layout: `1:0x${ROW_BYTES}`,
      chunkTokens,
      chunkBytes: chunkTokens * ROW_BYTES,
    };
  }

  async clear(): Promise<void> {
    await this.#answer('clear');
    this.#rows = [];
  }

  async decode(tokens: Int32Array, wantLogits: boolean): Promise<Float32Array | undefined> {
    await this.#answer(`decode ${tokens.length}`);
    if (this.#rows.length + tokens.length > this.facts.contextTokens) throw badRequest('The context is full');
    for (const token of tokens) {
      const hash = createHash('sha256');
      for (const row of this.#rows) hash.update(row); // attention over everything before
      this.#rows.push(hash.update(Int32Array.of(token)).digest().subarray(0, ROW_BYTES));
    }
    if (!wantLogits || tokens.length === 0) return undefined;
    const hash = createHash('sha512');
    for (const row of this.#rows) hash.update(row);
    return Float32Array.from(hash.digest().subarray(0, VOCABULARY));
  }

  async cutChunk(index: number, payload: MemoryRange): Promise<void> {
    await this.#answer(`cut ${index}`);
    const { chunkTokens, chunkBytes } = this.facts;
    assert(payload.sizeBytes === chunkBytes && (index + 1) * chunkTokens <= this.#rows.length, `Cannot cut chunk ${index}`);
    const target = viewOf(payload);
    for (let cell = 0; cell < chunkTokens; cell += 1) target.set(this.#rows[index * chunkTokens + cell] ?? [], cell * ROW_BYTES);
  }

  async restoreChunk(index: number, payload: MemoryRange): Promise<boolean> {
    await this.#answer(`restore ${index}`);
    const { chunkTokens, chunkBytes, contextTokens } = this.facts;
    assert(payload.sizeBytes === chunkBytes && this.#rows.length === index * chunkTokens, `Cannot restore chunk ${index}`);
    if (this.refused.has(index) || (index + 1) * chunkTokens > contextTokens) return false;
    const source = viewOf(payload);
    for (let cell = 0; cell < chunkTokens; cell += 1) this.#rows.push(source.slice(cell * ROW_BYTES, (cell + 1) * ROW_BYTES));
    return true;
  }

  /** Calls are answered in order, some turns later. */
  async #answer(call: string): Promise<void> {
    await Promise.resolve();
    await Promise.resolve();
    this.calls.push(call);
  }
}

function viewOf(range: MemoryRange): Uint8Array {
  return new Uint8Array(toArrayBuffer(range.address, 0, range.sizeBytes));
}
