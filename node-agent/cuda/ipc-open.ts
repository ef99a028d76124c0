/**
 * How `cuIpcOpenMemHandle_v2(CUdeviceptr *out, CUipcMemHandle handle, unsigned flags)` is called: it takes its 64-byte handle by value, and
 * bun:ffi knows no structs.
 *
 * - x86-64, System V ABI 3.2.3: a struct of more than 16 bytes is of class MEMORY. It lies on the stack, copied as eight words in order,
 *   and uses up no register: `out` is the first integer argument (rdi) and `flags`, though declared behind the handle, the second (rsi).
 *   So we declare out, flags, four dummies that fill rdx, rcx, r8 and r9, and eight u64, which are then the first words on the stack.
 * - aarch64, AAPCS64 6.8.2 B.4: a composite of more than 16 bytes is copied by the caller and goes as a pointer in the next register. So we
 *   declare out, the address of the handle, flags.
 *
 * Chosen over a shim compiled by `cc` of bun:ffi: that writes machine code at run time as well, but needs a compiler with headers that fit
 * and one more thing that can fail at a start. test/unit/cuda-ipc-open.test.ts proves the rule of the machine it runs on with a C function
 * of the same signature.
 */
import type { FFIFunction } from 'bun:ffi';

export const IPC_HANDLE_BYTES = 64;
const WORDS = IPC_HANDLE_BYTES / 8;
/** rdx, rcx, r8, r9. */
const DUMMIES = [0, 0, 0, 0] as const;

export type IpcOpenCall = (...parameters: readonly unknown[]) => unknown;

/** What dlopen is told of the function; undefined on a machine whose calling rules nobody wrote down. */
export function ipcOpenDeclaration(architecture: string): FFIFunction | undefined {
  if (architecture === 'x64')
    return {
      args: ['ptr', 'u32', ...DUMMIES.map(() => 'u64' as const), ...Array.from({ length: WORDS }, () => 'u64' as const)],
      returns: 'i32',
    };
  if (architecture === 'arm64') return { args: ['ptr', 'ptr', 'u32'], returns: 'i32' };
  return undefined;
}

/** Calls it. `outAddress` is that of 8 bytes; the handle has 64. Returns the status. */
export function callIpcOpen(
  call: IpcOpenCall,
  out: { readonly address: number; readonly flags: number },
  handle: { readonly bytes: Uint8Array; readonly architecture: string },
): number {
  // A copy that starts at a multiple of eight, whatever the caller's view does.
  const copy = new BigUint64Array(WORDS);
  new Uint8Array(copy.buffer).set(handle.bytes);
  const status = handle.architecture === 'x64' ? call(out.address, out.flags, ...DUMMIES, ...copy) : call(out.address, copy, out.flags);
  return status as number;
}
