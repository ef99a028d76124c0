/**
 * llama.h's structs as build 3.22.1 of @node-llama-cpp/linux-x64 lays them out, in bytes from the start. bun:ffi knows no struct, so these
 * numbers are all there is; `checkLayouts` compares them at start with what the library itself writes, and refuses another build.
 *
 *   llama_model_params    80 bytes, no field of which is set here
 *   llama_context_params 160 bytes: below
 *   llama_batch           56 bytes: i32 n_tokens 0 | token* 8 | embd* 16 | pos* 24 | n_seq_id* 32 | seq_id** 40 | i8* logits 48
 */
import { KvtierError } from '#core/errors.ts';

export const MODEL_PARAMS_BYTES = 80;
export const CONTEXT_PARAMS_BYTES = 160;
export const BATCH_BYTES = 56;

/** Offsets in llama_context_params; all are 4 bytes wide, `kvUnified` one. */
export const contextField = {
  contextTokens: 0,
  batchTokens: 4,
  microBatchTokens: 8,
  sequences: 12,
  threads: 28,
  batchThreads: 32,
  flashAttention: 52,
  typeK: 104,
  typeV: 108,
  kvUnified: 133,
} as const;

export const batchField = { tokenCount: 0, token: 8, position: 24, sequenceCount: 32, sequence: 40, logits: 48 } as const;

/** ggml_type of a KV element. */
export const kvTypes = { f16: 1, q8_0: 8 } as const;
export type KvType = keyof typeof kvTypes;

/** Bytes that the library does not write, being padding between fields. */
interface StructShape {
  readonly name: string;
  readonly sizeBytes: number;
  readonly padding: readonly (readonly [from: number, to: number])[];
  /** What the library must write at some offsets, 4 bytes each. */
  readonly defaults: Readonly<Record<number, number>>;
}

const modelShape: StructShape = {
  name: 'llama_model_params',
  sizeBytes: MODEL_PARAMS_BYTES,
  padding: [
    [36, 40],
    [78, 80],
  ],
  // n_gpu_layers, split_mode, no device but all
  defaults: { 0: 0, 16: -1, 20: 1 },
};
const contextShape: StructShape = {
  name: 'llama_context_params',
  sizeBytes: CONTEXT_PARAMS_BYTES,
  padding: [[134, 136]],
  defaults: {
    [contextField.contextTokens]: 512,
    [contextField.batchTokens]: 2048,
    [contextField.microBatchTokens]: 512,
    [contextField.sequences]: 1,
    [contextField.threads]: 4,
    [contextField.batchThreads]: 4,
    [contextField.flashAttention]: -1,
    [contextField.typeK]: kvTypes.f16,
    [contextField.typeV]: kvTypes.f16,
  },
};

/** Writes a struct's defaults into the memory of an array that stays where it is. */
export type FillDefaults = (target: Uint8Array) => void;

/**
 * The self-test: the library fills two structs over two patterns. Bytes that differ afterwards were not written, so size and padding show
 * to the byte, and the defaults stand where the table says. Errors: INTERNAL.
 */
export function checkLayouts(fill: { readonly model: FillDefaults; readonly context: FillDefaults }): void {
  checkShape(modelShape, fill.model);
  checkShape(contextShape, fill.context);
}

function checkShape(shape: StructShape, fill: FillDefaults): void {
  const [first, second] = [new Uint8Array(shape.sizeBytes + 256).fill(0xa5), new Uint8Array(shape.sizeBytes + 256).fill(0x5a)];
  fill(first);
  fill(second);
  const refuse = (what: string): never => {
    throw new KvtierError('INTERNAL', `Cannot use this libllama: ${shape.name} ${what}; want the build that package.json pins`);
  };
  for (const [offset, byte] of first.entries()) {
    const written = byte === second[offset];
    const wanted = offset < shape.sizeBytes && !shape.padding.some(([from, to]) => offset >= from && offset < to);
    if (written !== wanted) refuse(`has ${written ? 'a field' : 'no field'} at byte ${offset}`);
  }
  const view = new DataView(first.buffer);
  for (const [offset, wanted] of Object.entries(shape.defaults)) {
    const found = view.getInt32(Number(offset), true);
    if (found !== wanted) refuse(`holds ${found} at byte ${offset}, wanted ${wanted}`);
  }
}
