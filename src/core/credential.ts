/**
 * Who a token makes of its bearer. Everything that a door does for a tenant is narrowed to it: its keys are its own, those of
 * others do not exist for it.
 */
export type Role = 'admin' | 'read' | 'tenant';

export interface Credential {
  readonly role: Role;
  /** As `NamespaceDescriptor.tenant` (`@name`) for a tenant; undefined for those who see everything. */
  readonly tenant: string | undefined;
}

/** Where no token is configured. */
export const OPEN_CREDENTIAL: Credential = { role: 'admin', tenant: undefined };

/** The credential of a token, undefined for a wrong one. Takes the same time whichever token it is compared with. */
export type Authenticate = (token: Uint8Array | string) => Credential | undefined;
