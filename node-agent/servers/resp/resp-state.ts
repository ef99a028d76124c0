/**
 * What a connection takes along from one process to the next: docs/formats/front.md. A token is never in it, only a proof that the next process
 * compares with those of its own tokens. Whoever was something else then, or would be something else now, is closed rather than changed.
 */
import type { Credential } from '#core/credential.ts';
import type { RespConnection } from './resp-connection.ts';

export interface Resumption {
  proofOf(token: Uint8Array): string;
  credentialOf(proof: string): Credential | undefined;
}

export function stateOfConnection(connection: RespConnection): string {
  const { commands, out, server } = connection;
  return JSON.stringify([
    server.options.tokensRequired ? 1 : 0,
    out.version,
    commands.looksLikeLmcache ? 1 : 0,
    commands.role ?? '',
    connection.tenant ?? '',
    connection.user,
    connection.proof,
    connection.clientName,
  ]);
}

/** False where the connection must not go on: its client would be somebody else. */
export function resumeConnection(connection: RespConnection, text: string): boolean {
  const parts = parse(text);
  if (parts === undefined) return false;
  const { options } = connection.server;
  const [required, version, isLmcache, role, tenant, user, proof, clientName] = parts;
  if ((required === 1) !== options.tokensRequired) return false;
  if (options.tokensRequired && role !== '') {
    const credential = options.resumption?.credentialOf(proof);
    if (credential === undefined || credential.role !== role || (credential.tenant ?? '') !== tenant) return false;
    connection.commands.role = credential.role;
    connection.identify(user, credential.tenant);
    connection.proof = proof;
  } else if (tenant === '') connection.identify(user, undefined);
  else return false;
  connection.out.version = version;
  connection.commands.looksLikeLmcache = isLmcache === 1;
  connection.clientName = clientName;
  return true;
}

type Parts = [
  required: 0 | 1,
  version: 2 | 3,
  isLmcache: 0 | 1,
  role: string,
  tenant: string,
  user: string,
  proof: string,
  clientName: string,
];

function parse(text: string): Parts | undefined {
  let parts: unknown;
  try {
    parts = JSON.parse(text);
  } catch (problem) {
    // Not what we write: nothing is known of the connection.
    if (problem instanceof SyntaxError) return undefined;
    throw problem;
  }
  if (!Array.isArray(parts) || parts.length !== 8) return undefined;
  const [required, version, isLmcache, ...texts] = parts as readonly unknown[];
  const isOne = [0, 1].includes(required as number) && [2, 3].includes(version as number) && [0, 1].includes(isLmcache as number);
  return isOne && texts.every((part) => typeof part === 'string') ? (parts as Parts) : undefined;
}
