/**
 * What the RESP commands mean. Data commands are here; what a client asks about the server itself is in server-commands.ts.
 *
 * Two profiles (docs/formats/wire-resp.md): LMCache's client reads exactly 5 bytes after SET and 4 after EXISTS and DEL, so its
 * refusals have those lengths; everybody else gets redis' own words.
 */
import type { ChunkRef, ExpirySpec, ProbeOutcome, PutTicket, ReadHandle } from '#cache/door.ts';
import { checksum } from '#core/checksum.ts';
import type { Role } from '#core/credential.ts';
import { KvtierError } from '#core/errors.ts';
import { isLmcacheKey } from '#protocol/lmcache-key.ts';
import type { ParsedKey } from '#protocol/lmcache-key.ts';
import type { RespCommandName } from '#protocol/resp/command-name.ts';
import { RESP_FAILED, RESP_ONE, RESP_SET_REJECTED, RESP_ZERO, printable } from '#protocol/resp/resp-encoder.ts';
import type { RespOversizedEvent, RespValueCommand } from '#protocol/resp/resp-parser.ts';
import { runExpiryCommand } from './expiry-commands.ts';
import { listKeys, scanKeys } from './listing-commands.ts';
import { matchedMiss } from './promises.ts';
import type { RespConnection, StreamedValue } from './resp-connection.ts';
import { keyId } from './key-id.ts';
import { runServerCommand } from './server-commands.ts';
import { NO_SET_OPTIONS, parseExpiry, parseSetOptions } from './set-options.ts';
import type { SetOptions } from './set-options.ts';

const MAX_METADATA_BYTES = 512;

interface Arity {
  readonly min: number;
  readonly max: number;
  /** 'pairs': after the name, keys and values alternate. */
  readonly pairs?: true;
}

const many = Number.POSITIVE_INFINITY;
const arities: Readonly<Partial<Record<RespCommandName, Arity>>> = {
  GET: { min: 2, max: 2 },
  SET: { min: 3, max: many },
  MGET: { min: 2, max: many },
  MSET: { min: 3, max: many, pairs: true },
  EXISTS: { min: 2, max: many },
  DEL: { min: 2, max: many },
  UNLINK: { min: 2, max: many },
  STRLEN: { min: 2, max: 2 },
  TYPE: { min: 2, max: 2 },
  TOUCH: { min: 2, max: many },
  SCAN: { min: 2, max: many },
  KEYS: { min: 2, max: 2 },
  PING: { min: 1, max: 2 },
  ECHO: { min: 2, max: 2 },
  AUTH: { min: 2, max: 3 },
  HELLO: { min: 1, max: many },
  SELECT: { min: 2, max: 2 },
  QUIT: { min: 1, max: many },
  CLIENT: { min: 2, max: many },
  COMMAND: { min: 1, max: many },
  CONFIG: { min: 2, max: many },
  INFO: { min: 1, max: many },
  DBSIZE: { min: 1, max: 1 },
  FLUSHDB: { min: 1, max: 2 },
  FLUSHALL: { min: 1, max: 2 },
  SETEX: { min: 4, max: 4 },
  PSETEX: { min: 4, max: 4 },
  TTL: { min: 2, max: 2 },
  PTTL: { min: 2, max: 2 },
  EXPIRETIME: { min: 2, max: 2 },
  PEXPIRETIME: { min: 2, max: 2 },
  EXPIRE: { min: 3, max: many },
  PEXPIRE: { min: 3, max: many },
  EXPIREAT: { min: 3, max: many },
  PEXPIREAT: { min: 3, max: many },
  PERSIST: { min: 2, max: 2 },
};

const lmcacheCommands: ReadonlySet<string> = new Set(['AUTH', 'GET', 'SET', 'EXISTS', 'DEL', 'MGET']);
const writeCommands: ReadonlySet<string> = new Set([
  ...['SET', 'SETEX', 'PSETEX', 'MSET', 'DEL', 'UNLINK', 'FLUSHDB', 'FLUSHALL'],
  ...['EXPIRE', 'PEXPIRE', 'EXPIREAT', 'PEXPIREAT', 'PERSIST'],
]);
/** Before AUTH, where tokens are required. */
const openCommands: ReadonlySet<string> = new Set(['AUTH', 'HELLO', 'QUIT']);

const NO_AUTH = 'NOAUTH Authentication required.';
const NO_PERMISSION = 'NOPERM this token may only read';

