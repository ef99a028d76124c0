/**
 * What people and programs see in place of a cache_salt, which is a secret: its digest (tenant-digest.ts), wherever it stands: as a
 * tenant, in a namespace's label and descriptor, in a key.
 */
import { DEFAULT_TENANT, isCredentialTenant, saltOf } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { parseKey } from '#protocol/lmcache-key.ts';
import { tenantDigest } from './tenant-digest.ts';

/** What `tenantDigest` makes of a salt. */
export const digestShape = /^t-[0-9a-f]{12}$/;
/** The start of an object key up to and with the `@` before its salt. */
const beforeSalt = /^((?:[^@]*@){1,2}[0-9a-f]{8}@[0-9a-f]{1,8}@-?[0-9a-f]+@)(.+)$/is;
const encoder = new TextEncoder();

/** A descriptor's tenant; names of tenants with a token and `default` are no secrets. */
export function shownTenant(tenant: string): string {
  return tenant === '' ? tenant : tenantDigest(tenant);
}

/** `#salt`, `#@name`, `#@name/salt` behind the first `#` of a label; a model may hold a `#` too, and then more is hidden than must be. */
export function shownLabel(label: string): string {
  const at = label.indexOf('#');
  return at < 0 ? label : `${label.slice(0, at)}#${shownOwner(label.slice(at + 1))}`;
}

function shownOwner(owner: string): string {
  if (!isCredentialTenant(owner)) return shownTenant(owner);
  const slash = owner.indexOf('/');
  return slash < 0 ? owner : `${owner.slice(0, slash)}/${tenantDigest(owner.slice(slash + 1))}`;
}

/** A whole key in the client's spelling, its salt by digest. */
export function shownKey(key: string): string {
  const parsed = parseKey(encoder.encode(key));
  if (parsed === 'too-long') return key;
  const salt = saltOf(parsed.descriptor);
  return salt === '' ? key : `${key.slice(0, key.length - salt.length)}${shownSalt(salt)}`;
}

/** As `shownKey` for the start of a key, which may end within the salt. */
export function shownKeyPrefix(prefix: string): string {
  return prefix.replace(beforeSalt, (_, head: string, salt: string) => `${head}${shownSalt(salt)}`);
}

/** A salt spelled `default` is another tenant than none, but no secret either. */
function shownSalt(salt: string): string {
  return salt === DEFAULT_TENANT ? salt : tenantDigest(salt);
}

export function shownDescriptor(descriptor: NamespaceDescriptor): NamespaceDescriptor {
  const salt = saltOf(descriptor);
  return { ...descriptor, tenant: shownTenant(descriptor.tenant), keyTail: salt === '' ? descriptor.keyTail : `@${shownSalt(salt)}` };
}
