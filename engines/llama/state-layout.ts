/**
 * The state of one sequence as llama_state_seq_get_data writes it, for plain llama models with flash attention (src/llama-kv-cache.cpp,
 * state_write_meta and state_write_data), and what of it is stored: the rows of K and V, layer by layer, and nothing else.
 *
 *   state    u32 0xaf143cd8 | i32 sequence | u32 1 stream | u32 cells | cells x {i32 position, u32 1, i32 sequence} |
 *            u32 0 (V is not transposed) | u32 layers | layers x K {i32 type, u64 row bytes, cells x row} | layers x V {the same}
 *   payload  layers x K {cells x row} | layers x V {cells x row}
 *
 * Invariants
 * - Headers are ours: what is given to the engine has every byte but the rows written here. A wrong cell count from storage would make
 *   libllama allocate until the machine is out of memory, and wrong positions are accepted in silence.
 * - The layout is read from a state that this engine wrote itself in this process, never from a stored one.
 * - K is stored after the rotation by its position, so a payload is good for one place in the sequence only; the key says which.
 */
const MAGIC = 0xaf143cd8;
const HEAD_BYTES = 16;
const CELL_BYTES = 12;
const ROW_HEAD_BYTES = 12;

/** One layer's K or V. */
export interface RowKind {
  /** ggml_type. */
  readonly type: number;
  /** Bytes of one token's row. */
  readonly rowBytes: number;
}

export interface StateLayout {
  readonly layerCount: number;
  /** K of every layer, then V of every layer: the order of the bytes. */
  readonly rows: readonly RowKind[];
  /** Bytes of one token over all rows. */
  readonly tokenBytes: number;
}

export type ReadLayout =
  | { readonly ok: true; readonly layout: StateLayout; readonly cells: number }
  | { readonly ok: false; readonly why: string };

const wrong = (why: string): ReadLayout => ({ ok: false, why });

/** Reads the layout off a state. Any bytes are answered, whatever they are; nothing is allocated by what they say. */
export function readStateLayout(state: Uint8Array): ReadLayout {
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  if (state.length < HEAD_BYTES) return wrong(`${state.length} bytes, wanted at least ${HEAD_BYTES}`);
  if (view.getUint32(0, true) !== MAGIC) return wrong(`begins with ${view.getUint32(0, true).toString(16)}, wanted ${MAGIC.toString(16)}`);
  if (view.getUint32(8, true) !== 1) return wrong(`${view.getUint32(8, true)} streams, wanted 1`);
  const cells = view.getUint32(12, true);
  let offset = HEAD_BYTES + cells * CELL_BYTES;
  if (cells === 0 || offset + 8 > state.length) return wrong(`${cells} cells do not fit into ${state.length} bytes`);
  for (let cell = 0; cell < cells; cell += 1) {
    if (view.getUint32(HEAD_BYTES + cell * CELL_BYTES + 4, true) !== 1) return wrong(`cell ${cell} is of several sequences`);
  }
  if (view.getUint32(offset, true) !== 0) return wrong('V is transposed, wanted flash attention');
  const layerCount = view.getUint32(offset + 4, true);
  offset += 8;
  const rows: RowKind[] = [];
  let tokenBytes = 0;
  for (let index = 0; index < layerCount * 2; index += 1) {
    if (offset + ROW_HEAD_BYTES > state.length) return wrong(`ends before the rows of ${layerCount} layers`);
    const type = view.getInt32(offset, true);
    const rowBytes = Number(view.getBigUint64(offset + 4, true));
    offset += ROW_HEAD_BYTES + cells * rowBytes;
    if (rowBytes === 0 || offset > state.length) return wrong(`rows of ${rowBytes} bytes do not fit into ${state.length} bytes`);
    rows.push({ type, rowBytes });
    tokenBytes += rowBytes;
  }
  if (layerCount === 0 || offset !== state.length) return wrong(`${state.length} bytes, of which ${offset} are known`);
  return { ok: true, layout: { layerCount, rows, tokenBytes }, cells };
}

/** What tells layouts apart; part of the fingerprint. */
export function describeLayout(layout: StateLayout): string {
  return `${layout.layerCount}:${layout.rows.map((row) => `${row.type}x${row.rowBytes}`).join(',')}`;
}

export function stateBytes(layout: StateLayout, cells: number): number {
  return HEAD_BYTES + cells * CELL_BYTES + 8 + layout.rows.length * ROW_HEAD_BYTES + cells * layout.tokenBytes;
}

/** Cells of one sequence at consecutive positions. */
export interface CellRange {
  readonly sequence: number;
  readonly firstPosition: number;
  readonly cells: number;
}

/** Writes everything of a state but its rows. `state` has `stateBytes`; the headers stay good for every payload of the same range. */
export function writeStateHeaders(layout: StateLayout, range: CellRange, state: Uint8Array): void {
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  view.setUint32(0, MAGIC, true);
  view.setInt32(4, range.sequence, true);
  view.setUint32(8, 1, true);
  view.setUint32(12, range.cells, true);
  let offset = HEAD_BYTES;
  for (let cell = 0; cell < range.cells; cell += 1, offset += CELL_BYTES) {
    view.setInt32(offset, range.firstPosition + cell, true);
    view.setUint32(offset + 4, 1, true);
    view.setInt32(offset + 8, range.sequence, true);
  }
  view.setUint32(offset, 0, true);
  view.setUint32(offset + 4, layout.layerCount, true);
  offset += 8;
  for (const row of layout.rows) {
    view.setInt32(offset, row.type, true);
    view.setBigUint64(offset + 4, BigInt(row.rowBytes), true);
    offset += ROW_HEAD_BYTES + range.cells * row.rowBytes;
  }
}

/** Copies the rows of a state of `cells` cells into a payload of `cells` x `tokenBytes`. */
export function cutRows(layout: StateLayout, state: Uint8Array, payload: Uint8Array): void {
  const cells = payload.length / layout.tokenBytes;
  forRows(layout, cells, (stateOffset, payloadOffset, sizeBytes) =>
    payload.set(state.subarray(stateOffset, stateOffset + sizeBytes), payloadOffset),
  );
}

/** The other way round; the headers of the state are left as they are. */
export function assembleRows(layout: StateLayout, payload: Uint8Array, state: Uint8Array): void {
  const cells = payload.length / layout.tokenBytes;
  forRows(layout, cells, (stateOffset, payloadOffset, sizeBytes) =>
    state.set(payload.subarray(payloadOffset, payloadOffset + sizeBytes), stateOffset),
  );
}

function forRows(layout: StateLayout, cells: number, visit: (stateOffset: number, payloadOffset: number, sizeBytes: number) => void): void {
  let stateOffset = HEAD_BYTES + cells * CELL_BYTES + 8;
  let payloadOffset = 0;
  for (const row of layout.rows) {
    const sizeBytes = cells * row.rowBytes;
    visit(stateOffset + ROW_HEAD_BYTES, payloadOffset, sizeBytes);
    stateOffset += ROW_HEAD_BYTES + sizeBytes;
    payloadOffset += sizeBytes;
  }
}