export class CommandRunner {
  readonly #connection: RespConnection;
  /** Undefined before AUTH, where tokens are required. */
  role: Role | undefined;
  /** It has sent nothing but what LMCache sends. */
  looksLikeLmcache = true;

  constructor(connection: RespConnection) {
    this.#connection = connection;
    this.role = connection.server.options.tokensRequired ? undefined : 'admin';
  }

  get isLmcache(): boolean {
    const { profile } = this.#connection.server.options;
    return profile === 'lmcache' || (profile === 'auto' && this.looksLikeLmcache);
  }

  run(name: RespCommandName | '', args: Uint8Array[], streamed: StreamedValue[]): Promise<void> | undefined {
    const { out } = this.#connection;
    if (this.looksLikeLmcache && !lmcacheCommands.has(name)) this.looksLikeLmcache = false;
    const abort = (): void => {
      for (const value of streamed) if (value.ticket !== undefined) this.#connection.abort(value.ticket);
    };
    const arity = name === '' ? undefined : arities[name];
    if (arity === undefined) {
      abort();
      out.error(unknownCommand(args));
      return undefined;
    }
    if (args.length < arity.min || args.length > arity.max || (arity.pairs === true && args.length % 2 === 0)) {
      abort();
      out.error(`ERR wrong number of arguments for '${printable(args[0] ?? new Uint8Array(0)).toLowerCase()}' command`);
      return undefined;
    }
    const refusal = this.#refusal(name);
    if (refusal !== undefined) {
      abort();
      this.#noticeKeys(name, args);
      this.#refuse(name, refusal);
      return undefined;
    }
    try {
      return this.#dispatch(name as RespCommandName, args, streamed);
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      this.#refuse(name, `ERR ${problem.message}`);
      return undefined;
    }
  }

