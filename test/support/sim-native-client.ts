/** A client of the native door at the other end of a simulated connection: frames out, answers by tag, memory of its own. */
import { decodeBody, encodeFrame } from '#protocol/native/native-codec.ts';
import { NativeParser } from '#protocol/native/native-parser.ts';
import type { NativeFrame } from '#protocol/native/native-parser.ts';
import { NATIVE_VERSION, nativeOperations } from '#protocol/native/native-schema.ts';
import type { OperationName, Shape } from '#protocol/native/native-schema.ts';
import type { Reply, Request } from '#servers/native/native-request.ts';
import { SIM_NATIVE_PORT } from './sim-local-door.ts';
import type { SimConnection, SimNetwork, SimPeer } from './sim-network.ts';

/** `status`: of a refusal. 'lost': the connection ended before. */
export type SimNativeAnswer<Name extends OperationName> = { readonly reply: Reply<Name> } | { readonly status: number } | 'lost';

interface Asked {
  readonly name: OperationName;
  readonly onAnswer: (answer: SimNativeAnswer<OperationName>) => void;
}

export class SimNativeClient implements SimPeer {
  connection: SimConnection | undefined;
  readonly #network: SimNetwork;
  readonly #token: string;
  readonly #onEnd: () => void;
  readonly #onContinue: () => void;
  #parser = new NativeParser(64 * 1024 * 1024);
  #asked = new Map<number, Asked>();
  #nextTag = 1;

  constructor(network: SimNetwork, options: { readonly token: string; readonly onEnd: () => void; readonly onContinue: () => void }) {
    this.#network = network;
    this.#token = options.token;
    this.#onEnd = options.onEnd;
    this.#onContinue = options.onContinue;
  }

  get pending(): number {
    return this.#asked.size;
  }

  /** Connects and greets, where it is not connected. False where nobody listens. */
  connect(): boolean {
    if (this.connection !== undefined) return true;
    this.connection = this.#network.connect('local', this, SIM_NATIVE_PORT);
    if (this.connection === undefined) return false;
    this.ask('HELLO', { version: NATIVE_VERSION, client: 'sim', token: this.#token }, () => {});
    return true;
  }

  ask<Name extends OperationName>(name: Name, request: Request<Name>, onAnswer: (answer: SimNativeAnswer<Name>) => void): void {
    const tag = this.#nextTag++;
    this.#asked.set(tag, { name, onAnswer });
    const { op, request: shape } = nativeOperations[name];
    this.connection?.send(encodeFrame({ op, tag }, shape as Shape, request as never));
  }

  onBytes(bytes: Uint8Array): void {
    this.#parser.push(bytes);
    for (let event = this.#parser.next(); event !== undefined; event = this.#parser.next()) {
      if ('problem' in event) throw new Error(`Out of step: ${event.problem}`);
      this.#take(event);
    }
    this.#parser.retain();
  }

  #take({ op, status, tag, body }: NativeFrame): void {
    if (status === 0 && op === nativeOperations.CONTINUE.op) return this.#onContinue();
    if (status === 0 && op === nativeOperations.EVENT.op) return void decodeBody(nativeOperations.EVENT.reply, body);
    const asked = this.#asked.get(tag);
    if (asked === undefined || nativeOperations[asked.name].op !== op) throw new Error(`A native answer that nobody asked for: ${op}`);
    this.#asked.delete(tag);
    const shape = nativeOperations[asked.name].reply as Shape;
    asked.onAnswer(status === 0 ? { reply: decodeBody(shape, body.slice()) as never } : { status });
  }

  onEnd(): void {
    this.connection = undefined;
    this.#parser = new NativeParser(64 * 1024 * 1024);
    const asked = [...this.#asked.values()];
    this.#asked = new Map();
    for (const { onAnswer } of asked) onAnswer('lost');
    this.#onEnd();
  }
}
