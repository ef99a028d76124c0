/**
 * One connection to the native door: requests by tag, answers in any order, descriptors where an operation has them. It ends once, and
 * is not made again: that is native-client.ts.
 *
 * Invariants: every call is answered exactly once, by the agent, by its deadline or by the end of the connection; while a descriptor is
 * on its way to the agent nothing else is written, and while one is awaited nothing is read past it.
 */
import type { Socket } from 'bun';
import { MalformedBody, decodeBody, encodeFrame, errorShape } from '#protocol/native/native-codec.ts';
import type { Values } from '#protocol/native/native-codec.ts';
import { NativeParser } from '#protocol/native/native-parser.ts';
import type { NativeFrame } from '#protocol/native/native-parser.ts';
import { nativeOperations, statuses } from '#protocol/native/native-schema.ts';
import type { OperationName, Shape, StatusName } from '#protocol/native/native-schema.ts';
import { DescriptorMessage } from './descriptor-message.ts';
import { libc } from './libc.ts';

export type Request<Name extends OperationName> = Values<(typeof nativeOperations)[Name]['request']>;
export type Reply<Name extends OperationName> = Values<(typeof nativeOperations)[Name]['reply']>;

/** 'late': the deadline passed, and the answer may still come. 'gone': the connection ended, and what became of it is unknown. */
export type FailureStatus = StatusName | 'late' | 'gone';
export type Answer<Name extends OperationName> =
  | { readonly ok: true; readonly reply: Reply<Name> }
  | { readonly ok: false; readonly status: FailureStatus; readonly message: string };

export interface CallOptions {
  /** From now; default 2 s. */
  readonly deadlineMs?: number;
  /** Told once, when the answer comes after the deadline (true) or the connection ends before it does (false). */
  readonly onLate?: (answered: boolean) => void;
}

interface Pending {
  readonly name: OperationName;
  answer: (answer: Answer<OperationName>) => void;
  onLate: ((answered: boolean) => void) | undefined;
  timer: ReturnType<typeof setTimeout> | undefined;
}

const DEFAULT_DEADLINE_MS = 2000;
const MAX_REPLY_BYTES = 64 * 1024 * 1024;
const PULL_BYTES = 64 * 1024;
const PULL_PAUSE_MS = 1;
const statusNames = new Map<number, StatusName>(Object.entries(statuses).map(([name, number]) => [number, name as StatusName]));
const gone = { ok: false, status: 'gone', message: 'the connection to the agent ended' } as const;

export class NativeConnection {
  readonly #parser = new NativeParser(MAX_REPLY_BYTES);
  readonly #message = new DescriptorMessage();
  readonly #pending = new Map<number, Pending>();
  readonly #onEvent: (event: Reply<'EVENT'>) => void;
  readonly #onEnd: () => void;
  /** Descriptors that came, in order, and are not taken. */
  readonly #descriptors: number[] = [];
  #socket: Socket | undefined;
  #unsent: Uint8Array[] = [];
  /** Frames that wait for a descriptor to reach the agent. */
  #held: Uint8Array[] | undefined;
  #attaching: Promise<unknown> = Promise.resolve();
  #descriptorToSend = -1;
  /** Calls under way whose answer may bring a descriptor. */
  #awaited = 0;
  #nextTag = 1;
  #ended = false;

  /** Use `open`. */
  constructor(onEvent: (event: Reply<'EVENT'>) => void, onEnd: () => void) {
    this.#onEvent = onEvent;
    this.#onEnd = onEnd;
  }

