/**
 * The C API of libllama through bun:ffi. Only llama-engine.ts calls it, on one thread.
 *
 * A struct over 16 bytes is passed by value on the stack (System V x86-64), after the integer arguments that fit into six registers. So a
 * function that takes (pointer, struct) is declared as one pointer, five words that fill the registers, and the struct's words.
 */
import { CString, dlopen, type Pointer, ptr } from 'bun:ffi';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { badRequest, KvtierError } from '#core/errors.ts';
import type { LlamaLibraries } from './libraries.ts';
import { BATCH_BYTES, checkLayouts, CONTEXT_PARAMS_BYTES, MODEL_PARAMS_BYTES } from './struct-layouts.ts';

/** A pointer to memory of the library; 0 is none. */
export type Handle = number & Pointer;

const wordsOf = (sizeBytes: number): 'u64'[] => Array.from({ length: sizeBytes / 8 }, () => 'u64' as const);
const pointerAndStruct = (sizeBytes: number): ('ptr' | 'u64')[] => ['ptr', ...wordsOf(40), ...wordsOf(sizeBytes)];

const signatures = {
  llama_version: { args: [], returns: 'ptr' },
  llama_log_set: { args: ['ptr', 'ptr'], returns: 'void' },
  llama_model_default_params: { args: ['ptr'], returns: 'ptr' },
  llama_context_default_params: { args: ['ptr'], returns: 'ptr' },
  llama_model_load_from_file: { args: pointerAndStruct(MODEL_PARAMS_BYTES), returns: 'ptr' },
  llama_model_free: { args: ['ptr'], returns: 'void' },
  llama_model_get_vocab: { args: ['ptr'], returns: 'ptr' },
  llama_model_meta_val_str: { args: ['ptr', 'ptr', 'ptr', 'u64'], returns: 'i32' },
  llama_model_n_layer: { args: ['ptr'], returns: 'i32' },
  llama_model_n_params: { args: ['ptr'], returns: 'u64' },
  llama_model_n_swa: { args: ['ptr'], returns: 'i32' },
  llama_model_n_ctx_train: { args: ['ptr'], returns: 'i32' },
  llama_init_from_model: { args: pointerAndStruct(CONTEXT_PARAMS_BYTES), returns: 'ptr' },
  llama_free: { args: ['ptr'], returns: 'void' },
  llama_n_ctx: { args: ['ptr'], returns: 'u32' },
  llama_n_batch: { args: ['ptr'], returns: 'u32' },
  llama_n_ubatch: { args: ['ptr'], returns: 'u32' },
  llama_n_seq_max: { args: ['ptr'], returns: 'u32' },
  llama_n_threads: { args: ['ptr'], returns: 'i32' },
  llama_n_threads_batch: { args: ['ptr'], returns: 'i32' },
  llama_get_memory: { args: ['ptr'], returns: 'ptr' },
  llama_memory_clear: { args: ['ptr', 'bool'], returns: 'void' },
  llama_memory_seq_rm: { args: ['ptr', 'i32', 'i32', 'i32'], returns: 'bool' },
  llama_memory_seq_cp: { args: ['ptr', 'i32', 'i32', 'i32', 'i32'], returns: 'void' },
  llama_memory_seq_pos_max: { args: ['ptr', 'i32'], returns: 'i32' },
  llama_state_seq_get_size: { args: ['ptr', 'i32'], returns: 'u64' },
  llama_state_seq_get_data: { args: ['ptr', 'ptr', 'u64', 'i32'], returns: 'u64' },
  llama_state_seq_set_data: { args: ['ptr', 'ptr', 'u64', 'i32'], returns: 'u64' },
  llama_decode: { args: pointerAndStruct(BATCH_BYTES), returns: 'i32' },
  llama_get_logits_ith: { args: ['ptr', 'i32'], returns: 'ptr' },
  llama_vocab_n_tokens: { args: ['ptr'], returns: 'i32' },
  llama_vocab_is_eog: { args: ['ptr', 'i32'], returns: 'bool' },
  llama_tokenize: { args: ['ptr', 'ptr', 'i32', 'ptr', 'i32', 'bool', 'bool'], returns: 'i32' },
  llama_token_to_piece: { args: ['ptr', 'i32', 'ptr', 'i32', 'i32', 'bool'], returns: 'i32' },
} as const;

