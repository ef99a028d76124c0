/** The flags that every bench command takes. */
export interface BenchFlags {
  /** Small parameters, a few seconds at most; numbers prove nothing but that the program runs. */
  readonly smoke: boolean;
  /** Where the report goes as JSON; undefined: nowhere. */
  readonly jsonPath: string | undefined;
  readonly seed: number;
}

const defaultFlags: BenchFlags = { smoke: false, jsonPath: undefined, seed: 1 };

/**
 * Reads `--smoke`, `--json FILE` and `--seed N`; exits with 64 and the usage on anything else. `name` is the script's, `own` its further flags,
 * which are not in `argv` any more.
 */
export function parseFlags(name: string, argv: readonly string[] = process.argv.slice(2), own = ''): BenchFlags {
  let { smoke, jsonPath, seed }: BenchFlags = defaultFlags;
  for (let at = 0; at < argv.length; at += 1) {
    const flag = argv[at];
    const value = argv[at + 1];
    if (flag === '--smoke') smoke = true;
    else if (flag === '--json' && value !== undefined) {
      jsonPath = value;
      at += 1;
    } else if (flag === '--seed' && value !== undefined && /^\d{1,9}$/.test(value)) {
      seed = Number(value);
      at += 1;
    } else {
      console.error(`Cannot use ${flag}: usage is bun run ${name} ${own}[--smoke] [--json FILE] [--seed N]`);
      process.exit(64);
    }
  }
  return { smoke, jsonPath, seed };
}