  /** Undefined where nobody listens at `path`. */
  static async open(
    path: string,
    { onEvent = () => {}, onEnd = () => {} }: { readonly onEvent?: (event: Reply<'EVENT'>) => void; readonly onEnd?: () => void } = {},
  ): Promise<NativeConnection | undefined> {
    const connection = new NativeConnection(onEvent, onEnd);
    try {
      connection.#socket = await Bun.connect({
        unix: path,
        socket: {
          data: (_, chunk) => connection.#take(chunk),
          drain: () => connection.#flush(),
          close: () => connection.#end(),
          error: () => connection.#end(),
        },
      });
    } catch {
      // Nobody is there: the caller's answer is a miss, whatever the reason.
      return undefined;
    }
    return connection;
  }

  get isOpen(): boolean {
    return !this.#ended;
  }

  call<Name extends OperationName>(name: Name, request: Request<Name>, options: CallOptions = {}): Promise<Answer<Name>> {
    if (this.#ended) return Promise.resolve(gone);
    const tag = this.#nextTag++;
    const { op, request: shape } = nativeOperations[name];
    const frame = encodeFrame({ op, tag }, shape as Shape, request as Values<Shape>);
    const { promise, resolve } = Promise.withResolvers<Answer<Name>>();
    const pending: Pending = {
      name,
      answer: resolve,
      onLate: options.onLate,
      timer: setTimeout(() => this.#late(tag), options.deadlineMs ?? DEFAULT_DEADLINE_MS),
    };
    this.#pending.set(tag, pending);
    this.#write(frame);
    return promise;
  }

  #late(tag: number): void {
    const pending = this.#pending.get(tag);
    if (pending === undefined) return;
    pending.timer = undefined;
    pending.answer({ ok: false, status: 'late', message: `${pending.name} was not answered in time` });
    pending.answer = () => pending.onLate?.(true);
  }

  /** Shares memory by its descriptor, which stays the caller's. */
  attachDescriptor(fd: number): Promise<Answer<'ATTACH'>> {
    const attach = async (): Promise<Answer<'ATTACH'>> => {
      this.#descriptorToSend = fd;
      const answered = this.call('ATTACH', { how: 1, path: '' });
      this.#held ??= [];
      const answer = await answered;
      this.#release();
      return answer;
    };
    const attached = this.#attaching.then(attach);
    this.#attaching = attached;
    return attached;
  }

  #release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const frame of held) this.#write(frame);
  }

  /** As `call`, for an answer that may bring a descriptor: `takeDescriptor` has it then. */
  async callForDescriptor<Name extends 'OPEN' | 'RESERVE'>(name: Name, request: Request<Name>): Promise<Answer<Name>> {
    this.#awaited += 1;
    if (this.#awaited === 1) void this.#pull();
    const answer = await this.call(name, request);
    this.#awaited -= 1;
    return answer;
  }

  /** The oldest that came and was not taken; the caller's to close. */
  takeDescriptor(): number | undefined {
    return this.#descriptors.shift();
  }

  /** Bun reads with recv(2), which drops descriptors: while one is awaited the socket is read here. */
  async #pull(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    socket.pause();
    const target = new Uint8Array(PULL_BYTES);
    while (this.#awaited > 0 && !this.#ended) {
      const got = this.#message.receive((socket as unknown as { readonly fd: number }).fd, target);
      if (got === undefined) await Bun.sleep(PULL_PAUSE_MS);
      else if (got.bytes === 0) this.close();
      else {
        if (got.fd !== undefined) this.#descriptors.push(got.fd);
        this.#take(target.subarray(0, got.bytes));
        // Whoever was answered says so in a microtask.
        await Promise.resolve();
      }
    }
    if (!this.#ended) socket.resume();
  }

  // --- bytes ------------------------------------------------------------------------------------------------------------------

  #write(frame: Uint8Array): void {
    if (this.#held !== undefined) return void this.#held.push(frame);
    this.#unsent.push(frame);
    if (this.#unsent.length === 1) this.#flush();
  }

  #flush(): void {
    for (let frame = this.#unsent[0]; frame !== undefined && !this.#ended; frame = this.#unsent[0]) {
      const written = Math.max(0, this.#socket?.write(frame) ?? 0);
      if (written < frame.length) {
        this.#unsent[0] = frame.subarray(written);
        return;
      }
      this.#unsent.shift();
    }
  }

  #take(chunk: Uint8Array): void {
    this.#parser.push(chunk);
    for (let event = this.#parser.next(); event !== undefined && !this.#ended; event = this.#parser.next()) {
      if ('problem' in event) return this.close();
      try {
        this.#answer(event);
      } catch (problem) {
        // Whoever speaks another protocol there is not listened to any further.
        if (!(problem instanceof MalformedBody)) throw problem;
        return this.close();
      }
    }
    this.#parser.retain();
  }

  #answer(frame: NativeFrame): void {
    const body = frame.body.slice();
    const isOk = frame.status === statuses.ok;
    if (isOk && frame.op === nativeOperations.EVENT.op) return this.#onEvent(decodeBody(nativeOperations.EVENT.reply, body));
    if (isOk && frame.op === nativeOperations.CONTINUE.op) return this.#sendDescriptor();
    const pending = this.#pending.get(frame.tag);
    if (pending === undefined) return;
    this.#pending.delete(frame.tag);
    clearTimeout(pending.timer);
    if (isOk) {
      const shape = nativeOperations[pending.name].reply as Shape;
      return pending.answer({ ok: true, reply: decodeBody(shape, body) as unknown as Reply<OperationName> });
    }
    const status = statusNames.get(frame.status) ?? 'failed';
    pending.answer({ ok: false, status, message: decodeBody(errorShape, body).message });
  }

  /** The agent asks for it when it has read all that was sent, so that there is room for a byte. */
  #sendDescriptor(): void {
    const socket = this.#socket as unknown as { readonly fd: number };
    if (!this.#message.send(socket.fd, new Uint8Array(1), this.#descriptorToSend)) this.close();
  }

  close(): void {
    if (this.#ended) return;
    this.#socket?.terminate();
    this.#end();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const pending of this.#pending.values()) {
      if (pending.timer === undefined) pending.onLate?.(false);
      else pending.answer(gone);
      clearTimeout(pending.timer);
    }
    this.#pending.clear();
    for (const fd of this.#descriptors.splice(0)) libc.close(fd);
    this.#onEnd();
  }
}
