/** The functions of the driver as a caller without structs sees them, and little words around them. Not the binding: what that is tested against. */
import { dlopen, ptr } from 'bun:ffi';

const symbols = {
  cuInit: { args: ['u32'], returns: 'i32' },
  cuDriverGetVersion: { args: ['ptr'], returns: 'i32' },
  cuDeviceGetCount: { args: ['ptr'], returns: 'i32' },
  cuDeviceGet: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDeviceGetName: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuDeviceGetUuid: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDeviceGetUuid_v2: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDeviceGetPCIBusId: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuDeviceTotalMem_v2: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDeviceGetAttribute: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuDevicePrimaryCtxRetain: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDevicePrimaryCtxRelease_v2: { args: ['i32'], returns: 'i32' },
  cuDevicePrimaryCtxGetState: { args: ['i32', 'ptr', 'ptr'], returns: 'i32' },
  cuCtxSetCurrent: { args: ['u64'], returns: 'i32' },
  cuCtxGetCurrent: { args: ['ptr'], returns: 'i32' },
  cuCtxSynchronize: { args: [], returns: 'i32' },
  cuMemGetInfo_v2: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuMemAlloc_v2: { args: ['ptr', 'u64'], returns: 'i32' },
  cuMemFree_v2: { args: ['u64'], returns: 'i32' },
  cuMemHostRegister_v2: { args: ['u64', 'u64', 'u32'], returns: 'i32' },
  cuMemHostUnregister: { args: ['u64'], returns: 'i32' },
  cuStreamCreate: { args: ['ptr', 'u32'], returns: 'i32' },
  cuStreamDestroy_v2: { args: ['u64'], returns: 'i32' },
  cuStreamQuery: { args: ['u64'], returns: 'i32' },
  cuStreamWaitEvent: { args: ['u64', 'u64', 'u32'], returns: 'i32' },
  cuEventCreate: { args: ['ptr', 'u32'], returns: 'i32' },
  cuEventDestroy_v2: { args: ['u64'], returns: 'i32' },
  cuEventRecord: { args: ['u64', 'u64'], returns: 'i32' },
  cuEventQuery: { args: ['u64'], returns: 'i32' },
  cuEventElapsedTime: { args: ['ptr', 'u64', 'u64'], returns: 'i32' },
  cuMemcpyHtoDAsync_v2: { args: ['u64', 'u64', 'u64', 'u64'], returns: 'i32' },
  cuMemcpyDtoHAsync_v2: { args: ['u64', 'u64', 'u64', 'u64'], returns: 'i32' },
  cuMemcpyDtoDAsync_v2: { args: ['u64', 'u64', 'u64', 'u64'], returns: 'i32' },
  cuMemsetD8Async: { args: ['u64', 'u8', 'u64', 'u64'], returns: 'i32' },
  cuIpcGetMemHandle: { args: ['ptr', 'u64'], returns: 'i32' },
  cuIpcCloseMemHandle: { args: ['u64'], returns: 'i32' },
  cuGetErrorName: { args: ['i32', 'ptr'], returns: 'i32' },
  cuGetErrorString: { args: ['i32', 'ptr'], returns: 'i32' },
} as const;

const u64 = 'u64' as const;
/** The 64 bytes by value; the rule stands at the head of cuda-emulator.c. */
const openSymbols = {
  cuIpcOpenMemHandle_v2: {
    args:
      process.arch === 'arm64'
        ? (['ptr', 'ptr', 'u32'] as const)
        : (['ptr', 'u32', u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64] as const),
    returns: 'i32',
  },
} as const;
const batchSymbols = {
  cuMemcpyBatchAsync: { args: ['ptr', 'ptr', 'ptr', 'u64', 'ptr', 'ptr', 'u64', 'ptr', 'u64'], returns: 'i32' },
} as const;

export const NON_BLOCKING = 1;
export const PORTABLE = 1;

export type Copy = readonly [from: number, to: number, bytes: number];

