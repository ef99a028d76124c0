/** What the front and the agent say to each other: docs/formats/front.md. Whatever is not exactly one of these is no message. */

export type FrontMessage =
  /** `host` and `port` may be missing where `format` is another one than ours. */
  | { readonly type: 'hello'; readonly format: number; readonly host?: string; readonly port?: number }
  | { readonly type: 'connection'; readonly slot: number; readonly serial: number }
  | { readonly type: 'closed'; readonly slot: number; readonly serial: number };

const decoder = new TextDecoder('utf-8', { fatal: true });

/** Undefined for bytes that are none of our messages, or came with a wrong number of descriptors. */
export function parseFrontMessage(bytes: Uint8Array, descriptorCount: number): FrontMessage | undefined {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(bytes));
  } catch (problem) {
    // Not UTF-8, not JSON: whoever sent it is no kvtier, or its message was cut.
    if (problem instanceof SyntaxError || problem instanceof TypeError) return undefined;
    throw problem;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { type, format, host, port, slot, serial } = value as Readonly<Record<string, unknown>>;
  if (descriptorCount !== (type === 'connection' ? 1 : 0)) return undefined;
  if (type === 'hello') {
    if (!isCount(format)) return undefined;
    return { type, format, ...(typeof host === 'string' ? { host } : {}), ...(isCount(port) && port < 65_536 ? { port } : {}) };
  }
  return (type === 'connection' || type === 'closed') && isCount(slot) && isCount(serial) ? { type, slot, serial } : undefined;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
