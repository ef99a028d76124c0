/**
 * A namespace: all that makes equal keys different KV. Over RESP it is read out of the key (protocol/lmcache-key.ts); the key
 * bytes that remain name a chunk inside it, and `keyPrefix + key + keyTail` is the client's own spelling again.
 */
export type KeyGrammar = 'object-key' | 'cache-engine-key' | 'opaque';

export interface NamespaceDescriptor {
  readonly grammar: KeyGrammar;
  /** cache_salt, or 'default'. A secret: logs and metrics show a digest. */
  readonly tenant: string;
  /** '' for opaque keys. */
  readonly model: string;
  /** kv_rank (8 hex digits) or `worldSize/workerId`; '' for opaque keys. Opaque to us. */
  readonly rank: string;
  /** Object group id in hex; '' where the grammar has none. */
  readonly group: string;
  /** '' where the grammar has none. */
  readonly dtype: string;
  /** Layer id of a layer-wise key; '' otherwise. */
  readonly layer: string;
  /** `lmcache.tag.*` values in the order of the key. */
  readonly tags: Readonly<Record<string, string>>;
  /** Client's spelling before the chunk's own key bytes. */
  readonly keyPrefix: string;
  /** Client's spelling after them (salt, dtype, layer, tags). */
  readonly keyTail: string;
}

export const DEFAULT_TENANT = 'default';

/** Two descriptors name the same namespace exactly if these strings are equal. */
export function namespaceIdentity(descriptor: NamespaceDescriptor): string {
  return `${descriptor.grammar}\u0000${descriptor.tenant}\u0000${descriptor.keyPrefix}\u0000${descriptor.keyTail}`;
}