  #refusal(name: string): string | undefined {
    if (this.role === undefined && !openCommands.has(name)) return NO_AUTH;
    if (this.role === 'read' && writeCommands.has(name)) return NO_PERMISSION;
    return undefined;
  }

  /** A command that is refused unread still tells by its keys whose client sent it. */
  #noticeKeys(name: string, args: readonly Uint8Array[]): void {
    if (!this.looksLikeLmcache) return;
    for (const key of name === 'SET' ? args.slice(1, 2) : args.slice(1)) {
      const parsed = this.#connection.keys.parse(key);
      if (parsed !== 'too-long' && !isLmcacheKey(parsed)) this.looksLikeLmcache = false;
    }
  }

  /** An error in the length that the client of this profile reads. */
  #refuse(name: string, message: string): void {
    const { out } = this.#connection;
    if (this.isLmcache && name === 'SET') out.raw(RESP_SET_REJECTED);
    else if (this.isLmcache && (name === 'EXISTS' || name === 'DEL')) out.raw(RESP_FAILED);
    else out.error(message);
  }

  oversized(event: RespOversizedEvent): void {
    this.#refuse(
      event.name,
      event.reason === 'argument'
        ? `ERR argument is too long: ${event.sizeBytes} bytes, at most ${event.limitBytes}`
        : 'ERR command is too long',
    );
  }

  /** Why a value that begins now will not be stored, before any room is taken for it. */
  refuseValue(name: RespValueCommand, key: Uint8Array): { reason: string; message: string } | undefined {
    const message = this.#refusal(name) ?? this.#keyProblem(key);
    return message === undefined ? undefined : { reason: 'refused', message };
  }

  #keyProblem(key: Uint8Array): string | undefined {
    const parsed = this.#connection.keys.parse(key);
    if (parsed === 'too-long') return `ERR key is too long: ${key.length} bytes, at most 2048`;
    if (parsed.part === 'metadata') return `ERR metadata is too long: at most ${MAX_METADATA_BYTES} bytes`;
    return undefined;
  }

  #parse(key: Uint8Array): ParsedKey {
    const parsed = this.#connection.keys.parse(key);
    if (parsed === 'too-long') throw new KvtierError('BAD_REQUEST', `key is too long: ${key.length} bytes, at most 2048`);
    if (!isLmcacheKey(parsed)) this.looksLikeLmcache = false;
    return parsed;
  }

  #dispatch(name: RespCommandName, args: Uint8Array[], streamed: StreamedValue[]): Promise<void> | undefined {
    switch (name) {
      case 'GET':
        return this.#get(args[1] as Uint8Array);
      case 'SET':
        return this.#set(args, streamed);
      case 'MGET':
        return this.#mget(args);
      case 'SETEX':
        return this.#setex(args, streamed, 'EX');
      case 'PSETEX':
        return this.#setex(args, streamed, 'PX');
      case 'MSET':
        return this.#mset(args, streamed);
      case 'EXISTS':
        return this.#exists(args);
      case 'DEL':
      case 'UNLINK':
        return this.#del(args);
      case 'STRLEN':
        return this.#strlen(args[1] as Uint8Array);
      case 'TYPE':
        this.#connection.out.simple(this.#peek(args[1] as Uint8Array) === undefined ? 'none' : 'string');
        return undefined;
      case 'TOUCH':
        return this.#touch(args);
      case 'SCAN':
        return scanKeys(args, this.#connection);
      case 'KEYS':
        return listKeys(args[1] as Uint8Array, this.#connection);
      default:
        if (runExpiryCommand(name, args, { connection: this.#connection, find: (key) => this.#peek(key)?.ref })) return undefined;
        return runServerCommand(name, args, { connection: this.#connection, runner: this });
    }
  }

  // --- keys that are chunks, and the redis:// twins -------------------------------------------------------------------------

  #guarded(parsed: ParsedKey, sizeBytes: number): boolean {
    const { server, group, guard } = this.#connection;
    const { sizeGuard } = server.options;
    if (sizeGuard === 'off' || (sizeGuard === 'auto' && !this.isLmcache) || parsed.descriptor.grammar !== 'object-key') return false;
    return !guard.allows(group.id, parsed.descriptor.keyPrefix, sizeBytes);
  }

  #learn(parsed: ParsedKey, sizeBytes: number, stored: boolean): void {
    if (parsed.descriptor.grammar === 'object-key') {
      this.#connection.guard.learn(this.#connection.group.id, parsed.descriptor.keyPrefix, { sizeBytes, stored });
    }
  }

  #peek(key: Uint8Array): { readonly sizeBytes: number; readonly ref: ChunkRef } | undefined {
    const parsed = this.#parse(key);
    const { cache } = this.#connection.server.options;
    const found = cache.peek(this.#connection.namespace(parsed.descriptor), parsed.key);
    if (found === undefined || this.#guarded(parsed, found.sizeBytes)) return undefined;
    if (parsed.part !== 'metadata') return found;
    const metadata = cache.metadata(found.ref);
    return metadata === undefined ? undefined : { sizeBytes: metadata.length, ref: found.ref };
  }

  // --- reads ----------------------------------------------------------------------------------------------------------------

  #get(key: Uint8Array): Promise<void> | undefined {
    const promised = this.isLmcache ? this.#takePromise(key) : undefined;
    const opened = this.#open(key);
    if (opened instanceof Promise) return opened.then((handle) => this.#answerGet(handle, promised));
    return this.#answerGet(opened, promised);
  }

  /** Only of whole keys: halves are read by redis clients, which wait for no length and take an error line for an error. */
  #takePromise(key: Uint8Array): number | undefined {
    const parsed = this.#parse(key);
    if (parsed.part !== 'whole') return undefined;
    const { group, server } = this.#connection;
    return group.promises.take(keyId(parsed), server.options.clock.monotonicMs());
  }

  /** A miss after a promise comes in the length that LMCache's client reads (promises.ts). */
  #answerGet(opened: ReadHandle | Uint8Array | undefined, promised: number | undefined): Promise<void> | undefined {
    if (opened !== undefined || promised === undefined) return this.#sendOpened(opened);
    this.#connection.out.raw(matchedMiss(promised));
    return undefined;
  }

  #sendOpened(handle: ReadHandle | Uint8Array | undefined): Promise<void> | undefined {
    const { out } = this.#connection;
    if (handle === undefined) out.nullBulk();
    else if (handle instanceof Uint8Array) out.bulk(handle);
    else return this.#connection.sendValue(handle);
    return undefined;
  }

  #open(key: Uint8Array): ReadHandle | Uint8Array | undefined | Promise<ReadHandle | undefined> {
    const parsed = this.#parse(key);
    const { cache } = this.#connection.server.options;
    const namespace = this.#connection.namespace(parsed.descriptor);
    const { group } = this.#connection;
    group.inference.end(namespace);
    const found = cache.peek(namespace, parsed.key);
    if (parsed.part === 'metadata') return found === undefined ? undefined : cache.metadata(found.ref);
    if (found !== undefined && this.#guarded(parsed, found.sizeBytes)) {
      cache.countRefusedLookup('size-guard');
      return undefined;
    }
    if (found !== undefined) this.#learn(parsed, found.sizeBytes, false);
    return cache.open(namespace, parsed.key, group.id);
  }

  async #mget(args: Uint8Array[]): Promise<void> {
    // The arguments are views of a chunk that is gone after the first await.
    const keys = args.slice(1).map((key) => key.slice());
    this.#connection.out.array(keys.length);
    for (const key of keys) {
      let opened: ReadHandle | Uint8Array | undefined;
      try {
        opened = await this.#open(key);
      } catch (problem) {
        if (!(problem instanceof KvtierError)) throw problem;
      }
      const sending = this.#sendOpened(opened);
      if (sending !== undefined) await sending;
      else if (this.#connection.out.length > 1024 * 1024) await this.#connection.flushed();
    }
  }

  #exists(args: Uint8Array[]): undefined {
    const { out } = this.#connection;
    let count = 0;
    for (let index = 1; index < args.length; index += 1) if (this.#probe(args[index] as Uint8Array)) count += 1;
    if (count === 0) out.raw(RESP_ZERO);
    else if (count === 1) out.raw(RESP_ONE);
    else out.integer(count);
    return undefined;
  }

  #probe(key: Uint8Array): boolean {
    const parsed = this.#parse(key);
    const connection = this.#connection;
    const { cache } = connection.server.options;
    const namespace = connection.namespace(parsed.descriptor);
    const { group } = connection;
    const found = cache.peek(namespace, parsed.key);
    if (found !== undefined && this.#guarded(parsed, found.sizeBytes)) {
      cache.countRefusedProbe('size-guard');
      return false;
    }
    if (found !== undefined && parsed.part === 'metadata' && cache.metadata(found.ref) === undefined) return false;
    const outcome: ProbeOutcome | undefined = cache.probe(namespace, parsed.key, group.id);
    if (isLmcacheKey(parsed)) group.inference.noteProbe(namespace, connection.id, { key: parsed.key, ref: outcome?.ref });
    if (outcome === undefined) return false;
    if (this.isLmcache && parsed.part === 'whole')
      group.promises.keep(keyId(parsed), outcome.sizeBytes, connection.server.options.clock.monotonicMs());
    return true;
  }

  #touch(args: Uint8Array[]): undefined {
    let count = 0;
    for (let index = 1; index < args.length; index += 1) {
      const parsed = this.#parse(args[index] as Uint8Array);
      const { cache } = this.#connection.server.options;
      const found = cache.peek(this.#connection.namespace(parsed.descriptor), parsed.key);
      if (found === undefined) continue;
      cache.touchChain([found.ref]);
      count += 1;
    }
    this.#connection.out.integer(count);
    return undefined;
  }

  #strlen(key: Uint8Array): undefined {
    this.#connection.out.integer(this.#peek(key)?.sizeBytes ?? 0);
    return undefined;
  }

  // --- writes ---------------------------------------------------------------------------------------------------------------

  #set(args: Uint8Array[], streamed: StreamedValue[]): Promise<void> | undefined {
    // Before anything can be refused: the key tells which words this client understands.
    this.#parse(args[1] as Uint8Array);
    const { cache } = this.#connection.server.options;
    const options = parseSetOptions(args, () => cache.expiryNowMs());
    return this.#store({ key: args[1] as Uint8Array, value: args[2] as Uint8Array, streamed: streamed[0] }, options);
  }

  #setex(args: Uint8Array[], streamed: StreamedValue[], unit: 'EX' | 'PX'): Promise<void> | undefined {
    const command = unit === 'EX' ? 'SETEX' : 'PSETEX';
    const expiry = parseExpiry(args[2], unit, { command, nowMs: this.#connection.server.options.cache.expiryNowMs() });
    const options = typeof expiry === 'string' ? expiry : { condition: undefined, expiry };
    return this.#store({ key: args[1] as Uint8Array, value: args[3] as Uint8Array, streamed: streamed[0] }, options);
  }

  /** Answers a SET whose options are known, or refused. */
  #store(
    { key, value, streamed }: { readonly key: Uint8Array; readonly value: Uint8Array; readonly streamed: StreamedValue | undefined },
    options: SetOptions | string,
  ): Promise<void> | undefined {
    if (typeof options === 'string') {
      if (streamed?.ticket !== undefined) this.#connection.abort(streamed.ticket);
      this.#refuse('SET', options);
      return undefined;
    }
    if (streamed !== undefined) {
      this.#answerSet(this.#storeStreamed(key, streamed, options));
      return undefined;
    }
    const stored = this.#storeInline(key, value, options);
    if (stored instanceof Promise) return stored.then((outcome) => this.#answerSet(outcome));
    this.#answerSet(stored);
    return undefined;
  }

  /** '' is success, undefined an unmet condition, anything else a refusal. */
  #answerSet(outcome: string | undefined): void {
    if (outcome === '') this.#connection.out.ok();
    else if (outcome === undefined) this.#connection.out.nullBulk();
    else this.#refuse('SET', outcome);
  }

  #storeStreamed(key: Uint8Array, value: StreamedValue, options: SetOptions): string | undefined {
    if (value.ticket === undefined) return this.#notStored(this.#parse(key), value.rejection, options);
    return this.#commit(this.#parse(key), value.ticket, { checksum: value.checksum, options });
  }

  #storeInline(key: Uint8Array, value: Uint8Array, options: SetOptions): string | undefined | Promise<string | undefined> {
    const parsed = this.#parse(key);
    if (parsed.part === 'metadata') return this.#storeMetadata(parsed, value, options);
    const { hash } = this.#connection.server.options;
    const reserved = this.#connection.reserve(parsed, value.length);
    if (reserved instanceof Promise) {
      const kept = value.slice();
      const keyCopy = { ...parsed, key: parsed.key.slice() };
      return reserved.then((outcome) => {
        if (outcome.kind === 'rejected') return this.#notStored(keyCopy, outcome, options);
        outcome.view().set(kept);
        return this.#commit(keyCopy, outcome, { checksum: checksum(kept, hash), options });
      });
    }
    if (reserved.kind === 'rejected') return this.#notStored(parsed, reserved, options);
    reserved.view().set(value);
    return this.#commit(parsed, reserved, { checksum: checksum(value, hash), options });
  }

  /**
   * What was not stored by policy is answered OK, and the next EXISTS says no: what was there before is no answer any more. Everything
   * else is a refusal that the client is told of, and leaves the former value.
   */
  #notStored(parsed: ParsedKey, rejection: StreamedValue['rejection'], { condition }: SetOptions): string | undefined {
    if (rejection?.reason !== 'own-chain') return refusalText(rejection);
    const { cache } = this.#connection.server.options;
    const namespace = this.#connection.namespace(parsed.descriptor);
    const present = cache.peek(namespace, parsed.key) !== undefined;
    if (condition !== undefined && (condition === 'present') !== present) return undefined;
    try {
      if (present) cache.delete(namespace, parsed.key);
      return '';
    } catch (problem) {
      if (!(problem instanceof KvtierError)) throw problem;
      return `ERR ${problem.message}`;
    }
  }

  #commit(parsed: ParsedKey, ticket: PutTicket, put: { checksum: bigint; options: SetOptions }): string | undefined {
    const connection = this.#connection;
    const { cache } = connection.server.options;
    const namespace = connection.namespace(parsed.descriptor);
    const { inference } = connection.group;
    const parent = isLmcacheKey(parsed) ? inference.parentFor(namespace, connection.id, parsed.key) : undefined;
    const { sizeBytes } = ticket;
    const { condition, expiry } = put.options;
    const outcome = cache.commit(ticket, put.checksum, {
      ...(condition === undefined ? {} : { onlyIf: condition }),
      ...(expiry === undefined ? {} : { expiry }),
      ...(parent === undefined ? {} : { parent }),
    });
    if (outcome === 'condition' || outcome === 'failed') {
      inference.settled(ticket);
      return outcome === 'condition' ? undefined : 'ERR the journal cannot be written';
    }
    try {
      const found = cache.peek(namespace, parsed.key);
      if (found !== undefined && outcome !== 'dropped') {
        if (isLmcacheKey(parsed)) inference.notePut(namespace, connection.id, { key: parsed.key, ref: found.ref });
        this.#learn(parsed, sizeBytes, true);
        const waiting = connection.server.pendingMetadata.take(parsed);
        if (waiting !== undefined && cache.setMetadata(found.ref, waiting.value)) this.#expireWith(parsed, waiting.expiresAtMs);
      }
    } finally {
      // After the chunk is known: it may be what the put that waits takes the place of.
      inference.settled(ticket);
    }
    return '';
  }

  /** LMCache's redis:// writes the value first, its sentinel variant the metadata first: then it waits for the value, bounded. */
  #storeMetadata(parsed: ParsedKey, value: Uint8Array, { condition, expiry }: SetOptions): string | undefined {
    const { server } = this.#connection;
    if (value.length > MAX_METADATA_BYTES) return `ERR metadata is too long: ${value.length} bytes, at most ${MAX_METADATA_BYTES}`;
    const namespace = this.#connection.namespace(parsed.descriptor);
    const found = server.options.cache.peek(namespace, parsed.key);
    const present = found !== undefined && server.options.cache.metadata(found.ref) !== undefined;
    if (condition !== undefined && (condition === 'present') !== present) return undefined;
    const expiresAtMs = this.#pointInTime(expiry);
    if (found === undefined) server.pendingMetadata.keep(parsed, { value: value.slice(), expiresAtMs });
    else if (server.options.cache.setMetadata(found.ref, value)) this.#expireWith(parsed, expiresAtMs);
    return '';
  }

  #pointInTime(expiry: ExpirySpec | undefined): number {
    if (expiry === undefined || expiry === 'keep') return 0;
    return 'atMs' in expiry ? expiry.atMs : this.#connection.server.options.cache.expiryNowMs() + expiry.ttlMs;
  }

  /** An entry of two halves ends with the first of them. Its generation may be new: the twin has changed. */
  #expireWith(parsed: ParsedKey, atMs: number): void {
    const { cache } = this.#connection.server.options;
    const found = atMs === 0 ? undefined : cache.peek(this.#connection.namespace(parsed.descriptor), parsed.key);
    const current = found === undefined ? undefined : cache.expiresAtMs(found.ref);
    if (found !== undefined && current !== undefined && (current === 0 || atMs < current)) cache.setExpiry(found.ref, atMs);
  }

  async #mset(args: Uint8Array[], streamed: StreamedValue[]): Promise<void> {
    const kept = args.map((argument) => argument.slice());
    const values = new Map(streamed.map((value) => [value.argIndex, value]));
    let refusal: string | undefined;
    for (let index = 1; index + 1 < kept.length; index += 2) {
      const key = kept[index] as Uint8Array;
      const value = values.get(index + 1);
      const keyProblem = this.#keyTooLong(key);
      if (keyProblem !== undefined) {
        refusal = keyProblem;
        continue;
      }
      // Nobody waits for room twice in one command, as with streamed values.
      if (value === undefined && refusal?.startsWith('OOM ') === true) continue;
      const outcome =
        value === undefined
          ? await this.#storeInline(key, kept[index + 1] as Uint8Array, NO_SET_OPTIONS)
          : this.#storeStreamed(key, value, NO_SET_OPTIONS);
      if (outcome !== '') refusal = outcome ?? refusal;
    }
    if (refusal === undefined) this.#connection.out.ok();
    else this.#refuse('MSET', refusal);
  }

  #keyTooLong(key: Uint8Array): string | undefined {
    return this.#connection.keys.parse(key) === 'too-long' ? `ERR key is too long: ${key.length} bytes, at most 2048` : undefined;
  }

  #del(args: Uint8Array[]): undefined {
    const { out, server } = this.#connection;
    let count = 0;
    for (let index = 1; index < args.length; index += 1) {
      const parsed = this.#parse(args[index] as Uint8Array);
      const namespace = this.#connection.namespace(parsed.descriptor);
      server.pendingMetadata.take(parsed);
      if (server.options.cache.delete(namespace, parsed.key)) count += 1;
    }
    out.integer(count);
    return undefined;
  }
}

const errorCodes: Readonly<Record<string, string>> = { 'too-large': 'ERR', shed: 'OOM', quota: 'OOM', draining: 'LOADING' };

function refusalText(rejection: { readonly reason: string; readonly message: string } | undefined): string {
  if (rejection === undefined) return 'ERR value was not stored';
  const code = errorCodes[rejection.reason];
  return code === undefined ? rejection.message : `${code} ${rejection.message}`;
}

function unknownCommand(args: readonly Uint8Array[]): string {
  let text = `ERR unknown command '${printable(args[0] ?? new Uint8Array(0))}', with args beginning with: `;
  for (let index = 1; index < args.length && text.length < 256; index += 1) text += `'${printable(args[index] as Uint8Array)}' `;
  return text;
}
