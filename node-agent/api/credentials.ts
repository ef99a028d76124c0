/** Tokens and whom they stand for: the one place that compares them, for HTTP and RESP alike. */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { Authenticate, Credential } from '#core/credential.ts';
import { tenantOfCredential } from '#core/namespace.ts';

export interface Tokens {
  readonly admin?: string | undefined;
  readonly read?: string | undefined;
  /** Name -> token. */
  readonly tenants?: ReadonlyMap<string, string>;
}

/** Undefined where no token is configured: everybody is admin, and the doors are bound to loopback. */
export function createAuthenticate({ admin, read, tenants = new Map() }: Tokens): Authenticate | undefined {
  const known: { readonly digest: Buffer; readonly credential: Credential }[] = [];
  if (admin !== undefined) known.push({ digest: digest(admin), credential: { role: 'admin', tenant: undefined } });
  if (read !== undefined) known.push({ digest: digest(read), credential: { role: 'read', tenant: undefined } });
  for (const [name, token] of tenants)
    known.push({ digest: digest(token), credential: { role: 'tenant', tenant: tenantOfCredential(name) } });
  return known.length === 0 ? undefined : (token) => match(known, digest(token));
}

/**
 * What may be kept of a token by a process that outlives this one, and whom it stands for now: an HMAC of its digest under a key that the
 * keeper drew, so that it is worth nothing without the keeper's memory and does not show which tokens are equal elsewhere.
 */
export function createResumption(
  { admin, read, tenants = new Map() }: Tokens,
  key: Uint8Array,
): { proofOf(token: Uint8Array | string): string; credentialOf(proof: string): Credential | undefined } {
  const proofOf = (token: Uint8Array | string): string => createHmac('sha256', key).update(digest(token)).digest('base64url').slice(0, 32);
  const known = new Map<string, Credential>();
  for (const [name, token] of tenants) known.set(proofOf(token), { role: 'tenant', tenant: tenantOfCredential(name) });
  if (read !== undefined) known.set(proofOf(read), { role: 'read', tenant: undefined });
  if (admin !== undefined) known.set(proofOf(admin), { role: 'admin', tenant: undefined });
  return { proofOf, credentialOf: (proof) => known.get(proof) };
}

/**
 * Compared as SHA-256 digests in constant time, so that neither length nor content shows in the time taken; and with every token
 * always, so that which of them matched does not show either.
 */
function match(known: readonly { readonly digest: Buffer; readonly credential: Credential }[], given: Buffer): Credential | undefined {
  let found: Credential | undefined;
  for (const { digest: wanted, credential } of known) if (timingSafeEqual(given, wanted)) found ??= credential;
  return found;
}

function digest(token: Uint8Array | string): Buffer {
  return createHash('sha256').update(token).digest();
}
