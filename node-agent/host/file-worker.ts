/**
 * A thread that does one file job at a time: O_DIRECT reads and writes of chunk files between disk and memory, headers, folders,
 * unlinks. Order and priority are the pool's business. Memory of a job is touched only until its completion message.
 *
 * Slices of 4 MiB; the checksum of a slice is taken while the device works for the other threads.
 */
import { fstatSync, readdirSync, statfsSync } from 'node:fs';
import { IoVector } from './io-vector.ts';
import { MemoryViews, checksumOf } from './memory-checksum.ts';
import { BLOCK_BYTES, roundUp } from '#core/bytes.ts';
import { CHECKSUM_BLOCK_BYTES, RunningChecksum } from '#core/checksum.ts';
import {
  EFAULT,
  EINTR,
  EINVAL,
  EIO,
  ENOSPC,
  MADV_POPULATE_WRITE,
  MFD_CLOEXEC,
  O_CLOEXEC,
  O_CREAT,
  O_DIRECT,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  addressOf,
  asPointer,
  cString,
  errno,
  libc,
} from './libc.ts';
import { SHORT_FILE } from '#ports/io-pool.ts';
import type { ArenaRequest, CopyRequest, FileRequest, FileResponse, TimedFileResponse } from './file-requests.ts';

declare const self: Worker;

const SLICE_BYTES = 4 * 1024 * 1024;
const NICE = 5;
const SCRATCH_BYTES = BLOCK_BYTES + SLICE_BYTES;
/**
 * Aligned memory of this thread: the header block, then a slice for memory that O_DIRECT cannot take. Belongs to the thread's own heap,
 * which goes with it: a mapping would stay for each thread that a stuck device has made superfluous.
 */
const owned = new Uint8Array(SCRATCH_BYTES + BLOCK_BYTES);
const ownedAddress = Number(addressOf(owned));
const scratchAddress = roundUp(ownedAddress, BLOCK_BYTES);
const bounceAddress = scratchAddress + BLOCK_BYTES;
const scratch = owned.subarray(scratchAddress - ownedAddress, scratchAddress - ownedAddress + SCRATCH_BYTES);
const views = new MemoryViews();
const iov = new IoVector(2);

class Failure {
  readonly errno: number;
  readonly step: string;
  constructor(step: string, reason: number = errno()) {
    this.errno = reason;
    this.step = step;
  }
}

function openFile(path: string, flags: number, direct: boolean): { fd: number; direct: boolean } {
  const name = cString(path);
  if (direct) {
    const fd = libc.open(addressOf(name), flags | O_DIRECT | O_CLOEXEC, 0o600);
    if (fd >= 0) return { fd, direct: true };
    // EINVAL: a file system without O_DIRECT (tmpfs, some overlays). Any other reason is a real one.
    if (errno() !== EINVAL) throw new Failure('open');
  }
  const fd = libc.open(addressOf(name), flags | O_CLOEXEC, 0o600);
  if (fd < 0) throw new Failure('open');
  return { fd, direct: false };
}

/** One readv or writev at `offset`, whole or a throw. `minimumBytes` is what must be moved; a file may end behind it. */
function transfer(
  fd: number,
  parts: readonly (readonly [address: number, sizeBytes: number])[],
  options: { offset: number; writing: boolean; minimumBytes: number },
): void {
  let skip = 0;
  const total = parts.reduce((sum, part) => sum + part[1], 0);
  while (skip < options.minimumBytes) {
    let count = 0;
    let position = 0;
    for (const [address, sizeBytes] of parts) {
      const partSkip = Math.max(0, Math.min(sizeBytes, skip - position));
      position += sizeBytes;
      if (partSkip === sizeBytes) continue;
      iov.set(count, address + partSkip, sizeBytes - partSkip);
      count += 1;
    }
    const offset = options.offset + skip;
    const moved = options.writing ? libc.pwritev(fd, iov.pointer, count, offset) : libc.preadv(fd, iov.pointer, count, offset);
    if (moved < 0) {
      if (errno() === EINTR) continue;
      throw new Failure(options.writing ? 'write' : 'read');
    }
    if (moved === 0) throw new Failure(options.writing ? 'write' : SHORT_FILE, options.writing ? ENOSPC : EIO);
    skip += moved;
    if (skip >= total) return;
  }
}

