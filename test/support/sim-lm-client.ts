/**
 * A client of the lm door at the other end of a simulated connection. A PUT has no reply: that it was worked through is known from the
 * reply to a question that was sent after it.
 */
import { LM_FAIL, LM_REPLY_BYTES, LM_SUCCESS, decodeLmReply } from '#protocol/lm/lm-frame.ts';
import type { LmReply } from '#protocol/lm/lm-frame.ts';
import { ByteQueue } from './byte-queue.ts';
import { putFrame } from './lm-client.ts';
import type { LmObject } from './lm-client.ts';
import type { SimConnection, SimNetwork, SimPeer } from './sim-network.ts';
import type { SimValue } from './sim-oracle.ts';

export type SimLmOutcome = { readonly reply: LmReply; readonly payload: Uint8Array } | 'lost';

interface Asked {
  /** Sent before it on this connection, and not known to be over when it was sent. */
  readonly puts: readonly SimValue[];
  readonly onReply: (outcome: SimLmOutcome, puts: readonly SimValue[]) => void;
}

export class SimLmClient implements SimPeer {
  readonly address: string;
  connection: SimConnection | undefined;
  /** It has said all that it will on this connection. */
  isLeaving = false;
  readonly #network: SimNetwork;
  readonly #port: number;
  readonly #onPutOver: (value: SimValue, how: 'stored' | 'lost') => void;
  readonly #inbox = new ByteQueue();
  #asked: Asked[] = [];
  #puts: SimValue[] = [];

  /** `onPutOver`: a PUT was worked through, whatever became of it, or nobody knows. */
  constructor(
    network: SimNetwork,
    where: { readonly address: string; readonly port: number },
    onPutOver: (value: SimValue, how: 'stored' | 'lost') => void,
  ) {
    this.#network = network;
    this.address = where.address;
    this.#port = where.port;
    this.#onPutOver = onPutOver;
  }

  /** Questions without an answer. */
  get pending(): number {
    return this.#asked.length;
  }

  /** False where nobody listens. */
  connect(): boolean {
    this.connection ??= this.#network.connect(this.address, this, this.#port);
    return this.connection !== undefined;
  }

  put(key: string, value: SimValue, object: LmObject): void {
    this.#puts.push(value);
    this.connection?.send(putFrame(key, object));
  }

  /** `onReply` also gets the PUTs that the answer comes after. */
  ask(frame: Uint8Array, onReply: Asked['onReply']): void {
    this.#asked.push({ puts: [...this.#puts], onReply });
    this.connection?.send(frame);
  }

  /** Bytes after which nothing more is said. */
  sayLast(bytes: Uint8Array): void {
    this.connection?.send(bytes);
    this.connection?.close();
    this.isLeaving = true;
  }

  onBytes(bytes: Uint8Array): void {
    this.#inbox.push(bytes);
    while (this.#inbox.length >= LM_REPLY_BYTES) {
      const reply = decodeLmReply(this.#inbox.peek(LM_REPLY_BYTES));
      if (reply.code !== LM_SUCCESS && reply.code !== LM_FAIL) throw new Error(`Out of step: an lm reply with code ${reply.code}`);
      if (this.#inbox.length < LM_REPLY_BYTES + reply.length) return;
      this.#inbox.drop(LM_REPLY_BYTES);
      const payload = this.#inbox.take(reply.length);
      const asked = this.#asked.shift();
      if (asked === undefined) throw new Error('An lm reply that nobody asked for');
      asked.onReply({ reply, payload }, asked.puts);
      const over = new Set(asked.puts);
      for (const value of this.#puts) if (over.has(value)) this.#onPutOver(value, 'stored');
      this.#puts = this.#puts.filter((value) => !over.has(value));
    }
  }

  onEnd(): void {
    this.connection = undefined;
    this.isLeaving = false;
    this.#inbox.clear();
    const puts = this.#puts.splice(0);
    for (const asked of this.#asked.splice(0)) asked.onReply('lost', []);
    for (const value of puts) this.#onPutOver(value, 'lost');
  }
}
