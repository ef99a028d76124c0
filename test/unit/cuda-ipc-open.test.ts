/** A struct by value, called by the rules of this machine without bun:ffi knowing structs: proved by a C function of the same signature. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cc, ptr } from 'bun:ffi';
import { afterAll, describe, expect, test } from 'vitest';
import { callIpcOpen, ipcOpenDeclaration, IPC_HANDLE_BYTES, type IpcOpenCall } from '#cuda/ipc-open.ts';

/** Writes back what arrived: the 64 bytes, then the flags. */
const probeSource = `
typedef struct { char reserved[64]; } Handle;
int probe(unsigned long long *out, Handle handle, unsigned int flags) {
  char *bytes = (char *)out;
  for (int at = 0; at < 64; at++) bytes[at] = handle.reserved[at];
  out[8] = flags;
  return 4711;
}
`;
const folder = mkdtempSync(join(tmpdir(), 'kvtier-ipc-open-'));
afterAll(() => rmSync(folder, { recursive: true }));

function probe(): IpcOpenCall {
  const source = join(folder, 'probe.c');
  writeFileSync(source, probeSource);
  const declaration = ipcOpenDeclaration(process.arch);
  if (declaration === undefined) throw new Error(`No declaration for ${process.arch}`);
  return cc({ source, symbols: { probe: declaration } }).symbols.probe as unknown as IpcOpenCall;
}

describe('cuIpcOpenMemHandle_v2', () => {
  const call = probe();
  const out = new BigUint64Array(9);
  const pass = (handle: Uint8Array, flags: number): number =>
    callIpcOpen(call, { address: ptr(out), flags }, { bytes: handle, architecture: process.arch });

  test('passes pointer, every byte of the handle and the flags', () => {
    for (let round = 0; round < 100; round += 1) {
      const handle = crypto.getRandomValues(new Uint8Array(IPC_HANDLE_BYTES));
      // Below 2^31: `cc` hands larger numbers on as the bits of a double (Bun 1.4), which dlopen's calls do not. The driver's flag is 1.
      const flags = (crypto.getRandomValues(new Uint32Array(1))[0] ?? 0) >>> 1;
      expect(pass(handle, flags)).toBe(4711);
      expect(new Uint8Array(out.buffer, 0, IPC_HANDLE_BYTES)).toEqual(handle);
      expect(out[8]).toBe(BigInt(flags));
    }
  });

  test('takes a handle that lies anywhere in its buffer', () => {
    const buffer = crypto.getRandomValues(new Uint8Array(IPC_HANDLE_BYTES + 3));
    pass(buffer.subarray(3), 1);
    expect(new Uint8Array(out.buffer, 0, IPC_HANDLE_BYTES)).toEqual(buffer.subarray(3));
  });

  test('is declared for x64 and arm64, and for nothing that nobody looked up', () => {
    expect(ipcOpenDeclaration('x64')?.args).toHaveLength(2 + 4 + 8);
    expect(ipcOpenDeclaration('arm64')?.args).toEqual(['ptr', 'ptr', 'u32']);
    expect(ipcOpenDeclaration('riscv64')).toBeUndefined();
  });
});
