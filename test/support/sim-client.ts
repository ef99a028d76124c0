/** A RESP client at the other end of a simulated connection: sends commands, pipelined as it likes, and parses replies. */
import { ByteQueue } from './byte-queue.ts';
import { tokenOf } from './sim-tokens.ts';
import type { SimConnection, SimNetwork, SimPeer } from './sim-network.ts';

export type SimReply =
  | { readonly kind: 'simple' | 'error'; readonly text: string }
  | { readonly kind: 'integer'; readonly value: number }
  | { readonly kind: 'bulk'; readonly bytes: Uint8Array }
  | { readonly kind: 'null' }
  | { readonly kind: 'array'; readonly items: readonly SimReply[] };

/** 'lost': the connection ended before the whole reply was there. */
export type SimOutcome = SimReply | 'lost';

const encoder = new TextEncoder();
const decoder = new TextDecoder('latin1');
const CR = 13;
const LF = 10;

/** A command as an array of bulk strings. */
export function encodeCommand(args: readonly (string | Uint8Array)[]): Uint8Array {
  const parts: Uint8Array[] = [encoder.encode(`*${args.length}\r\n`)];
  for (const arg of args) {
    const bytes = typeof arg === 'string' ? encoder.encode(arg) : arg;
    parts.push(encoder.encode(`$${bytes.length}\r\n`), bytes, encoder.encode('\r\n'));
  }
  return Buffer.concat(parts);
}

export class SimClient implements SimPeer {
  readonly address: string;
  /** Whose token it sends first; undefined where the agent has none. */
  readonly who: string | undefined;
  readonly #network: SimNetwork;
  readonly #inbox = new ByteQueue();
  readonly #waiting: ((outcome: SimOutcome) => void)[] = [];
  connection: SimConnection | undefined;
  /** A reply that no command asked for, or that no client could parse. */
  onNonsense: (what: string) => void = (what) => {
    throw new Error(what);
  };

  constructor(network: SimNetwork, address: string, who?: string) {
    this.#network = network;
    this.address = address;
    this.who = who;
  }

  get pending(): number {
    return this.#waiting.length;
  }

  /** False where nobody listens. */
  connect(): boolean {
    if (this.connection !== undefined) return true;
    this.#inbox.clear();
    this.connection = this.#network.connect(this.address, this);
    const { who } = this;
    if (who !== undefined) {
      this.command(['AUTH', tokenOf(who)], (reply) => {
        if (reply !== 'lost' && reply.kind !== 'simple') throw new Error(`AUTH of ${who} was refused`);
      });
    }
    return this.connection !== undefined;
  }

  command(args: readonly (string | Uint8Array)[], onReply: (outcome: SimOutcome) => void): void {
    if (this.connection === undefined) return onReply('lost');
    this.#waiting.push(onReply);
    this.connection.send(encodeCommand(args));
  }

  /** Bytes that are no command. */
  raw(bytes: Uint8Array): void {
    this.connection?.send(bytes);
  }

  onBytes(bytes: Uint8Array): void {
    this.#inbox.push(bytes);
    for (;;) {
      const parsed = parseReply(this.#inbox.peek(), 0);
      if (parsed === undefined) return;
      if (parsed === 'nonsense') return this.onNonsense(`A reply begins with ${JSON.stringify(decoder.decode(this.#inbox.peek(40)))}`);
      this.#inbox.drop(parsed.end);
      const waiter = this.#waiting.shift();
      if (waiter === undefined) {
        if (parsed.reply.kind === 'error') continue; // of bytes that were no command
        return this.onNonsense(`A reply that nobody asked for: ${parsed.reply.kind}`);
      }
      waiter(parsed.reply);
    }
  }

  onEnd(): void {
    this.connection = undefined;
    this.#inbox.clear();
    for (const waiter of this.#waiting.splice(0)) waiter('lost');
  }
}

interface Parsed {
  readonly reply: SimReply;
  readonly end: number;
}

function lineEnd(bytes: Uint8Array, from: number): number {
  for (let at = bytes.indexOf(CR, from); at >= 0; at = bytes.indexOf(CR, at + 1)) if (bytes[at + 1] === LF) return at;
  return -1;
}

/** Undefined where bytes are missing. */
function parseReply(bytes: Uint8Array, from: number): Parsed | 'nonsense' | undefined {
  const end = lineEnd(bytes, from);
  if (end < 0) return bytes.length - from > 4096 ? 'nonsense' : undefined;
  const line = decoder.decode(bytes.subarray(from + 1, end));
  const next = end + 2;
  const type = String.fromCharCode(bytes[from] ?? 0);
  if (type === '+') return { reply: { kind: 'simple', text: line }, end: next };
  if (type === '-') return { reply: { kind: 'error', text: line }, end: next };
  if (type === '_') return { reply: { kind: 'null' }, end: next };
  if (!/^-?\d{1,15}$/.test(line)) return 'nonsense';
  const number = Number(line);
  if (type === ':') return { reply: { kind: 'integer', value: number }, end: next };
  if (type === '$') return parseBulk(bytes, next, number);
  if (type === '*') return parseArray(bytes, next, number);
  return 'nonsense';
}

function parseBulk(bytes: Uint8Array, from: number, length: number): Parsed | 'nonsense' | undefined {
  if (length < 0) return { reply: { kind: 'null' }, end: from };
  if (bytes.length < from + length + 2) return undefined;
  if (bytes[from + length] !== CR || bytes[from + length + 1] !== LF) return 'nonsense';
  return { reply: { kind: 'bulk', bytes: bytes.slice(from, from + length) }, end: from + length + 2 };
}

function parseArray(bytes: Uint8Array, from: number, count: number): Parsed | 'nonsense' | undefined {
  const items: SimReply[] = [];
  let end = from;
  for (let index = 0; index < count; index += 1) {
    const item = parseReply(bytes, end);
    if (item === undefined || item === 'nonsense') return item;
    items.push(item.reply);
    end = item.end;
  }
  return { reply: { kind: 'array', items }, end };
}
