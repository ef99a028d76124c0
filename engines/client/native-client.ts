/**
 * A client of the agent that outlives its connection: it connects when it is asked something, again with back-off where that fails, and
 * opens its namespaces and attaches its memory anew each time. It fails open: where the agent is away, does not answer in time or
 * refuses, what was asked for is a miss and what was to be kept is not.
 *
 * Invariants: at most one connection, and at most one attempt at one; a region that is `spoiled` is never handed to the agent again.
 */
import { LOOKUP_PEEK, LOOKUP_PREFIX, NATIVE_VERSION, STORE_CHAIN, loadOutcomes, storeOutcomes } from '#protocol/native/native-schema.ts';
import type { OperationName } from '#protocol/native/native-schema.ts';
import type { NativeNamespace } from '#protocol/native/native-key.ts';
import type { Span } from '#protocol/native/native-codec.ts';
import { NativeConnection } from './native-connection.ts';
import type { Answer, Reply, Request } from './native-connection.ts';
import type { SharedMemory } from './shared-memory.ts';

export interface NativeClientOptions {
  /** Of the agent's socket: `doors.socket` in agent.json. */
  readonly path: string;
  /** For the agent's log. */
  readonly name?: string;
  readonly token?: string;
  /** For what is answered at once (default 2 s), and for jobs (default 10 s). */
  readonly deadlineMs?: number;
  readonly jobDeadlineMs?: number;
  /** How long a call waits for a connection that is being made, default 5 ms; then it is a miss, and the attempt goes on. */
  readonly connectPatienceMs?: number;
  readonly onEvent?: (event: Reply<'EVENT'>) => void;
}

/** A namespace of this client; its number is another one on each connection. */
export interface Namespace {
  readonly fields: NativeNamespace;
}

/** Memory that the agent may write into and read from. */
export interface SharedRegion {
  readonly memory: SharedMemory;
  /** The connection ended under a job: the agent may still touch the memory, and only another region is safe. */
  readonly isSpoiled: boolean;
}

export interface Found {
  /** As `tierNumbers`; as long as the prefix that is there, or with `prefix: false` as long as the keys. */
  readonly tiers: Uint8Array;
  readonly sizes: readonly number[] | Uint32Array;
}

export interface JobResult {
  /** As `loadOutcomes` or `storeOutcomes`, one for each key. */
  readonly outcomes: Uint8Array;
  /**
   * Resolves when the agent does not touch the spans any more; at once but for a job that is late. False: nobody knows, and the region
   * is spoiled.
   */
  readonly settled: Promise<boolean>;
}

interface Job {
  readonly namespace: Namespace;
  readonly region: SharedRegion;
  readonly keys: readonly Uint8Array[];
  /** One for each key: where in the region, and the size of the chunk. */
  readonly spans: readonly Span[];
}

interface Session {
  readonly connection: NativeConnection;
  readonly hello: Reply<'HELLO'>;
  readonly namespaces: Map<Namespace, Promise<number | undefined>>;
  readonly regions: Map<SharedRegion, Promise<number | undefined>>;
}

const FIRST_PAUSE_MS = 10;
const LAST_PAUSE_MS = 1000;
const nothingFound: Found = { tiers: new Uint8Array(0), sizes: [] };
const isSettled = Promise.resolve(true);

class Region implements SharedRegion {
  readonly memory: SharedMemory;
  isSpoiled = false;

  constructor(memory: SharedMemory) {
    this.memory = memory;
  }
}

export class NativeClient {
  readonly #options: NativeClientOptions;
  #session: Session | undefined;
  #attempt: Promise<Session | undefined> | undefined;
  #retryAtMs = 0;
  #pauseMs = FIRST_PAUSE_MS;
  #closed = false;
  /** Why the last attempt, or the last request, came to nothing; for logs. */
  problem: string | undefined;

  constructor(options: NativeClientOptions) {
    this.#options = options;
  }

  get isConnected(): boolean {
    return this.#session !== undefined;
  }

  /** What the agent said of itself; undefined where it is away. `instance` is another number for another process. */
  get agent(): Reply<'HELLO'> | undefined {
    return this.#session?.hello;
  }

