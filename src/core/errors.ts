/**
 * Operating errors: expected trouble with the host, the input or the state of the process. Outcomes (hit, miss, rejected)
 * are values and never thrown; bugs are InvariantError (assert.ts).
 */

/**
 * The closed list of codes with what each becomes at the doors. One table: a test freezes it and docs/errors.md prints it.
 * `http` is the status of a problem+json reply, `exit` the process exit code where the error is fatal at start.
 */
export const errorTable = {
  CONFIG_INVALID: { http: 400, exit: 78, retryable: false, meaning: 'A flag, variable or file value is unknown or impossible' },
  CATALOG_SCHEMA_NEWER: { http: 500, exit: 65, retryable: false, meaning: 'The catalog was written by a newer kvtier' },
  DATA_DIR_LOCKED: { http: 409, exit: 73, retryable: false, meaning: 'Another agent owns the data directory' },
  ADDRESS_IN_USE: { http: 409, exit: 75, retryable: true, meaning: 'A door cannot listen on its address' },
  SHARED_MEMORY_UNAVAILABLE: { http: 503, exit: 71, retryable: false, meaning: 'Shared memory cannot be created or backed' },
  IO_FAILED: { http: 503, exit: 74, retryable: true, meaning: 'A file or socket operation failed' },
  NO_SPACE: { http: 507, exit: 74, retryable: true, meaning: 'A tier or its file system is full' },
  DEVICE_FAILED: { http: 503, exit: 71, retryable: true, meaning: 'A call of the GPU driver failed' },
  TIER_UNAVAILABLE: { http: 503, exit: 74, retryable: true, meaning: 'The tier is off, read-only or not configured' },
  DEVICE_UNAVAILABLE: { http: 503, exit: 72, retryable: false, meaning: 'A GPU that is required cannot be used, or not as asked' },
  BAD_REQUEST: { http: 400, exit: 64, retryable: false, meaning: 'The request is malformed or not allowed' },
  UNAUTHORIZED: { http: 401, exit: 77, retryable: false, meaning: 'A token is missing or wrong' },
  FORBIDDEN: { http: 403, exit: 77, retryable: false, meaning: 'The token does not allow this' },
  NOT_FOUND: { http: 404, exit: 66, retryable: false, meaning: 'The object does not exist' },
  METHOD_NOT_ALLOWED: { http: 405, exit: 64, retryable: false, meaning: 'The path exists but does not take this method' },
  UNSUPPORTED_MEDIA_TYPE: { http: 415, exit: 64, retryable: false, meaning: 'The body is not application/json' },
  PAYLOAD_TOO_LARGE: { http: 413, exit: 64, retryable: false, meaning: 'A body, key or value is over its limit' },
  OVERLOADED: { http: 503, exit: 69, retryable: true, meaning: 'A bounded queue is full' },
  SHUTTING_DOWN: { http: 503, exit: 0, retryable: true, meaning: 'The agent is draining' },
  JOURNAL_UNREADABLE: { http: 500, exit: 65, retryable: false, meaning: 'The journal is damaged; SSD contents are dropped' },
  INTERNAL: { http: 500, exit: 70, retryable: false, meaning: 'A bug of kvtier: an invariant is broken; the log says which' },
  CORRUPT: { http: 500, exit: 65, retryable: false, meaning: 'Stored bytes do not match their checksum or format' },
} as const;

export type ErrorCode = keyof typeof errorTable;
export type ErrorContext = Readonly<Record<string, string | number | boolean | bigint | undefined>>;

/** An operating error: a code from the closed list, whether a retry can help, and the values that matter. */
export class KvtierError extends Error {
  override readonly name = 'KvtierError';
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly context: ErrorContext;

  constructor(code: ErrorCode, message: string, options: { context?: ErrorContext; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = errorTable[code].retryable;
    this.context = options.context ?? {};
  }
}

/** An input that the caller must change. `message` names the action, what is, and what is wanted. */
export function badRequest(message: string, context: ErrorContext = {}): KvtierError {
  return new KvtierError('BAD_REQUEST', message, { context });
}

/** A failed system call. `errno` is the positive number of errno.h. */
export function ioFailed(action: string, errno: number, context: ErrorContext = {}): KvtierError {
  const name = errnoName(errno);
  const code: ErrorCode = name === 'ENOSPC' || name === 'EDQUOT' ? 'NO_SPACE' : 'IO_FAILED';
  return new KvtierError(code, `${action}: ${name}`, { context: { ...context, errno } });
}

/** A failed call of the GPU driver, where it is an exception and not a value: `failure.message` names the call and its arguments. */
export function deviceFailed(failure: { readonly code: number; readonly name: string; readonly message: string }): KvtierError {
  return new KvtierError('DEVICE_FAILED', failure.message, { context: { driverCode: failure.code, driverName: failure.name } });
}

const errnoNames: Readonly<Record<number, string>> = {
  1: 'EPERM',
  2: 'ENOENT',
  4: 'EINTR',
  5: 'EIO',
  9: 'EBADF',
  11: 'EAGAIN',
  12: 'ENOMEM',
  13: 'EACCES',
  14: 'EFAULT',
  16: 'EBUSY',
  17: 'EEXIST',
  20: 'ENOTDIR',
  21: 'EISDIR',
  22: 'EINVAL',
  23: 'ENFILE',
  24: 'EMFILE',
  27: 'EFBIG',
  28: 'ENOSPC',
  30: 'EROFS',
  32: 'EPIPE',
  36: 'ENAMETOOLONG',
  39: 'ENOTEMPTY',
  95: 'EOPNOTSUPP',
  98: 'EADDRINUSE',
  104: 'ECONNRESET',
  107: 'ENOTCONN',
  110: 'ETIMEDOUT',
  122: 'EDQUOT',
};

/** `ENOSPC` for 28; `errno 999` for a number without a name here. */
export function errnoName(errno: number): string {
  return errnoNames[errno] ?? `errno ${errno}`;
}
