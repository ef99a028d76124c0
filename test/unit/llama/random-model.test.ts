import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { encodeGgufHead, type GgufValue, type Tensor } from '#engines/llama/gguf.ts';
import {
  halfOf,
  metadataOf,
  parameterCount,
  presets,
  tensorsOf,
  vocabularyOf,
  WeightSource,
  writeRandomModel,
} from '#engines/llama/random-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'kvtier-random-model-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A reader of its own, from the format's text: what the writer believes is of no use to it. */
class GgufReader {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  u32(): number {
    this.offset += 4;
    return this.#view.getUint32(this.offset - 4, true);
  }
  u64(): number {
    this.offset += 8;
    return Number(this.#view.getBigUint64(this.offset - 8, true));
  }
  text(): string {
    const length = this.u64();
    this.offset += length;
    return new TextDecoder().decode(this.#bytes.subarray(this.offset - length, this.offset));
  }
  value(type: number): unknown {
    if (type === 4) return this.u32();
    if (type === 8) return this.text();
    if (type === 7) return this.#bytes[this.offset++] === 1;
    if (type === 9) {
      const element = this.u32();
      return Array.from({ length: this.u64() }, () => this.value(element));
    }
    this.offset += 4;
    if (type === 6) return this.#view.getFloat32(this.offset - 4, true);
    if (type === 5) return this.#view.getInt32(this.offset - 4, true);
    throw new Error(`type ${type}`);
  }
}

function readGguf(bytes: Uint8Array) {
  const reader = new GgufReader(bytes);
  expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe('GGUF');
  reader.offset = 4;
  expect(reader.u32()).toBe(3);
  const [tensorCount, entryCount] = [reader.u64(), reader.u64()];
  const metadata = new Map(Array.from({ length: entryCount }, () => [reader.text(), reader.value(reader.u32())] as const));
  const tensors = Array.from({ length: tensorCount }, () => {
    const name = reader.text();
    const shape = Array.from({ length: reader.u32() }, () => reader.u64());
    return { name, shape, type: reader.u32(), offset: reader.u64() };
  });
  return { metadata, tensors, dataStart: Math.ceil(reader.offset / 32) * 32 };
}

describe('encodeGgufHead', () => {
  test('writes every kind of value and tensor so that an independent reader finds it', () => {
    const metadata: Readonly<Record<string, GgufValue>> = {
      text: { type: 'string', value: 'ä▁' },
      number: { type: 'u32', value: 0xffffffff },
      flag: { type: 'bool', value: true },
      half: { type: 'f32', value: 0.5 },
      words: { type: 'strings', value: ['', 'two'] },
      scores: { type: 'f32s', value: [-1.5, 2] },
      kinds: { type: 'i32s', value: [-3, 4] },
    };
    const tensors: readonly Tensor[] = [
      { name: 'a', shape: [32, 3], type: 'q8_0' },
      { name: 'b', shape: [5], type: 'f32' },
      { name: 'c', shape: [64], type: 'q8_0' },
    ];
    const head = encodeGgufHead(metadata, tensors);
    const read = readGguf(head.bytes);
    expect(Object.fromEntries(read.metadata)).toEqual({
      text: 'ä▁',
      number: 0xffffffff,
      flag: true,
      half: 0.5,
      words: ['', 'two'],
      scores: [-1.5, 2],
      kinds: [-3, 4],
    });
    expect(read.tensors).toEqual([
      { name: 'a', shape: [32, 3], type: 8, offset: 0 },
      { name: 'b', shape: [5], type: 0, offset: 128 },
      { name: 'c', shape: [64], type: 8, offset: 160 },
    ]);
    expect(read.dataStart).toBe(head.bytes.length);
    expect(head.places.map(({ offset, sizeBytes }) => [offset - head.bytes.length, sizeBytes])).toEqual([
      [0, 102],
      [128, 20],
      [160, 68],
    ]);
    expect(head.fileBytes - head.bytes.length).toBe(256);
  });

  test('refuses rows that are no whole blocks', () => {
    expect(() => encodeGgufHead({}, [{ name: 'odd', shape: [33, 2], type: 'q8_0' }])).toThrow(/rows of 33/);
  });
});

describe('writeRandomModel', () => {
  const preset = { ...presets.t, layers: 1, embedding: 64, feedForward: 96, heads: 2, kvHeads: 1, headSize: 32, vocabulary: 512 };

  test('writes the same bytes for the same seed, other weights for another, and leaves nothing else behind', () => {
    const write = (name: string, seed: number): Buffer => {
      const size = writeRandomModel(join(folder, name), { name: 'same', preset, seed });
      const bytes = readFileSync(join(folder, name));
      expect(bytes.length).toBe(size);
      return bytes;
    };
    const [first, second, other] = [write('one', 1), write('two', 1), write('three', 2)];
    expect(first.equals(second)).toBe(true);
    expect(first.equals(other)).toBe(false);
    expect(readdirSync(folder).toSorted()).toEqual(['one', 'three', 'two']);
  });

  test('gives every norm ones and every matrix weights whose deviation is that of its rows', () => {
    writeRandomModel(join(folder, 'weights'), { name: 'weights', preset });
    const bytes = readFileSync(join(folder, 'weights'));
    const { tensors, dataStart } = readGguf(bytes);
    const norm = tensors.find((tensor) => tensor.name === 'output_norm.weight');
    expect(bytes.readFloatLE(dataStart + (norm?.offset ?? 0))).toBe(1);
    const matrix = tensors.find((tensor) => tensor.name === 'blk.0.ffn_down.weight');
    const [columns = 0, rows = 0] = matrix?.shape ?? [];
    let squares = 0;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    for (let block = 0; block < (columns / 32) * rows; block += 1) {
      const at = dataStart + (matrix?.offset ?? 0) + block * 34;
      for (let index = 0; index < 32; index += 1) squares += (view.getFloat16(at, true) * view.getInt8(at + 2 + index)) ** 2;
    }
    expect(Math.sqrt(squares / (columns * rows)) * Math.sqrt(columns)).toBeCloseTo(1, 1);
  });

  test('leaves an existing file of that name whole until the new one is', () => {
    expect(() => writeRandomModel(join(folder, 'no', 'such', 'folder'), { name: 'x', preset })).toThrow();
    expect(readdirSync(folder).filter((name) => name.includes('.part-'))).toEqual([]);
  });
});

test('the presets have the parameters that they are named for', () => {
  const counts = Object.values(presets).map((preset) => Math.round(parameterCount(preset) / 1e5) / 10);
  expect(counts).toEqual([6.6, 110.9, 279]);
  for (const preset of Object.values(presets)) {
    expect(preset.heads * preset.headSize).toBe(preset.embedding);
    expect(preset.heads % preset.kvHeads).toBe(0);
    expect(tensorsOf(preset)).toHaveLength(preset.layers * 9 + 2);
  }
});

test('a vocabulary has the size that is asked for, no piece twice, every byte, and every printable character', () => {
  for (const count of [4096, 8192]) {
    const { pieces, scores, types } = vocabularyOf(count);
    expect([pieces.length, scores.length, types.length]).toEqual([count, count, count]);
    expect(new Set(pieces).size).toBe(count);
    expect(pieces.filter((piece) => /^<0x[0-9A-F]{2}>$/.test(piece))).toHaveLength(256);
    for (let code = 0x21; code < 0x7f; code += 1) expect(pieces).toContain(String.fromCharCode(code));
  }
  expect(metadataOf('a', presets.t)['llama.vocab_size']).toEqual({ type: 'u32', value: 4096 });
});

test('weights are the bytes from -64 to 63, each about as often', () => {
  const source = new WeightSource(3);
  const counts = new Map<number, number>();
  const words = Int32Array.from({ length: 32_000 }, () => source.nextFour());
  for (const byte of new Int8Array(words.buffer)) counts.set(byte, (counts.get(byte) ?? 0) + 1);
  expect([...counts.keys()].toSorted((a, b) => a - b)).toEqual(Array.from({ length: 128 }, (_, index) => index - 64));
  for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(250);
});

test('halfOf gives the nearest f16', () => {
  const view = new DataView(new ArrayBuffer(2));
  for (const value of [1, 0.5, 0.0011, 1 / (36.9 * 24), 0.0009765, 1.9999, 0.00012]) {
    view.setFloat16(0, value, true);
    expect(halfOf(value)).toBe(view.getUint16(0, true));
  }
});
