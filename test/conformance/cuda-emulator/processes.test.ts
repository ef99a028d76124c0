/** Two processes on one machine: one device, handles across, and what is left of who dies. */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';
import { succeed } from './driver.ts';
import type { Answer, Errand } from './on-another-process.ts';
import { allOf, pinned, scene } from './scene.ts';
import { INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, MIB } from './words.ts';

const emulated = scene();
const program = fileURLToPath(new URL('on-another-process.ts', import.meta.url));
const children: ChildProcessWithoutNullStreams[] = [];

afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

class Other {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  #words = '';

  constructor() {
    // One of them is meant to crash, which concerns nobody else.
    const env = { ...process.env, ...emulated.control.environment, BUN_ENABLE_CRASH_REPORTING: '0' };
    this.#child = spawn(process.execPath, [program, emulated.control.libraryPath], { env, stdio: 'pipe' });
    this.#child.stderr.on('data', (data: Buffer) => (this.#words += data.toString()));
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
    children.push(this.#child);
  }

  async ask(errand: Errand): Promise<Answer> {
    this.#child.stdin.write(`${JSON.stringify(errand)}\n`);
    const line = await this.#lines.next();
    if (line.done === true) throw new Error(`the other process ended: ${this.#words}`);
    return JSON.parse(line.value) as Answer;
  }

  /** Dies without giving anything back. Resolves with the signal. */
  async die(): Promise<unknown> {
    const gone = once(this.#child, 'exit');
    this.#child.stdin.end();
    return (await gone)[1] as unknown;
  }

  async exit(): Promise<unknown> {
    return (await once(this.#child, 'exit'))[1] as unknown;
  }

  dereference(pointer: number): void {
    this.#child.stdin.write(`${JSON.stringify({ do: 'dereference', pointer } satisfies Errand)}\n`);
  }
}

function fill(pointer: number, value: number, bytes: number): void {
  const stream = emulated.driver.stream();
  succeed(emulated.driver.cu.cuMemsetD8Async(pointer, value, bytes, stream));
  succeed(emulated.finish(stream));
  succeed(emulated.driver.cu.cuStreamDestroy_v2(stream));
}

describe('two processes', () => {
  test('see one device, and copy to and from what the other allocated', async () => {
    emulated.open('manual=0');
    const pointer = emulated.driver.allocate(4 * MIB);
    fill(pointer, 3, 4 * MIB);
    const other = new Other();
    const handle = emulated.driver.exportHandle(pointer).toHex();
    const theirs = await other.ask({ do: 'open', handle });
    expect(theirs.code).toBe(0);
    expect(theirs.pointer).not.toBe(pointer); // addresses belong to a process
    expect((await other.ask({ do: 'look' })).freeBytes).toBe(emulated.driver.freeBytes());
    expect(await other.ask({ do: 'read', pointer: theirs.pointer ?? 0, bytes: 4 * MIB })).toEqual({ code: 0, value: 3 });
    // Opened again it is the same pointer, and is closed as often.
    expect(await other.ask({ do: 'open', handle })).toEqual(theirs);
    expect(await other.ask({ do: 'close', pointer: theirs.pointer ?? 0 })).toEqual({ code: 0 });
    expect(await other.ask({ do: 'write', pointer: theirs.pointer ?? 0, bytes: 8192, value: 9 })).toMatchObject({ code: 0 });
    expect(await other.ask({ do: 'close', pointer: theirs.pointer ?? 0 })).toEqual({ code: 0 });
    const host = pinned(emulated.driver, 2, 1);
    const stream = emulated.driver.stream();
    succeed(emulated.driver.cu.cuMemcpyDtoHAsync_v2(host.at, pointer, 8192, stream));
    succeed(emulated.finish(stream));
    expect(allOf(host.bytes)).toBe(9);
    expect(emulated.counted('violations', 'lint', 'leaks')).toEqual({ violations: {}, lint: {}, leaks: {} });
  });

  test('have handles that the one who exported cannot open, and that nobody can open once the memory is freed', async () => {
    emulated.open('manual=0');
    const other = new Other();
    const pointer = emulated.driver.allocate(MIB);
    const handle = emulated.driver.exportHandle(pointer);
    expect(emulated.driver.openHandle(new BigUint64Array(1), handle)).toBe(INVALID_CONTEXT);
    expect(emulated.report().violations).toEqual({ 'own-handle': 1 });
    succeed(emulated.driver.cu.cuMemFree_v2(pointer));
    expect((await other.ask({ do: 'open', handle: handle.toHex() })).code).toBe(INVALID_HANDLE);
  });

  test('have handles of 64 bytes, every bit of which counts', async () => {
    emulated.open('manual=0');
    const other = new Other();
    const { pointer } = await other.ask({ do: 'allocate', bytes: MIB });
    const { handle = '' } = await other.ask({ do: 'export', pointer: pointer ?? 0 });
    const out = new BigUint64Array(1);
    for (const at of [0, 8, 16, 24, 32]) {
      const bad = Uint8Array.fromHex(handle);
      bad[at] = (bad[at] ?? 0) ^ 1;
      expect(emulated.driver.openHandle(out, bad), `byte ${at}`).toBe(INVALID_HANDLE);
    }
    expect(emulated.driver.openHandle(out, Uint8Array.fromHex(handle), 0)).toBe(INVALID_VALUE); // peer access is not asked for
    expect(emulated.driver.openHandle(out, Uint8Array.fromHex(handle))).toBe(0);
    expect(emulated.driver.cu.cuMemFree_v2(Number(out[0]))).toBe(INVALID_VALUE);
    expect(emulated.driver.cu.cuIpcGetMemHandle(new Uint8Array(64), Number(out[0]))).toBe(INVALID_VALUE); // not ours to pass on
    succeed(emulated.driver.cu.cuIpcCloseMemHandle(Number(out[0])));
    expect(emulated.driver.cu.cuIpcCloseMemHandle(Number(out[0]))).toBe(INVALID_VALUE);
    expect(emulated.report().violations).toEqual({ 'wrong-free': 1, 'bad-pointer': 1, 'double-free': 1 });
  });

  test('keep the bytes that one freed while the other had them open, which is a violation', async () => {
    emulated.open('manual=0');
    const pointer = emulated.driver.allocate(4 * MIB);
    fill(pointer, 6, 4 * MIB);
    const other = new Other();
    const given = emulated.driver.exportHandle(pointer);
    const theirs = await other.ask({ do: 'open', handle: given.toHex() });
    succeed(emulated.driver.cu.cuMemFree_v2(pointer));
    expect(emulated.counted('violations', 'usedBytes')).toEqual({ violations: { 'freed-while-open': 1 }, usedBytes: [4 * MIB] });
    expect(await other.ask({ do: 'read', pointer: theirs.pointer ?? 0, bytes: 4096 })).toEqual({ code: 0, value: 6 });
    // A third one comes too late.
    const handle = given.toHex();
    expect((await new Other().ask({ do: 'open', handle })).code).toBe(INVALID_HANDLE);
    await other.ask({ do: 'close', pointer: theirs.pointer ?? 0 });
    expect(emulated.report().usedBytes).toEqual([0]);
  });

  test('of which one is killed: the driver takes back what it held, and the other goes on with what it had open', async () => {
    emulated.open('manual=0,context=1M');
    const other = new Other();
    const { pointer } = await other.ask({ do: 'allocate', bytes: 8 * MIB });
    await other.ask({ do: 'allocate', bytes: 2 * MIB });
    await other.ask({ do: 'write', pointer: pointer ?? 0, bytes: 8192, value: 4 });
    const { handle = '' } = await other.ask({ do: 'export', pointer: pointer ?? 0 });
    const out = new BigUint64Array(1);
    expect(emulated.driver.openHandle(out, Uint8Array.fromHex(handle))).toBe(0);
    expect(emulated.counted('aliveInAll', 'usedBytes')).toEqual({
      aliveInAll: { contexts: 2, allocations: 2, imports: 1, streams: 1 },
      usedBytes: [12 * MIB],
    });
    expect(await other.die()).toBe('SIGKILL');
    expect(emulated.counted('aliveInAll', 'reaped', 'usedBytes')).toEqual({
      aliveInAll: { contexts: 1, imports: 1 },
      reaped: { contexts: 1, allocations: 2, streams: 1 },
      usedBytes: [9 * MIB],
    });
    const host = pinned(emulated.driver, 2, 1);
    const stream = emulated.driver.stream();
    succeed(emulated.driver.cu.cuMemcpyDtoHAsync_v2(host.at, Number(out[0]), 8192, stream));
    succeed(emulated.finish(stream));
    expect(allOf(host.bytes)).toBe(4);
    succeed(emulated.driver.cu.cuIpcCloseMemHandle(Number(out[0])));
    expect(emulated.report().usedBytes).toEqual([MIB]);
  });

  test('of which one dereferences a device address: it dies', async () => {
    emulated.open('manual=0');
    const other = new Other();
    const { pointer } = await other.ask({ do: 'allocate', bytes: MIB });
    other.dereference(pointer ?? 0);
    expect(await other.exit()).not.toBeNull();
  });
});
