/** A lane of tests: the folder test/NAME, run as one vitest project. */
export interface Lane {
  readonly name: string;
  /** Part of `bun run test`; the others have a command of their own, `bun run test:NAME`. */
  readonly fast: boolean;
  /** The full run fails when the lane is empty. */
  readonly required: boolean;
  /** Limit of one test. Generous: the machine may be small and shared; a limit is for tests that hang, not for slow ones. */
  readonly testTimeoutMs: number;
  /** Files one after another, for lanes that start whole processes or measure time. */
  readonly serial: boolean;
}

/** Every lane but e2e, which is not vitest's: programs run.ts below test/e2e, since it brings clients in other languages. */
export const lanes: readonly Lane[] = [
  { name: 'unit', fast: true, required: true, testTimeoutMs: 20_000, serial: false },
  { name: 'property', fast: true, required: true, testTimeoutMs: 60_000, serial: false },
  { name: 'simulation', fast: true, required: false, testTimeoutMs: 60_000, serial: false },
  { name: 'regression', fast: true, required: false, testTimeoutMs: 60_000, serial: false },
  { name: 'architecture', fast: true, required: true, testTimeoutMs: 60_000, serial: false },
  { name: 'conformance', fast: true, required: true, testTimeoutMs: 60_000, serial: true },
  { name: 'fuzz', fast: false, required: true, testTimeoutMs: 240_000, serial: true },
  { name: 'replay', fast: false, required: true, testTimeoutMs: 240_000, serial: true },
  { name: 'crash', fast: false, required: true, testTimeoutMs: 600_000, serial: true },
];
