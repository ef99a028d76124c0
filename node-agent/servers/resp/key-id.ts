import { namespaceIdentity } from '#core/namespace.ts';
import type { ParsedKey } from '#protocol/lmcache-key.ts';

const latin1 = new TextDecoder('latin1');

/** Names a key over all namespaces. By identity, not by namespace id: an id without chunks may be given to another namespace. */
export function keyId({ descriptor, key }: ParsedKey): string {
  return `${namespaceIdentity(descriptor)}\u0000${latin1.decode(key)}`;
}
