/** What the thread of an engine is asked and answers. Payloads are passed as addresses: a Worker shares the process's memory. */
import type { EngineFacts, EngineOptions } from './llama-engine.ts';

/** Memory that stays where it is and is not freed while a call is under way. */
export interface MemoryRange {
  readonly address: number;
  readonly sizeBytes: number;
}

/** Each call with what it takes and gives. */
export interface EngineCalls {
  open: (options: EngineOptions) => EngineFacts;
  clear: () => void;
  tokenize: (text: string) => Int32Array;
  textOf: (tokens: Int32Array) => string;
  /** The logits behind the last token, if asked for. */
  decode: (call: { readonly tokens: Int32Array; readonly wantLogits: boolean }) => Float32Array | undefined;
  cutChunk: (call: { readonly index: number; readonly payload: MemoryRange }) => void;
  restoreChunk: (call: { readonly index: number; readonly payload: MemoryRange }) => boolean;
  close: () => void;
}

export type EngineCallName = keyof EngineCalls;

export interface EngineRequest<Name extends EngineCallName = EngineCallName> {
  readonly id: number;
  readonly name: Name;
  readonly argument: Parameters<EngineCalls[Name]>[0];
}

export type EngineReply =
  | { readonly id: number; readonly ok: true; readonly value: ReturnType<EngineCalls[EngineCallName]> }
  /** `code` of a KvtierError; absent for anything else. */
  | { readonly id: number; readonly ok: false; readonly code?: string; readonly message: string };
