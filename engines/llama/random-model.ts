/**
 * Models of the llama architecture with real shapes and random weights: prefill, KV state and its size are real, the text is not.
 *
 * Invariants
 * - The same preset and seed give the same file, to the byte.
 * - Any ASCII text tokenizes: the vocabulary has every byte and every printable character, and syllables, so that text is shorter in tokens.
 */
import { closeSync, ftruncateSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { encodeGgufHead, tensorBytes, valueCount, type GgufValue, type Tensor } from './gguf.ts';

export interface Preset {
  readonly layers: number;
  readonly embedding: number;
  readonly feedForward: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headSize: number;
  readonly vocabulary: number;
}

/** By name, with the KV of one token in f16. `s` has the shapes of SmolLM2-135M, with a smaller vocabulary. */
export const presets = {
  /** 6.5 million parameters, 4 KiB. */
  t: { layers: 8, embedding: 256, feedForward: 640, heads: 8, kvHeads: 4, headSize: 32, vocabulary: 4096 },
  /** 111 million parameters, 22.5 KiB. */
  s: { layers: 30, embedding: 576, feedForward: 1536, heads: 9, kvHeads: 3, headSize: 64, vocabulary: 8192 },
  /** 279 million parameters, 24 KiB. */
  m: { layers: 24, embedding: 1024, feedForward: 2816, heads: 16, kvHeads: 4, headSize: 64, vocabulary: 8192 },
} as const satisfies Readonly<Record<string, Preset>>;

export type PresetName = keyof typeof presets;

export function isPresetName(name: string): name is PresetName {
  return Object.hasOwn(presets, name);
}

/** More than a demo asks for; what a context takes is chosen when it is made. */
const CONTEXT_TOKENS = 65_536;
/** Standard deviation of 7-bit integers drawn uniformly from -64 to 63. */
const BYTE_DEVIATION = 36.9;
const Q8_BLOCK_VALUES = 32;
const Q8_BLOCK_BYTES = 34;
const WRITE_BYTES = 4 * 1024 * 1024;

/** In the order of the file. The output matrix is the embedding's own, as in small models. */
export function tensorsOf(preset: Preset): readonly Tensor[] {
  const { embedding, feedForward } = preset;
  const queries = preset.heads * preset.headSize;
  const keys = preset.kvHeads * preset.headSize;
  const matrix = (name: string, rows: number, columns: number): Tensor => ({ name, shape: [rows, columns], type: 'q8_0' });
  const norm = (name: string): Tensor => ({ name, shape: [embedding], type: 'f32' });
  const layers = Array.from({ length: preset.layers }, (_, layer) => {
    const name = (part: string): string => `blk.${layer}.${part}.weight`;
    return [
      norm(name('attn_norm')),
      matrix(name('attn_q'), embedding, queries),
      matrix(name('attn_k'), embedding, keys),
      matrix(name('attn_v'), embedding, keys),
      matrix(name('attn_output'), queries, embedding),
      norm(name('ffn_norm')),
      matrix(name('ffn_gate'), embedding, feedForward),
      matrix(name('ffn_up'), embedding, feedForward),
      matrix(name('ffn_down'), feedForward, embedding),
    ];
  });
  return [matrix('token_embd.weight', embedding, preset.vocabulary), ...layers.flat(), norm('output_norm.weight')];
}

export function parameterCount(preset: Preset): number {
  return tensorsOf(preset).reduce((sum, tensor) => sum + valueCount(tensor), 0);
}

interface Vocabulary {
  readonly pieces: readonly string[];
  readonly scores: readonly number[];
  readonly types: readonly number[];
}

/** llama.cpp's token types. */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const BYTE = 6;

/** SentencePiece pieces: three controls, 256 bytes, then characters and what two pieces before them join to. Requires room for the bytes and characters. */
export function vocabularyOf(count: number): Vocabulary {
  const pieces = ['<unk>', '<s>', '</s>'];
  const types = [UNKNOWN, CONTROL, CONTROL];
  for (let byte = 0; byte < 256; byte += 1) {
    pieces.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
    types.push(BYTE);
  }
  const known = new Set<string>();
  for (const piece of normalPieces()) {
    if (pieces.length === count) break;
    if (known.has(piece)) continue;
    known.add(piece);
    pieces.push(piece);
    types.push(NORMAL);
  }
  // A tokenizer joins the pair with the best score first: what comes earlier.
  return { pieces, types, scores: pieces.map((_, index) => (types[index] === NORMAL ? -index : 0)) };
}

function* normalPieces(): Generator<string> {
  const space = '\u2581'; // how SentencePiece spells a space
  const consonants = [...'tnshrdlcmwfgpbvkjxqzy'];
  const vowels = [...'eaoiu'];
  yield space;
  for (let code = 0x21; code < 0x7f; code += 1) yield String.fromCharCode(code);
  const syllables = consonants.flatMap((consonant) => vowels.map((vowel) => consonant + vowel));
  const closed = syllables.flatMap((syllable) => consonants.map((consonant) => syllable + consonant));
  for (const letter of [...consonants, ...vowels]) yield space + letter;
  yield* syllables;
  for (const syllable of syllables) yield space + syllable;
  yield* closed;
  for (const syllable of closed) yield space + syllable;
  for (const first of syllables) for (const second of syllables) yield first + second;
}

export function metadataOf(name: string, preset: Preset): Readonly<Record<string, GgufValue>> {
  const vocabulary = vocabularyOf(preset.vocabulary);
  const u32 = (value: number): GgufValue => ({ type: 'u32', value });
  return {
    'general.architecture': { type: 'string', value: 'llama' },
    'general.name': { type: 'string', value: name },
    'general.file_type': u32(7), // mostly q8_0
    'llama.block_count': u32(preset.layers),
    'llama.context_length': u32(CONTEXT_TOKENS),
    'llama.embedding_length': u32(preset.embedding),
    'llama.feed_forward_length': u32(preset.feedForward),
    'llama.attention.head_count': u32(preset.heads),
    'llama.attention.head_count_kv': u32(preset.kvHeads),
    'llama.attention.layer_norm_rms_epsilon': { type: 'f32', value: 1e-5 },
    'llama.rope.dimension_count': u32(preset.headSize),
    'llama.rope.freq_base': { type: 'f32', value: 10_000 },
    'llama.vocab_size': u32(vocabulary.pieces.length),
    'tokenizer.ggml.model': { type: 'string', value: 'llama' },
    'tokenizer.ggml.tokens': { type: 'strings', value: vocabulary.pieces },
    'tokenizer.ggml.scores': { type: 'f32s', value: vocabulary.scores },
    'tokenizer.ggml.token_type': { type: 'i32s', value: vocabulary.types },
    'tokenizer.ggml.unknown_token_id': u32(0),
    'tokenizer.ggml.bos_token_id': u32(1),
    'tokenizer.ggml.eos_token_id': u32(2),
    'tokenizer.ggml.add_bos_token': { type: 'bool', value: true },
    'tokenizer.ggml.add_eos_token': { type: 'bool', value: false },
  };
}

/** xorshift32: quick, and the same everywhere. */
export class WeightSource {
  #state: number;

  constructor(seed: number) {
    this.#state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  }

  /** Four weights, each a signed byte from -64 to 63. */
  nextFour(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    // In each byte: seven random bits, minus 64. The high bit keeps a byte's borrow from its neighbour.
    return ((((state & 0x7f7f7f7f) | 0x80808080) >>> 0) - 0x40404040) ^ 0x80808080;
  }
}

/** The f16 nearest to a positive normal number. */
export function halfOf(value: number): number {
  const exponent = Math.floor(Math.log2(value));
  return ((exponent + 15) << 10) + Math.round((value / 2 ** exponent - 1) * 1024);
}

/** Fills q8_0 blocks; the scale makes the deviation of a row's sum 1. */
function fillBlocks(target: Uint8Array, source: WeightSource, rowValues: number): void {
  const scale = halfOf(1 / (BYTE_DEVIATION * Math.sqrt(rowValues)));
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  for (let block = 0; block < target.length; block += Q8_BLOCK_BYTES) {
    view.setUint16(block, scale, true);
    for (let offset = 2; offset < 2 + Q8_BLOCK_VALUES; offset += 4) view.setInt32(block + offset, source.nextFour(), true);
  }
}

export interface WriteModelOptions {
  /** What the file calls itself. */
  readonly name: string;
  readonly preset: Preset;
  /** Default 1. */
  readonly seed?: number;
}

/** Writes the model and returns its size in bytes. The name is the file's only when it is whole. */
export function writeRandomModel(path: string, options: WriteModelOptions): number {
  const { preset } = options;
  const tensors = tensorsOf(preset);
  const head = encodeGgufHead(metadataOf(options.name, preset), tensors);
  const source = new WeightSource(options.seed ?? 1);
  const partial = `${path}.part-${process.pid}`;
  const file = openSync(partial, 'wx', 0o600);
  try {
    writeAll(file, head.bytes, 0);
    const blocks = new Uint8Array(Math.floor(WRITE_BYTES / Q8_BLOCK_BYTES) * Q8_BLOCK_BYTES);
    for (const [index, tensor] of tensors.entries()) {
      const start = head.places[index]?.offset ?? 0;
      const sizeBytes = tensorBytes(tensor);
      if (tensor.type === 'f32') {
        const ones = new Float32Array(valueCount(tensor)).fill(1);
        writeAll(file, new Uint8Array(ones.buffer), start);
        continue;
      }
      for (let written = 0; written < sizeBytes; written += blocks.length) {
        const part = blocks.subarray(0, Math.min(blocks.length, sizeBytes - written));
        fillBlocks(part, source, tensor.shape[0] ?? 1);
        writeAll(file, part, start + written);
      }
    }
    ftruncateSync(file, head.fileBytes); // with the last tensor's padding
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
  return head.fileBytes;
}

function writeAll(file: number, bytes: Uint8Array, position: number): void {
  for (let written = 0; written < bytes.length;) {
    written += writeSync(file, bytes, written, bytes.length - written, position + written);
  }
}
