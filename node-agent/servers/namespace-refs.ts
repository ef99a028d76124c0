/** The namespaces that a connection used lately: one reference to each, so that keys of one model are not interned again and again. */
import type { CacheDoor } from '#cache/door.ts';
import type { NamespaceId } from '#core/brand.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';

const MAX_REFS = 16;

export class NamespaceRefs {
  readonly #cache: CacheDoor;
  readonly #ids = new Map<NamespaceDescriptor, NamespaceId>();

  constructor(cache: CacheDoor) {
    this.#cache = cache;
  }

  /** Valid until `release`, or until this was asked for MAX_REFS others. */
  id(descriptor: NamespaceDescriptor): NamespaceId {
    const known = this.#ids.get(descriptor);
    if (known !== undefined) return known;
    if (this.#ids.size >= MAX_REFS) this.release();
    const id = this.#cache.internNamespace(descriptor);
    this.#ids.set(descriptor, id);
    return id;
  }

  release(): void {
    for (const id of this.#ids.values()) this.#cache.releaseNamespace(id);
    this.#ids.clear();
  }
}
