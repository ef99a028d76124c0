import { describe, expect, test } from 'vitest';
import {
  assembleRows,
  cutRows,
  describeLayout,
  readStateLayout,
  type StateLayout,
  stateBytes,
  writeStateHeaders,
} from '#engines/llama/state-layout.ts';

interface Shape {
  readonly cells: number;
  readonly first: number;
  readonly sequence: number;
  /** [type, row bytes] of K and then of V. */
  readonly rows: readonly (readonly [number, number])[];
}

const shape: Shape = { cells: 3, first: 512, sequence: 1, rows: [[1, 64], [8, 34], [1, 32], [1, 48]] }; // prettier-ignore

/** A state as llama-kv-cache.cpp writes it, number by number. */
function naiveState({ cells, first, sequence, rows }: Shape): Uint8Array {
  const parts: Buffer[] = [];
  const u32 = (value: number): void => {
    const buffer = Buffer.alloc(4);
    buffer.writeUInt32LE(value >>> 0);
    parts.push(buffer);
  };
  for (const value of [0xaf143cd8, sequence, 1, cells]) u32(value);
  for (let cell = 0; cell < cells; cell += 1) for (const value of [first + cell, 1, sequence]) u32(value);
  for (const value of [0, rows.length / 2]) u32(value);
  for (const [index, [type, rowBytes]] of rows.entries()) {
    for (const value of [type, rowBytes, 0]) u32(value);
    for (let cell = 0; cell < cells; cell += 1) parts.push(Buffer.alloc(rowBytes, 16 * index + cell + 1));
  }
  return new Uint8Array(Buffer.concat(parts));
}

function layoutOf(state: Uint8Array): StateLayout {
  const read = readStateLayout(state);
  if (!read.ok) throw new Error(read.why);
  return read.layout;
}

describe('a state', () => {
  test('is read, cut and assembled to the same bytes', () => {
    const state = naiveState(shape);
    const layout = layoutOf(state);
    expect(layout).toEqual({
      layerCount: 2,
      rows: shape.rows.map(([type, rowBytes]) => ({ type, rowBytes })),
      tokenBytes: 178,
    });
    expect(stateBytes(layout, 3)).toBe(state.length);
    const payload = new Uint8Array(3 * 178);
    cutRows(layout, state, payload);
    expect(payload.subarray(0, 64)).toEqual(new Uint8Array(64).fill(1));
    expect(payload.at(-1)).toBe(51);
    const assembled = new Uint8Array(state.length).fill(0xee);
    writeStateHeaders(layout, { sequence: 1, firstPosition: 512, cells: 3 }, assembled);
    assembleRows(layout, payload, assembled);
    expect(assembled).toEqual(state);
  });

  test('takes its headers from us: a payload cannot change a byte of them', () => {
    const layout = layoutOf(naiveState(shape));
    const state = new Uint8Array(stateBytes(layout, 3));
    writeStateHeaders(layout, { sequence: 1, firstPosition: 512, cells: 3 }, state);
    assembleRows(layout, new Uint8Array(3 * 178).fill(0xff), state);
    const read = readStateLayout(state);
    expect(read).toMatchObject({ ok: true, cells: 3, layout });
    const view = new DataView(state.buffer);
    expect([view.getInt32(4, true), view.getInt32(16, true), view.getInt32(28, true), view.getInt32(40, true)]).toEqual([1, 512, 513, 514]);
  });

  test('of another layout is described otherwise', () => {
    const other = { ...shape, rows: [[1, 64], [1, 34], [1, 32], [1, 48]] as const }; // prettier-ignore
    expect(describeLayout(layoutOf(naiveState(shape)))).toBe('2:1x64,8x34,1x32,1x48');
    expect(describeLayout(layoutOf(naiveState(other)))).not.toBe(describeLayout(layoutOf(naiveState(shape))));
  });
});

describe('what is no such state is refused', () => {
  const broken = (offset: number, value: number): Uint8Array => {
    const state = naiveState(shape);
    new DataView(state.buffer).setUint32(offset, value, true);
    return state;
  };
  const rowsStart = 16 + 3 * 12;
  test.each([
    ['an empty one', new Uint8Array(), /0 bytes/],
    ['another magic', broken(0, 1), /begins with 1/],
    ['two streams', broken(8, 2), /2 streams/],
    ['no cell', broken(12, 0), /0 cells/],
    ['4,294,967,295 cells', broken(12, 0xffffffff), /4294967295 cells do not fit/],
    ['a cell of two sequences', broken(16 + 12 + 4, 2), /cell 1 is of several/],
    ['V transposed', broken(rowsStart, 1), /transposed/],
    ['no layer', broken(rowsStart + 4, 0), /of which 60 are known/],
    ['a layer more', broken(rowsStart + 4, 3), /ends before the rows of 3 layers/],
    ['4,294,967,295 layers', broken(rowsStart + 4, 0xffffffff), /ends before the rows/],
    ['empty rows', broken(rowsStart + 12, 0), /rows of 0 bytes/],
    ['huge rows', broken(rowsStart + 16, 0xffffffff), /do not fit/],
    ['a byte less', naiveState(shape).slice(0, -1), /do not fit/],
    ['a byte more', new Uint8Array([...naiveState(shape), 0]), /are known/],
  ])('%s', (_what, state, why) => {
    const read = readStateLayout(state);
    expect(read).toMatchObject({ ok: false, why: expect.stringMatching(why) });
  });

  test('every prefix of a state, and every state with a word replaced, is answered without an exception', () => {
    const state = naiveState(shape);
    for (let length = 0; length < state.length; length += 1) expect(readStateLayout(state.subarray(0, length)).ok).toBe(false);
    for (let offset = 0; offset + 4 <= state.length; offset += 2) {
      for (const value of [0, 1, 0x7fffffff, 0x80000000, 0xffffffff]) {
        const read = readStateLayout(broken(offset, value));
        if (read.ok) expect(stateBytes(read.layout, read.cells)).toBe(state.length);
      }
    }
  });
});
