/** A lane of tests: the folder test/NAME, run as one vitest project. */
export interface Lane {
  readonly name: string;
  /** Part of `bun run test`; the others have a command of their own, `bun run test:NAME`. */
  readonly fast: boolean;
  /** Limit of one test. Generous: the machine may be small and shared; a limit is for tests that hang, not for slow ones. */
  readonly testTimeoutMs: number;
  /** Files one after another, for lanes that start whole processes or measure time. */
  readonly serial: boolean;
}

/** Every lane. A lane whose folder holds no test file yet is skipped; test/architecture fails on a test file outside the lanes. */
export const lanes: readonly Lane[] = [
  { name: 'unit', fast: true, testTimeoutMs: 20_000, serial: false },
  { name: 'property', fast: true, testTimeoutMs: 60_000, serial: false },
  { name: 'simulation', fast: true, testTimeoutMs: 60_000, serial: false },
  { name: 'regression', fast: true, testTimeoutMs: 60_000, serial: false },
  { name: 'architecture', fast: true, testTimeoutMs: 60_000, serial: false },
  { name: 'conformance', fast: true, testTimeoutMs: 60_000, serial: true },
  { name: 'crash', fast: false, testTimeoutMs: 600_000, serial: true },
  { name: 'e2e', fast: false, testTimeoutMs: 1_200_000, serial: true },
];
