/** What rooms log through; the real one is LogTape in telemetry/. Values must be free of secrets. */
export interface Logger {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void;
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
  error(message: string, fields?: Readonly<Record<string, unknown>>): void;
}

/** Drops everything. */
export const noopLogger: Logger = { debug() {}, info() {}, warn() {}, error() {} };