/** Payload memory in slices: straight where O_DIRECT can take it, else through the bounce slice. */
function* slices(sizeBytes: number): Generator<{ offset: number; sizeBytes: number; paddedBytes: number }> {
  for (let offset = 0; offset < sizeBytes; offset += SLICE_BYTES) {
    const take = Math.min(SLICE_BYTES, sizeBytes - offset);
    yield { offset, sizeBytes: take, paddedBytes: roundUp(take, BLOCK_BYTES) };
  }
}

function writeChunk(request: Extract<FileRequest, { kind: 'write' }>): FileResponse {
  const opened = openFile(request.tempPath, O_WRONLY | O_CREAT | O_TRUNC, request.direct);
  try {
    scratch.set(request.header, 0);
    const aligned = request.address % BLOCK_BYTES === 0;
    let first = true;
    for (const slice of slices(request.sizeBytes)) {
      let source = request.address + slice.offset;
      // The last block is padded with zeroes, never with what happens to lie behind the payload.
      if (!aligned || slice.paddedBytes !== slice.sizeBytes) {
        scratch.set(views.view(source, slice.sizeBytes), BLOCK_BYTES);
        scratch.fill(0, BLOCK_BYTES + slice.sizeBytes, BLOCK_BYTES + slice.paddedBytes);
        source = bounceAddress;
      }
      const parts: (readonly [number, number])[] = [[source, slice.paddedBytes]];
      if (first) parts.unshift([scratchAddress, BLOCK_BYTES]);
      const total = slice.paddedBytes + (first ? BLOCK_BYTES : 0);
      transfer(opened.fd, parts, { offset: first ? 0 : BLOCK_BYTES + slice.offset, writing: true, minimumBytes: total });
      first = false;
    }
    if (first) transfer(opened.fd, [[scratchAddress, BLOCK_BYTES]], { offset: 0, writing: true, minimumBytes: BLOCK_BYTES });
    if (request.sync && libc.fdatasync(opened.fd) !== 0) throw new Failure('fdatasync');
    if (libc.rename(addressOf(cString(request.tempPath)), addressOf(cString(request.path))) !== 0) throw new Failure('rename');
    return { ok: true, direct: opened.direct };
  } catch (problem) {
    libc.unlink(addressOf(cString(request.tempPath)));
    throw problem;
  } finally {
    libc.close(opened.fd);
  }
}

/** A copy of the file's first block. */
function readHeaderBlock(fd: number): Uint8Array {
  transfer(fd, [[scratchAddress, BLOCK_BYTES]], { offset: 0, writing: false, minimumBytes: BLOCK_BYTES });
  return scratch.slice(0, BLOCK_BYTES);
}

function readChunk(request: Extract<FileRequest, { kind: 'read' }>): FileResponse {
  const opened = openFile(request.path, O_RDONLY, request.direct);
  try {
    const hasher = checksumOf(views, request.address, request.sizeBytes);
    const aligned = request.address % BLOCK_BYTES === 0 && request.capacityBytes >= roundUp(request.sizeBytes, BLOCK_BYTES);
    let header: Uint8Array | undefined;
    for (const slice of slices(request.sizeBytes)) {
      const target = aligned ? request.address + slice.offset : bounceAddress;
      const parts: (readonly [number, number])[] = [[target, slice.paddedBytes]];
      if (header === undefined) parts.unshift([scratchAddress, BLOCK_BYTES]);
      const before = header === undefined ? BLOCK_BYTES : 0;
      transfer(opened.fd, parts, {
        offset: header === undefined ? 0 : BLOCK_BYTES + slice.offset,
        writing: false,
        minimumBytes: before + slice.sizeBytes,
      });
      header ??= scratch.slice(0, BLOCK_BYTES);
      if (!aligned)
        views.view(request.address + slice.offset, slice.sizeBytes).set(scratch.subarray(BLOCK_BYTES, BLOCK_BYTES + slice.sizeBytes));
      hasher.advance(slice.offset + slice.sizeBytes);
    }
    if (header === undefined) {
      header = readHeaderBlock(opened.fd);
    }
    return { ok: true, direct: opened.direct, header, checksum: hasher.finish() };
  } finally {
    libc.close(opened.fd);
  }
}

/**
 * What cannot shrink is copied plainly. Else the kernel copies between the client's file and our memory, so that a file which the client
 * truncates is a failure and no signal; what is gone of it stays gone.
 */
