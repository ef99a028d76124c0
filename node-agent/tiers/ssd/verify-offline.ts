/** Reads every chunk file of folders that no agent owns, and compares header, name and payload checksum. Changes nothing. */
import type { BlockHash } from '#core/checksum.ts';
import { errnoName } from '#core/errors.ts';
import type { FileIo } from '#ports/io-pool.ts';
import { decodeChunkHeader, parseChunkFileName } from './chunk-file.ts';

export interface OfflineStep {
  readonly checkedFiles: number;
  readonly totalFiles: number;
  readonly checkedBytes: number;
  readonly mismatches: readonly { readonly path: string; readonly key: string; readonly problem: string }[];
  readonly done: boolean;
}

const REPORT_EVERY = 64;

export async function* verifyOffline(files: FileIo, folders: readonly string[], hash: BlockHash): AsyncIterable<OfflineStep> {
  const found: { path: string; generation: number }[] = [];
  const mismatches: { path: string; key: string; problem: string }[] = [];
  for (const folder of folders) {
    for (let shard = 0; shard < 256; shard += 1) {
      const path = `${folder}/${shard.toString(16).padStart(2, '0')}`;
      const listing = await files.list(path);
      if (!listing.ok) continue;
      for (const name of listing.names) {
        const generation = parseChunkFileName(name);
        if (generation !== undefined) found.push({ path: `${path}/${name}`, generation });
      }
    }
  }
  let checkedBytes = 0;
  for (const [position, { path, generation }] of found.entries()) {
    if (position % REPORT_EVERY === 0)
      yield { checkedFiles: position, totalFiles: found.length, checkedBytes, mismatches: [...mismatches], done: false };
    const [headerBytes] = await files.readHeaders([path]);
    if (!(headerBytes instanceof Uint8Array)) {
      mismatches.push({
        path,
        key: '',
        problem: headerBytes === undefined ? 'unreadable' : `${headerBytes.step}: ${errnoName(headerBytes.errno)}`,
      });
      continue;
    }
    const decoded = decodeChunkHeader(headerBytes, hash);
    if (!decoded.ok) {
      mismatches.push({ path, key: '', problem: `header: ${decoded.problem}` });
      continue;
    }
    const { header } = decoded;
    const key = header.namespace.keyPrefix + new TextDecoder().decode(header.key) + header.namespace.keyTail;
    if (header.generation !== generation) mismatches.push({ path, key, problem: `header names generation ${header.generation}` });
    const payload = await files.checksumFile(path, header.sizeBytes);
    if (!payload.ok) mismatches.push({ path, key, problem: `${payload.step}: ${errnoName(payload.errno)}` });
    else if (payload.checksum !== header.checksum) mismatches.push({ path, key, problem: 'payload checksum' });
    checkedBytes += header.sizeBytes;
  }
  yield { checkedFiles: found.length, totalFiles: found.length, checkedBytes, mismatches, done: true };
}
