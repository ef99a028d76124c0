/**
 * A page of the load in columns: numbers in typed arrays, keys end to end, so that it moves from the worker by transfer and
 * 100,000 rows cost milliseconds of the main thread. Written by the worker, read once by the main thread.
 */
import type { NamespaceDescriptor } from '#core/namespace.ts';
import type { CatalogChunk, CatalogReplica } from '#ports/catalog-store.ts';

/** Numbers of a chunk: generation, size, created, last used, hits, parent, tokens. NaN where there is none. */
const NUMBERS = 7;

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
  /** End of each chunk's replicas in `replicaFolders`. */
  readonly replicaEnds: Uint32Array<ArrayBuffer>;
  /** Index into `folders`. */
  readonly replicaFolders: Uint32Array<ArrayBuffer>;
}

export interface ChunkPageRow {
  readonly numbers: readonly [number, number, number, number, number, number, number];
  readonly checksum: bigint;
  readonly namespace: NamespaceDescriptor;
  readonly key: Uint8Array;
  readonly redisMetadata: Uint8Array | undefined;
}

/** Collects rows; `capacity` of them at most. */
export class ChunkPageWriter {
  #count = 0;
  #skippedRows = 0;
  readonly #capacity: number;
  readonly #namespaces = new Map<NamespaceDescriptor, number>();
  readonly #folders = new Map<string, number>();
  readonly #numbers: Float64Array<ArrayBuffer>;
  readonly #checksums: BigUint64Array<ArrayBuffer>;
  readonly #namespaceOf: Uint32Array<ArrayBuffer>;
  readonly #keyEnds: Uint32Array<ArrayBuffer>;
  readonly #metadataEnds: Uint32Array<ArrayBuffer>;
  readonly #metadataPresent: Uint8Array<ArrayBuffer>;
  readonly #replicaEnds: Uint32Array<ArrayBuffer>;
  readonly #replicaFolders: number[] = [];
  readonly #keys = new ByteHeap();
  readonly #metadata = new ByteHeap();

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#numbers = new Float64Array(capacity * NUMBERS);
    this.#checksums = new BigUint64Array(capacity);
    this.#namespaceOf = new Uint32Array(capacity);
    this.#keyEnds = new Uint32Array(capacity);
    this.#metadataEnds = new Uint32Array(capacity);
    this.#metadataPresent = new Uint8Array(capacity);
    this.#replicaEnds = new Uint32Array(capacity);
  }

  get isFull(): boolean {
    return this.#count === this.#capacity;
  }

  get count(): number {
    return this.#count;
  }

  add(row: ChunkPageRow): void {
    const at = this.#count;
    this.#count += 1;
    this.#numbers.set(row.numbers, at * NUMBERS);
    this.#checksums[at] = row.checksum;
    this.#namespaceOf[at] = indexIn(this.#namespaces, row.namespace);
    this.#keyEnds[at] = this.#keys.add(row.key);
    this.#metadataPresent[at] = row.redisMetadata === undefined ? 0 : 1;
    this.#metadataEnds[at] = row.redisMetadata === undefined ? this.#metadata.sizeBytes : this.#metadata.add(row.redisMetadata);
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
      replicaEnds: this.#replicaEnds,
      replicaFolders: Uint32Array.from(this.#replicaFolders),
    };
  }
}

/** The buffers to pass as transfer list with a page. */
export function transferOf(page: ChunkPage): ArrayBuffer[] {
  const { numbers, checksums, namespaceOf, keyEnds, keys, metadataEnds, metadataPresent, metadata, replicaEnds, replicaFolders } = page;
  const columns = [numbers, checksums, namespaceOf, keyEnds, keys, metadataEnds, metadataPresent, metadata, replicaEnds, replicaFolders];
  return columns.map((column) => column.buffer);
}

/** The chunks of a page. Their keys and metadata are views of the page's memory: who keeps one keeps the page. */
export function readPage(page: ChunkPage): CatalogChunk[] {
  const chunks: CatalogChunk[] = [];
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
      lastUsedAtMs: number(3),
      hitCount: number(4),
      parentGeneration: optional(5),
      tokenCount: optional(6),
      redisMetadata: page.metadataPresent[at] === 1 ? page.metadata.subarray(metadataStart, metadataEnd) : undefined,
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
    const end = this.sizeBytes + bytes.length;
    if (end > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#bytes.length * 2, end));
      larger.set(this.#bytes.subarray(0, this.sizeBytes));
      this.#bytes = larger;
    }
    this.#bytes.set(bytes, this.sizeBytes);
    this.sizeBytes = end;
    return end;
  }

  take(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.sizeBytes);
  }
}