function moveSlice(request: CopyRequest, offset: number, sizeBytes: number): void {
  const inwards = request.kind === 'copyIn';
  const arena = request.arenaAddress + offset;
  if (request.sealed) {
    const region = asPointer(request.regionAddress + offset);
    libc.memcpy(inwards ? asPointer(arena) : region, inwards ? region : asPointer(arena), sizeBytes);
    return;
  }
  const start = request.regionOffset + offset;
  if (fstatSync(request.regionFd).size < start + sizeBytes) throw new Failure('region', EFAULT);
  try {
    transfer(request.regionFd, [[arena, sizeBytes]], { offset: start, writing: !inwards, minimumBytes: sizeBytes });
  } catch (problem) {
    throw problem instanceof Failure ? new Failure('region', EFAULT) : problem;
  }
}

function copyOut(request: CopyRequest): FileResponse {
  for (const slice of slices(request.sizeBytes)) moveSlice(request, slice.offset, slice.sizeBytes);
  return { ok: true };
}

/** Each block is hashed in our own memory, after it has arrived and while it is in the processor's cache. */
function copyIn(request: CopyRequest): FileResponse {
  const hasher = checksumOf(views, request.arenaAddress, request.sizeBytes);
  for (let at = 0; at < request.sizeBytes; at += CHECKSUM_BLOCK_BYTES) {
    const take = Math.min(CHECKSUM_BLOCK_BYTES, request.sizeBytes - at);
    moveSlice(request, at, take);
    hasher.advance(at + take);
  }
  return { ok: true, checksum: hasher.finish() };
}

/**
 * Memory of the kernel's on the way from the bounce slice to a client's region: read(2) from there is EFAULT where the region has gone, while
 * a write to the client's file would make it longer again.
 */
class Ferry {
  #fd = -1;