function openLlama(path: string) {
  return dlopen(path, signatures).symbols;
}
export type LlamaSymbols = ReturnType<typeof openLlama>;

export interface LlamaLibrary {
  readonly symbols: LlamaSymbols;
  /** What the library calls itself. */
  readonly version: string;
  loadModel(path: string): Handle;
  /** `params` has CONTEXT_PARAMS_BYTES. */
  createContext(model: Handle, params: Uint8Array): Handle;
  contextDefaults(): Uint8Array;
  /** `batch` has BATCH_BYTES. 0 is success. */
  decode(context: Handle, batch: Uint8Array): number;
}

export interface LibraryOptions {
  /** A variant of the CPU back-end by name, or `auto` for the one that ggml takes for the best. */
  readonly cpuVariant: string;
  /** The library's own log on standard error. */
  readonly verbose: boolean;
}

/** Opens the library, tests its struct layouts and loads the CPU back-end. Errors: NOT_FOUND, BAD_REQUEST for a variant that this CPU or build has not. */
export function openLibrary(libraries: LlamaLibraries, options: LibraryOptions): LlamaLibrary {
  const symbols = openLlama(libraries.llama);
  if (!options.verbose) silence(symbols);
  loadBackend(libraries, options.cpuVariant);
  checkLayouts({
    model: (target) => void symbols.llama_model_default_params(ptr(target)),
    context: (target) => void symbols.llama_context_default_params(ptr(target)),
  });
  return {
    symbols,
    version: textAt(symbols.llama_version()),
    loadModel(path) {
      const params = new Uint8Array(MODEL_PARAMS_BYTES);
      symbols.llama_model_default_params(ptr(params));
      return callWithStruct(symbols.llama_model_load_from_file, ptr(cText(path)), params) as Handle;
    },
    createContext: (model, params) => callWithStruct(symbols.llama_init_from_model, model, params) as Handle,
    contextDefaults() {
      const params = new Uint8Array(CONTEXT_PARAMS_BYTES);
      symbols.llama_context_default_params(ptr(params));
      return params;
    },
    decode: (context, batch) => callWithStruct(symbols.llama_decode, context, batch),
  };
}

/** Without a back-end ggml knows no device, and a model does not load. */
function loadBackend(libraries: LlamaLibraries, variant: string): void {
  const ggml = dlopen(libraries.ggml, {
    ggml_backend_load_all_from_path: { args: ['ptr'], returns: 'void' },
    ggml_backend_load: { args: ['ptr'], returns: 'ptr' },
  }).symbols;
  if (variant === 'auto') {
    ggml.ggml_backend_load_all_from_path(ptr(cText(libraries.folder)));
    return;
  }
  const path = join(libraries.folder, `libggml-cpu-${variant}.so`);
  // The library asks the CPU before it registers, so that a variant is refused here and not by an illegal instruction.
  if (!existsSync(path) || ggml.ggml_backend_load(ptr(cText(path))) === null) {
    throw badRequest(
      `Cannot use the CPU variant ${variant}: neither this build nor this machine may lack it; want one of libggml-cpu-*.so, or auto`,
    );
  }
}

type WordFunction = (...args: (number | bigint)[]) => unknown;

function callWithStruct(symbol: unknown, first: number, struct: Uint8Array): number {
  const words = new BigUint64Array(struct.buffer, struct.byteOffset, struct.byteLength / 8);
  return Number((symbol as WordFunction)(first, 0n, 0n, 0n, 0n, 0n, ...words) ?? 0);
}

/** The log goes to a function that does nothing with its arguments: abs(3), which takes an int and touches no memory. */
function silence(symbols: LlamaSymbols): void {
  const libc = dlopen('libc.so.6', { dlsym: { args: ['ptr', 'ptr'], returns: 'ptr' } }).symbols;
  const abs = libc.dlsym(null, ptr(cText('abs')));
  if (abs === null) throw new KvtierError('INTERNAL', 'Cannot silence libllama: the C library has no abs');
  symbols.llama_log_set(abs, null);
}

/** NUL-terminated; the caller keeps it until the call returns. */
export function cText(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

function textAt(pointer: number | bigint | null): string {
  return pointer === null ? '' : new CString(Number(pointer)).toString();
}
