/** What the front and the agent take from each other: messages with descriptors, the state that both map, and what it says of a connection. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dlopen, ptr } from 'bun:ffi';
import fc from 'fast-check';
import { createResumption } from '#api/credentials.ts';
import { FdChannel, unixAddress, unixSocket } from '#host/fd-channel.ts';
import { parseFrontMessage, type FrontMessage } from '#host/front-message.ts';
import { FrontState, STATE_TEXT_BYTES } from '#host/front-state.ts';
import {
  MSG_NOSIGNAL,
  O_CLOEXEC,
  O_NONBLOCK,
  SCM_RIGHTS,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOL_SOCKET,
  addressOf,
  errno,
  libc,
} from '#host/libc.ts';
import type { RespConnection } from '#servers/resp/resp-connection.ts';
import { resumeConnection } from '#servers/resp/resp-state.ts';
import type { SeededRandom } from '#testsupport/kill-values.ts';
import { demand, demandEqual, type Check, type FuzzTarget } from './harness.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const count = fc.oneof(fc.nat(8), fc.maxSafeNat());
const message: fc.Arbitrary<FrontMessage> = fc.oneof(
  fc.record({
    type: fc.constant('hello' as const),
    format: fc.nat(3),
    host: fc.constantFrom('127.0.0.1', '0.0.0.0'),
    port: fc.nat(65_535),
  }),
  fc.record({ type: fc.constant('connection' as const), slot: count, serial: count }),
  fc.record({ type: fc.constant('closed' as const), slot: count, serial: count }),
);

/** Two ends of a unix socket, made once. */
function channelPair(): { readonly sender: number; readonly receiver: FdChannel } {
  const folder = mkdtempSync(join(tmpdir(), 'kvtier-fuzz-'));
  const path = join(folder, 's');
  const listener = unixSocket();
  const address = unixAddress(path);
  const sender = unixSocket();
  const isMade =
    libc.bind(listener, addressOf(address), address.length) === 0 &&
    libc.listen(listener, 1) === 0 &&
    libc.connect(sender, addressOf(address), address.length) === 0;
  if (!isMade) throw new Error(`Cannot make a pair of sockets: errno ${errno()}`);
  const receiver = libc.accept4(listener, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
  libc.close(listener);
  rmSync(folder, { recursive: true });
  return { sender, receiver: new FdChannel(receiver) };
}

/** One message of any bytes, with any number of descriptors. struct msghdr and cmsghdr by hand, as the channel's own writer sends one at most. */
function sendRaw(socket: number, bytes: Uint8Array, descriptors: readonly number[]): void {
  // bun:ffi wants an address, and a message may be empty.
  const body = bytes.length === 0 ? new Uint8Array(1) : bytes.slice();
  const vector = BigUint64Array.of(BigInt(Number(addressOf(body))), BigInt(bytes.length));
  const control = new Uint8Array(16 + Math.ceil(Math.max(1, descriptors.length) / 2) * 8);
  const header = new Uint8Array(56);
  const view = new DataView(header.buffer);
  view.setBigUint64(16, BigInt(Number(addressOf(vector))), true);
  view.setBigUint64(24, 1n, true);
  if (descriptors.length > 0) {
    const controls = new DataView(control.buffer);
    controls.setBigUint64(0, BigInt(16 + 4 * descriptors.length), true);
    controls.setInt32(8, SOL_SOCKET, true);
    controls.setInt32(12, SCM_RIGHTS, true);
    for (const [index, fd] of descriptors.entries()) controls.setInt32(16 + 4 * index, fd, true);
    view.setBigUint64(32, BigInt(Number(addressOf(control))), true);
    view.setBigUint64(40, BigInt(control.length), true);
  }
  demand(libc.sendmsg(socket, addressOf(header), MSG_NOSIGNAL) >= 0, `a message of ${bytes.length} bytes can be sent: errno ${errno()}`);
}

const { symbols: pipes } = dlopen('libc.so.6', { pipe2: { args: ['ptr', 'i32'], returns: 'i32' } });

/**
 * What is sent as a descriptor: one end of a pipe. The other end tells when every copy of it is closed, whatever other threads of this
 * process open and close meanwhile.
 */
class Witness {
  readonly #ends = new Int32Array(2).fill(-1);

  constructor() {
    demand(pipes.pipe2(ptr(this.#ends), O_NONBLOCK | O_CLOEXEC) === 0, `a pipe can be made: errno ${errno()}`);
  }

  get fd(): number {
    return this.#ends[1] ?? -1;
  }

  /** After it was sent: what the receiver holds is all that is left. */
  sent(): void {
    libc.close(this.fd);
  }

  demandClosed(what: string): void {
    const end = this.#ends[0] ?? -1;
    const byte = new Uint8Array(1);
    let left = libc.read(end, addressOf(byte), 1);
    // A process that another thread is starting has a copy of everything for a moment.
    for (let tries = 0; left < 0 && tries < 50; tries += 1) {
      Bun.sleepSync(2);
      left = libc.read(end, addressOf(byte), 1);
    }
    libc.close(end);
    demand(left === 0, `a descriptor stays open after ${what}`);
  }
}

let pair: ReturnType<typeof channelPair> | undefined;

function wantedDescriptors(bytes: Uint8Array): number {
  return parseFrontMessage(bytes, 1) === undefined ? 0 : 1;
}

function beginMessages(): Check {
  pair ??= channelPair();
  const { sender, receiver } = pair;
  const hear = (bytes: Uint8Array, descriptors: number): FrontMessage | undefined => {
    const witness = new Witness();
    sendRaw(
      sender,
      bytes,
      Array.from({ length: descriptors }, () => witness.fd),
    );
    witness.sent();
    const got = receiver.receive();
    demand(got !== 'none', 'what was sent has come');
    if (got === 'end') {
      witness.demandClosed('a message that is refused');
      return undefined;
    }
    demand(got.fd >= 0 === (got.message.type === 'connection'), 'a descriptor comes with a connection, and with nothing else');
    if (got.fd >= 0) libc.close(got.fd);
    witness.demandClosed('a message that is taken');
    demand(descriptors === (got.message.type === 'connection' ? 1 : 0) && bytes.length <= 512, 'no more is taken than a message');
    return got.message;
  };
  return (input, random, valid) => {
    const heard = hear(input, valid ? wantedDescriptors(input) : random.below(5));
    demand(heard !== undefined || !valid, 'a message of ours is refused');
    if (heard !== undefined) {
      // By their text: JSON knows no -0.
      const text = JSON.stringify(heard);
      const again = hear(encoder.encode(text), heard.type === 'connection' ? 1 : 0);
      demandEqual(JSON.stringify(again), text, 'a message, said again');
    }
    if (random.below(8) === 0) {
      const long = new Uint8Array(500 + random.below(30)).fill(0x20);
      long.set(input.subarray(0, long.length));
      hear(long, wantedDescriptors(input));
    }
    if (input.length < 2 || random.below(8) > 0) return;
    // In two pieces: neither is a message where the whole was one.
    const cut = 1 + random.below(input.length - 1);
    const pieces = [input.subarray(0, cut), input.subarray(cut)].map((piece) => hear(piece, 0));
    demand(!valid || pieces.every((piece) => piece === undefined), 'half a message is taken');
  };
}

export const frontMessages: FuzzTarget = {
  name: 'front-messages',
  corpus: message.map((each) => encoder.encode(JSON.stringify(each))),
  begin: beginMessages,
};

const tokens = { admin: 'admin-token', read: 'read-token', tenants: new Map([['a', 'tenant-token']]) };
const resumption = createResumption(tokens, new Uint8Array(32).fill(7));
const who = fc.constantFrom(
  ['admin', '', resumption.proofOf('admin-token')],
  ['read', '', resumption.proofOf('read-token')],
  ['tenant', '@a', resumption.proofOf('tenant-token')],
  ['', '', ''],
);
const stateText = fc
  .tuple(
    who,
    fc.constantFrom(0, 1),
    fc.constantFrom(2, 3),
    fc.constantFrom(0, 1),
    fc.string({ maxLength: 12 }),
    fc.string({ maxLength: 12 }),
  )
  .map(([[role, tenant, proof], required, version, isLmcache, user, name]) =>
    JSON.stringify([required, version, isLmcache, role, tenant, user, proof, name]),
  )
  .filter((text) => encoder.encode(text).length <= STATE_TEXT_BYTES);

interface Resumed {
  role: string | undefined;
  tenant: string | undefined;
  isResumed: boolean;
}

/** What of a connection a state may set. */
function resume(text: string, tokensRequired: boolean): Resumed {
  const told: Resumed = { role: undefined, tenant: undefined, isResumed: false };
  const connection = {
    server: { options: { tokensRequired, resumption } },
    commands: {
      set role(role: string) {
        told.role = role;
      },
      looksLikeLmcache: false,
    },
    out: { version: 2 },
    identify: (_user: string, tenant: string | undefined) => void (told.tenant = tenant),
  };
  told.isResumed = resumeConnection(connection as unknown as RespConnection, text);
  return told;
}

/** Nobody is more than the proof that is in the text. */
function judgeResumed(text: string, { role, tenant, isResumed }: Resumed): void {
  if (role === undefined && tenant === undefined) return;
  demand(isResumed, 'who is refused becomes nobody');
  const proofs = [
    { name: 'admin', tenant: undefined, proof: resumption.proofOf('admin-token') },
    { name: 'read', tenant: undefined, proof: resumption.proofOf('read-token') },
    { name: 'tenant', tenant: '@a', proof: resumption.proofOf('tenant-token') },
  ];
  const wanted = proofs.find((each) => each.name === role && each.tenant === tenant);
  demand(wanted !== undefined && text.includes(wanted.proof), `${String(role)} of ${String(tenant)} without a proof of it`);
  const [, , , roleThen, tenantThen] = JSON.parse(text) as unknown[];
  demand(role === roleThen && (tenant ?? '') === tenantThen, 'a connection goes on as somebody else');
}

const SLOT_BYTES = 256;
const stateFile = fc.array(fc.tuple(stateText, fc.constantFrom(0, 1, 2)), { minLength: 1, maxLength: 6 }).map((slots) => {
  const bytes = new Uint8Array(256 + slots.length * SLOT_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set([0x6b, 0x76, 0x74, 0x69, 0x65, 0x72, 0x46, 0x0a]);
  view.setUint32(8, 1, true);
  view.setUint32(12, slots.length, true);
  bytes.fill(7, 32, 64);
  for (const [index, [text, state]] of slots.entries()) {
    const at = 256 + index * SLOT_BYTES;
    const encoded = encoder.encode(text);
    view.setUint32(at, state, true);
    view.setUint32(at + 4, encoded.length, true);
    bytes.set(encoded, at + 16);
  }
  return bytes;
});

let stateFolder: string | undefined;

function beginState(): Check {
  stateFolder ??= mkdtempSync(join(tmpdir(), 'kvtier-fuzz-'));
  const folder = stateFolder;
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'state');
  return (input, random, valid) => {
    writeFileSync(path, input);
    let state: FrontState;
    try {
      state = FrontState.open(path);
    } catch (problem) {
      demand(!valid && problem instanceof Error, `a state of ours is refused: ${String(problem)}`);
      return;
    }
    demand(256 + state.slots * SLOT_BYTES === input.length, `${state.slots} slots in ${input.length} bytes`);
    for (let slot = 0; slot < state.slots; slot += 1) {
      const text = state.read(slot);
      demand(encoder.encode(text).length <= 3 * STATE_TEXT_BYTES, `a slot says ${text.length} characters`);
      const required = random.below(4) > 0;
      const resumed = resume(text, required);
      judgeResumed(text, resumed);
      demand(required || resumed.tenant === undefined, 'without tokens there are no tenants');
      const isRest = state.isAtRest(slot);
      state.setBusy(slot);
      const told = 'x'.repeat(random.below(300));
      const isWritten = state.write(slot, told);
      demand(isWritten === told.length <= STATE_TEXT_BYTES && (!isWritten || state.read(slot) === told), 'what is written is read');
      state.occupy(slot);
      demand(state.read(slot) === '' && state.isAtRest(slot), 'a slot that is given anew says nothing');
      if (!isRest) state.free(slot);
    }
    state.close();
  };
}

function mendState(input: Uint8Array, random: SeededRandom): Uint8Array {
  const out = input.slice(0, 256 + Math.max(0, Math.floor((input.length - 256) / SLOT_BYTES)) * SLOT_BYTES);
  if (out.length < 256) return input;
  out.set([0x6b, 0x76, 0x74, 0x69, 0x65, 0x72, 0x46, 0x0a, 1, 0, 0, 0]);
  if (random.below(4) > 0) new DataView(out.buffer).setUint32(12, (out.length - 256) / SLOT_BYTES, true);
  return out;
}

export const frontState: FuzzTarget = { name: 'front-state', corpus: stateFile, mend: mendState, begin: beginState };

/** The text alone, which the mutators reach better than inside of a file. */
export const frontText: FuzzTarget = {
  name: 'front-text',
  corpus: stateText.map((text) => encoder.encode(text)),
  begin: () => (input, random, valid) => {
    const text = decoder.decode(input);
    const required = valid ? text.startsWith('[1') : random.below(2) === 0;
    const resumed = resume(text, required);
    judgeResumed(text, resumed);
    demand(!valid || resumed.isResumed === (required || (JSON.parse(text) as string[])[4] === ''), 'a connection of ours goes on');
  },
};
