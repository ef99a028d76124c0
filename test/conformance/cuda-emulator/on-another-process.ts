/**
 * Another process on the same machine, whose path is in the environment. Reads one errand a line from stdin and answers a line of JSON each,
 * until stdin ends; then it dies as it stands.
 */
import { createInterface } from 'node:readline';
import { Driver, pages, succeed } from './driver.ts';
import { NOT_READY } from './words.ts';

export type Errand =
  | { readonly do: 'look' }
  | { readonly do: 'allocate'; readonly bytes: number }
  | { readonly do: 'export'; readonly pointer: number }
  | { readonly do: 'open'; readonly handle: string }
  | { readonly do: 'close'; readonly pointer: number }
  /** The value that `bytes` bytes there have, -1 for more than one. */
  | { readonly do: 'read'; readonly pointer: number; readonly bytes: number }
  | { readonly do: 'write'; readonly pointer: number; readonly bytes: number; readonly value: number }
  /** Reads a device address as the host: a driver lets the process die. */
  | { readonly do: 'dereference'; readonly pointer: number };

export interface Answer {
  readonly code: number;
  readonly pointer?: number;
  readonly freeBytes?: number;
  readonly handle?: string;
  readonly value?: number;
}

const driver = new Driver(process.argv[2] ?? '');
driver.open();
const stream = driver.stream();

function settle(): number {
  let code = NOT_READY;
  while (code === NOT_READY) code = driver.cu.cuStreamQuery(stream);
  return code;
}

async function run(errand: Errand): Promise<Answer> {
  switch (errand.do) {
    case 'look':
      return { code: 0, freeBytes: driver.freeBytes() };
    case 'allocate':
      return { code: 0, pointer: driver.allocate(errand.bytes) };
    case 'export':
      return { code: 0, handle: driver.exportHandle(errand.pointer).toHex() };
    case 'open': {
      const out = new BigUint64Array(1);
      const code = driver.openHandle(out, Uint8Array.fromHex(errand.handle));
      return { code, pointer: Number(out[0]) };
    }
    case 'close':
      return { code: driver.cu.cuIpcCloseMemHandle(errand.pointer) };
    case 'read':
    case 'write': {
      const host = pages(errand.bytes / 4096);
      succeed(driver.cu.cuMemHostRegister_v2(host.at, errand.bytes, 1));
      if (errand.do === 'write') host.bytes.fill(errand.value);
      if (errand.do === 'write') succeed(driver.cu.cuMemcpyHtoDAsync_v2(errand.pointer, host.at, errand.bytes, stream));
      else succeed(driver.cu.cuMemcpyDtoHAsync_v2(host.at, errand.pointer, errand.bytes, stream));
      const code = settle();
      const value = host.bytes.every((byte) => byte === host.bytes[0]) ? host.bytes[0] : undefined;
      driver.cu.cuMemHostUnregister(host.at);
      return { code, value: value ?? -1 };
    }
    case 'dereference': {
      const { read } = await import('bun:ffi');
      return { code: 0, value: read.u8(errand.pointer, 0) };
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await run(JSON.parse(line) as Errand))}\n`);
}
process.kill(process.pid, 'SIGKILL');
