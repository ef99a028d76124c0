/** What engines/llama reads of others: the state that libllama wrote, and the replies of a RESP server. */
import fc from 'fast-check';
import { RespReplies, type RespReply } from '#engines/llama/resp-connection.ts';
import { assembleRows, cutRows, readStateLayout, stateBytes } from '#engines/llama/state-layout.ts';
import type { SeededRandom } from '#testsupport/kill-values.ts';
import { demand, demandEqual, type FuzzTarget } from './harness.ts';

const kinds = fc.array(fc.tuple(fc.nat(8), fc.integer({ min: 1, max: 24 })), { minLength: 1, maxLength: 3 });

function stateOf([layers, cells, first]: [[number, number][], number, number]): Uint8Array {
  const parts: Uint8Array[] = [];
  const words = (...values: readonly number[]): void =>
    void parts.push(new Uint8Array(Uint32Array.from(values, (value) => value >>> 0).buffer));
  words(0xaf143cd8, 0, 1, cells);
  for (let cell = 0; cell < cells; cell += 1) words(first + cell, 1, 0);
  words(0, layers.length);
  for (const part of [0, 1]) {
    for (const [type, rowBytes] of layers) {
      words(type, rowBytes, 0);
      parts.push(new Uint8Array(cells * rowBytes).fill(type + part));
    }
  }
  return new Uint8Array(Buffer.concat(parts));
}

/** What is taken can be cut and put together again; what is refused says why. */
export const llamaState: FuzzTarget = {
  name: 'llama-state',
  corpus: fc.tuple(kinds, fc.integer({ min: 1, max: 6 }), fc.nat(70_000)).map(stateOf),
  begin: () => (input, _random, valid) => {
    const read = readStateLayout(input);
    demand(read.ok || !valid, 'a valid state is refused');
    if (!read.ok) return demand(read.why !== '', 'a refusal says nothing');
    const { layout, cells } = read;
    demandEqual(stateBytes(layout, cells), input.length, 'the size of a state');
    const payload = new Uint8Array(cells * layout.tokenBytes);
    cutRows(layout, input, payload);
    const assembled = input.slice();
    assembleRows(layout, new Uint8Array(payload.length), assembled);
    assembleRows(layout, payload, assembled);
    demandEqual(assembled, input, 'a state that was cut and assembled');
  },
};

const reply = fc.oneof(
  fc.constantFrom('+OK\r\n', ':1\r\n', ':0\r\n', '$-1\r\n', '-NO such thing\r\n', '$0\r\n\r\n'),
  fc.integer({ min: 1, max: 60 }).map((size) => `$${size}\r\n${'v'.repeat(size)}\r\n`),
);
const TARGET_SIZES = [0, 1, 7, 30];

/** The replies to as many requests as come, with targets of some sizes, in pieces. */
function repliesTo(input: Uint8Array, pieces: () => number): { readonly replies: readonly RespReply[]; readonly taken: boolean } {
  const reader = new RespReplies();
  const targets = Array.from({ length: 12 }, (_, index) => new Uint8Array((TARGET_SIZES[index % TARGET_SIZES.length] ?? 0) + 8).fill(0x23));
  const replies: RespReply[] = [];
  for (const target of targets) reader.expect(target.subarray(4, target.length - 4), (got) => replies.push(got));
  let taken = true;
  for (let offset = 0; offset < input.length && taken;) {
    const size = pieces();
    taken = reader.receive(input.subarray(offset, offset + size));
    offset += size;
  }
  demandEqual(replies.length + reader.expectedCount, targets.length, 'replies and what still waits');
  reader.end();
  demandEqual(replies.length, targets.length, 'what is settled');
  for (const target of targets) {
    demandEqual(
      [...target.subarray(0, 4), ...target.subarray(-4)],
      Array.from({ length: 8 }, () => 0x23),
      'the bytes around a target',
    );
  }
  return { replies, taken };
}

/** However the bytes are cut, the replies are the same, and nothing is written beside a target. */
export const llamaReplies: FuzzTarget = {
  name: 'llama-replies',
  corpus: fc.array(reply, { minLength: 1, maxLength: 12 }).map((replies) => new Uint8Array(Buffer.from(replies.join(''), 'latin1'))),
  begin: () => (input: Uint8Array, random: SeededRandom, valid: boolean) => {
    const whole = repliesTo(input, () => Math.max(1, input.length));
    const cut = repliesTo(input, () => 1 + random.below(9));
    demandEqual(cut, whole, 'replies in pieces');
    if (valid) demand(whole.taken, 'valid replies are refused');
  },
};
