/**
 * One model and one context of llama.cpp, with one sequence. Every call blocks, decode for seconds, so it lives in a Worker
 * (engine-worker.ts). One thread only: libllama's contexts are not shared.
 *
 * Invariants
 * - Sequence 0 holds positions 0..length-1, each in the cell after the one before it; sequence 1 is scratch and empty between calls.
 *   Order matters: attention sums over cells in their order, and another order gives other low bits.
 * - What is cut and restored are whole chunks, at their own place, in ascending order.
 * - Bits depend on the build, the CPU variant, the KV type and flash attention, which `facts` name, and not on threads or context size; on
 *   batches they do, so a batch ends at a multiple of 256 tokens or is what is left behind the last one (docs/engines/llama.md).
 */
import { ptr, toArrayBuffer } from 'bun:ffi';
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { assert } from '#core/assert.ts';
import { badRequest, KvtierError } from '#core/errors.ts';
import { defaultCpuVariant, findLibraries, loadedCpuVariant, PACKAGE_VERSION } from './libraries.ts';
import { cText, type Handle, type LlamaLibrary, openLibrary } from './llama-library.ts';
import { assembleRows, cutRows, describeLayout, readStateLayout, stateBytes, type StateLayout, writeStateHeaders } from './state-layout.ts';
import { BATCH_BYTES, batchField, contextField, type KvType, kvTypes } from './struct-layouts.ts';

/** Tokens of a chunk: the boundary at which restored logits are those of a recomputation, to the bit. */
export const CHUNK_TOKENS = 256;
/** Tokens of one decode call: long enough for speed, a multiple of the chunk. */
const BATCH_TOKENS = 512;
const SEQUENCE = 0;
const SCRATCH = 1;
const FLASH_ATTENTION_ON = 1;

export interface EngineOptions {
  /** Any GGUF of the llama architecture. */
  readonly modelPath: string;
  /** Positions of the context, rounded up to whole chunks. */
  readonly contextTokens: number;
  readonly threads: number;
  /** Default f16. */
  readonly kvType?: KvType;
  /** Which of the build's CPU back-ends, such as `haswell`; `auto` is ggml's choice. Default: defaultCpuVariant. */
  readonly cpuVariant?: string;
  /** llama.cpp's own log on standard error. */
  readonly verbose?: boolean;
}

/** What an engine says of itself; plain data. */
export interface EngineFacts {
  /** `general.name` of the model, or its file's name. */
  readonly modelName: string;
  readonly modelSha256: string;
  readonly parameterCount: number;
  readonly vocabularySize: number;
  readonly contextTokens: number;
  /** Package and library. */
  readonly build: string;
  readonly cpuVariant: string;
  readonly kvType: KvType;
  readonly flashAttention: boolean;
  /** Layers and rows of the state. */
  readonly layout: string;
  readonly chunkTokens: number;
  /** Bytes of one chunk's rows. */
  readonly chunkBytes: number;
}

export class LlamaEngine {
  readonly facts: EngineFacts;
  readonly #library: LlamaLibrary;
  readonly #model: Handle;
  readonly #context: Handle;
  readonly #memory: Handle;
  readonly #vocabulary: Handle;
  readonly #layout: StateLayout;
  readonly #state: Uint8Array;
  readonly #batch = new DecodeBatch(BATCH_TOKENS);

