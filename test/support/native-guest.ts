/** A client of the native door for tests: one connection, plain questions, and answers that throw where they are refused. */
import { NativeConnection } from '#engines/client/native-connection.ts';
import type { FailureStatus, Reply, Request } from '#engines/client/native-connection.ts';
import { SharedMemory } from '#engines/client/shared-memory.ts';
import { NATIVE_VERSION } from '#protocol/native/native-schema.ts';
import type { OperationName } from '#protocol/native/native-schema.ts';
import { saltOf } from '#core/namespace.ts';
import { nativeDescriptor } from '#protocol/native/native-key.ts';
import type { NativeNamespace } from '#protocol/native/native-key.ts';
import { pattern, same } from './byte-client.ts';

const encoder = new TextEncoder();
export const LAYOUT = '0123456789abcdef';

export class Refused extends Error {
  readonly status: FailureStatus;

  constructor(name: string, status: FailureStatus, message: string) {
    super(`${name}: ${status}: ${message}`);
    this.status = status;
  }
}

export class NativeGuest {
  readonly connection: NativeConnection;
  readonly hello: Reply<'HELLO'>;
  readonly events: Reply<'EVENT'>[];
  readonly #shared: SharedMemory[] = [];

  constructor(parts: { readonly connection: NativeConnection; readonly hello: Reply<'HELLO'>; readonly events: Reply<'EVENT'>[] }) {
    this.connection = parts.connection;
    this.hello = parts.hello;
    this.events = parts.events;
  }

  /** Throws Refused where HELLO is. */
  static async greet(path: string, { token = '' }: { readonly token?: string } = {}): Promise<NativeGuest> {
    const events: Reply<'EVENT'>[] = [];
    const connection = await NativeConnection.open(path, { onEvent: (event) => void events.push(event) });
    if (connection === undefined) throw new Refused('open', 'gone', `nobody listens at ${path}`);
    const answer = await connection.call('HELLO', { version: NATIVE_VERSION, client: 'test', token }, { deadlineMs: 20_000 });
    if (!answer.ok) throw new Refused('HELLO', answer.status, answer.message);
    return new NativeGuest({ connection, hello: answer.reply, events });
  }

  async ask<Name extends OperationName>(name: Name, request: Request<Name>): Promise<Reply<Name>> {
    const answer =
      name === 'OPEN' || name === 'RESERVE'
        ? await this.connection.callForDescriptor(name, request as Request<'OPEN' | 'RESERVE'>)
        : await this.connection.call(name, request, { deadlineMs: 30_000 });
    if (!answer.ok) throw new Refused(name, answer.status, answer.message);
    return answer.reply;
  }

  /** The status of an answer that must be a refusal. */
  async refusal<Name extends OperationName>(name: Name, request: Request<Name>): Promise<FailureStatus> {
    try {
      await this.ask(name, request);
    } catch (problem) {
      if (problem instanceof Refused) return problem.status;
      throw problem;
    }
    throw new Error(`${name} was answered`);
  }

  async namespace(fields: Partial<NativeNamespace> = {}): Promise<number> {
    const all = { model: 'm', layout: LAYOUT, rank: '', group: '', salt: '', ...fields };
    return (await this.ask('NAMESPACE', all)).namespace;
  }

  /** Attached by descriptor; unmapped with `close`. */
  async share(sizeBytes: number): Promise<{ readonly region: number; readonly memory: SharedMemory }> {
    const memory = SharedMemory.create(sizeBytes);
    this.#shared.push(memory);
    return { region: await this.attach(memory.fd), memory };
  }

  async attach(fd: number): Promise<number> {
    const answer = await this.connection.attachDescriptor(fd);
    if (!answer.ok) throw new Refused('ATTACH', answer.status, answer.message);
    return answer.reply.region;
  }

  async attachPath(path: string): Promise<number> {
    return (await this.ask('ATTACH', { how: 0, path })).region;
  }

  close(): void {
    this.connection.close();
    for (const memory of this.#shared.splice(0)) memory.close();
  }
}

export function keysOf(prefix: string, count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, index) => encoder.encode(`${prefix}-${index}`));
}

/** One behind the other from `offset` on. */
export function spansOf(count: number, length: number, offset = 0): { offset: number; length: number }[] {
  return Array.from({ length: count }, (_, index) => ({ offset: offset + index * length, length }));
}

/** How REST and RESP spell the keys. */
export function spelled(fields: Partial<NativeNamespace>, keys: readonly Uint8Array[]): string[] {
  const descriptor = nativeDescriptor({ model: 'm', layout: LAYOUT, rank: '', group: '', salt: '', ...fields }, undefined);
  if (typeof descriptor === 'string') throw new Error(descriptor);
  const tail = saltOf(descriptor) === '' ? '' : descriptor.keyTail;
  return keys.map((key) => `${descriptor.keyPrefix}${new TextDecoder().decode(key)}${tail}`);
}

/** Chunks with bytes of their own, as a client stores them. */
export async function storeChunks(
  guest: NativeGuest,
  shared: { readonly region: number; readonly memory: SharedMemory },
  chunks: { readonly namespace: number; readonly keys: readonly Uint8Array[]; readonly sizeBytes: number; readonly seed?: number },
): Promise<number[]> {
  const { namespace, keys, sizeBytes, seed = 1 } = chunks;
  const spans = spansOf(keys.length, sizeBytes);
  for (const [index, span] of spans.entries()) shared.memory.view(span.offset, span.length).set(pattern(span.length, seed + index));
  const request = { namespace, region: shared.region, flags: 1, ttlMs: 0, parent: new Uint8Array(0), keys, spans };
  return [...(await guest.ask('STORE', request)).outcomes];
}

export const GUARD = 0xa5;

/** True where every byte outside of the spans still is a guard byte, and each span holds its chunk. */
export function holdsExactly(
  memory: SharedMemory,
  spans: readonly { readonly offset: number; readonly length: number }[],
  seed: number,
): string {
  const expected = new Uint8Array(memory.sizeBytes).fill(GUARD);
  for (const [index, span] of spans.entries()) expected.set(pattern(span.length, seed + index), span.offset);
  const view = memory.view();
  if (same(view, expected)) return 'exactly';
  const at = view.findIndex((byte, index) => byte !== expected[index]);
  return `byte ${at} is ${view[at]}, expected ${expected[at]}`;
}
