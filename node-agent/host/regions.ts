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
  F_GET_SEALS,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  MADV_DONTDUMP,
  MAP_SHARED,
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  addressOf,
  asPointer,
  cString,
  errno,
  libc,
} from './libc.ts';

/** f_type of statfs(2): what lies in memory. A region on a device could stop a thread for as long as the device likes. */
const memoryFileSystems = new Set([0x01021994, 0x958458f6]);

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
    // Non-blocking: the open of a pipe would wait for its other end.
    const fd = libc.open(addressOf(cString(path)), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0) as Fd;
    if (fd < 0) return { problem: `cannot open the region: ${errnoName(errno())}` };
    const problem = this.#refusal(fd, peer);
    if (problem === undefined) return mapped(fd);
    libc.close(fd);
    return { problem };
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
  const sizeBytes = fstatSync(fd).size;
  const seals = libc.fcntl(fd, F_GET_SEALS, 0);
  const address = libc.mmap(null, sizeBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address === null || Number(address) === -1) {
    const refused = `cannot map the region: ${errnoName(errno())}`;
    libc.close(fd);
    return { problem: refused };
  }
  libc.madvise(address, sizeBytes, MADV_DONTDUMP);
  const sealed = seals >= 0 && (seals & F_SEAL_SHRINK) !== 0;
  return new MappedRegion({ address: Number(address) as Address, fd, sizeBytes, sealed });
}

function unfit(fd: Fd): string | undefined {
  const stats = fstatSync(fd);
  if (!stats.isFile()) return 'a region must be a regular file';
  if (stats.size === 0) return 'a region must have a size';
  if (!memoryFileSystems.has(statfsSync(`/proc/self/fd/${fd}`).type)) return 'a region must lie in memory (tmpfs, hugetlbfs, memfd)';
  return undefined;
}
