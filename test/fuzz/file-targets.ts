/** What lies on disk: headers and names of chunk files, the journal, folder marks, agent.json. */
import fc from 'fast-check';
import { encodeHead, encodeRecords, scanJournal } from '#catalog/journal-file.ts';
import { decodeBody, encodeBody, PAD_TYPE, RECORD_FRAME_BYTES, RECORD_HEAD_BYTES } from '#catalog/journal-record.ts';
import { formatAgentFile, parseAgentFile } from '#cli/agent-file.ts';
import { MAX_EPOCH } from '#core/epoch.ts';
import { KvtierError } from '#core/errors.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { FileSystem } from '#ports/file-system.ts';
import { hash, journalRecords, withStarts } from '#testsupport/journal-records.ts';
import type { SeededRandom } from '#testsupport/kill-values.ts';
import {
  CHUNK_HEADER_BYTES,
  chunkFileName,
  decodeChunkHeader,
  encodeChunkHeader,
  parseChunkFileName,
  type ChunkFileHeader,
} from '#tiers/ssd/chunk-file.ts';
import { readFolderMark, writeFolderMark } from '#tiers/ssd/folder-mark.ts';
import { demand, demandEqual, type FuzzTarget } from './harness.ts';

const encoder = new TextEncoder();
const text = fc.string({ unit: 'grapheme', maxLength: 24 });
const whole = (min: number): fc.Arbitrary<number> => fc.integer({ min, max: Number.MAX_SAFE_INTEGER });
const time = fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }).map((value) => value + 0);
const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const namespace: fc.Arbitrary<NamespaceDescriptor> = fc.record({
  grammar: fc.constantFrom('object-key', 'cache-engine-key', 'opaque', 'native'),
  tenant: text,
  model: text,
  rank: text,
  group: text,
  dtype: text,
  layer: text,
  keyPrefix: text,
  keyTail: text,
  tags: fc.array(fc.tuple(text, text), { maxLength: 3 }).map((entries) => Object.fromEntries(entries)),
});
const header: fc.Arbitrary<ChunkFileHeader> = fc
  .tuple(
    fc.record({
      generation: whole(1),
      sizeBytes: whole(0),
      checksum: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      createdAtMs: time,
      expiresAtMs: time,
      parentGeneration: whole(0),
      tokenCount: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      namespace,
      key: fc.uint8Array({ maxLength: 80 }),
    }),
    fc.record(
      {
        redisMetadata: fc.uint8Array({ maxLength: 60 }),
        lm: fc.record({ fmt: int32, dtype: int32, shape: fc.tuple(int32, int32, int32, int32) }),
      },
      { requiredKeys: [] },
    ),
  )
  .map(([always, sometimes]) => ({ ...always, ...sometimes }));
/** docs/formats/chunk-file.md. */
const HEADER_SEED = 0x6b76_7469_6572_430an;

function encodedHeader(value: ChunkFileHeader): Uint8Array {
  const outcome = encodeChunkHeader(value, hash);
  if (!outcome.ok) throw new Error(`the corpus has a header that is ${outcome.problem}`);
  return outcome.bytes;
}

export const chunkHeader: FuzzTarget = {
  name: 'chunk-header',
  corpus: header.map(encodedHeader),
  mend(input) {
    const out = new Uint8Array(CHUNK_HEADER_BYTES);
    out.set(input.subarray(0, CHUNK_HEADER_BYTES));
    const sum = BigInt.asUintN(64, hash(out.subarray(0, CHUNK_HEADER_BYTES - 8), HEADER_SEED));
    new DataView(out.buffer).setBigUint64(CHUNK_HEADER_BYTES - 8, sum, true);
    return out;
  },
  begin: () => (input, _random, valid) => {
    const decoded = decodeChunkHeader(input, hash);
    demand(decoded.ok || !valid, 'a valid header is refused');
    if (decoded.ok) demandEqual(encodedHeader(decoded.header), input, 'an accepted header, encoded again');
  },
};

export const fileNames: FuzzTarget = {
  name: 'file-names',
  corpus: whole(1).map((generation) => encoder.encode(chunkFileName(generation))),
  begin: () => (input, _random, valid) => {
    const name = new TextDecoder().decode(input);
    const generation = parseChunkFileName(name);
    demand(generation !== undefined || !valid, 'a name of ours is refused');
    if (generation !== undefined) demandEqual(chunkFileName(generation), name, 'an accepted name, written again');
  },
};

function journalOf(records: readonly Parameters<typeof encodeBody>[0][], sequence: number): Uint8Array {
  const head = encodeHead(sequence, hash);
  return new Uint8Array(Buffer.concat([head.bytes, encodeRecords(records, head.tail, hash).bytes]));
}

/** Makes sequence numbers and checksums of head and frames right, as far as the lengths lead; sometimes the lengths too. */
export function mendJournal(input: Uint8Array, random: SeededRandom): Uint8Array {
  const out = input.slice();
  const view = new DataView(out.buffer);
  if (out.length < 32) return out;
  let seed = BigInt.asUintN(64, hash(out.subarray(0, 24), 0n));
  view.setBigUint64(24, seed, true);
  let sequence = view.getBigUint64(16, true);
  let at = 32;
  while (at < out.length) {
    const room = 4096 - (at % 4096);
    if (room < RECORD_FRAME_BYTES) at += room;
    if (at + RECORD_FRAME_BYTES > out.length) break;
    let size = view.getUint32(at, true) + RECORD_FRAME_BYTES;
    if (at + size > out.length) {
      if (random.below(2) === 0) break;
      size = out.length - at;
      view.setUint32(at, size - RECORD_FRAME_BYTES, true);
    }
    sequence += 1n;
    view.setBigUint64(at + 8, BigInt.asUintN(64, sequence), true);
    seed = BigInt.asUintN(64, hash(out.subarray(at, at + size - 8), seed));
    view.setBigUint64(at + size - 8, seed, true);
    at += size;
  }
  return out;
}

