/** Messages of the native door for tests: any values of a shape, a parser that has the whole stream before it, values as JSON. */
import fc from 'fast-check';
import type { Span } from '#protocol/native/native-codec.ts';
import { NativeParser } from '#protocol/native/native-parser.ts';
import { FRAME_HEADER_BYTES, nativeOperations } from '#protocol/native/native-schema.ts';
import type { FieldType, OperationName, Shape } from '#protocol/native/native-schema.ts';

const bytes = (maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength });
const u32 = fc.nat(0xffff_ffff);
const u64 = fc.maxSafeNat();
const byType: Readonly<Record<FieldType, fc.Arbitrary<unknown>>> = {
  u8: fc.nat(255),
  u16: fc.nat(0xffff),
  u32,
  u64,
  text: fc.string({ maxLength: 20, unit: 'grapheme' }),
  blob: bytes(40),
  keys: fc.oneof(
    fc.array(bytes(12), { maxLength: 6 }),
    fc.nat(9).chain((length) => fc.array(fc.uint8Array({ minLength: length, maxLength: length }), { maxLength: 6 })),
  ),
  spans: fc.array(fc.record({ offset: u64, length: u32 }), { maxLength: 5 }),
  u8s: bytes(20),
  u32s: fc.array(u32, { maxLength: 10 }),
};

export function valuesOf(shape: Shape): fc.Arbitrary<Record<string, unknown>> {
  return fc.record(Object.fromEntries(Object.entries(shape).map(([name, type]) => [name, byType[type]])));
}

export interface Message {
  readonly name: OperationName;
  readonly direction: 'request' | 'reply';
  readonly shape: Shape;
  readonly op: number;
}

export const messages: readonly Message[] = (Object.keys(nativeOperations) as OperationName[]).flatMap((name) =>
  (['request', 'reply'] as const).map((direction) => ({
    name,
    direction,
    shape: nativeOperations[name][direction] as Shape,
    op: nativeOperations[name].op,
  })),
);

export type SeenFrame = { op: number; status: number; tag: number; body: string } | { problem: true };

/** What a parser must say of a stream, read in the plainest way. */
export function modelFrames(input: Uint8Array, maxFrameBytes: number): SeenFrame[] {
  const seen: SeenFrame[] = [];
  const view = new DataView(input.buffer, input.byteOffset, input.length);
  for (let at = 0; at + 4 <= input.length;) {
    const body = view.getUint32(at, true);
    if (body > maxFrameBytes) return [...seen, { problem: true }];
    const end = at + FRAME_HEADER_BYTES + body;
    if (end > input.length) break;
    const tag = view.getBigUint64(at + 8, true);
    if (tag > BigInt(Number.MAX_SAFE_INTEGER)) return [...seen, { problem: true }];
    const hex = input.slice(at + FRAME_HEADER_BYTES, end).toHex();
    seen.push({ op: view.getUint16(at + 4, true), status: view.getUint16(at + 6, true), tag: Number(tag), body: hex });
    at = end;
  }
  return seen;
}

/** The same by the parser, for a stream that comes in pieces whose memory is reused. */
export function parsedFrames(input: Uint8Array, cuts: readonly number[], maxFrameBytes: number): SeenFrame[] {
  const parser = new NativeParser(maxFrameBytes);
  const seen: SeenFrame[] = [];
  const edges = [0, ...cuts.map((cut) => Math.min(cut, input.length)).toSorted((a, b) => a - b), input.length];
  for (let piece = 1; piece < edges.length; piece += 1) {
    const chunk = input.slice(edges[piece - 1], edges[piece]);
    parser.push(chunk);
    for (let event = parser.next(); event !== undefined; event = parser.next()) {
      if ('problem' in event) seen.push({ problem: true });
      else seen.push({ op: event.op, status: event.status, tag: event.tag, body: event.body.toHex() });
    }
    parser.retain();
    chunk.fill(0xdd);
  }
  return seen;
}

/** Values as a JSON file holds them: bytes in hex, spans as pairs, numbers beyond 2^32 as numbers. */
export function jsonOf(shape: Shape, values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const one = (type: FieldType, value: unknown): unknown => {
    if (type === 'blob') return (value as Uint8Array).toHex();
    if (type === 'keys') return (value as readonly Uint8Array[]).map((key) => key.toHex());
    if (type === 'spans') return (value as readonly Span[]).map(({ offset, length }) => [offset, length]);
    return type === 'u8s' ? [...(value as Uint8Array)] : value;
  };
  return Object.fromEntries(Object.entries(shape).map(([name, type]) => [name, one(type, values[name])]));
}

export function valuesFromJson(shape: Shape, json: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const one = (type: FieldType, value: unknown): unknown => {
    if (type === 'blob') return Uint8Array.fromHex(value as string);
    if (type === 'keys') return (value as readonly string[]).map((key) => Uint8Array.fromHex(key));
    if (type === 'spans') return (value as readonly [number, number][]).map(([offset, length]) => ({ offset, length }));
    return type === 'u8s' ? Uint8Array.from(value as readonly number[]) : value;
  };
  return Object.fromEntries(Object.entries(shape).map(([name, type]) => [name, one(type, json[name])]));
}
