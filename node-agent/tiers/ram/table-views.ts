/** The bytes of a slot table in the widths of its fields. */
export interface TableViews {
  readonly bytes: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly f64: Float64Array;
  readonly u64: BigUint64Array;
}

/** `bytes` begin at a multiple of 8 in their buffer and are a multiple of 8 long. */
export function tableViews(bytes: Uint8Array): TableViews {
  const { buffer, byteOffset, length } = bytes;
  return {
    bytes,
    u16: new Uint16Array(buffer, byteOffset, length / 2),
    u32: new Uint32Array(buffer, byteOffset, length / 4),
    f64: new Float64Array(buffer, byteOffset, length / 8),
    u64: new BigUint64Array(buffer, byteOffset, length / 8),
  };
}