  /** True once there is a connection; false where this attempt fails. Not needed: calls connect. */
  async connect(): Promise<boolean> {
    return (await this.#connecting()) !== undefined;
  }

  /** Nothing is asked; the first call with it opens it. */
  namespace(fields: NativeNamespace): Namespace {
    return { fields };
  }

  /** The memory stays the caller's and must outlive the client, or `unshare`. The first job with it attaches it. */
  share(memory: SharedMemory): SharedRegion {
    return new Region(memory);
  }

  /** Resolves when the agent does not touch the memory any more; false: nobody knows. */
  async unshare(region: SharedRegion): Promise<boolean> {
    const session = this.#session;
    const number = await session?.regions.get(region);
    if (session === undefined || number === undefined) return !region.isSpoiled;
    session.regions.delete(region);
    const deadlineMs = this.#options.jobDeadlineMs ?? 10_000;
    return (await session.connection.call('DETACH', { region: number }, { deadlineMs })).ok;
  }

  // --- what engines ask -------------------------------------------------------------------------------------------------------

  /** `prefix` (default): the head of the keys that is there; else each of them. `peek`: takes no leases. */
  async lookup(
    namespace: Namespace,
    keys: readonly Uint8Array[],
    { prefix = true, peek = false }: { readonly prefix?: boolean; readonly peek?: boolean } = {},
  ): Promise<Found> {
    const session = await this.#ready();
    const number = await this.#numberOf(session, namespace);
    if (session === undefined || number === undefined) return nothingFound;
    const flags = (prefix ? LOOKUP_PREFIX : 0) | (peek ? LOOKUP_PEEK : 0);
    const answer = await this.#call(session, 'LOOKUP', { namespace: number, flags, keys });
    return answer.ok ? answer.reply : nothingFound;
  }

  /** Chunks into the spans. What is late, or where the agent is away, is 'late' or 'failed': recompute it. */
  load(job: Job, { deadlineMs = this.#options.jobDeadlineMs ?? 10_000 } = {}): Promise<JobResult> {
    return this.#job(job, { deadlineMs, name: 'LOAD', failed: loadOutcomes.failed, late: loadOutcomes.late, rest: { deadlineMs } });
  }

  /** `chain` (default): the keys are in prefix order, behind `parent` where that is given. `ttlMs` 0: the namespace's default. */
  store(
    job: Job,
    {
      chain = true,
      parent = new Uint8Array(0),
      ttlMs = 0,
      deadlineMs = this.#options.jobDeadlineMs ?? 10_000,
    }: { readonly chain?: boolean; readonly parent?: Uint8Array; readonly ttlMs?: number; readonly deadlineMs?: number } = {},
  ): Promise<JobResult> {
    const rest = { flags: chain ? STORE_CHAIN : 0, ttlMs, parent };
    return this.#job(job, { deadlineMs, name: 'STORE', failed: storeOutcomes.failed, late: storeOutcomes.failed, rest });
  }

  async #job(
    { namespace, region, keys, spans }: Job,
    kind: { readonly deadlineMs: number; readonly failed: number; readonly late: number } & (
      | { readonly name: 'LOAD'; readonly rest: Pick<Request<'LOAD'>, 'deadlineMs'> }
      | { readonly name: 'STORE'; readonly rest: Pick<Request<'STORE'>, 'flags' | 'ttlMs' | 'parent'> }
    ),
  ): Promise<JobResult> {
    const outcomes = (number: number): Uint8Array => new Uint8Array(keys.length).fill(number);
    const notDone = { outcomes: outcomes(kind.failed), settled: isSettled };
    const session = await this.#ready();
    const [number, regionNumber] = [await this.#numberOf(session, namespace), await this.#regionNumberOf(session, region)];
    if (session === undefined || number === undefined || regionNumber === undefined || !session.connection.isOpen) return notDone;
    const { promise: settled, resolve } = Promise.withResolvers<boolean>();
    const onLate = (answered: boolean): void => {
      if (!answered) (region as Region).isSpoiled = true;
      resolve(answered);
    };
    const request = { namespace: number, region: regionNumber, keys, spans };
    const options = { deadlineMs: kind.deadlineMs, onLate };
    const answer =
      kind.name === 'LOAD'
        ? await session.connection.call('LOAD', { ...request, ...kind.rest }, options)
        : await session.connection.call('STORE', { ...request, ...kind.rest }, options);
    if (answer.ok) return { outcomes: answer.reply.outcomes, settled: isSettled };
    this.problem = answer.message;
    if (answer.status === 'late') return { outcomes: outcomes(kind.late), settled };
    if (answer.status !== 'gone') return notDone;
    onLate(false);
    return { outcomes: outcomes(kind.failed), settled };
  }

  /** Ends the leases that `lookup` took. */
  async letGo(namespace: Namespace, keys: readonly Uint8Array[]): Promise<number> {
    return await this.#count('LET_GO', namespace, keys);
  }

  async touch(namespace: Namespace, keys: readonly Uint8Array[]): Promise<number> {
    return await this.#count('TOUCH', namespace, keys);
  }

  async prefetch(namespace: Namespace, keys: readonly Uint8Array[]): Promise<number> {
    return await this.#count('PREFETCH', namespace, keys);
  }

  async #count(name: 'LET_GO' | 'TOUCH' | 'PREFETCH', namespace: Namespace, keys: readonly Uint8Array[]): Promise<number> {
    const session = await this.#ready();
    const number = await this.#numberOf(session, namespace);
    if (session === undefined || number === undefined) return 0;
    const answer = await this.#call(session, name, { namespace: number, keys });
    return answer.ok ? answer.reply.count : 0;
  }

  /** Any other operation, on the connection that there is. */
  async call<Name extends OperationName>(name: Name, request: Request<Name>): Promise<Answer<Name>> {
    const session = await this.#ready();
    if (session === undefined) return { ok: false, status: 'gone', message: this.problem ?? 'the agent is away' };
    return await this.#call(session, name, request);
  }

  async #call<Name extends OperationName>(session: Session, name: Name, request: Request<Name>): Promise<Answer<Name>> {
    const { deadlineMs } = this.#options;
    const answer = await session.connection.call(name, request, deadlineMs === undefined ? {} : { deadlineMs });
    if (!answer.ok) this.problem = answer.message;
    return answer;
  }

