/** Chunks and invalidations for catalog tests. */
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { CatalogChunk, CatalogInvalidation, CatalogLoad } from '#ports/catalog-store.ts';

export const llama: NamespaceDescriptor = {
  grammar: 'object-key',
  tenant: 'default',
  model: 'meta-llama/Llama-3.3-70B-Instruct',
  rank: '00010000',
  group: '0',
  dtype: '',
  layer: '',
  tags: {},
  keyPrefix: 'meta-llama/Llama-3.3-70B-Instruct@00010000@',
  keyTail: '@0',
};

export const opaque: NamespaceDescriptor = {
  grammar: 'opaque',
  tenant: 'acme',
  model: '',
  rank: '',
  group: '',
  dtype: '',
  layer: '',
  tags: {},
  keyPrefix: '',
  keyTail: '',
};

export function makeChunk(generation: number, fields: Partial<CatalogChunk> = {}): CatalogChunk {
  return {
    generation,
    namespace: llama,
    key: new TextEncoder().encode(`key-${generation}`),
    sizeBytes: 4096 * (generation % 1000),
    checksum: BigInt.asUintN(64, BigInt(generation) * 0x0123_4567_89ab_cdefn),
    createdAtMs: 1_700_000_000_000 + generation,
    expiresAtMs: generation % 3 === 0 ? 1_900_000_000_000 + generation : 0,
    lastUsedAtMs: 1_700_000_100_000 + generation,
    hitCount: generation % 5,
    parentGeneration: undefined,
    tokenCount: 256,
    redisMetadata: undefined,
    lmBlock: undefined,
    replicas: [{ tier: 'ssd', folder: 'a1', dirty: false }],
    ...fields,
  };
}

export function makeInvalidation(generation: number, fields: Partial<CatalogInvalidation> = {}): CatalogInvalidation {
  return {
    id: `inv-${String(generation).padStart(6, '0')}`,
    atMs: 1_700_000_200_000 + generation,
    generation,
    selector: { model: 'meta-llama/Llama-3.3-70B-Instruct' },
    reason: 'new weights',
    actor: 'admin',
    matchedChunks: generation,
    removedBytes: generation * 4096,
    ...fields,
  };
}

export async function readAll(load: CatalogLoad): Promise<CatalogChunk[]> {
  const chunks: CatalogChunk[] = [];
  for await (const page of load.chunks) chunks.push(...page);
  return chunks;
}
