/**
 * Typed calls of the CUDA driver. Each returns the driver's status (0: done); results lie in the fields of this object until the next call.
 * Hot calls take numbers and allocate nothing.
 *
 * A context is current per thread. An instance belongs to the thread that made it and remembers what it made current there, so that
 * `setCurrent` costs a comparison where nothing changes. Nobody else in this process calls the driver on our threads.
 *
 * A call that gives something back has done so whatever it answers: the reference says of each that it may report an error of work before
 * it. So none is asked twice, which would give back what is somebody else's by then, and none fails without its effect.
 *
 * Counted: what is alive of each kind, so that tests can say that nothing leaked.
 */
import { CString, ptr, type Pointer } from 'bun:ffi';
import type { Address, Brand, DevicePtr } from '#core/brand.ts';
import type { DeviceFailure } from '#ports/device-memory.ts';
import { loadSymbols, type DriverSymbols } from './driver-symbols.ts';
import { callIpcOpen, IPC_HANDLE_BYTES } from './ipc-open.ts';
import { CUDA_ERROR_NOT_SUPPORTED, CUDA_SUCCESS, isSticky } from './status.ts';

/** Number of a device as the driver knows it: CUdevice, not the ordinal. */
export type DeviceNumber = Brand<number, 'DeviceNumber'>;
export type Context = Brand<number, 'Context'>;
export type Stream = Brand<number, 'Stream'>;
export type Event = Brand<number, 'Event'>;

export interface Alive {
  contexts: number;
  allocations: number;
  imports: number;
  streams: number;
  events: number;
  registrations: number;
}

/** CU_STREAM_NON_BLOCKING: does not wait for the default stream, which is somebody else's. */
const STREAM_NON_BLOCKING = 1;
/** CU_EVENT_DEFAULT: with timing. */
const EVENT_DEFAULT = 0;
/** CU_MEMHOSTREGISTER_PORTABLE: pinned for all contexts, not only for the current one. */
const HOST_REGISTER_PORTABLE = 1;
/** CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS: the only flag, and required. */
const IPC_LAZY_PEER_ACCESS = 1;
/** CU_MEMCPY_SRC_ACCESS_ORDER_STREAM: sources are read in the order of the stream, not during the call. */
const SOURCE_IN_STREAM_ORDER = 1;
const TEXT_BYTES = 256;
/** Copies of one call of the batch function. */
export const BATCH_LIMIT = 256;

export class CudaDriver {
  readonly path: string;
  readonly alive: Alive = { contexts: 0, allocations: 0, imports: 0, streams: 0, events: 0, registrations: 0 };
  /** Whether copies of a list go in one call. False too after the driver has said that it does not support it. */
  hasBatch: boolean;
  readonly #symbols: DriverSymbols;
  #current = 0;
  // Out parameters, whose addresses are taken once. Each is a view of an ArrayBuffer: the bytes of a small array without one lie in the heap
  // of the collector until somebody asks for its buffer (`subarray` does), and then move.
  readonly #words = new BigUint64Array(new ArrayBuffer(16));
  readonly #word: Pointer = ptr(this.#words);
  readonly #secondWord = (this.#word + 8) as Pointer;
  readonly #ints = new Int32Array(new ArrayBuffer(4));
  readonly #int: Pointer = ptr(this.#ints);
  readonly #floats = new Float32Array(new ArrayBuffer(4));
  readonly #float: Pointer = ptr(this.#floats);
  readonly #text = new Uint8Array(new ArrayBuffer(TEXT_BYTES));
  readonly #textAddress: Pointer = ptr(this.#text);
  // These are handed over as arrays, so that their addresses are taken at the call.
  readonly #targets = new BigUint64Array(BATCH_LIMIT);
  readonly #sources = new BigUint64Array(BATCH_LIMIT);
  readonly #sizes = new BigUint64Array(BATCH_LIMIT);
  readonly #attributeStarts = new BigUint64Array(1);
  /** CUmemcpyAttributes: order of access, two hints of (kind, id), flags; 4 bytes each. */
  readonly #attributes = new Int32Array([SOURCE_IN_STREAM_ORDER, 0, 0, 0, 0, 0]);

  constructor(path: string, symbols: DriverSymbols) {
    this.path = path;
    this.#symbols = symbols;
    this.hasBatch = symbols.cuMemcpyBatchAsync !== undefined || symbols.cuMemcpyBatchAsync_v2 !== undefined;
  }

  /** A string says why there is no driver. */
  static load(path: string): CudaDriver | string {
    const symbols = loadSymbols(path);
    return typeof symbols === 'string' ? symbols : new CudaDriver(path, symbols);
  }

