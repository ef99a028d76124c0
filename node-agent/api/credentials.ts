/** Tokens and whom they stand for: the one place that compares them, for HTTP and RESP alike. */
import { createHash, timingSafeEqual } from 'node:crypto';
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
