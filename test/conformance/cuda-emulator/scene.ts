/** What the emulator's suites begin with: a library and a machine of their own, and the words that they share. */
import { afterAll, afterEach, beforeAll } from 'vitest';
import { privateEmulator, type EmulatorControl, type EmulatorReport, type PrivateEmulator } from '#testsupport/cuda-emulator.ts';
import { Driver, pages, succeed } from './driver.ts';
import { NOT_READY } from './words.ts';

export interface Scene {
  readonly control: EmulatorControl;
  readonly driver: Driver;
  /** A machine of so many options with a context on device 0 that is current here; copies end by `step`. */
  open(options?: string): number;
  /** Ends all that is in flight in a stream, and gives the code that its query gives then. */
  finish(stream: number): number;
  report(): EmulatorReport;
  /** Some of the report, to be compared whole: with toMatchObject `{}` would match any counts. */
  counted<Name extends keyof EmulatorReport>(...names: readonly Name[]): Pick<EmulatorReport, Name>;
}

/** Registers the hooks of a file; everything in it is there from the first test on. */
export function scene(options: { readonly batchCopies?: boolean } = {}): Scene {
  let emulator: PrivateEmulator | undefined;
  let driver: Driver | undefined;
  beforeAll(async () => {
    emulator = await privateEmulator(options);
    driver = new Driver(emulator.control.libraryPath);
  });
  afterEach(() => emulator?.control.stop());
  afterAll(() => emulator?.dispose());
  const there = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error('only within a test');
    return value;
  };
  return {
    get control() {
      return there(emulator).control;
    },
    get driver() {
      return there(driver);
    },
    open(more = '') {
      this.control.start(`capacity=64M,context=0,manual=1,${more}`);
      return this.driver.open();
    },
    finish(stream) {
      for (;;) {
        const code = this.driver.cu.cuStreamQuery(stream);
        if (code !== NOT_READY) return code;
        this.control.step(1);
      }
    },
    report() {
      return this.control.report();
    },
    counted(...names) {
      const report = this.report();
      return Object.fromEntries(names.map((name) => [name, report[name]])) as Pick<EmulatorReport, (typeof names)[number]>;
    },
  };
}

export interface Host {
  readonly bytes: Uint8Array;
  readonly at: number;
}

/** Registered pages, filled with one value. */
export function pinned(driver: Driver, count: number, value: number): Host {
  const host = pages(count);
  host.bytes.fill(value);
  succeed(driver.cu.cuMemHostRegister_v2(host.at, host.bytes.byteLength, 1));
  return host;
}

/** The value that all bytes have, or undefined. */
export function allOf(bytes: Uint8Array): number | undefined {
  return bytes.every((byte) => byte === bytes[0]) ? bytes[0] : undefined;
}
