/** What operators may do over REST, asked through the native door: the same code does it, with the token of the connection. */
import { isCredentialTenant, saltAsTenant } from '#core/namespace.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import { Refusal } from './native-request.ts';
import type { Reply, Request } from './native-request.ts';
import type { NativeServerOptions } from './native-server.ts';

interface Sum {
  readonly chunks: number;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class NativeOperator {
  readonly #rest: NativeServerOptions['rest'];
  readonly #token: string;

  constructor(rest: NativeServerOptions['rest'], token: string) {
    this.#rest = rest;
    this.#token = token;
  }

  async #ask(method: 'GET' | 'POST', path: string, body?: string): Promise<string> {
    const answer = await this.#rest({ method, path, token: this.#token, ...(body === undefined ? {} : { body }) });
    if (answer.status >= 300) throw new Refusal(answer.status === 403 || answer.status === 401 ? 'denied' : 'invalid', answer.text);
    return answer.text;
  }

  async invalidate({ selector }: Request<'INVALIDATE'>): Promise<Reply<'INVALIDATE'>> {
    return { result: encoder.encode(await this.#ask('POST', '/v1/invalidate', decoder.decode(selector))) };
  }

  async stats(): Promise<Reply<'STATS'>> {
    return { stats: encoder.encode(await this.#ask('GET', '/v1/stats')) };
  }

  async prefetch(namespace: NamespaceDescriptor, keys: readonly Uint8Array[]): Promise<Reply<'PREFETCH'>> {
    const answer = await this.#ask('POST', '/v1/prefetch', JSON.stringify({ keys: spelled(namespace, keys) }));
    return { count: (JSON.parse(answer) as { readonly promoted: number }).promoted };
  }

  async pin(mode: number, namespace: NamespaceDescriptor, keys: readonly Uint8Array[]): Promise<Reply<'PIN'>> {
    if (mode > 2) throw new Refusal('invalid', `mode ${mode} is unknown: 0 unpins, 1 is soft, 2 is hard`);
    // Keys alone would mean those of all tenants who spell theirs alike.
    const { tenant } = namespace;
    const selector = { keys: spelled(namespace, keys), tenant: isCredentialTenant(tenant) ? tenant : saltAsTenant(tenant) };
    if (mode === 0) {
      const answer = await this.#ask('POST', '/v1/unpin', JSON.stringify({ selector }));
      return { count: (JSON.parse(answer) as { readonly unpinned: Sum }).unpinned.chunks };
    }
    const answer = await this.#ask('POST', '/v1/pin', JSON.stringify({ selector, mode: mode === 1 ? 'soft' : 'hard' }));
    return { count: (JSON.parse(answer) as { readonly pinned: Sum }).pinned.chunks };
  }
}

function spelled({ keyPrefix, keyTail }: NamespaceDescriptor, keys: readonly Uint8Array[]): readonly string[] {
  return keys.map((key) => keyPrefix + decoder.decode(key) + keyTail);
}
