/**
 * The cache without its secrets: CacheControl whose answers name cache salts by digest, and whose questions may do so too, so that
 * what a listing shows can be asked for and taken away again. A method that CacheControl gains does not compile until somebody
 * decides here what of it is shown.
 */
import type {
  CacheControl,
  ChunkFilter,
  ChunkInfo,
  KeyOwner,
  LookupAnswer,
  NamespaceStats,
  PinMode,
  PinOptions,
  PrefetchOptions,
  VerifyProgress,
} from '#cache/control.ts';
import { KvtierError } from '#core/errors.ts';
import { saltOf } from '#core/namespace.ts';
import type { Selector } from '#core/selector.ts';
import { digestShape, shownDescriptor, shownKey, shownKeyPrefix, shownLabel, shownTenant } from '#telemetry/shown-names.ts';
import { tenantDigest } from '#telemetry/tenant-digest.ts';

type Invalidations = Awaited<ReturnType<CacheControl['invalidations']>>;

const digestAtEnd = /^(.*@)(t-[0-9a-f]{12})$/s;

export class ShownControl implements CacheControl {
  readonly #control: CacheControl;

  constructor(control: CacheControl) {
    this.#control = control;
  }

  stats(): ReturnType<CacheControl['stats']> {
    return this.#control.stats();
  }

  namespaces(): readonly NamespaceStats[] {
    return this.#control
      .namespaces()
      .map((namespace) => ({ ...namespace, label: shownLabel(namespace.label), descriptor: shownDescriptor(namespace.descriptor) }));
  }

  chunks(filter: ChunkFilter, page: Parameters<CacheControl['chunks']>[1]): ReturnType<CacheControl['chunks']> {
    const { chunks, cursor } = this.#control.chunks(this.#meant(filter), page);
    return { chunks: chunks.map(shownChunk), cursor };
  }

  chunk(id: string): ChunkInfo | undefined {
    const found = this.#control.chunk(id);
    return found === undefined ? undefined : shownChunk(found);
  }

  /** Keys come back as they were asked for. */
  lookup(keys: readonly string[], owner?: KeyOwner): readonly LookupAnswer[] {
    const answers = this.#control.lookup(this.#meantKeys(keys), owner);
    return answers.map((answer, index) => ({ ...answer, key: keys[index] ?? '' }));
  }

  prefetch(keys: readonly string[], options?: PrefetchOptions): ReturnType<CacheControl['prefetch']> {
    return this.#control.prefetch(this.#meantKeys(keys), options);
  }

  persist(selector: Selector): ReturnType<CacheControl['persist']> {
    return this.#control.persist(this.#meant(selector));
  }

  evict(tier: 'hbm' | 'ram' | 'ssd', selector: Selector): ReturnType<CacheControl['evict']> {
    return this.#control.evict(tier, this.#meant(selector));
  }

  pin(selector: Selector, mode: PinMode, options?: PinOptions): ReturnType<CacheControl['pin']> {
    return this.#control.pin(this.#meant(selector), mode, options);
  }

  unpin(selector: Selector): ReturnType<CacheControl['unpin']> {
    return this.#control.unpin(this.#meant(selector));
  }

  quotas(): ReturnType<CacheControl['quotas']> {
    return this.#control.quotas().map((quota) => ({ ...quota, tenant: shownTenant(quota.tenant) }));
  }

  /** Errors: NOT_FOUND for a digest of no salt that has chunks or a quota: a limit for the wrong tenant would be none. */
  async setQuota(tenant: string, quota: Parameters<CacheControl['setQuota']>[1]): ReturnType<CacheControl['setQuota']> {
    await this.#control.setQuota(this.#meantTenant(tenant), quota);
  }

