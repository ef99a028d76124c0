/**
 * RAM that agents which have ended left in shared memory for the next one (shared-memory.ts says how it is named): who left it, and giving it
 * back. A live agent holds a flock on each file, and what it holds is never touched.
 */
import { readdirSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { arenaName } from './shared-memory.ts';
import { LOCK_EX, LOCK_NB, O_CLOEXEC, O_RDWR, addressOf, cString, libc } from './libc.ts';

export interface KeptRam {
  /** Without the `-<name>.arena` of its files. */
  readonly path: string;
  /** As `kvtier-<tag>.owner` says; undefined for memory that nobody will take over. */
  readonly dataDir: string | undefined;
  /** Memory behind it, not the sizes of sparse files. */
  readonly sizeBytes: number;
  /** When the newest of its files was made or sized: about the start of the agent that left it. */
  readonly sinceMs: number;
  /** A live agent has it. */
  readonly inUse: boolean;
}

export type DropOutcome = { readonly outcome: 'dropped'; readonly sizeBytes: number } | { readonly outcome: 'none' | 'in-use' };

/** All of the directory that this user may open, largest first; [] where there is no such directory. */
export function listKeptRam(directory: string): readonly KeptRam[] {
  const found = [...groups(directory)].map(([tag, paths]): KeptRam => {
    const stats = paths.map((path) => statSync(path, { throwIfNoEntry: false })).filter((entry) => entry !== undefined);
    const fds = paths.map((path) => lockedFile(path));
    for (const fd of fds) if (fd >= 0) libc.close(fd);
    return {
      path: `${directory}/kvtier-${tag}`,
      dataDir: ownerOf(directory, tag),
      sizeBytes: stats.reduce((sum, entry) => sum + entry.blocks * 512, 0),
      sinceMs: Math.max(0, ...stats.map((entry) => entry.ctimeMs)),
      inUse: fds.some((fd) => fd < 0),
    };
  });
  return found.sort((a, b) => b.sizeBytes - a.sizeBytes);
}

/** Frees what the agent of a data directory left; nothing at all where a live one has any of it. */
export function dropKeptRam(directory: string, dataDir: string): DropOutcome {
  const wanted = realOf(dataDir);
  for (const [tag, paths] of groups(directory)) {
    if (ownerOf(directory, tag) !== wanted) continue;
    const sizeBytes = paths.reduce((sum, path) => sum + (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512, 0);
    // All locks before the first file goes: an agent that starts meanwhile finds all of it or nothing.
    const fds = paths.map((path) => lockedFile(path));
    const isFree = fds.every((fd) => fd >= 0);
    if (isFree) for (const path of [...paths, `${directory}/kvtier-${tag}.owner`]) libc.unlink(addressOf(cString(path)));
    for (const fd of fds) if (fd >= 0) libc.close(fd);
    return isFree ? { outcome: 'dropped', sizeBytes } : { outcome: 'in-use' };
  }
  return { outcome: 'none' };
}

/** Paths of arenas by tag, the table first: without it nobody takes the others for a tier. */
function groups(directory: string): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const name of namesIn(directory)) {
    const tag = arenaName.exec(name)?.[1];
    if (tag === undefined) continue;
    const path = `${directory}/${name}`;
    const paths = found.get(tag) ?? [];
    if (name.endsWith('-table.arena')) paths.unshift(path);
    else paths.push(path);
    found.set(tag, paths);
  }
  return found;
}

function namesIn(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch (problem) {
    // No such directory, or not ours to read: nothing of ours is there.
    if (problem instanceof Error) return [];
    throw problem;
  }
}

/** A descriptor with the lock, or -1: a live agent has it, or it is another user's. */
function lockedFile(path: string): number {
  const fd = libc.open(addressOf(cString(path)), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0 || libc.flock(fd, LOCK_EX | LOCK_NB) === 0) return fd;
  libc.close(fd);
  return -1;
}

function ownerOf(directory: string, tag: string): string | undefined {
  try {
    return readlinkSync(`${directory}/kvtier-${tag}.owner`);
  } catch (problem) {
    // No link: nobody says whose it is.
    if (problem instanceof Error) return undefined;
    throw problem;
  }
}

/** As the link has it; a directory that is gone is named as it is given. */
function realOf(dataDir: string): string {
  try {
    return realpathSync(dataDir);
  } catch (problem) {
    if (problem instanceof Error) return dataDir;
    throw problem;
  }
}
