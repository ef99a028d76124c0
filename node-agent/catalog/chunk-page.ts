/**
 * A page of the load in columns: numbers in typed arrays, keys end to end, so that it moves from the worker by transfer and
 * 100,000 rows cost milliseconds of the main thread. Written by the worker, read once by the main thread.
 */
import { parseLmBlock } from '#core/lm-block.ts';
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { CatalogChunk, CatalogReplica } from '#ports/catalog-store.ts';

/** Numbers of a chunk: generation, size, created, last used, hits, parent, tokens, expiry. NaN where there is none. */
const NUMBERS = 8;
/** Which of the two words of a 64-bit number comes first on this machine. */
const LOW_HALF = new Uint32Array(new BigUint64Array([1n]).buffer)[0] === 1 ? 0 : 1;
const encoder = new TextEncoder();

export interface ChunkPage {
  readonly count: number;
  readonly last: boolean;
  /** Rows that were skipped since a value had not the type it must have; their files are adopted by header. */
  readonly skippedRows: number;
  readonly namespaces: readonly NamespaceDescriptor[];
  readonly folders: readonly string[];
  readonly numbers: Float64Array<ArrayBuffer>;
  readonly checksums: BigUint64Array<ArrayBuffer>;
  /** Index into `namespaces`. */
  readonly namespaceOf: Uint32Array<ArrayBuffer>;
  /** End of each key in `keys`. */
  readonly keyEnds: Uint32Array<ArrayBuffer>;
  readonly keys: Uint8Array<ArrayBuffer>;
  /** End of each chunk's redis metadata in `metadata`; `metadataPresent` tells an empty one from none. */
  readonly metadataEnds: Uint32Array<ArrayBuffer>;
  readonly metadataPresent: Uint8Array<ArrayBuffer>;
  readonly metadata: Uint8Array<ArrayBuffer>;
  /** Distinct lm blocks: the chunks of one model have the same, but for the last of a prompt. */
  readonly lmBlocks: readonly string[];
  /** Index into `lmBlocks` plus 1; 0 none. */
  readonly lmBlockOf: Uint32Array<ArrayBuffer>;
  /** End of each chunk's replicas in `replicaFolders`. */
  readonly replicaEnds: Uint32Array<ArrayBuffer>;
  /** Index into `folders`. */
  readonly replicaFolders: Uint32Array<ArrayBuffer>;
}

export interface ChunkPageRow {
  generation: number;
  sizeBytes: number;
  createdAtMs: number;
  lastUsedAtMs: number;
  expiresAtMs: number;
  hitCount: number;
  parentGeneration: number | null;
  tokenCount: number | null;
  /** The two halves of the checksum. */
  checksumHigh: number;
  checksumLow: number;
  namespace: NamespaceDescriptor;
  key: string | Uint8Array;
  redisMetadata: Uint8Array | null;
  /** As core/lm-block.ts formats it; checked by the caller. */
  lmBlock: string | null;
}