  /** The agent gives back everything that this client holds. Memory that is shared stays the caller's. */
  close(): void {
    this.#closed = true;
    this.#session?.connection.close();
  }

  // --- the connection ---------------------------------------------------------------------------------------------------------

  /** The connection, if it is there or comes within the patience of a call. */
  async #ready(): Promise<Session | undefined> {
    if (this.#session !== undefined) return this.#session;
    const connecting = this.#connecting();
    const patience = Bun.sleep(this.#options.connectPatienceMs ?? 5).then(() => undefined);
    return await Promise.race([connecting, patience]);
  }

  #connecting(): Promise<Session | undefined> {
    if (this.#session !== undefined) return Promise.resolve(this.#session);
    if (this.#attempt !== undefined) return this.#attempt;
    if (this.#closed || performance.now() < this.#retryAtMs) return Promise.resolve(undefined);
    this.#attempt = this.#open().then((session) => {
      this.#attempt = undefined;
      this.#session = session?.connection.isOpen === true ? session : undefined;
      this.#pauseMs = session === undefined ? Math.min(2 * this.#pauseMs, LAST_PAUSE_MS) : FIRST_PAUSE_MS;
      this.#retryAtMs = session === undefined ? performance.now() + this.#pauseMs * (0.5 + Math.random() / 2) : 0;
      return this.#session;
    });
    return this.#attempt;
  }

  async #open(): Promise<Session | undefined> {
    const { path, name = '', token = '', onEvent } = this.#options;
    const connection = await NativeConnection.open(path, {
      ...(onEvent === undefined ? {} : { onEvent }),
      onEnd: () => {
        if (this.#session?.connection === connection) this.#session = undefined;
      },
    });
    if (connection === undefined) {
      this.problem = `nobody listens at ${path}`;
      return undefined;
    }
    const hello = await connection.call('HELLO', { version: NATIVE_VERSION, client: name, token });
    if (hello.ok && !this.#closed) return { connection, hello: hello.reply, namespaces: new Map(), regions: new Map() };
    if (!hello.ok) this.problem = hello.message;
    connection.close();
    return undefined;
  }

  #numberOf(session: Session | undefined, namespace: Namespace): Promise<number | undefined> {
    if (session === undefined) return Promise.resolve(undefined);
    return this.#once(session.namespaces, namespace, async () => {
      const answer = await this.#call(session, 'NAMESPACE', namespace.fields);
      return answer.ok ? answer.reply.namespace : undefined;
    });
  }

  #regionNumberOf(session: Session | undefined, region: SharedRegion): Promise<number | undefined> {
    if (session === undefined || region.isSpoiled) return Promise.resolve(undefined);
    return this.#once(session.regions, region, async () => {
      const { path, fd } = region.memory;
      const answer = await (path === undefined ? session.connection.attachDescriptor(fd) : this.#call(session, 'ATTACH', { how: 0, path }));
      if (answer.ok) return answer.reply.region;
      this.problem = answer.message;
      return undefined;
    });
  }

  /** What was refused is asked for again by the next call. */
  #once<Key>(known: Map<Key, Promise<number | undefined>>, key: Key, ask: () => Promise<number | undefined>): Promise<number | undefined> {
    const before = known.get(key);
    if (before !== undefined) return before;
    const asked = ask();
    known.set(key, asked);
    void asked.then((number) => {
      if (number === undefined && known.get(key) === asked) known.delete(key);
    });
    return asked;
  }
}
