/** Those who want to hear of chunks that come and go. */
import type { EntryIndex } from '#core/brand.ts';
import type { ChunkIndex } from './chunk-index.ts';
import type { ChunkListener } from './door.ts';
import type { NamespaceTable } from './namespace-table.ts';

export class ChunkWatchers {
  readonly #parts: { readonly index: ChunkIndex; readonly namespaces: NamespaceTable };
  readonly #listeners = new Set<ChunkListener>();

  constructor(parts: { readonly index: ChunkIndex; readonly namespaces: NamespaceTable }) {
    this.#parts = parts;
  }

  /** Until the answered function is called. */
  add(listener: ChunkListener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  tell(kind: 'stored' | 'removed', entry: EntryIndex): void {
    if (this.#listeners.size === 0) return;
    const { index, namespaces } = this.#parts;
    const namespace = namespaces.descriptor(index.namespaceOf(entry));
    for (const listener of this.#listeners) listener(kind, namespace, index.keyOf(entry));
  }
}
