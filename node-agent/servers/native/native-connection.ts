/**
 * One client of the native door: frames in, frames out. Short requests are answered at once and in order; jobs (LOAD, STORE, COMMIT and
 * what operators ask) are answered when they end, under their tag.
 *
 * Invariants: at most MAX_JOBS jobs are in work, and a request beyond them is refused as busy; replies that the kernel does not take wait
 * in a queue that is bounded by the jobs, and no further request is read meanwhile;
 * everything that the client holds ends with its socket, its regions when the last job has let go of them.
 */
import type { CacheDoor, LeaseOwner } from '#cache/door.ts';
import { assert } from '#core/assert.ts';
import type { Fd, NamespaceId } from '#core/brand.ts';
import { OPEN_CREDENTIAL } from '#core/credential.ts';
import type { Credential } from '#core/credential.ts';
import type { LocalSocket } from '#ports/local-door.ts';
import type { ConnectionHandler } from '#ports/transport.ts';
import { MalformedBody, decodeBody, encodeFrame, errorShape } from '#protocol/native/native-codec.ts';
import type { Span, Values } from '#protocol/native/native-codec.ts';
import { NativeParser } from '#protocol/native/native-parser.ts';
import type { NativeFrame } from '#protocol/native/native-parser.ts';
import { isNativeKey } from '#protocol/native/native-key.ts';
import { NATIVE_VERSION, STORE_CHAIN, loadOutcomes, nativeOperations, statuses, storeOutcomes } from '#protocol/native/native-schema.ts';
import type { OperationName, Shape, StatusName } from '#protocol/native/native-schema.ts';
import { FrameQueue, NO_DESCRIPTOR } from './frame-queue.ts';
import { NativeEvents } from './native-events.ts';
import type { NativeMemory, SharedRegion } from './native-memory.ts';
import { runLoad, runStore } from './native-jobs.ts';
import type { Job } from './native-jobs.ts';
import { NativeOperator } from './native-operator.ts';
import { Refusal } from './native-request.ts';
import type { Reply, Request } from './native-request.ts';
import { MAX_KEYS, NativeSession } from './native-session.ts';
import type { NativeServer } from './native-server.ts';

export const MAX_FRAME_BYTES = 4 * 1024 * 1024;
export const MAX_JOBS = 64;
const DESCRIPTOR_DEADLINE_MS = 2000;

const byNumber = new Map<number, OperationName>(Object.entries(nativeOperations).map(([name, { op }]) => [op, name as OperationName]));
/** What a holder of the read token may ask. */
const readOperations = new Set<OperationName>([
  'HELLO',
  'PING',
  'NAMESPACE',
  'ATTACH',
  'DETACH',
  'LOOKUP',
  'LOAD',
  'LET_GO',
  'OPEN',
  'RELEASE',
  'TOUCH',
  'EVENTS',
  'STATS',
]);

export class NativeConnection implements ConnectionHandler {
  readonly #server: NativeServer;
  readonly #socket: LocalSocket;
  readonly #parser = new NativeParser(MAX_FRAME_BYTES);
  readonly #frames: FrameQueue;
  readonly #session: NativeSession;
  #credential: Credential | undefined;
  #token = '';
  #greeted = false;
  #jobs = 0;
  #paused = false;
  #closed = false;
  #quietSinceMs: number;
  #unwatch: (() => void) | undefined;
  #events: NativeEvents | undefined;

  constructor(server: NativeServer, socket: LocalSocket, owner: LeaseOwner) {
    const { clock, stallMs, authenticate } = server.options;
    this.#server = server;
    this.#socket = socket;
    this.#quietSinceMs = clock.monotonicMs();
    this.#credential = authenticate === undefined ? OPEN_CREDENTIAL : undefined;
    this.#session = new NativeSession(server, owner);
    this.#frames = new FrameQueue(socket, { clock, stallMs, onStall: () => this.close() });
  }

  get busy(): boolean {
    return this.#jobs > 0;
  }

  get regionCount(): number {
    return this.#session.memory.regionCount;
  }

  // --- bytes in -------------------------------------------------------------------------------------------------------------

