/**
 * Memory that clients share with the agent, mapped. A path is opened without following links, must lead to a file under an allowed root,
 * and to one that belongs to the peer (also where the agent is root): nobody has the agent read or write what he could not himself.
 */
import { fstatSync, readlinkSync, realpathSync, statfsSync } from 'node:fs';
import type { Address, Fd } from '#core/brand.ts';
import { errnoName } from '#core/errors.ts';
import type { Peer, Region, RegionOutcome, Regions } from '#ports/local-door.ts';
import {
  F_ADD_SEALS,
  F_GETFL,
  F_GET_SEALS,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  MADV_DONTDUMP,
  MAP_SHARED,
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  O_APPEND,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_PATH,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  addressOf,
  asPointer,
  cString,
  errno,
  libc,
} from './libc.ts';

/**
 * f_type of statfs(2): what lies in memory, memfds too. A region on a device could stop a thread for as long as the device likes; one on
 * hugetlbfs cannot be written to by its descriptor, and its pages may be none at the first touch also where its size is sealed.
 */
const TMPFS = 0x01021994;
/** 4 TiB, more than any node's memory; an address space has 128, and others want to map too. */
const MAX_REGION_BYTES = 2 ** 42;

class MappedRegion implements Region {
  readonly address: Address;
  readonly fd: Fd;
  readonly sizeBytes: number;
  readonly sealed: boolean;

  constructor(place: { readonly address: Address; readonly fd: Fd; readonly sizeBytes: number; readonly sealed: boolean }) {
    this.address = place.address;
    this.fd = place.fd;
    this.sizeBytes = place.sizeBytes;
    this.sealed = place.sealed;
  }

  close(): void {
    libc.munmap(asPointer(this.address), this.sizeBytes);
    libc.close(this.fd);
  }
}

export class HostRegions implements Regions {
  readonly #roots: readonly string[];

  /** `roots`: absolute folders; those that are not there allow nothing. */
  constructor(roots: readonly string[]) {
    this.#roots = roots.flatMap((root) => {
      try {
        return [realpathSync(root)];
      } catch (problem) {
        if (problem instanceof Error) return [];
        throw problem;
      }
    });
  }

  byPath(path: string, peer: Peer): RegionOutcome {
    if (!path.startsWith('/') || path.includes('\0')) return { problem: 'the path of a region must be absolute' };
    // Looked at before it is opened: to open a device is to do something to it.
    const place = libc.open(addressOf(cString(path)), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0) as Fd;
    if (place < 0) return { problem: `cannot open the region: ${errnoName(errno())}` };
    try {
      const problem = this.#refusal(place, peer) ?? unfit(place);
      if (problem !== undefined) return { problem };
      // The same file, whatever the path leads to by now.
      const fd = libc.open(addressOf(cString(`/proc/self/fd/${place}`)), O_RDWR | O_CLOEXEC, 0) as Fd;
      return fd < 0 ? { problem: `cannot open the region: ${errnoName(errno())}` } : mapped(fd);
    } finally {
      libc.close(place);
    }
  }

  #refusal(fd: Fd, peer: Peer): string | undefined {
    const real = readlinkSync(`/proc/self/fd/${fd}`);
    if (!this.#roots.some((root) => real.startsWith(`${root}/`)))
      return `a region must lie under ${this.#roots.join(' or ')} (socket.regionRoots)`;
    const stats = fstatSync(fd);
    if (!stats.isFile()) return 'a region must be a regular file';
    if (stats.uid !== peer.uid) return 'a region must belong to the user who attaches it';
    return undefined;
  }

  byDescriptor(fd: Fd): RegionOutcome {
    return mapped(fd);
  }

  discard(fd: Fd): void {
    libc.close(fd);
  }

  create(sizeBytes: number): RegionOutcome {
    const fd = libc.memfd_create(addressOf(cString('kvtier-reserve')), MFD_CLOEXEC | MFD_ALLOW_SEALING) as Fd;
    if (fd < 0) return { problem: `cannot make memory: ${errnoName(errno())}` };
    if (libc.ftruncate(fd, sizeBytes) !== 0 || libc.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) !== 0) {
      const problem = `cannot make memory: ${errnoName(errno())}`;
      libc.close(fd);
      return { problem };
    }
    return mapped(fd);
  }
}

/** Takes the descriptor over. */
function mapped(fd: Fd): RegionOutcome {
  const problem = unfit(fd);
  if (problem !== undefined) {
    libc.close(fd);
    return { problem };
  }
  // The seals first: it could shrink between a look at its size and a look at its seals.
  const seals = libc.fcntl(fd, F_GET_SEALS, 0);
  const sizeBytes = fstatSync(fd).size;
  if (sizeBytes === 0 || sizeBytes > MAX_REGION_BYTES) {
    libc.close(fd);
    return { problem: sizeBytes === 0 ? 'a region must have a size' : `a region has at most ${MAX_REGION_BYTES} bytes` };
  }
  const address = libc.mmap(null, sizeBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  // MAP_FAILED is the highest address, which as a number is not -1.
  if (address === null || !Number.isSafeInteger(Number(address))) {
    const refused = `cannot map the region: ${errnoName(errno())}`;
    libc.close(fd);
    return { problem: refused };
  }
  libc.madvise(address, sizeBytes, MADV_DONTDUMP);
  const sealed = seals >= 0 && (seals & F_SEAL_SHRINK) !== 0;
  return new MappedRegion({ address: Number(address) as Address, fd, sizeBytes, sealed });
}

function unfit(fd: Fd): string | undefined {
  if (!fstatSync(fd).isFile()) return 'a region must be a regular file';
  if (statfsSync(`/proc/self/fd/${fd}`).type !== TMPFS) return 'a region must lie in memory (tmpfs, memfd without huge pages)';
  // A write by such a descriptor goes to the end of the file, wherever it is meant to go.
  if ((libc.fcntl(fd, F_GETFL, 0) & O_APPEND) !== 0) return 'a region must not be open for appending';
  return undefined;
}
