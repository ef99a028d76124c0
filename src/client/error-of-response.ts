import { KvtierError, type ErrorCode } from '#core/errors.ts';
import { problemSchema } from '#protocol/rest/problem.ts';

/** Used where the body is no problem of ours: a proxy in between, or a newer agent with a code that this client does not know. */
const codeOfStatus: Readonly<Record<number, ErrorCode>> = {
  400: 'BAD_REQUEST',
  401: 'UNAUTHORIZED',
  403: 'FORBIDDEN',
  404: 'NOT_FOUND',
  405: 'METHOD_NOT_ALLOWED',
  413: 'PAYLOAD_TOO_LARGE',
  415: 'UNSUPPORTED_MEDIA_TYPE',
  500: 'INTERNAL',
  503: 'OVERLOADED',
  507: 'NO_SPACE',
};

/** The KvtierError that a failed answer stands for; consumes the body. `action` is what was asked, for the message. */
export async function errorOfResponse(action: string, response: Response): Promise<KvtierError> {
  const context = { status: response.status };
  const text = await response.text().then(undefined, () => ''); // A body that breaks tells less, the status still stands.
  const problem = problemSchema.safeParse(parseJson(text));
  if (problem.success) {
    const fields = (problem.data.errors ?? []).map(({ path, message }) => (path === '' ? message : `${path}: ${message}`));
    return new KvtierError(problem.data.code, [problem.data.detail, ...fields].join('; '), { context });
  }
  const code = codeOfStatus[response.status] ?? 'IO_FAILED';
  return new KvtierError(code, `Cannot ${action}: the answer is status ${response.status} without a known problem`, { context });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // Not JSON, hence no problem of ours; the caller falls back to the status.
  }
}
