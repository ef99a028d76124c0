/**
 * Messages between the pool and its file workers: lists of requests, of which all but copies have one, and their responses in order. Plain
 * data: they cross by structured clone, payloads never do.
 */
export interface CopyRequest {
  readonly kind: 'copyOut' | 'copyIn';
  readonly arenaAddress: number;
  readonly regionFd: number;
  readonly regionOffset: number;
  readonly regionAddress: number;
  readonly sizeBytes: number;
  readonly sealed: boolean;
}

/** Told by itself, and not answered. */
export interface ArenaRequest {
  readonly kind: 'arena';
  readonly address: number;
  readonly sizeBytes: number;
}

export type FileRequest =
  | CopyRequest
  | {
      readonly kind: 'write';
      readonly tempPath: string;
      readonly path: string;
      readonly header: Uint8Array;
      readonly address: number;
      readonly sizeBytes: number;
      readonly direct: boolean;
      readonly sync: boolean;
    }
  | {
      readonly kind: 'read';
      readonly path: string;
      readonly address: number;
      readonly sizeBytes: number;
      readonly capacityBytes: number;
      readonly direct: boolean;
    }
  | {
      readonly kind: 'readInto';
      readonly path: string;
      readonly regionFd: number;
      readonly regionOffset: number;
      readonly regionAddress: number;
      readonly sizeBytes: number;
      readonly direct: boolean;
    }
  | { readonly kind: 'checksum'; readonly path: string; readonly sizeBytes: number }
  | { readonly kind: 'memory'; readonly address: number; readonly sizeBytes: number }
  | { readonly kind: 'headers'; readonly paths: readonly string[] }
  | { readonly kind: 'unlink'; readonly path: string }
  | { readonly kind: 'rename'; readonly from: string; readonly to: string }
  | { readonly kind: 'list'; readonly path: string }
  | { readonly kind: 'statfs'; readonly path: string }
  | { readonly kind: 'fdatasync'; readonly fd: number }
  | { readonly kind: 'populate'; readonly address: number; readonly sizeBytes: number };

export type FileResponse =
  | { readonly ok: false; readonly errno: number; readonly step: string }
  | {
      readonly ok: true;
      readonly direct?: boolean;
      readonly header?: Uint8Array;
      readonly checksum?: bigint;
      readonly headers?: readonly (Uint8Array | { readonly errno: number; readonly step: string })[];
      readonly names?: readonly string[];
      readonly totalBytes?: number;
      readonly freeBytes?: number;
    };

export type TimedFileResponse = FileResponse & { readonly elapsedMs: number };
