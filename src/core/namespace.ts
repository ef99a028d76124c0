/**
 * A namespace: all that makes equal keys different KV. Over RESP it is read out of the key (protocol/lmcache-key.ts); the key
 * bytes that remain name a chunk inside it, and `keyPrefix + key + keyTail` is the client's own spelling again.
 */
export type KeyGrammar = 'object-key' | 'cache-engine-key' | 'opaque' | 'native';

export interface NamespaceDescriptor {
  readonly grammar: KeyGrammar;
  /**
   * Who owns it, and so who may see it: the name behind a tenant token as `tenantOfCredential` spells it, else the cache_salt, else
   * 'default'. A salt is a secret: logs and metrics show a digest. Quotas, selectors and statistics go by this text.
   */
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
/**
 * Begins the tenant of a connection that has a tenant token. `@` separates the fields of a key, so that no salt can hold it: a salt
 * that is spelled like a tenant's name is another tenant. Files, journal and catalog keep the text as it is.
 */
const CREDENTIAL_SIGIL = '@';
/** Before the name of a salt, where a person wants no tenant with a token. */
const SALT_WORD = 'salt@';
/** Names of tenants with a token: no path characters, no upper case (two names would differ in it alone), at most 64 characters. */
export const tenantNameShape = /^[a-z0-9][a-z0-9._-]{0,63}$/;

/** `@name`: the tenant of all that is stored with the token of `name`, whatever its salts. */
export function tenantOfCredential(name: string): string {
  return `${CREDENTIAL_SIGIL}${name}`;
}

/**
 * Whom a person means who names a tenant in an order, a filter or a setting: the bare name of a tenant with a token means that tenant, as
 * `@name` does; `salt@name` means the salt, whoever has a token, since no salt holds `@`; any other text is the tenant itself.
 */
export function meantTenant(name: string, hasToken: (name: string) => boolean): string {
  if (name.startsWith(SALT_WORD) && name.length > SALT_WORD.length) return name.slice(SALT_WORD.length);
  return hasToken(name) ? tenantOfCredential(name) : name;
}

/** How an order names the tenant of a salt, whoever has a token. */
export function saltAsTenant(salt: string): string {
  return `${SALT_WORD}${salt}`;
}

/** True for what `tenantOfCredential` makes: such a tenant is configured and no secret. */
export function isCredentialTenant(tenant: string): boolean {
  return tenant.startsWith(CREDENTIAL_SIGIL);
}

/** The cache_salt in the client's spelling of the keys; '' where there is none. Only object keys and native ones have one. */
export function saltOf({ grammar, keyTail }: Pick<NamespaceDescriptor, 'grammar' | 'keyTail'>): string {
  return (grammar === 'object-key' || grammar === 'native') && keyTail.startsWith('@') ? keyTail.slice(1) : '';
}

/**
 * Two descriptors name the same namespace exactly if these strings are equal. The owner is in `tenant`; a salt inside of a tenant
 * with a token is in `keyTail`.
 */
export function namespaceIdentity(descriptor: NamespaceDescriptor): string {
  return `${descriptor.grammar}\u0000${descriptor.tenant}\u0000${descriptor.keyPrefix}\u0000${descriptor.keyTail}`;
}