  onData(chunk: Uint8Array): void {
    if (this.#closed) return;
    this.#quietSinceMs = this.#server.options.clock.monotonicMs();
    this.#parser.push(chunk);
    this.#run();
    this.#parser.retain();
  }

  #run(): void {
    while (!this.#closed && !this.#paused && !this.#frames.isBlocked) {
      const event = this.#parser.next();
      if (event === undefined) break;
      if ('problem' in event) return this.#fail(0, 0, { status: 'malformed', message: event.problem, fatal: true });
      this.#take(event);
    }
    this.#waitForRoom();
  }

  /** Nothing more is read of a client that does not read its replies. */
  #waitForRoom(): void {
    if (!this.#frames.isBlocked || this.#paused || this.#closed) return;
    this.#pause();
    void this.#frames.drained().then(() => this.#resume());
  }

  #pause(): void {
    this.#paused = true;
    this.#socket.pause();
    this.#parser.retain();
  }

  #resume(): void {
    this.#paused = false;
    if (this.#closed) return;
    this.#run();
    if (!this.#paused && !this.#closed) this.#socket.resume();
  }

  #take(frame: NativeFrame): void {
    this.#server.requests += 1;
    const name = byNumber.get(frame.op);
    try {
      if (name === undefined || name === 'EVENT' || name === 'CONTINUE')
        throw new Refusal('unsupported', `operation ${frame.op} is unknown`);
      this.#admit(name);
      this.#dispatch(name, frame);
    } catch (problem) {
      if (problem instanceof MalformedBody) {
        this.#fail(frame.op, frame.tag, { status: 'malformed', message: `${name}: ${problem.message}`, fatal: true });
      } else if (problem instanceof Refusal) {
        const fatal = !this.#greeted;
        this.#fail(frame.op, frame.tag, { status: problem.status, message: problem.message, fatal });
      } else throw problem;
    }
  }

  #admit(name: OperationName): void {
    if (name === 'HELLO') {
      if (this.#greeted) throw new Refusal('invalid', 'HELLO comes once');
      return;
    }
    if (!this.#greeted || this.#credential === undefined) throw new Refusal('denied', 'HELLO comes first');
    if (this.#credential.role === 'read' && !readOperations.has(name)) throw new Refusal('denied', `the read token may not ${name}`);
  }

  #dispatch(name: OperationName, frame: NativeFrame): void {
    const { tag } = frame;
    switch (name) {
      case 'HELLO':
        checkVersion(frame.body);
        return this.#reply(name, tag, this.#hello(this.#decode(name, frame)));
      case 'PING':
        return this.#reply(name, tag, this.#decode(name, frame));
      case 'NAMESPACE':
        return this.#reply(name, tag, { namespace: this.#session.openNamespace(this.#decode(name, frame), this.#credential?.tenant) });
      case 'ATTACH':
        return this.#attach(tag, this.#decode(name, frame));
      case 'DETACH':
        return this.#detach(tag, this.#decode(name, frame));
      case 'LOOKUP':
        return this.#reply(name, tag, this.#session.lookup(this.#decode(name, frame)));
      case 'LET_GO':
        return this.#reply(name, tag, { count: this.#session.letGo(this.#decode(name, frame)) });
      case 'TOUCH':
        return this.#reply(name, tag, { count: this.#session.touch(this.#decode(name, frame)) });
      case 'LOAD':
        return this.#load(tag, this.#decodeKept(name, frame));
      case 'STORE':
        return this.#store(tag, this.#decodeKept(name, frame));
      case 'COMMIT':
        return this.#commit(tag, this.#decodeKept(name, frame));
      case 'OPEN':
        return this.#open(tag, this.#decodeKept(name, frame));
      case 'RELEASE':
        return this.#reply(name, tag, { held: this.#session.release(this.#decode(name, frame)) });
      case 'RESERVE':
        return this.#reserve(tag, this.#decode(name, frame));
      case 'ABORT':
        return this.#reply(name, tag, { count: this.#session.abort(this.#decode(name, frame)) });
      case 'EVENTS':
        this.#watch(this.#decode(name, frame).kinds);
        return this.#reply(name, tag, {});
      default:
        return this.#operate(name, frame);
    }
  }

  #decode<Name extends OperationName>(name: Name, frame: NativeFrame): Request<Name> {
    return decodeBody(nativeOperations[name].request as Shape, frame.body, MAX_KEYS) as Request<Name>;
  }

  /** For what outlives the frame: keys and blobs are of a copy. */
  #decodeKept<Name extends OperationName>(name: Name, frame: NativeFrame): Request<Name> {
    return this.#decode(name, { ...frame, body: frame.body.slice() });
  }

  // --- frames out -----------------------------------------------------------------------------------------------------------

  #reply<Name extends OperationName>(name: Name, tag: number, values: Reply<Name>): void {
    this.#answer({ name, tag }, values, NO_DESCRIPTOR);
  }

  #answer<Name extends OperationName>({ name, tag }: { readonly name: Name; readonly tag: number }, values: Reply<Name>, fd: Fd): void {
    if (this.#closed) return;
    const { op, reply } = nativeOperations[name];
    this.#frames.send(encodeFrame({ op, tag }, reply as Shape, values as Values<Shape>), fd);
    this.#waitForRoom();
  }

  #fail(op: number, tag: number, error: { readonly status: StatusName; readonly message: string; readonly fatal?: boolean }): void {
    if (this.#closed) return;
    this.#frames.send(encodeFrame({ op, tag, status: statuses[error.status] }, errorShape, { message: error.message }));
    if (error.fatal !== true) return this.#waitForRoom();
    this.#server.protocolErrors += 1;
    // What he holds ends now; the socket when the last words are out, or he has not taken them in time.
    this.#release();
    void this.#frames.drained().then(() => this.#socket.end());
  }

  onDrain(): void {
    this.#frames.onDrain();
  }

  // --- who asks, and of what --------------------------------------------------------------------------------------------------

  #hello({ token }: Request<'HELLO'>): Reply<'HELLO'> {
    const { options } = this.#server;
    if (options.authenticate !== undefined) {
      const credential = options.authenticate(token);
      if (credential === undefined) throw new Refusal('denied', token === '' ? 'a token is required' : 'the token is wrong');
      this.#credential = credential;
    }
    this.#token = token;
    this.#greeted = true;
    return {
      version: NATIVE_VERSION,
      instance: options.instance,
      leaseMs: options.leaseMs,
      maxKeys: MAX_KEYS,
      maxFrameBytes: MAX_FRAME_BYTES,
      maxJobs: MAX_JOBS,
      maxChunkBytes: options.maxChunkBytes,
      server: `kvtier ${options.version}`,
    };
  }

  get #cache(): CacheDoor {
    return this.#server.options.cache;
  }

  // --- memory -----------------------------------------------------------------------------------------------------------------

  #attach(tag: number, { how, path }: Request<'ATTACH'>): void {
    if (this.#session.memory.isFull) throw new Refusal('busy', 'too many regions on one connection');
    if (how === 0) return this.#attached(tag, this.#server.options.regions.byPath(path, this.#socket.peer));
    if (how !== 1) throw new Refusal('invalid', `how ${how} is unknown: 0 is by path, 1 by descriptor`);
    if (this.#frames.isBlocked || this.#parser.pendingBytes > 0)
      throw new Refusal('invalid', 'nothing may follow ATTACH before its descriptor');
    this.#pause();
    this.#reply('CONTINUE', tag, {});
    void this.#socket.receiveDescriptor(DESCRIPTOR_DEADLINE_MS).then((fd) => {
      const { regions } = this.#server.options;
      if (fd !== undefined && this.#closed) regions.discard(fd);
      else if (fd !== undefined) this.#attached(tag, regions.byDescriptor(fd));
      else this.#fail(nativeOperations.ATTACH.op, tag, { status: 'invalid', message: 'no descriptor came', fatal: true });
      this.#resume();
    });
  }

  #attached(tag: number, outcome: Parameters<NativeMemory['add']>[0]): void {
    const added = this.#session.memory.add(outcome);
    if ('problem' in added) return this.#fail(nativeOperations.ATTACH.op, tag, { status: 'denied', message: added.problem });
    this.#reply('ATTACH', tag, { region: added.id, sizeBytes: added.region.sizeBytes, sealed: added.region.sealed ? 1 : 0 });
  }

  #detach(tag: number, { region }: Request<'DETACH'>): void {
    if (!this.#session.memory.detach(region, () => this.#reply('DETACH', tag, {})))
      throw new Refusal('unknown', `region ${region} is not attached`);
  }

  #reserve(tag: number, request: Request<'RESERVE'>): void {
    const { reply, fd } = this.#session.reserve(request);
    this.#answer({ name: 'RESERVE', tag }, reply, fd);
  }

  // --- jobs -------------------------------------------------------------------------------------------------------------------

  #jobOf(
    namespace: NamespaceId,
    shared: SharedRegion,
    { keys, spans }: { readonly keys: readonly Uint8Array[]; readonly spans: readonly Span[] },
  ): Job {
    this.#session.checkKeys(keys);
    if (keys.length !== spans.length) throw new Refusal('invalid', `${keys.length} keys and ${spans.length} spans`);
    return { namespace, owner: this.#session.owner, shared, keys, spans, isCancelled: () => this.#closed };
  }

  /** Counts the job and answers it; what it throws is a bug and ends the process. */
  #job<Name extends OperationName>(tag: number, name: Name, work: Promise<Reply<Name>>): void {
    this.#jobWith(
      tag,
      name,
      work.then((reply) => ({ reply, fd: NO_DESCRIPTOR })),
    );
  }

  #jobWith<Name extends OperationName>(tag: number, name: Name, work: Promise<{ readonly reply: Reply<Name>; readonly fd: Fd }>): void {
    this.#jobs += 1;
    void work.then(
      ({ reply, fd }) => {
        this.#jobDone();
        this.#answer({ name, tag }, reply, fd);
      },
      (problem: unknown) => {
        this.#jobDone();
        if (!(problem instanceof Refusal)) throw problem;
        this.#fail(nativeOperations[name].op, tag, { status: problem.status, message: problem.message });
      },
    );
  }

  #jobDone(): void {
    this.#jobs -= 1;
    if (this.#closed && this.#jobs === 0) this.#forget();
  }

  #forget(): void {
    this.#session.endNamespaces();
    this.#server.forget(this);
  }

  #checkJobs(): void {
    if (this.#jobs >= MAX_JOBS) throw new Refusal('busy', `${MAX_JOBS} jobs are in work on this connection`);
  }

  #load(tag: number, { namespace, region, deadlineMs, keys, spans }: Request<'LOAD'>): void {
    this.#checkJobs();
    const job = this.#jobOf(this.#session.namespace(namespace).id, this.#session.region(region, spans), { keys, spans });
    this.#job(tag, 'LOAD', this.#runLoad(job, deadlineMs));
  }

  async #runLoad(job: Job, deadlineMs: number): Promise<Reply<'LOAD'>> {
    const outcomes = await runLoad(this.#parts, job, deadlineMs);
    for (const [index, span] of job.spans.entries()) if (outcomes[index] === loadOutcomes.loaded) this.#server.sentBytes += span.length;
    return { outcomes };
  }

  get #parts(): Parameters<typeof runLoad>[0] {
    const { cache, regionIo: regions, clock } = this.#server.options;
    return { cache, regions, clock };
  }

  #store(tag: number, request: Request<'STORE'>): void {
    this.#checkJobs();
    const namespace = this.#session.namespace(request.namespace);
    const job = this.#jobOf(namespace.id, this.#session.region(request.region, request.spans), request);
    this.#job(tag, 'STORE', this.#runStore(job, request));
  }

  async #runStore(
    job: Job,
    { flags, ttlMs, parent }: { readonly flags: number; readonly ttlMs: number; readonly parent: Uint8Array },
  ): Promise<Reply<'STORE'>> {
    const isChain = (flags & STORE_CHAIN) !== 0;
    const before = isChain && isNativeKey(parent) ? this.#cache.peek(job.namespace, parent)?.ref : undefined;
    const outcomes = await runStore(this.#parts, job, { isChain, parent: before, ttlMs });
    for (const [index, span] of job.spans.entries())
      if ((outcomes[index] ?? 0) <= storeOutcomes.dropped) this.#server.receivedBytes += span.length;
    return { outcomes };
  }

  #commit(tag: number, request: Request<'COMMIT'>): void {
    this.#checkJobs();
    const shared = this.#session.memory.reservations;
    if (shared?.reservations === undefined) throw new Refusal('invalid', 'nothing is reserved');
    const room = shared.reservations;
    const job = this.#jobOf(this.#session.namespace(request.namespace).id, shared, request);
    const refused = room.begin(request.spans);
    if (refused !== undefined) throw new Refusal('invalid', `nothing of ${refused.length} bytes is reserved at ${refused.offset}`);
    this.#job(
      tag,
      'COMMIT',
      this.#runStore(job, request).finally(() => room.finish(request.spans)),
    );
  }

  // --- what operators ask -------------------------------------------------------------------------------------------------------

  #operate(name: OperationName, frame: NativeFrame): void {
    this.#checkJobs();
    const operator = new NativeOperator(this.#server.options.rest, this.#token);
    switch (name) {
      case 'INVALIDATE':
        return this.#job(frame.tag, name, operator.invalidate(this.#decodeKept(name, frame)));
      case 'STATS':
        this.#decode(name, frame);
        return this.#job(frame.tag, name, operator.stats());
      case 'PREFETCH': {
        const { namespace, keys } = this.#decodeKept(name, frame);
        this.#session.checkKeys(keys);
        return this.#job(frame.tag, name, operator.prefetch(this.#session.namespace(namespace).descriptor, keys));
      }
      case 'PIN': {
        const { namespace, mode, keys } = this.#decodeKept(name, frame);
        this.#session.checkKeys(keys);
        return this.#job(frame.tag, name, operator.pin(mode, this.#session.namespace(namespace).descriptor, keys));
      }
      default:
        throw new Refusal('unsupported', `${name} is not for clients`);
    }
  }

  #open(tag: number, request: Request<'OPEN'>): void {
    this.#checkJobs();
    this.#jobWith(tag, 'OPEN', this.#session.openChunk(request));
  }

  // --- events -------------------------------------------------------------------------------------------------------------------

  #watch(kinds: number): void {
    if (kinds > 3) throw new Refusal('invalid', `kinds ${kinds} is unknown: 1 is stored, 2 removed, 3 both`);
    const events = (this.#events ??= new NativeEvents(this.#frames, this.#credential?.tenant));
    events.wanted = kinds;
    if (kinds > 0) this.#unwatch ??= this.#cache.watch((kind, descriptor, key) => events.add(kind, descriptor, key));
    else {
      this.#unwatch?.();
      this.#unwatch = undefined;
    }
  }

  // --- the end --------------------------------------------------------------------------------------------------------------------

  /** Once a second: a client that stops in the middle of a frame, or before HELLO, is closed; what was open for too long is taken back. */
  sweep(nowMs: number): void {
    this.#session.endOld();
    const isWaitedFor = !this.#greeted || this.#parser.pendingBytes > 0;
    if (isWaitedFor && !this.#paused && nowMs - this.#quietSinceMs > this.#server.options.stallMs) this.close();
  }

  close(): void {
    this.#socket.terminate();
  }

  onClose(): void {
    this.#release();
    this.#frames.close();
  }

  /** Everything that the client holds. Jobs go on to their end, and answer nobody. */
  #release(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unwatch?.();
    this.#session.end();
    if (this.#jobs === 0) this.#forget();
  }

  checkInvariants(): void {
    assert(this.#jobs >= 0 && this.#jobs <= MAX_JOBS, 'jobs are bounded');
    assert(this.#frames.length <= MAX_JOBS + 2, 'frames that wait are bounded');
    this.#session.checkInvariants();
  }
}

/** Before anything else of a HELLO is read: another version may have other fields behind it. */
function checkVersion(body: Uint8Array): void {
  if (body.length < 4) throw new MalformedBody('version: is missing');
  const version = new DataView(body.buffer, body.byteOffset, 4).getUint32(0, true);
  if (version === NATIVE_VERSION) return;
  throw new Refusal('version', `the client speaks version ${version} of the native protocol, this agent ${NATIVE_VERSION}`);
}