/** One load of the library. Every method that is not a plain word throws `code NAME` where the driver does not say success. */
export class Driver {
  readonly cu;
  readonly #path: string;
  readonly #word = new BigUint64Array(2);

  constructor(libraryPath: string) {
    this.#path = libraryPath;
    this.cu = dlopen(libraryPath, symbols).symbols;
  }

  /** The number that a call wrote to its first argument. */
  read(call: (out: BigUint64Array) => number): number {
    this.#word.fill(0n);
    succeed(call(this.#word));
    return Number(this.#word[0]);
  }

  /** Init, and the context of a device made and current. */
  open(device = 0): number {
    succeed(this.cu.cuInit(0));
    const context = this.read((out) => this.cu.cuDevicePrimaryCtxRetain(out, device));
    succeed(this.cu.cuCtxSetCurrent(context));
    return context;
  }

  allocate(bytes: number): number {
    return this.read((out) => this.cu.cuMemAlloc_v2(out, bytes));
  }

  stream(flags = NON_BLOCKING): number {
    return this.read((out) => this.cu.cuStreamCreate(out, flags));
  }

  event(flags = 0): number {
    return this.read((out) => this.cu.cuEventCreate(out, flags));
  }

  register(bytes: Uint8Array): number {
    succeed(this.cu.cuMemHostRegister_v2(ptr(bytes), bytes.byteLength, PORTABLE));
    return ptr(bytes);
  }

  freeBytes(): number {
    const total = new BigUint64Array(1);
    return this.read((out) => this.cu.cuMemGetInfo_v2(out, total));
  }

  exportHandle(pointer: number): Uint8Array {
    const handle = new Uint8Array(64);
    succeed(this.cu.cuIpcGetMemHandle(handle, pointer));
    return handle;
  }

  /** The code; the pointer is written to `out`. */
  openHandle(out: BigUint64Array, handle: Uint8Array, flags = 1): number {
    const { cuIpcOpenMemHandle_v2: call } = dlopen(this.#path, openSymbols).symbols;
    const words = [...new BigUint64Array(handle.slice().buffer)];
    const plain = call as unknown as (...args: readonly unknown[]) => number;
    return process.arch === 'arm64' ? plain(out, handle, flags) : plain(out, flags, 0n, 0n, 0n, 0n, ...words);
  }

  /** The code, and the row that it is about. */
  batch(copies: readonly Copy[], stream: number): { readonly code: number; readonly failed: bigint } {
    const { cuMemcpyBatchAsync } = dlopen(this.#path, batchSymbols).symbols;
    const [from, to, bytes] = [0, 1, 2].map((column) => BigUint64Array.from(copies, (row) => BigInt(row[column] ?? 0)));
    if (from === undefined || to === undefined || bytes === undefined) throw new Error('three columns');
    // CUmemcpyAttributes: access order 1 (stream), two hints of 8 bytes, flags.
    const attributes = Uint32Array.of(1, 0, 0, 0, 0, 0);
    const failed = new BigUint64Array(1);
    const code = cuMemcpyBatchAsync(to, from, bytes, copies.length, attributes, new BigUint64Array(1), 1, failed, stream);
    return { code, failed: failed[0] ?? 0n };
  }

  /** Everything that is alive on the way out is a leak. */
  close(device = 0): void {
    succeed(this.cu.cuCtxSetCurrent(0));
    succeed(this.cu.cuDevicePrimaryCtxRelease_v2(device));
  }
}

export function succeed(code: number): void {
  if (code !== 0) throw new Error(`code ${code}`);
}

/** Whole pages of their own, as arenas are; `at` is where. */
export function pages(count: number): { readonly bytes: Uint8Array; readonly at: number } {
  const room = new Uint8Array((count + 1) * 4096);
  const gap = (4096 - (ptr(room) % 4096)) % 4096;
  const bytes = room.subarray(gap, gap + count * 4096);
  return { bytes, at: ptr(bytes) };
}
