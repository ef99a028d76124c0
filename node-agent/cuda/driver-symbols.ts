/**
 * The functions of libcuda.so.1 that we call, under the names that the library exports: cuda.h renames many of them with a macro
 * (`cuMemAlloc` is `cuMemAlloc_v2`), and dlopen knows no macros. Source: the CUDA Driver API reference, and `cuGetProcAddress` there for
 * which version came when.
 *
 * CUdeviceptr, and handles of contexts, streams and events, are 64 bits wide and below 2^53 in every driver there is (user addresses end
 * at 2^47, or 2^48 on aarch64): `ptr`, so that they travel as numbers. size_t is `u64`, which takes numbers too.
 */
import { dlopen, type FFIFunction } from 'bun:ffi';
import { ipcOpenDeclaration } from './ipc-open.ts';

const required = {
  cuInit: { args: ['u32'], returns: 'i32' },
  cuDriverGetVersion: { args: ['ptr'], returns: 'i32' },
  cuDeviceGetCount: { args: ['ptr'], returns: 'i32' },
  cuDeviceGet: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDeviceGetName: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuDeviceGetUuid: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDeviceGetPCIBusId: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuDeviceTotalMem_v2: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDeviceGetAttribute: { args: ['ptr', 'i32', 'i32'], returns: 'i32' },
  cuDevicePrimaryCtxRetain: { args: ['ptr', 'i32'], returns: 'i32' },
  cuDevicePrimaryCtxRelease_v2: { args: ['i32'], returns: 'i32' },
  cuCtxSetCurrent: { args: ['ptr'], returns: 'i32' },
  cuMemGetInfo_v2: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuMemAlloc_v2: { args: ['ptr', 'u64'], returns: 'i32' },
  cuMemFree_v2: { args: ['ptr'], returns: 'i32' },
  cuMemHostRegister_v2: { args: ['ptr', 'u64', 'u32'], returns: 'i32' },
  cuMemHostUnregister: { args: ['ptr'], returns: 'i32' },
  cuStreamCreate: { args: ['ptr', 'u32'], returns: 'i32' },
  cuStreamDestroy_v2: { args: ['ptr'], returns: 'i32' },
  cuStreamQuery: { args: ['ptr'], returns: 'i32' },
  cuEventCreate: { args: ['ptr', 'u32'], returns: 'i32' },
  cuEventDestroy_v2: { args: ['ptr'], returns: 'i32' },
  cuEventRecord: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuEventQuery: { args: ['ptr'], returns: 'i32' },
  cuEventElapsedTime: { args: ['ptr', 'ptr', 'ptr'], returns: 'i32' },
  cuMemcpyHtoDAsync_v2: { args: ['ptr', 'ptr', 'u64', 'ptr'], returns: 'i32' },
  cuMemcpyDtoHAsync_v2: { args: ['ptr', 'ptr', 'u64', 'ptr'], returns: 'i32' },
  cuMemcpyDtoDAsync_v2: { args: ['ptr', 'ptr', 'u64', 'ptr'], returns: 'i32' },
  cuMemsetD8Async: { args: ['ptr', 'u8', 'u64', 'ptr'], returns: 'i32' },
  cuIpcGetMemHandle: { args: ['ptr', 'ptr'], returns: 'i32' },
  cuIpcCloseMemHandle: { args: ['ptr'], returns: 'i32' },
  cuGetErrorName: { args: ['i32', 'ptr'], returns: 'i32' },
  cuGetErrorString: { args: ['i32', 'ptr'], returns: 'i32' },
} as const satisfies Readonly<Record<string, FFIFunction>>;

/** What not every driver has. `…_v2` of the UUID came with 11.4, the batch copy with 12.8, and lost its `failIdx` in `_v2` with 13.0. */
const optional = {
  cuDeviceGetUuid_v2: { args: ['ptr', 'i32'], returns: 'i32' },
  cuMemcpyBatchAsync: { args: ['ptr', 'ptr', 'ptr', 'u64', 'ptr', 'ptr', 'u64', 'ptr', 'ptr'], returns: 'i32' },
  cuMemcpyBatchAsync_v2: { args: ['ptr', 'ptr', 'ptr', 'u64', 'ptr', 'ptr', 'u64', 'ptr'], returns: 'i32' },
} as const satisfies Readonly<Record<string, FFIFunction>>;

type OptionalName = keyof typeof optional;
type Call = (...parameters: readonly (number | bigint | NodeJS.TypedArray | null)[]) => number;
export type DriverSymbols = Readonly<Record<keyof typeof required, Call>> &
  Readonly<Record<'cuIpcOpenMemHandle_v2', Call>> &
  Readonly<Record<OptionalName, Call | undefined>>;

/** Loads the library. A string says why that cannot be, in a sentence for people. What is optional and missing is undefined. */
export function loadSymbols(path: string, architecture: string = process.arch): DriverSymbols | string {
  const ipcOpen = ipcOpenDeclaration(architecture);
  if (ipcOpen === undefined) return `Cannot call the CUDA driver on ${architecture}: its calling rules are known for x64 and arm64`;
  const wanted = { ...required, cuIpcOpenMemHandle_v2: ipcOpen };
  try {
    const { symbols } = dlopen(path, wanted);
    const found = Object.entries(optional).map(([name, declaration]) => [name, tryOne(path, name, declaration)] as const);
    return { ...(symbols as unknown as DriverSymbols), ...Object.fromEntries(found) };
  } catch (problem) {
    if ((problem as { code?: string }).code === 'ERR_DLOPEN_FAILED') return `No CUDA driver: ${path} cannot be loaded`;
    const missing = Object.entries(wanted).filter(([name, declaration]) => tryOne(path, name, declaration) === undefined);
    return `The CUDA driver ${path} is too old, or none: it lacks ${missing.map(([name]) => name).join(', ')}`;
  }
}

function tryOne(path: string, name: string, declaration: FFIFunction): Call | undefined {
  try {
    return dlopen(path, { [name]: declaration }).symbols[name] as unknown as Call;
  } catch {
    // Not there, which is what the caller wants to know.
    return undefined;
  }
}
