/** What the process says when it ends. docs/cli.md prints the table; a test compares. */
import { errorTable, KvtierError, type ErrorCode } from '#core/errors.ts';

/** Done, and nothing was found. */
export const EXIT_OK = 0;
/** Done, and something was found: a mismatch by verify, a problem by doctor, a miss by lookup. */
export const EXIT_FOUND = 1;
/** The command line itself is wrong (EX_USAGE). */
export const EXIT_USAGE = 64;
/** A bug of kvtier (EX_SOFTWARE). */
export const EXIT_BUG = 70;
/** EX_TEMPFAIL. */
const EXIT_RETRY = 75;

/** The exit code of an error. Draining is a good end for the agent itself, but for a command it means: try again. */
export function exitCodeOf(error: unknown): number {
  if (!(error instanceof KvtierError)) return EXIT_BUG;
  return error.code === 'SHUTTING_DOWN' ? EXIT_RETRY : errorTable[error.code].exit;
}

export interface ExitRow {
  readonly exit: number;
  readonly codes: readonly ErrorCode[];
  readonly meaning: string;
}

/** All codes in ascending order, each with the errors that lead to it. */
export function exitTable(): readonly ExitRow[] {
  const rows = new Map<number, ErrorCode[]>();
  for (const code of Object.keys(errorTable) as ErrorCode[]) {
    const exit = exitCodeOf(new KvtierError(code, ''));
    rows.set(exit, [...(rows.get(exit) ?? []), code]);
  }
  const errors = [...rows].map(([exit, codes]): ExitRow => {
    const meanings = codes.map((code) => errorTable[code].meaning);
    return {
      exit,
      codes,
      meaning: [...(exit === EXIT_USAGE ? ['The command, a flag or an argument is wrong'] : []), ...meanings].join('; '),
    };
  });
  const own: readonly ExitRow[] = [
    { exit: EXIT_OK, codes: [], meaning: 'Done. `serve`: stopped as asked' },
    { exit: EXIT_FOUND, codes: [], meaning: 'Done, and something was found: `verify` a mismatch, `doctor` a problem, `lookup` a miss' },
  ];
  return [...own, ...errors].sort((left, right) => left.exit - right.exit);
}