  /** Errors: NOT_FOUND where the libraries or the file are not there, BAD_REQUEST for a model of another kind. */
  constructor(options: EngineOptions) {
    const sha256 = sha256OfFile(options.modelPath);
    const library = openLibrary(findLibraries(), {
      cpuVariant: options.cpuVariant ?? defaultCpuVariant(),
      verbose: options.verbose ?? false,
    });
    const { symbols } = library;
    this.#library = library;
    this.#model = library.loadModel(options.modelPath);
    if (this.#model === 0) throw badRequest(`Cannot load ${options.modelPath}: libllama takes it for no model; want a GGUF file`);
    requirePlainLlama(library, this.#model);
    this.#vocabulary = required(symbols.llama_model_get_vocab(this.#model), 'the vocabulary');
    const kvType = options.kvType ?? 'f16';
    const contextTokens = Math.ceil(options.contextTokens / CHUNK_TOKENS) * CHUNK_TOKENS;
    this.#context = createContext(library, this.#model, { contextTokens, threads: options.threads, kvType });
    this.#memory = required(symbols.llama_get_memory(this.#context), 'the KV memory');
    this.#layout = this.#learnLayout();
    this.#state = new Uint8Array(stateBytes(this.#layout, CHUNK_TOKENS));
    this.facts = {
      modelName: metadata(library, this.#model, 'general.name') || basename(options.modelPath),
      modelSha256: sha256,
      parameterCount: Number(symbols.llama_model_n_params(this.#model)),
      vocabularySize: symbols.llama_vocab_n_tokens(this.#vocabulary),
      contextTokens,
      build: `@node-llama-cpp/linux-x64@${PACKAGE_VERSION} llama.cpp ${library.version}`,
      cpuVariant: loadedCpuVariant(),
      kvType,
      flashAttention: true,
      layout: describeLayout(this.#layout),
      chunkTokens: CHUNK_TOKENS,
      chunkBytes: CHUNK_TOKENS * this.#layout.tokenBytes,
    };
  }

  /** Positions that the sequence holds. */
  get length(): number {
    return this.#library.symbols.llama_memory_seq_pos_max(this.#memory, SEQUENCE) + 1;
  }

  clear(): void {
    this.#library.symbols.llama_memory_clear(this.#memory, true);
  }

  /** With the token that begins a text, where the model has one. */
  tokenize(text: string): Int32Array {
    const bytes = cText(text);
    const tokens = new Int32Array(bytes.length + 1); // a token has at least a byte
    const { symbols } = this.#library;
    const count = symbols.llama_tokenize(this.#vocabulary, ptr(bytes), bytes.length - 1, ptr(tokens), tokens.length, true, false);
    assert(count >= 0, `llama_tokenize wants ${-count} tokens for ${bytes.length} bytes`);
    return tokens.slice(0, count);
  }

  /** A character may lie across tokens, so the bytes of all are put together first. */
  textOf(tokens: Int32Array): string {
    const piece = new Uint8Array(256);
    const pieces = [...tokens].map((token) => {
      const length = this.#library.symbols.llama_token_to_piece(this.#vocabulary, token, ptr(piece), piece.length, 0, true);
      return piece.slice(0, Math.max(0, length));
    });
    return new TextDecoder().decode(Buffer.concat(pieces));
  }

  /** Appends tokens to the sequence. Returns the logits behind the last one if asked for. Errors: BAD_REQUEST beyond the context. */
  decode(tokens: Int32Array, wantLogits: boolean): Float32Array | undefined {
    const start = this.length;
    if (start + tokens.length > this.facts.contextTokens) {
      throw badRequest(`Cannot decode ${tokens.length} tokens at ${start}: the context has ${this.facts.contextTokens}`);
    }
    for (let done = 0; done < tokens.length;) {
      const count = batchLength(start + done, tokens.length - done);
      const last = done + count === tokens.length;
      this.#decodeBatch(tokens.subarray(done, done + count), start + done, last && wantLogits);
      done += count;
    }
    return wantLogits && tokens.length > 0 ? this.#logits() : undefined;
  }

  #decodeBatch(tokens: Int32Array, firstPosition: number, wantLogits: boolean): void {
    const status = this.#library.decode(this.#context, this.#batch.fill(tokens, firstPosition, wantLogits));
    if (status !== 0) {
      throw new KvtierError('INTERNAL', `Cannot decode ${tokens.length} tokens at ${firstPosition}: llama_decode gave ${status}`);
    }
  }

  #logits(): Float32Array {
    const pointer = required(this.#library.symbols.llama_get_logits_ith(this.#context, -1), 'the logits');
    return new Float32Array(toArrayBuffer(pointer, 0, this.facts.vocabularySize * 4)).slice();
  }

  /** Copies the rows of a chunk that the sequence holds. `payload` has `facts.chunkBytes`. */
  cutChunk(index: number, payload: Uint8Array): void {
    const first = index * CHUNK_TOKENS;
    assert(payload.length === this.facts.chunkBytes, `Cannot cut a chunk into ${payload.length} bytes, wanted ${this.facts.chunkBytes}`);
    assert(first + CHUNK_TOKENS <= this.length, `Cannot cut chunk ${index}: the sequence has ${this.length} tokens`);
    const { symbols } = this.#library;
    symbols.llama_memory_seq_cp(this.#memory, SEQUENCE, SCRATCH, first, first + CHUNK_TOKENS);
    const size = Number(symbols.llama_state_seq_get_data(this.#context, ptr(this.#state), this.#state.length, SCRATCH));
    symbols.llama_memory_seq_rm(this.#memory, SCRATCH, -1, -1);
    assert(size === this.#state.length, `The state of a chunk has ${size} bytes, wanted ${this.#state.length}`);
    cutRows(this.#layout, this.#state, payload);
  }

  /**
   * Appends a chunk's rows to the sequence, which must hold exactly the chunks before it. False where libllama does not take them; then
   * the sequence ends before this chunk.
   */
  restoreChunk(index: number, payload: Uint8Array): boolean {
    const first = index * CHUNK_TOKENS;
    assert(payload.length === this.facts.chunkBytes, `Cannot restore a chunk of ${payload.length} bytes, wanted ${this.facts.chunkBytes}`);
    assert(this.length === first, `Cannot restore chunk ${index}: the sequence has ${this.length} tokens, wanted ${first}`);
    if (first + CHUNK_TOKENS > this.facts.contextTokens) return false;
    const { symbols } = this.#library;
    const end = first + CHUNK_TOKENS - 1;
    writeStateHeaders(this.#layout, { sequence: SCRATCH, firstPosition: first, cells: CHUNK_TOKENS }, this.#state);
    assembleRows(this.#layout, payload, this.#state);
    const taken = Number(symbols.llama_state_seq_set_data(this.#context, ptr(this.#state), this.#state.length, SCRATCH));
    // A size alone proves nothing: libllama answers more than 0 for states of which it has taken nothing.
    const whole = taken === this.#state.length && symbols.llama_memory_seq_pos_max(this.#memory, SCRATCH) === end;
    if (whole) symbols.llama_memory_seq_cp(this.#memory, SCRATCH, SEQUENCE, -1, -1);
    symbols.llama_memory_seq_rm(this.#memory, SCRATCH, -1, -1);
    assert(this.length === (whole ? end + 1 : first), `Restoring chunk ${index} leaves a sequence of ${this.length} tokens`);
    return whole;
  }

  close(): void {
    this.#library.symbols.llama_free(this.#context);
    this.#library.symbols.llama_model_free(this.#model);
  }

  /** From the state of one token that this engine computes. Leaves the sequence empty. */
  #learnLayout(): StateLayout {
    const { symbols } = this.#library;
    this.#decodeBatch(Int32Array.of(1), 0, true);
    const state = new Uint8Array(Number(symbols.llama_state_seq_get_size(this.#context, SEQUENCE)));
    const size = Number(symbols.llama_state_seq_get_data(this.#context, ptr(state), state.length, SEQUENCE));
    this.clear();
    const read = readStateLayout(state.subarray(0, size));
    if (!read.ok || read.cells !== 1 || read.layout.layerCount !== symbols.llama_model_n_layer(this.#model)) {
      throw badRequest(`Cannot cache this model: its state is not laid out as a plain llama's${read.ok ? '' : ` (${read.why})`}`);
    }
    return read.layout;
  }
}

/**
 * Tokens of the next decode call. What is behind the last multiple of 256 is a call of its own, however much stands before it: libllama
 * takes other kernels for small batches, with other low bits, so the tail must be decoded alike with and without a restored prefix.
 */
function batchLength(position: number, left: number): number {
  const boundary = Math.floor((position + Math.min(left, BATCH_TOKENS)) / CHUNK_TOKENS) * CHUNK_TOKENS;
  return boundary > position ? boundary - position : left;
}

function required(pointer: unknown, what: string): Handle {
  if (typeof pointer !== 'number' || pointer === 0) throw new KvtierError('INTERNAL', `libllama gives no pointer to ${what}`);
  return pointer as Handle;
}

function metadata(library: LlamaLibrary, model: Handle, key: string): string {
  const text = new Uint8Array(512);
  const length = library.symbols.llama_model_meta_val_str(model, ptr(cText(key)), ptr(text), text.length);
  return new TextDecoder().decode(text.subarray(0, Math.max(0, Math.min(length, text.length - 1))));
}

/** Recurrent, hybrid and sliding-window models keep other states, and other rotations write more in each cell. */
function requirePlainLlama(library: LlamaLibrary, model: Handle): void {
  const architecture = metadata(library, model, 'general.architecture');
  const window = library.symbols.llama_model_n_swa(model);
  if (architecture !== 'llama' || window !== 0) {
    throw badRequest(`Cannot cache a model of architecture ${architecture} with a window of ${window}: want llama without one`);
  }
}

interface ContextShape {
  readonly contextTokens: number;
  readonly threads: number;
  readonly kvType: KvType;
}

/** What was asked for is read back, so that an offset that is wrong ends here and not in wrong numbers. */
function createContext(library: LlamaLibrary, model: Handle, shape: ContextShape): Handle {
  const params = library.contextDefaults();
  const view = new DataView(params.buffer);
  const set = (offset: number, value: number): void => view.setInt32(offset, value, true);
  set(contextField.contextTokens, shape.contextTokens);
  set(contextField.batchTokens, BATCH_TOKENS);
  set(contextField.microBatchTokens, BATCH_TOKENS);
  set(contextField.sequences, 2);
  set(contextField.threads, shape.threads);
  set(contextField.batchThreads, shape.threads);
  set(contextField.flashAttention, FLASH_ATTENTION_ON);
  set(contextField.typeK, kvTypes[shape.kvType]);
  set(contextField.typeV, kvTypes[shape.kvType]);
  // One stream of cells for both sequences: a range can be shared, and n_stream is 1 in the state.
  view.setUint8(contextField.kvUnified, 1);
  const context = library.createContext(model, params);
  if (context === 0) throw badRequest(`Cannot make a context of ${shape.contextTokens} tokens: libllama refuses it`);
  const { symbols } = library;
  const found = [
    symbols.llama_n_ctx(context),
    symbols.llama_n_batch(context),
    symbols.llama_n_ubatch(context),
    symbols.llama_n_seq_max(context),
    symbols.llama_n_threads(context),
    symbols.llama_n_threads_batch(context),
  ].join(' ');
  const wanted = [shape.contextTokens, BATCH_TOKENS, BATCH_TOKENS, 2, shape.threads, shape.threads].join(' ');
  if (found !== wanted) throw new KvtierError('INTERNAL', `Cannot use this libllama: a context has ${found}, wanted ${wanted}`);
  return context;
}

/** llama_batch and the arrays it points to, reused. */
class DecodeBatch {
  readonly #struct = new Uint8Array(BATCH_BYTES);
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  readonly #sequenceCounts: Int32Array;
  readonly #sequences: BigUint64Array;
  readonly #wanted: Uint8Array;
  readonly #sequence = Int32Array.of(SEQUENCE);

  constructor(capacity: number) {
    this.#tokens = new Int32Array(capacity);
    this.#positions = new Int32Array(capacity);
    this.#sequenceCounts = new Int32Array(capacity).fill(1);
    this.#sequences = new BigUint64Array(capacity).fill(BigInt(ptr(this.#sequence)));
    this.#wanted = new Uint8Array(capacity);
    const view = new DataView(this.#struct.buffer);
    const set = (offset: number, array: Int32Array | BigUint64Array | Uint8Array): void =>
      view.setBigUint64(offset, BigInt(ptr(array)), true);
    set(batchField.token, this.#tokens);
    set(batchField.position, this.#positions);
    set(batchField.sequenceCount, this.#sequenceCounts);
    set(batchField.sequence, this.#sequences);
    set(batchField.logits, this.#wanted);
  }

  /** The struct, valid until the next call. */
  fill(tokens: Int32Array, firstPosition: number, wantLogits: boolean): Uint8Array {
    this.#tokens.set(tokens);
    for (let index = 0; index < tokens.length; index += 1) this.#positions[index] = firstPosition + index;
    this.#wanted.fill(0);
    if (wantLogits) this.#wanted[tokens.length - 1] = 1;
    new DataView(this.#struct.buffer).setInt32(batchField.tokenCount, tokens.length, true);
    return this.#struct;
  }
}

/** The whole file: a model that differs in one weight has another KV. */
function sha256OfFile(path: string): string {
  const hash = createHash('sha256');
  const buffer = new Uint8Array(4 * 1024 * 1024);
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (cause) {
    throw new KvtierError('NOT_FOUND', `Cannot open the model ${path}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
  try {
    for (let count = readSync(file, buffer); count > 0; count = readSync(file, buffer)) hash.update(buffer.subarray(0, count));
  } finally {
    closeSync(file);
  }
  return hash.digest('hex');
}