  carry(sizeBytes: number, regionAddress: number): void {
    if (this.#fd < 0) this.#fd = libc.memfd_create(addressOf(cString('kvtier-ferry')), MFD_CLOEXEC);
    if (this.#fd < 0) throw new Failure('memfd_create');
    transfer(this.#fd, [[bounceAddress, sizeBytes]], { offset: 0, writing: true, minimumBytes: sizeBytes });
    transfer(this.#fd, [[regionAddress, sizeBytes]], { offset: 0, writing: false, minimumBytes: sizeBytes });
  }

  close(): void {
    if (this.#fd >= 0) libc.close(this.#fd);
  }
}

/**
 * Whole blocks go straight into the region where it is aligned; a tail, and what is not aligned, through the bounce slice, so that no byte
 * behind the span is touched. The checksum is of what the region holds then, read back through the kernel.
 */
function readInto(request: Extract<FileRequest, { kind: 'readInto' }>): FileResponse {
  const opened = openFile(request.path, O_RDONLY, request.direct);
  const ferry = new Ferry();
  try {
    const header = readHeaderBlock(opened.fd);
    const { regionFd, regionOffset, regionAddress } = request;
    /** What fails here is the client's fault and not the device's. */
    const block = (offset: number, sizeBytes: number): Uint8Array => {
      try {
        const options = { offset: regionOffset + offset, writing: false, minimumBytes: sizeBytes };
        if (sizeBytes > 0) transfer(regionFd, [[bounceAddress, sizeBytes]], options);
      } catch (problem) {
        throw problem instanceof Failure ? new Failure('region', EFAULT) : problem;
      }
      return scratch.subarray(BLOCK_BYTES, BLOCK_BYTES + sizeBytes);
    };
    const hasher = new RunningChecksum(request.sizeBytes, (bytes, seed) => Bun.hash.xxHash3(bytes, seed), block);
    const aligned = regionAddress % BLOCK_BYTES === 0;
    for (const slice of slices(request.sizeBytes)) {
      const straight = aligned ? slice.sizeBytes - (slice.sizeBytes % BLOCK_BYTES) : 0;
      const fileOffset = BLOCK_BYTES + slice.offset;
      if (straight > 0)
        transfer(opened.fd, [[regionAddress + slice.offset, straight]], { offset: fileOffset, writing: false, minimumBytes: straight });
      const rest = slice.sizeBytes - straight;
      if (rest > 0) {
        const padded = roundUp(rest, BLOCK_BYTES);
        transfer(opened.fd, [[bounceAddress, padded]], { offset: fileOffset + straight, writing: false, minimumBytes: rest });
        ferry.carry(rest, regionAddress + slice.offset + straight);
      }
      hasher.advance(slice.offset + slice.sizeBytes);
    }
    return { ok: true, direct: opened.direct, header, checksum: hasher.finish() };
  } finally {
    ferry.close();
    libc.close(opened.fd);
  }
}

/** Checksum of a file's payload through the bounce slice: `verify` has no slot to read into. */
function checksumFile(path: string, sizeBytes: number): FileResponse {
  const opened = openFile(path, O_RDONLY, true);
  try {
    const header = readHeaderBlock(opened.fd);
    let seed = 0n;
    if (sizeBytes === 0) seed = Bun.hash.xxHash3(new Uint8Array(0), 0n);
    for (const slice of slices(sizeBytes)) {
      transfer(opened.fd, [[bounceAddress, slice.paddedBytes]], {
        offset: BLOCK_BYTES + slice.offset,
        writing: false,
        minimumBytes: slice.sizeBytes,
      });
      for (let at = 0; at < slice.sizeBytes; at += CHECKSUM_BLOCK_BYTES) {
        seed = Bun.hash.xxHash3(
          scratch.subarray(BLOCK_BYTES + at, BLOCK_BYTES + Math.min(at + CHECKSUM_BLOCK_BYTES, slice.sizeBytes)),
          seed,
        );
      }
    }
    return { ok: true, header, checksum: seed };
  } finally {
    libc.close(opened.fd);
  }
}

function readHeader(path: string): Uint8Array | { errno: number; step: string } {
  try {
    const opened = openFile(path, O_RDONLY, false);
    try {
      return readHeaderBlock(opened.fd);
    } finally {
      libc.close(opened.fd);
    }
  } catch (problem) {
    if (problem instanceof Failure) return { errno: problem.errno, step: problem.step };
    throw problem;
  }
}

function nodeErrno(problem: unknown, step: string): Failure {
  const code = (problem as { errno?: number }).errno;
  return new Failure(step, code === undefined ? EIO : Math.abs(code));
}

function handle(request: FileRequest): FileResponse {
  switch (request.kind) {
    case 'write':
      return writeChunk(request);
    case 'read':
      return readChunk(request);
    case 'copyOut':
      return copyOut(request);
    case 'copyIn':
      return copyIn(request);
    case 'readInto':
      return readInto(request);
    case 'checksum':
      return checksumFile(request.path, request.sizeBytes);
    case 'memory': {
      const hasher = checksumOf(views, request.address, request.sizeBytes);
      hasher.advance(request.sizeBytes);
      return { ok: true, checksum: hasher.finish() };
    }
    case 'headers':
      return { ok: true, headers: request.paths.map(readHeader) };
    case 'unlink':
      if (libc.unlink(addressOf(cString(request.path))) !== 0) throw new Failure('unlink');
      return { ok: true };
    case 'rename':
      if (libc.rename(addressOf(cString(request.from)), addressOf(cString(request.to))) !== 0) throw new Failure('rename');
      return { ok: true };
    case 'list':
      try {
        return { ok: true, names: readdirSync(request.path) };
      } catch (problem) {
        throw nodeErrno(problem, 'list');
      }
    case 'statfs':
      try {
        const stats = statfsSync(request.path);
        return { ok: true, totalBytes: stats.blocks * stats.bsize, freeBytes: stats.bavail * stats.bsize };
      } catch (problem) {
        throw nodeErrno(problem, 'statfs');
      }
    case 'fdatasync':
      if (libc.fdatasync(request.fd) !== 0) throw new Failure('fdatasync');
      return { ok: true };
    case 'populate':
      // EINVAL before Linux 5.14: pages are then mapped one by one on first touch, which costs time and nothing else.
      if (libc.madvise(asPointer(request.address), request.sizeBytes, MADV_POPULATE_WRITE) !== 0 && errno() !== EINVAL)
        throw new Failure('madvise');
      return { ok: true };
  }
}

libc.setpriority(0, 0, NICE);

function respond(request: FileRequest): TimedFileResponse {
  const startedAt = performance.now();
  try {
    return { ...handle(request), elapsedMs: performance.now() - startedAt };
  } catch (problem) {
    if (!(problem instanceof Failure)) throw problem;
    return { ok: false, errno: problem.errno, step: problem.step, elapsedMs: performance.now() - startedAt };
  }
}

self.onmessage = (event: MessageEvent<ArenaRequest | readonly FileRequest[]>): void => {
  const message = event.data;
  if ('kind' in message) return views.register(message.address, message.sizeBytes);
  self.postMessage(message.map(respond));
  views.jobDone();
};
