/**
 * The emulated driver in tests: a library of the test's own on a machine of its own. Files of one vitest run share a process, and a library
 * that is loaded has one state a process, so each `privateEmulator` is a copy under another name.
 */
import { dlopen } from 'bun:ffi';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EMULATOR_FILE_VARIABLE, buildEmulator } from '#cuda/emulator/build-emulator.ts';

const cacheFolder = fileURLToPath(new URL('../../node_modules/.cache/kvtier-cuda-emulator', import.meta.url));

export interface EmulatorReport {
  readonly calls: Readonly<Record<string, number>>;
  readonly violations: Readonly<Record<string, number>>;
  readonly lint: Readonly<Record<string, number>>;
  readonly leaks: Readonly<Record<string, number>>;
  /** What processes held that died. */
  readonly reaped: Readonly<Record<string, number>>;
  readonly alive: Readonly<Record<string, number>>;
  readonly aliveInAll: Readonly<Record<string, number>>;
  readonly copies: number;
  readonly copiedBytes: number;
  readonly usedBytes: readonly number[];
  /** The last violations in words. */
  readonly texts: readonly string[];
}

const controlSymbols = {
  kvtierEmuFailure: { args: [], returns: 'cstring' },
  kvtierEmuStart: { args: ['ptr', 'ptr'], returns: 'i32' },
  kvtierEmuStop: { args: [], returns: 'i32' },
  kvtierEmuOptions: { args: ['ptr'], returns: 'i32' },
  kvtierEmuStep: { args: ['i32'], returns: 'i32' },
  kvtierEmuInject: { args: ['ptr', 'i32', 'i32', 'i32'], returns: 'i32' },
  kvtierEmuClearInjections: { args: [], returns: 'i32' },
  kvtierEmuLoseDevice: { args: ['i32', 'i32', 'i32'], returns: 'i32' },
  kvtierEmuCorrupt: { args: ['i32'], returns: 'i32' },
  kvtierEmuReport: { args: ['ptr', 'i32'], returns: 'i32' },
} as const;

const text = (value: string): Uint8Array => new TextEncoder().encode(`${value}\0`);

/** The counter-side of one library: what a test does to the machine. */
export class EmulatorControl {
  /** Of the library, for whoever loads it as a driver. */
  readonly libraryPath: string;
  readonly #machinePath: string;
  readonly #library;

  constructor(libraryPath: string, machinePath: string) {
    this.libraryPath = libraryPath;
    this.#machinePath = machinePath;
    this.#library = dlopen(libraryPath, controlSymbols);
  }

  /** What another process needs in its environment to join this machine. */
  get environment(): Readonly<Record<string, string>> {
    return { [EMULATOR_FILE_VARIABLE]: this.#machinePath };
  }

  /** With options a new machine (`devices=2,capacity=64M,manual=1`), without them the one that is. */
  start(options?: string): void {
    const wanted = options === undefined ? null : text(options);
    this.#expect(this.#library.symbols.kvtierEmuStart(text(this.#machinePath), wanted));
  }

  /** Leaves the machine; what is alive counts as leaked, and the file goes with its last user. */
  stop(): void {
    this.#library.symbols.kvtierEmuStop();
  }

  options(options: string): void {
    this.#expect(this.#library.symbols.kvtierEmuOptions(text(options)));
  }

  /** Ends copies that are in flight in this process, drawn by lot; how many ended. Option manual. */
  step(copies: number): number {
    return this.#library.symbols.kvtierEmuStep(copies);
  }

  /** From the nth call on, and for `times` calls, a function (`*`: any) answers with the code and does nothing. */
  inject(name: string, code: number, options: { readonly nth?: number; readonly times?: number } = {}): void {
    this.#expect(this.#library.symbols.kvtierEmuInject(text(name), options.nth ?? 1, code, options.times ?? 1));
  }

  clearInjections(): void {
    this.#expect(this.#library.symbols.kvtierEmuClearInjections());
  }

  /** At once, or at the end of so many copies, the last of which is cut in half. Code 0 heals it. */
  loseDevice(device: number, code: number, afterCopies = 0): void {
    this.#expect(this.#library.symbols.kvtierEmuLoseDevice(device, code, afterCopies));
  }

  /** One bit in every 4 KiB of what is allocated there; the bytes that were hit. */
  corrupt(device: number): number {
    return this.#library.symbols.kvtierEmuCorrupt(device);
  }

  report(): EmulatorReport {
    for (let room = 64 * 1024; ; room *= 2) {
      const out = new Uint8Array(room);
      const length = this.#library.symbols.kvtierEmuReport(out, room);
      this.#expect(Math.min(length, 0));
      if (length < room) return JSON.parse(new TextDecoder().decode(out.subarray(0, length))) as EmulatorReport;
    }
  }

  #expect(result: number): void {
    if (result !== 0) throw new Error(`emulator: ${String(this.#library.symbols.kvtierEmuFailure())}`);
  }
}

export interface PrivateEmulator {
  readonly control: EmulatorControl;
  /** Ends the stay and removes library and machine. */
  dispose(): Promise<void>;
}

/** Not started. Throws with the reason where it cannot be built: a machine without a C compiler cannot prove anything here, and says so. */
export async function privateEmulator(options: { readonly batchCopies?: boolean } = {}): Promise<PrivateEmulator> {
  const built = await buildEmulator({ cacheFolder, ...options });
  if (!built.ok) throw new Error(`The emulated CUDA driver cannot be tested: ${built.reason}`);
  const folder = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'kvtier-emulator-'));
  const libraryPath = join(folder, 'libcuda-emulator.so');
  await copyFile(built.path, libraryPath);
  const control = new EmulatorControl(libraryPath, join(folder, 'machine'));
  return {
    control,
    async dispose() {
      control.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
