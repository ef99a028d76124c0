/** Room for a value whose place in a chain the client has told of: it does not push out the chain that it continues. */
import type { CacheDoor, PutRejected, PutRequest, PutTicket } from '#cache/door.ts';
import type { ChainInference } from './chain-inference.ts';

/**
 * As CacheDoor.reserve; what gives way where a tier is full of one chain are its later chunks. 'wait': a later one is being stored; look
 * again after `inference.nextSettled()`. A ticket must be told of to `inference.settled` when it is committed or aborted.
 */
export function reserveInChain(
  cache: CacheDoor,
  inference: ChainInference,
  put: Pick<PutRequest, 'namespace' | 'key' | 'sizeBytes'>,
): PutTicket | PutRejected | Promise<PutTicket | PutRejected> | 'wait' {
  const { namespace, key } = put;
  const spare = inference.spareFor(namespace, key);
  const request = { ...put, ...(spare === undefined ? {} : { spare }) };
  let onlyOwn = false;
  for (;;) {
    const reserved = cache.reserve(onlyOwn ? { ...request, onlyOwn } : request);
    if (reserved instanceof Promise) return reserved;
    if (reserved.kind === 'ticket') inference.opened(reserved, namespace, key);
    if (reserved.kind === 'ticket' || reserved.reason !== 'own-chain') return reserved;
    if (giveUpOne(cache, inference, put)) {
      onlyOwn ||= reserved.atQuota === true;
      continue;
    }
    return inference.laterIsOpen(namespace, key) ? 'wait' : reserved;
  }
}

/** Gives up the last chunk of this key's chain that nobody uses. False: none may go. */
function giveUpOne(cache: CacheDoor, inference: ChainInference, { namespace, key }: Pick<PutRequest, 'namespace' | 'key'>): boolean {
  for (const later of inference.sacrificesFor(namespace, key)) if (cache.giveUp(later)) return true;
  return false;
}