  /** What a status other than 0 means. `call` names the function with its arguments. */
  failure(status: number, call: string): DeviceFailure {
    const name = this.#wordFor(this.#symbols.cuGetErrorName(status, this.#word)) ?? `CUDA_ERROR_${status}`;
    const text = this.#wordFor(this.#symbols.cuGetErrorString(status, this.#word)) ?? 'the driver has no text for it';
    return { ok: false, code: status, name, message: `${call}: ${name} (${status}), ${text}`, lost: isSticky(status) };
  }

  #wordFor(status: number): string | undefined {
    const address = Number(this.#words[0]);
    return status !== CUDA_SUCCESS || address === 0 ? undefined : new CString(address).toString();
  }

  // ---- The machine

  initialize(): number {
    return this.#symbols.cuInit(0);
  }

  /** `value` is 1000 * major + 10 * minor. */
  version(): number {
    return this.#symbols.cuDriverGetVersion(this.#int);
  }

  deviceCount(): number {
    return this.#symbols.cuDeviceGetCount(this.#int);
  }

  device(ordinal: number): number {
    return this.#symbols.cuDeviceGet(this.#int, ordinal);
  }

  attribute(attribute: number, device: DeviceNumber): number {
    return this.#symbols.cuDeviceGetAttribute(this.#int, attribute, device);
  }

  deviceName(device: DeviceNumber): number {
    return this.#symbols.cuDeviceGetName(this.#textAddress, TEXT_BYTES, device);
  }

  pciBusId(device: DeviceNumber): number {
    return this.#symbols.cuDeviceGetPCIBusId(this.#textAddress, TEXT_BYTES, device);
  }

  /** Of the whole card, in 16 bytes of `bytes`. */
  cardUuid(device: DeviceNumber): number {
    return this.#symbols.cuDeviceGetUuid(this.#textAddress, device);
  }