  #meantTenant(name: string): string {
    if (!digestShape.test(name)) return name;
    const known = [
      ...this.#control.namespaces().map(({ descriptor }) => descriptor.tenant),
      ...this.#control.quotas().map(({ tenant }) => tenant),
    ];
    const meant = known.find((tenant) => tenant === name || shownTenant(tenant) === name);
    if (meant === undefined) throw unknownDigest();
    return meant;
  }

  /**
   * Errors: NOT_FOUND for a digest of no salt that has chunks now. To answer that nothing matched would be final, and wrong where the
   * salt's first chunk is on its way or its file is not adopted yet; the salt itself always works.
   */
  async invalidate(selector: Selector, options: Parameters<CacheControl['invalidate']>[1]): ReturnType<CacheControl['invalidate']> {
    const meant = this.#meant(selector);
    const keys = [...(meant.keys ?? []), ...(meant.chainFrom === undefined ? [] : [meant.chainFrom])];
    const unknown = [meant.tenant ?? '', ...keys.map((key) => digestAtEnd.exec(key)?.[2] ?? ''), ownerDigest(meant.namespace)];
    if (unknown.some((name) => digestShape.test(name) && !this.#isSalt(name))) throw unknownDigest();
    return await this.#control.invalidate(meant, options);
  }

  async invalidations(page: Parameters<CacheControl['invalidations']>[0]): Promise<Invalidations> {
    const rows = await this.#control.invalidations(page);
    return rows.map((row) => ({ ...row, selector: shownSelector(row.selector) }));
  }

  bumpEpoch(model: string, options: Parameters<CacheControl['bumpEpoch']>[1]): ReturnType<CacheControl['bumpEpoch']> {
    return this.#control.bumpEpoch(model, options);
  }

  epochs(): ReturnType<CacheControl['epochs']> {
    return this.#control.epochs();
  }

  async *verify(): AsyncIterable<VerifyProgress> {
    for await (const progress of this.#control.verify())
      yield { ...progress, mismatches: progress.mismatches.map((mismatch) => ({ ...mismatch, key: shownKey(mismatch.key) })) };
  }

  #isSalt(name: string): boolean {
    return this.#control.namespaces().some(({ descriptor }) => descriptor.tenant === name || saltOf(descriptor) === name);
  }

  /** The same with salts in place of their digests, where chunks of them are known. */
  #meant<T extends Selector | ChunkFilter>(selector: T): T {
    const { tenant, namespace } = selector;
    const { keys, chainFrom } = selector as Selector;
    if (!digestShape.test(tenant ?? '') && ownerDigest(namespace) === '' && keys === undefined && chainFrom === undefined) return selector;
    const known = this.#control.namespaces();
    return {
      ...selector,
      ...(tenant === undefined
        ? {}
        : { tenant: known.find(({ descriptor }) => shownTenant(descriptor.tenant) === tenant)?.descriptor.tenant ?? tenant }),
      ...(namespace === undefined ? {} : { namespace: known.find(({ label }) => shownLabel(label) === namespace)?.label ?? namespace }),
      ...(keys === undefined ? {} : { keys: this.#meantKeys(keys) }),
      ...(chainFrom === undefined ? {} : { chainFrom: this.#meantKeys([chainFrom])[0] ?? chainFrom }),
    };
  }

  #meantKeys(keys: readonly string[]): readonly string[] {
    if (!keys.some((key) => digestAtEnd.test(key))) return keys;
    const salts = new Map<string, string>();
    for (const { descriptor } of this.#control.namespaces()) {
      const salt = saltOf(descriptor);
      if (salt !== '') salts.set(tenantDigest(salt), salt);
    }
    return keys.map((key) => {
      const match = digestAtEnd.exec(key);
      const salt = match === null ? undefined : salts.get(match[2] ?? '');
      return salt === undefined ? key : `${match?.[1] ?? ''}${salt}`;
    });
  }
}

function unknownDigest(): KvtierError {
  return new KvtierError('NOT_FOUND', 'Cannot tell whom the digest means: no chunk of that tenant is known; name the salt itself');
}

function ownerDigest(label: string | undefined): string {
  const owner = label === undefined ? '' : label.slice(label.indexOf('#') + 1);
  const name = owner.slice(owner.indexOf('/') + 1);
  return label?.includes('#') === true && digestShape.test(name) ? name : '';
}

function shownChunk(chunk: ChunkInfo): ChunkInfo {
  return { ...chunk, key: shownKey(chunk.key), namespace: shownLabel(chunk.namespace), tenant: shownTenant(chunk.tenant) };
}

function shownSelector(selector: Selector): Selector {
  const { tenant, namespace, keys, chainFrom, keyPrefix } = selector;
  return {
    ...selector,
    ...(tenant === undefined ? {} : { tenant: shownTenant(tenant) }),
    ...(namespace === undefined ? {} : { namespace: shownLabel(namespace) }),
    ...(keys === undefined ? {} : { keys: keys.map(shownKey) }),
    ...(chainFrom === undefined ? {} : { chainFrom: shownKey(chainFrom) }),
    ...(keyPrefix === undefined ? {} : { keyPrefix: shownKeyPrefix(keyPrefix) }),
  };
}
