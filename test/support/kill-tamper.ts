/** Damage done to the files of an agent that is dead, and what it must do to what is served afterwards. */
import {
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  closeSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { BlockHash } from '#core/checksum.ts';
import { scanJournal } from '#catalog/journal-file.ts';
import { CHUNK_HEADER_BYTES, chunkFileName, chunkShard, decodeChunkHeader, encodeChunkHeader } from '#tiers/ssd/chunk-file.ts';
import type { ChunkFileHeader } from '#tiers/ssd/chunk-file.ts';
import type { SeededRandom } from './kill-values.ts';
import { versionOf } from './kill-values.ts';

const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);

const OLD_PREFIX = 'old:';

export const tampers = [
  'catalog deleted',
  'catalog overwritten',
  'catalog cut',
  'journal deleted',
  'journal cut',
  'journal flipped',
  'payload flipped',
  'header flipped',
  'chunk file cut',
] as const;
export type Tamper = (typeof tampers)[number];

export interface Damage {
  /** Everything on SSD must be gone. */
  readonly all: boolean;
  /** Chunk files whose content must not be served. */
  readonly files: readonly { readonly path: string; readonly key: string; readonly version: number }[];
}

function flipByte(path: string, offset: number, random: SeededRandom): void {
  const fd = openSync(path, 'r+');
  const byte = new Uint8Array(1);
  readSync(fd, byte, 0, 1, offset);
  byte[0] = (byte[0] ?? 0) ^ (1 << random.below(8));
  writeSync(fd, byte, 0, 1, offset);
  closeSync(fd);
}

function dropCatalogLog(dataDir: string): void {
  for (const suffix of ['-wal', '-shm']) rmSync(join(dataDir, `catalog.db${suffix}`), { force: true });
}

export interface ChunkFile {
  readonly path: string;
  readonly header: ChunkFileHeader;
  readonly key: string;
  readonly version: number;
}

/** Every whole chunk file of a folder, dead ones too. */
export function chunkFiles(folder: string): ChunkFile[] {
  const found: ChunkFile[] = [];
  for (const shard of readdirSync(folder).filter((name) => /^[0-9a-f]{2}$/.test(name))) {
    for (const name of readdirSync(join(folder, shard))) {
      const path = join(folder, shard, name);
      const fd = openSync(path, 'r');
      const head = new Uint8Array(CHUNK_HEADER_BYTES + 16);
      const length = readSync(fd, head, 0, head.length, 0);
      closeSync(fd);
      const decoded = length === head.length ? decodeChunkHeader(head.subarray(0, CHUNK_HEADER_BYTES), hash) : undefined;
      if (decoded?.ok !== true) continue;
      const { header } = decoded;
      const key = header.namespace.keyPrefix + new TextDecoder().decode(header.key) + header.namespace.keyTail;
      found.push({ path, header, key, version: versionOf(head.subarray(CHUNK_HEADER_BYTES)) });
    }
  }
  return found;
}

/** Where a cut leaves no whole journal: in the middle of a record, or before what a folder's mark remembers. */
function cutJournal(path: string, random: SeededRandom): void {
  const bytes = new Uint8Array(readFileSync(path));
  let sizeBytes = bytes.length - 1 - random.below(Math.min(bytes.length - 1, random.next() < 0.5 ? 23 : bytes.length));
  // A cut between two records looks like a journal that was never longer: one byte less, and it does not.
  if (scanJournal(bytes.subarray(0, sizeBytes), hash).problem === undefined) sizeBytes -= 1;
  truncateSync(path, sizeBytes);
}

export function tamper(dataDir: string, kind: Tamper, random: SeededRandom): Damage {
  const catalog = join(dataDir, 'catalog.db');
  const journal = join(dataDir, 'journal');
  const nothing: Damage = { all: false, files: [] };
  switch (kind) {
    case 'catalog deleted':
      rmSync(catalog, { force: true });
      dropCatalogLog(dataDir);
      return nothing;
    case 'catalog overwritten': {
      if (!existsSync(catalog)) return nothing;
      dropCatalogLog(dataDir);
      const bytes = readFileSync(catalog);
      for (let offset = random.below(4096); offset < bytes.length; offset += 1 + random.below(4096)) bytes[offset] = random.below(256);
      writeFileSync(catalog, bytes);
      return nothing;
    }
    case 'catalog cut':
      if (!existsSync(catalog)) return nothing;
      dropCatalogLog(dataDir);
      truncateSync(catalog, random.below(statSync(catalog).size));
      return nothing;
    case 'journal deleted':
      rmSync(journal);
      return { all: true, files: [] };
    case 'journal cut':
      cutJournal(journal, random);
      return { all: true, files: [] };
    case 'journal flipped':
      flipByte(journal, random.below(statSync(journal).size), random);
      return { all: true, files: [] };
    case 'payload flipped':
    case 'header flipped':
    case 'chunk file cut':
      return { all: false, files: damageFiles(join(dataDir, 'ssd'), kind, random) };
  }
}

/** Damages a few files that are there, if any is. */
function damageFiles(folder: string, kind: 'payload flipped' | 'header flipped' | 'chunk file cut', random: SeededRandom): Damage['files'] {
  const all = chunkFiles(folder);
  const copies = new Map<string, number>();
  for (const { key, version } of all) copies.set(`${key} ${version}`, (copies.get(`${key} ${version}`) ?? 0) + 1);
  // A twin that got its metadata late is written again under a new generation, and the former file may still be there: the value is sound.
  const files = all.filter((file) => !file.key.startsWith(OLD_PREFIX) && copies.get(`${file.key} ${file.version}`) === 1);
  const damaged = new Map<string, ChunkFile>();
  for (let count = Math.min(3, files.length); count > 0; count -= 1) {
    const file = random.pick(files);
    if (damaged.has(file.path)) continue;
    damaged.set(file.path, file);
    if (kind === 'payload flipped') flipByte(file.path, CHUNK_HEADER_BYTES + random.below(file.header.sizeBytes), random);
    else if (kind === 'header flipped') flipByte(file.path, random.below(CHUNK_HEADER_BYTES), random);
    else truncateSync(file.path, random.below(CHUNK_HEADER_BYTES + file.header.sizeBytes));
  }
  return [...damaged.values()];
}

/**
 * Chunk files older than all others, with keys that nobody asks for: adoption has to read them first, so it is still under way when
 * clients come.
 */
export function addOldFiles(folder: string, count: number): void {
  const payload = new Uint8Array(CHUNK_HEADER_BYTES);
  const namespace = {
    grammar: 'opaque',
    tenant: 'default',
    model: '',
    rank: '',
    group: '',
    dtype: '',
    layer: '',
    keyPrefix: '',
    keyTail: '',
    tags: {},
  } as const;
  for (let generation = 1; generation <= count; generation += 1) {
    const encoded = encodeChunkHeader(
      {
        generation,
        sizeBytes: 100,
        checksum: hash(payload.subarray(0, 100), 0n),
        createdAtMs: 1,
        expiresAtMs: 0,
        parentGeneration: 0,
        tokenCount: 0,
        namespace,
        key: new TextEncoder().encode(`${OLD_PREFIX}${generation}`),
      },
      hash,
    );
    if (!encoded.ok) throw new Error(`Cannot write an old file: ${encoded.problem}`);
    writeFileSync(join(folder, chunkShard(generation), chunkFileName(generation)), Buffer.concat([encoded.bytes, payload]));
  }
}
