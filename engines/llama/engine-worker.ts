/** The thread of one engine: calls are answered in the order in which they come, each blocking this thread alone. */
import { toArrayBuffer } from 'bun:ffi';
import { assert } from '#core/assert.ts';
import { KvtierError } from '#core/errors.ts';
import type { EngineCallName, EngineCalls, EngineReply, EngineRequest, MemoryRange } from './engine-messages.ts';
import { LlamaEngine } from './llama-engine.ts';

declare const self: Worker;

let opened: LlamaEngine | undefined;

function engine(): LlamaEngine {
  assert(opened !== undefined, 'An engine is called before it is open');
  return opened;
}

function view(range: MemoryRange): Uint8Array {
  return new Uint8Array(toArrayBuffer(range.address, 0, range.sizeBytes));
}

const calls: EngineCalls = {
  open(options) {
    opened = new LlamaEngine(options);
    return opened.facts;
  },
  clear: () => engine().clear(),
  tokenize: (text) => engine().tokenize(text),
  textOf: (tokens) => engine().textOf(tokens),
  decode: ({ tokens, wantLogits }) => engine().decode(tokens, wantLogits),
  cutChunk: ({ index, payload }) => engine().cutChunk(index, view(payload)),
  restoreChunk: ({ index, payload }) => engine().restoreChunk(index, view(payload)),
  close() {
    opened?.close();
    opened = undefined;
  },
};

function answer<Name extends EngineCallName>({ id, name, argument }: EngineRequest<Name>): EngineReply {
  try {
    const call = calls[name] as (value: typeof argument) => ReturnType<EngineCalls[Name]>;
    return { id, ok: true, value: call(argument) };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return error instanceof KvtierError ? { id, ok: false, code: error.code, message } : { id, ok: false, message };
  }
}

self.onmessage = (event: MessageEvent<EngineRequest>): void => self.postMessage(answer(event.data));