/** Frames of an accepted file, found without the scanner: type, version and body, pads left out. */
function framesOf(file: Uint8Array): { type: number; version: number; body: Uint8Array }[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const frames: { type: number; version: number; body: Uint8Array }[] = [];
  let at = 32;
  while (at < file.length) {
    const room = 4096 - (at % 4096);
    if (room < RECORD_FRAME_BYTES) {
      at += room;
      continue;
    }
    const size = view.getUint32(at, true) + RECORD_FRAME_BYTES;
    const type = view.getUint16(at + 4, true);
    const body = file.subarray(at + RECORD_HEAD_BYTES, at + size - 8);
    if (type !== PAD_TYPE) frames.push({ type, version: view.getUint16(at + 6, true), body });
    at += size;
  }
  return frames;
}

export const journal: FuzzTarget = {
  name: 'journal',
  corpus: fc
    .tuple(fc.array(journalRecords, { maxLength: 8 }), fc.nat(1000))
    .map(([records, sequence]) => journalOf(withStarts(records), sequence)),
  mend: mendJournal,
  begin: () => (input, _random, valid) => {
    const scan = scanJournal(input, hash);
    demand(scan.problem === undefined || !valid, `a valid journal is damaged: ${scan.problem}`);
    demand(scan.tail.sizeBytes <= input.length, 'the good part is longer than the file');
    const good = framesOf(input.subarray(0, scan.tail.sizeBytes));
    demand(good.length === scan.entries.length, `${good.length} frames gave ${scan.entries.length} records`);
    scan.entries.forEach((entry, index) => {
      const frame = good[index];
      demand(frame !== undefined, 'each entry has a frame');
      demandEqual(encodeBody(entry.record), frame.body, 'an accepted record, encoded again');
      demandEqual(decodeBody(frame.type, frame.version, frame.body), entry.record, 'a record, decoded again');
    });
    if (!valid) return;
    const sequence = Number(new DataView(input.buffer, input.byteOffset).getBigUint64(16, true));
    demandEqual(
      journalOf(
        scan.entries.map((entry) => entry.record),
        sequence,
      ),
      input,
      'a whole journal, written again',
    );
  },
};

/** Only what marks need of a file system: one file. */
function oneFile(bytes: Uint8Array): { fileSystem: FileSystem; written: () => Uint8Array | undefined } {
  let written: Uint8Array | undefined;
  const fileSystem = { readFile: () => bytes, writeFileAtomic: (_path: string, content: Uint8Array) => void (written = content) };
  return { fileSystem: fileSystem as unknown as FileSystem, written: () => written };
}

const hexId = fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength: 16, maxLength: 16 });

export const folderMark: FuzzTarget = {
  name: 'folder-mark',
  corpus: fc
    .record({ format: fc.constant(1), id: hexId, epoch: fc.nat(MAX_EPOCH), journalSequence: whole(0) })
    .map((mark) => encoder.encode(`${JSON.stringify(mark)}\n`)),
  begin: () => (input, _random, valid) => {
    const { fileSystem, written } = oneFile(input);
    const mark = readFolderMark(fileSystem, '/d');
    demand(mark !== undefined || !valid, 'a mark of ours is refused');
    if (mark === undefined) return;
    demand(mark.epoch >= 0 && mark.journalSequence >= 0, `a mark has epoch ${mark.epoch} and sequence ${mark.journalSequence}`);
    writeFolderMark(fileSystem, '/d', { format: 1, id: mark.id, epoch: mark.epoch, journalSequence: mark.journalSequence });
    const again = readFolderMark(oneFile(written() ?? new Uint8Array(0)).fileSystem, '/d');
    demandEqual([again?.id, again?.epoch, again?.journalSequence], [mark.id, mark.epoch, mark.journalSequence], 'a mark, written and read');
  },
};

const address = fc.record({ host: fc.constantFrom('127.0.0.1', '::1', 'h'), port: fc.integer({ min: 1, max: 65_535 }) });

export const agentFile: FuzzTarget = {
  name: 'agent-file',
  corpus: fc
    .record({ version: text, pid: fc.nat(), startedAt: text, doors: fc.record({ http: address, resp: address }), dataDir: text })
    .map((file) => encoder.encode(formatAgentFile(file))),
  begin: () => (input, _random, valid) => {
    try {
      const file = parseAgentFile(new TextDecoder().decode(input), '/d/agent.json');
      // By their text: JSON knows no -0.
      const text = formatAgentFile(file);
      demandEqual(formatAgentFile(parseAgentFile(text, '/d/agent.json')), text, 'an agent file, written, read and written');
    } catch (problem) {
      if (!(problem instanceof KvtierError) || problem.code !== 'CORRUPT' || valid) throw problem;
    }
  },
};