/** Collects rows; `capacity` of them at most. */
export class ChunkPageWriter {
  #count = 0;
  #skippedRows = 0;
  readonly #capacity: number;
  readonly #namespaces = new Map<NamespaceDescriptor, number>();
  #lastNamespace: NamespaceDescriptor | undefined;
  #lastNamespaceIndex = 0;
  readonly #folders = new Map<string, number>();
  readonly #numbers: Float64Array<ArrayBuffer>;
  readonly #checksums: BigUint64Array<ArrayBuffer>;
  /** `#checksums` in halves, in the order of this machine: a BigInt a row would be most of the time of a load. */
  readonly #checksumHalves: Uint32Array<ArrayBuffer>;
  readonly #namespaceOf: Uint32Array<ArrayBuffer>;
  readonly #keyEnds: Uint32Array<ArrayBuffer>;
  readonly #metadataEnds: Uint32Array<ArrayBuffer>;
  readonly #metadataPresent: Uint8Array<ArrayBuffer>;
  readonly #lmBlocks = new Map<string, number>();
  readonly #lmBlockOf: Uint32Array<ArrayBuffer>;
  readonly #replicaEnds: Uint32Array<ArrayBuffer>;
  readonly #replicaFolders: number[] = [];
  readonly #keys = new ByteHeap();
  readonly #metadata = new ByteHeap();

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#numbers = new Float64Array(capacity * NUMBERS);
    this.#checksums = new BigUint64Array(capacity);
    this.#checksumHalves = new Uint32Array(this.#checksums.buffer);
    this.#namespaceOf = new Uint32Array(capacity);
    this.#keyEnds = new Uint32Array(capacity);
    this.#metadataEnds = new Uint32Array(capacity);
    this.#metadataPresent = new Uint8Array(capacity);
    this.#lmBlockOf = new Uint32Array(capacity);
    this.#replicaEnds = new Uint32Array(capacity);
  }

  get isFull(): boolean {
    return this.#count === this.#capacity;
  }

  get count(): number {
    return this.#count;
  }

  /** Copies the row; the caller may use the object again. */
  add(row: ChunkPageRow): void {
    const at = this.#count;
    this.#count += 1;
    const numbers = this.#numbers;
    const first = at * NUMBERS;
    numbers[first] = row.generation;
    numbers[first + 1] = row.sizeBytes;
    numbers[first + 2] = row.createdAtMs;
    numbers[first + 3] = row.lastUsedAtMs;
    numbers[first + 4] = row.hitCount;
    numbers[first + 5] = row.parentGeneration ?? Number.NaN;
    numbers[first + 6] = row.tokenCount ?? Number.NaN;
    numbers[first + 7] = row.expiresAtMs;
    this.#checksumHalves[at * 2 + LOW_HALF] = row.checksumLow;
    this.#checksumHalves[at * 2 + 1 - LOW_HALF] = row.checksumHigh;
    this.#namespaceOf[at] = this.#namespaceIndex(row.namespace);
    this.#keyEnds[at] = typeof row.key === 'string' ? this.#keys.addText(row.key) : this.#keys.add(row.key);
    this.#metadataPresent[at] = row.redisMetadata === null ? 0 : 1;
    this.#metadataEnds[at] = row.redisMetadata === null ? this.#metadata.sizeBytes : this.#metadata.add(row.redisMetadata);
    this.#lmBlockOf[at] = row.lmBlock === null ? 0 : indexIn(this.#lmBlocks, row.lmBlock) + 1;
    this.#replicaEnds[at] = this.#replicaFolders.length;
  }

  /** To the row added last. */
  addReplica(folder: string): void {
    this.#replicaFolders.push(indexIn(this.#folders, folder));
    this.#replicaEnds[this.#count - 1] = this.#replicaFolders.length;
  }

  skip(): void {
    this.#skippedRows += 1;
  }

  /** Neighbours in time are often of one namespace. */
  #namespaceIndex(namespace: NamespaceDescriptor): number {
    if (namespace !== this.#lastNamespace) {
      this.#lastNamespace = namespace;
      this.#lastNamespaceIndex = indexIn(this.#namespaces, namespace);
    }
    return this.#lastNamespaceIndex;
  }

  finish(last: boolean): ChunkPage {
    return {
      count: this.#count,
      last,
      skippedRows: this.#skippedRows,
      namespaces: [...this.#namespaces.keys()],
      folders: [...this.#folders.keys()],
      numbers: this.#numbers,
      checksums: this.#checksums,
      namespaceOf: this.#namespaceOf,
      keyEnds: this.#keyEnds,
      keys: this.#keys.take(),
      metadataEnds: this.#metadataEnds,
      metadataPresent: this.#metadataPresent,
      metadata: this.#metadata.take(),
      lmBlocks: [...this.#lmBlocks.keys()],
      lmBlockOf: this.#lmBlockOf,
      replicaEnds: this.#replicaEnds,
      replicaFolders: Uint32Array.from(this.#replicaFolders),
    };
  }
}

/** The buffers to pass as transfer list with a page. */
export function transferOf(page: ChunkPage): ArrayBuffer[] {
  const { numbers, checksums, namespaceOf, keyEnds, keys, metadataEnds, metadataPresent, metadata, lmBlockOf } = page;
  const columns = [numbers, checksums, namespaceOf, keyEnds, keys, metadataEnds, metadataPresent, metadata, lmBlockOf];
  columns.push(page.replicaEnds, page.replicaFolders);
  return columns.map((column) => column.buffer);
}

/** The chunks of a page. Their keys and metadata are views of the page's memory: who keeps one keeps the page. */
export function readPage(page: ChunkPage): CatalogChunk[] {
  const chunks: CatalogChunk[] = [];
  const lmBlocks = page.lmBlocks.map(parseLmBlock);
  const replicaOf = page.folders.map((folder): CatalogReplica => ({ tier: 'ssd', folder, dirty: false }));
  let keyStart = 0;
  let metadataStart = 0;
  let replicaStart = 0;
  for (let at = 0; at < page.count; at += 1) {
    const number = (column: number): number => page.numbers[at * NUMBERS + column] ?? Number.NaN;
    const optional = (column: number): number | undefined => (Number.isNaN(number(column)) ? undefined : number(column));
    const keyEnd = page.keyEnds[at] ?? 0;
    const metadataEnd = page.metadataEnds[at] ?? 0;
    const replicaEnd = page.replicaEnds[at] ?? 0;
    const replicas: CatalogReplica[] = [];
    for (; replicaStart < replicaEnd; replicaStart += 1) {
      const replica = replicaOf[page.replicaFolders[replicaStart] ?? 0];
      if (replica !== undefined) replicas.push(replica);
    }
    chunks.push({
      generation: number(0),
      namespace: page.namespaces[page.namespaceOf[at] ?? 0] as NamespaceDescriptor,
      key: page.keys.subarray(keyStart, keyEnd),
      sizeBytes: number(1),
      checksum: page.checksums[at] ?? 0n,
      createdAtMs: number(2),
      expiresAtMs: number(7),
      lastUsedAtMs: number(3),
      hitCount: number(4),
      parentGeneration: optional(5),
      tokenCount: optional(6),
      redisMetadata: page.metadataPresent[at] === 1 ? page.metadata.subarray(metadataStart, metadataEnd) : undefined,
      lmBlock: lmBlocks[(page.lmBlockOf[at] ?? 0) - 1],
      replicas,
    });
    keyStart = keyEnd;
    metadataStart = metadataEnd;
  }
  return chunks;
}

function indexIn<T>(map: Map<T, number>, value: T): number {
  const known = map.get(value);
  if (known !== undefined) return known;
  map.set(value, map.size);
  return map.size - 1;
}

/** Bytes end to end, in a buffer that doubles. */
class ByteHeap {
  #bytes = new Uint8Array(4096);
  sizeBytes = 0;

  /** Returns the end. */
  add(bytes: Uint8Array): number {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.sizeBytes);
    this.sizeBytes += bytes.length;
    return this.sizeBytes;
  }

  /** As UTF-8. Returns the end. Keys are ASCII nearly always, and a loop beats the encoder on short ones. */
  addText(text: string): number {
    // UTF-8 has at most three bytes for each UTF-16 unit.
    this.#reserve(text.length * 3);
    const bytes = this.#bytes;
    const start = this.sizeBytes;
    for (let at = 0; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (code >= 0x80) {
        this.sizeBytes = start + encoder.encodeInto(text, bytes.subarray(start)).written;
        return this.sizeBytes;
      }
      bytes[start + at] = code;
    }
    this.sizeBytes = start + text.length;
    return this.sizeBytes;
  }

  #reserve(count: number): void {
    const wanted = this.sizeBytes + count;
    if (wanted <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(this.#bytes.length * 2, wanted));
    larger.set(this.#bytes.subarray(0, this.sizeBytes));
    this.#bytes = larger;
  }

  take(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.sizeBytes);
  }
}
