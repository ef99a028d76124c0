/** Small synchronous file work on the main thread: folders at start, the journal, agent.json. Chunk files go through FileIo. */
export interface AppendFile {
  readonly path: string;
  readonly sizeBytes: number;
  /**
   * Appends all bytes or throws KvtierError. In the page cache when it returns: survives the process, not a power cut. ETIMEDOUT (of
   * `truncate` and `writeFileAtomic` too, where a file system has deadlines): it may still happen, before anything that is asked later.
   */
  append(bytes: Uint8Array): void;
  /** Durable when the promise settles. Does not block the main thread. */
  sync(): Promise<void>;
  truncate(sizeBytes: number): void;
  close(): void;
}

/** Errors are KvtierError with the errno in context; a missing file is `undefined`, never a throw. */
export interface FileSystem {
  readFile(path: string): Uint8Array | undefined;
  /** Writes a temporary file, syncs it, renames it over `path`, syncs the folder. Mode 0600. */
  writeFileAtomic(path: string, bytes: Uint8Array): void;
  /** Opens or creates for appending, mode 0600. */
  openAppend(path: string): AppendFile;
  mkdir(path: string): void;
  list(path: string): string[];
  exists(path: string): boolean;
  remove(path: string): void;
  rename(from: string, to: string): void;
  sizeBytes(path: string): number | undefined;
  statFs(path: string): { totalBytes: number; freeBytes: number };
  /** Exclusive lock held until `release` or the end of the process; undefined where another holds it. */
  lock(path: string): { release(): void } | undefined;
}
