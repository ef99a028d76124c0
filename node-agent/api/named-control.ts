/**
 * The cache as people name its tenants: CacheControl whose questions may give the bare name of a tenant that has a token, which means that
 * tenant (`@name`) and not the salt of that name; the salt is `salt@name`. See `meantTenant`. Answers are as they were. A method that
 * CacheControl gains does not compile until somebody decides here which names it takes.
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
} from '#cache/control.ts';
import { isCredentialTenant, meantTenant, tenantOfCredential } from '#core/namespace.ts';
import type { Selector } from '#core/selector.ts';
import { digestShape } from '#telemetry/shown-names.ts';

/** Whom a name means where `configured` have a token. A salt's digest is never the name of one of them. */
export function tenantNamed(name: string, configured: ReadonlyMap<string, unknown> | undefined): string {
  return meantTenant(name, (bare) => configured?.has(bare) === true && !digestShape.test(bare));
}

export class NamedControl implements CacheControl {
  readonly #control: CacheControl;
  readonly #configured: ReadonlyMap<string, unknown> | undefined;

  constructor(control: CacheControl, configured: ReadonlyMap<string, unknown> | undefined) {
    this.#control = control;
    this.#configured = configured;
  }

  stats(): ReturnType<CacheControl['stats']> {
    return this.#control.stats();
  }

  namespaces(): readonly NamespaceStats[] {
    return this.#control.namespaces();
  }

  chunks(filter: ChunkFilter, page: Parameters<CacheControl['chunks']>[1]): ReturnType<CacheControl['chunks']> {
    return this.#control.chunks(this.#meant(filter), page);
  }

  chunk(id: string): ChunkInfo | undefined {
    return this.#control.chunk(id);
  }

  lookup(keys: readonly string[], owner: KeyOwner = {}): readonly LookupAnswer[] {
    return this.#control.lookup(keys, this.#owner(owner));
  }

  prefetch(keys: readonly string[], options: PrefetchOptions = {}): ReturnType<CacheControl['prefetch']> {
    return this.#control.prefetch(keys, this.#owner(options));
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
    return this.#control.quotas();
  }

  setQuota(tenant: string, quota: Parameters<CacheControl['setQuota']>[1]): ReturnType<CacheControl['setQuota']> {
    return this.#control.setQuota(tenantNamed(tenant, this.#configured), quota);
  }

  invalidate(selector: Selector, options: Parameters<CacheControl['invalidate']>[1]): ReturnType<CacheControl['invalidate']> {
    return this.#control.invalidate(this.#meant(selector), options);
  }

  invalidations(page: Parameters<CacheControl['invalidations']>[0]): ReturnType<CacheControl['invalidations']> {
    return this.#control.invalidations(page);
  }

  bumpEpoch(model: string, options: Parameters<CacheControl['bumpEpoch']>[1]): ReturnType<CacheControl['bumpEpoch']> {
    return this.#control.bumpEpoch(model, options);
  }

  epochs(): ReturnType<CacheControl['epochs']> {
    return this.#control.epochs();
  }

  verify(): ReturnType<CacheControl['verify']> {
    return this.#control.verify();
  }

  #meant<T extends Selector | ChunkFilter>(selector: T): T {
    const { tenant } = selector;
    return tenant === undefined ? selector : { ...selector, tenant: tenantNamed(tenant, this.#configured) };
  }

  /** Whose keys these are: a salt is part of its keys, so a bare name means a tenant with a token, whether there is one or not. */
  #owner<T extends KeyOwner>(owner: T): T {
    const { tenant } = owner;
    return tenant === undefined || isCredentialTenant(tenant) ? owner : { ...owner, tenant: tenantOfCredential(tenant) };
  }
}