  /** Of the MIG instance where there is one, else of the card. */
  uuid(device: DeviceNumber): number {
    return (this.#symbols.cuDeviceGetUuid_v2 ?? this.#symbols.cuDeviceGetUuid)(this.#textAddress, device);
  }

  totalBytes(device: DeviceNumber): number {
    return this.#symbols.cuDeviceTotalMem_v2(this.#word, device);
  }

  /** Of the last call that answers a number of 32 bits. */
  get int(): number {
    return this.#ints[0] ?? 0;
  }

  /** Of the last call that answers a size, an address or a handle. */
  get value(): number {
    return Number(this.#words[0]);
  }

  /** Of the last call that answers two. */
  get secondValue(): number {
    return Number(this.#words[1]);
  }

  get text(): string {
    return new TextDecoder().decode(this.#text.subarray(0, this.#text.indexOf(0)));
  }

  get uuidBytes(): Uint8Array {
    return this.#text.slice(0, 16);
  }

  // ---- Contexts

  /** `value` is the context. Hundreds of MiB of the card where it is the first of this process. */
  retainPrimary(device: DeviceNumber): number {
    const status = this.#symbols.cuDevicePrimaryCtxRetain(this.#word, device);
    if (status === CUDA_SUCCESS) this.alive.contexts += 1;
    return status;
  }

  releasePrimary(device: DeviceNumber): number {
    this.#current = 0;
    const status = this.#symbols.cuDevicePrimaryCtxRelease_v2(device);
    this.alive.contexts -= 1;
    return status;
  }

  /** Of this thread. */
  setCurrent(context: Context): number {
    if (this.#current === context) return CUDA_SUCCESS;
    const status = this.#symbols.cuCtxSetCurrent(context);
    this.#current = status === CUDA_SUCCESS ? context : 0;
    return status;
  }

  // ---- Memory

  /** `value` is what is free, `secondValue` the total. */
  memoryInfo(): number {
    return this.#symbols.cuMemGetInfo_v2(this.#word, this.#secondWord);
  }

  /** `value` is the pointer. */
  allocate(sizeBytes: number): number {
    const status = this.#symbols.cuMemAlloc_v2(this.#word, sizeBytes);
    if (status === CUDA_SUCCESS) this.alive.allocations += 1;
    return status;
  }

  /** Waits for the device where copies are in flight. */
  free(pointer: DevicePtr): number {
    const status = this.#symbols.cuMemFree_v2(pointer);
    this.alive.allocations -= 1;
    return status;
  }

  registerHost(address: Address, sizeBytes: number): number {
    const status = this.#symbols.cuMemHostRegister_v2(address, sizeBytes, HOST_REGISTER_PORTABLE);
    if (status === CUDA_SUCCESS) this.alive.registrations += 1;
    return status;
  }

  unregisterHost(address: Address): number {
    const status = this.#symbols.cuMemHostUnregister(address);
    this.alive.registrations -= 1;
    return status;
  }

  /** Writes 64 bytes to `handle`. */
  ipcHandle(handle: Uint8Array, pointer: DevicePtr): number {
    return this.#symbols.cuIpcGetMemHandle(handle, pointer);
  }

  /** `value` is the pointer. */
  ipcOpen(handle: Uint8Array): number {
    if (handle.length !== IPC_HANDLE_BYTES) throw new RangeError(`An IPC handle has ${IPC_HANDLE_BYTES} bytes, not ${handle.length}`);
    const out = { address: this.#word, flags: IPC_LAZY_PEER_ACCESS };
    const status = callIpcOpen(this.#symbols.cuIpcOpenMemHandle_v2 as (...words: readonly unknown[]) => unknown, out, {
      bytes: handle,
      architecture: process.arch,
    });
    if (status === CUDA_SUCCESS) this.alive.imports += 1;
    return status;
  }

  ipcClose(pointer: DevicePtr): number {
    const status = this.#symbols.cuIpcCloseMemHandle(pointer);
    this.alive.imports -= 1;
    return status;
  }

  // ---- Streams and events

  /** `value` is the stream. */
  createStream(): number {
    const status = this.#symbols.cuStreamCreate(this.#word, STREAM_NON_BLOCKING);
    if (status === CUDA_SUCCESS) this.alive.streams += 1;
    return status;
  }

  destroyStream(stream: Stream): number {
    const status = this.#symbols.cuStreamDestroy_v2(stream);
    this.alive.streams -= 1;
    return status;
  }

  queryStream(stream: Stream): number {
    return this.#symbols.cuStreamQuery(stream);
  }

  /** `value` is the event. */
  createEvent(): number {
    const status = this.#symbols.cuEventCreate(this.#word, EVENT_DEFAULT);
    if (status === CUDA_SUCCESS) this.alive.events += 1;
    return status;
  }

  destroyEvent(event: Event): number {
    const status = this.#symbols.cuEventDestroy_v2(event);
    this.alive.events -= 1;
    return status;
  }

  record(event: Event, stream: Stream): number {
    return this.#symbols.cuEventRecord(event, stream);
  }

  queryEvent(event: Event): number {
    return this.#symbols.cuEventQuery(event);
  }

  /** `elapsedMs` is between the two; both have been reached. */
  elapsed(start: Event, end: Event): number {
    return this.#symbols.cuEventElapsedTime(this.#float, start, end);
  }

  get elapsedMs(): number {
    return this.#floats[0] ?? 0;
  }

  // ---- Copies

  copyToDevice(to: DevicePtr, from: Address, sizeBytes: number, stream: Stream): number {
    return this.#symbols.cuMemcpyHtoDAsync_v2(to, from, sizeBytes, stream);
  }

  copyToHost(to: Address, from: DevicePtr, sizeBytes: number, stream: Stream): number {
    return this.#symbols.cuMemcpyDtoHAsync_v2(to, from, sizeBytes, stream);
  }

  copyOnDevice(to: DevicePtr, from: DevicePtr, sizeBytes: number, stream: Stream): number {
    return this.#symbols.cuMemcpyDtoDAsync_v2(to, from, sizeBytes, stream);
  }

  fill(to: DevicePtr, byte: number, sizeBytes: number, stream: Stream): number {
    return this.#symbols.cuMemsetD8Async(to, byte, sizeBytes, stream);
  }

  /** Row of the next `copyBatch`, below BATCH_LIMIT. */
  setBatchRow(row: number, to: number, from: number, sizeBytes: number): void {
    this.#targets[row] = BigInt(to);
    this.#sources[row] = BigInt(from);
    this.#sizes[row] = BigInt(sizeBytes);
  }

  /** The first `rows` rows, in no order among themselves. CUDA_ERROR_NOT_SUPPORTED also where there is no such function. */
  copyBatch(rows: number, stream: Stream): number {
    const { cuMemcpyBatchAsync: first, cuMemcpyBatchAsync_v2: second } = this.#symbols;
    const [to, from, sizes, attributes, starts] = [this.#targets, this.#sources, this.#sizes, this.#attributes, this.#attributeStarts];
    if (second !== undefined) return second(to, from, sizes, rows, attributes, starts, 1, stream);
    if (first !== undefined) return first(to, from, sizes, rows, attributes, starts, 1, this.#word, stream);
    return CUDA_ERROR_NOT_SUPPORTED;
  }
}
