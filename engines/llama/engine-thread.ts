/** An engine as other threads see it: the calls of LlamaEngine, answered in order by a Worker that owns it. */
import { KvtierError, errorTable, type ErrorCode } from '#core/errors.ts';
import type { EngineCallName, EngineCalls, EngineReply, EngineRequest, MemoryRange } from './engine-messages.ts';
import type { EngineFacts, EngineOptions } from './llama-engine.ts';

/** What the prefix cache needs of an engine. Calls are answered in the order in which they are made. */
export interface Engine {
  readonly facts: EngineFacts;
  /** Empties the sequence. */
  clear(): Promise<void>;
  /** Appends tokens; the logits behind the last one if asked for. Errors: BAD_REQUEST beyond the context. */
  decode(tokens: Int32Array, wantLogits: boolean): Promise<Float32Array | undefined>;
  /** Copies a chunk of the sequence into `facts.chunkBytes` bytes of memory. */
  cutChunk(index: number, payload: MemoryRange): Promise<void>;
  /** Appends a chunk to a sequence that holds exactly those before it; false where the engine does not take it. */
  restoreChunk(index: number, payload: MemoryRange): Promise<boolean>;
}

export class EngineThread implements Engine {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, PromiseWithResolvers<ReturnType<EngineCalls[EngineCallName]>>>();
  #facts: EngineFacts | undefined;
  #nextId = 1;

  /** Errors: those of LlamaEngine's constructor. */
  static async open(options: EngineOptions): Promise<EngineThread> {
    const thread = new EngineThread();
    try {
      thread.#facts = await thread.#call('open', options);
    } catch (error) {
      thread.#worker.terminate();
      throw error;
    }
    return thread;
  }

  constructor() {
    this.#worker = new Worker(new URL('./engine-worker.ts', import.meta.url).href);
    this.#worker.onmessage = (event: MessageEvent<EngineReply>): void => this.#settle(event.data);
    this.#worker.onerror = (event): void => {
      for (const [id] of this.#waiting) this.#settle({ id, ok: false, message: `The engine's thread failed: ${event.message}` });
    };
  }

  get facts(): EngineFacts {
    if (this.#facts === undefined) throw new KvtierError('INTERNAL', 'An engine is asked for its facts before it is open');
    return this.#facts;
  }

  clear(): Promise<void> {
    return this.#call('clear', undefined);
  }
  tokenize(text: string): Promise<Int32Array> {
    return this.#call('tokenize', text);
  }
  textOf(tokens: Int32Array): Promise<string> {
    return this.#call('textOf', tokens);
  }
  decode(tokens: Int32Array, wantLogits: boolean): Promise<Float32Array | undefined> {
    return this.#call('decode', { tokens, wantLogits });
  }
  cutChunk(index: number, payload: MemoryRange): Promise<void> {
    return this.#call('cutChunk', { index, payload });
  }
  restoreChunk(index: number, payload: MemoryRange): Promise<boolean> {
    return this.#call('restoreChunk', { index, payload });
  }

  async close(): Promise<void> {
    await this.#call('close', undefined);
    this.#worker.terminate();
  }

  #call<Name extends EngineCallName>(name: Name, argument: Parameters<EngineCalls[Name]>[0]): Promise<ReturnType<EngineCalls[Name]>> {
    const id = this.#nextId;
    this.#nextId += 1;
    const waiter = Promise.withResolvers<ReturnType<EngineCalls[EngineCallName]>>();
    this.#waiting.set(id, waiter);
    this.#worker.postMessage({ id, name, argument } satisfies EngineRequest<Name>);
    return waiter.promise as Promise<ReturnType<EngineCalls[Name]>>;
  }

  #settle(reply: EngineReply): void {
    const waiter = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if (reply.ok) waiter?.resolve(reply.value);
    else waiter?.reject(new KvtierError(isErrorCode(reply.code) ? reply.code : 'INTERNAL', reply.message));
  }
}

function isErrorCode(code: string | undefined): code is ErrorCode {
  return code !== undefined && Object.hasOwn(errorTable, code);
}
