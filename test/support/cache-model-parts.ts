/** What the cache model (cache-model.ts) keeps of each operation. */
import type { PutTicket, ReadHandle } from '#cache/door.ts';
import type { Selector } from '#core/selector.ts';

export interface Value {
  readonly id: number;
  readonly sizeBytes: number;
  readonly createdAtMs: number;
  /** Number of the step that committed it. */
  readonly order: number;
}

export interface Key {
  readonly name: string;
  /** The value that the next read may give; undefined: only a miss. */
  current: Value | undefined;
}

export interface Put {
  readonly key: Key;
  readonly sizeBytes: number;
  readonly id: number;
  readonly startedAtMs: number;
  /** An invalidation that matches it began after it and was acknowledged. */
  doomed: boolean;
  ticket: PutTicket | undefined;
}

export interface Read {
  readonly key: Key;
  /** Values that were current at some moment since the call. */
  readonly candidates: (Value | undefined)[];
}

export interface Held {
  readonly key: Key;
  readonly handle: ReadHandle;
  readonly value: Value;
}

export interface Invalidation {
  readonly selector: Selector;
  /** Values that it must have removed when it is acknowledged, by key. */
  readonly doomed: Map<Key, Value>;
}

export interface LeaseClaim {
  readonly value: Value;
  readonly owner: number;
  readonly untilMs: number;
}

const HASH = 'a1b2c3d4e5f60718';

/** Keys of several namespaces: two models, a salted tenant, an opaque one. */
export function keyName(index: number): string {
  const hash = `${HASH}${index.toString(16).padStart(16, '0')}`;
  if (index % 4 === 0) return `opaque-${index}`;
  if (index % 4 === 1) return `model-a@00000001@${hash}`;
  if (index % 4 === 2) return `model-b@00000001@${hash}`;
  return `model-a@00000001@${hash}@salt`;
}
