/** What `kvtier doctor` tries on this machine. Every file that it makes is removed again; nothing is kept open. */
import { closeSync, constants, existsSync, openSync, readFileSync, statSync, unlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';

export interface FolderLook {
  readonly exists: boolean;
  /** A file can be made in it, or in the nearest folder above where it does not exist. */
  readonly writable: boolean;
  /** Undefined where it could not be tried. */
  readonly direct: boolean | undefined;
  /** Why it is not writable, otherwise ''. */
  readonly problem: string;
}

/** Folders that distributions and container toolkits put shared libraries in, besides the loader's cache and LD_LIBRARY_PATH. */
const LIBRARY_FOLDERS = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/lib64',
  '/usr/local/nvidia/lib64',
  '/usr/local/cuda/compat',
  '/usr/lib/wsl/lib',
];

function nearestFolder(path: string): string {
  let folder = path;
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}

function reason(error: unknown): string {
  return error instanceof Error ? ('code' in error && typeof error.code === 'string' ? error.code : error.message) : String(error);
}

/** Makes an empty file in the folder, or in the nearest one above, so that a fresh machine is judged too. */
export function lookAtFolder(path: string): FolderLook {
  const folder = nearestFolder(path);
  const exists = folder === path;
  if (!statSync(folder).isDirectory()) return { exists, writable: false, direct: undefined, problem: `${folder} is not a folder` };
  const trial = join(folder, `.kvtier-doctor-${process.pid}`);
  try {
    closeSync(openSync(trial, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600));
  } catch (error) {
    return { exists, writable: false, direct: undefined, problem: reason(error) };
  }
  try {
    return { exists, writable: true, direct: opensDirect(trial), problem: '' };
  } finally {
    unlinkSync(trial);
  }
}

/** A file system without O_DIRECT refuses the open with EINVAL. */
function opensDirect(path: string): boolean | undefined {
  if (process.platform !== 'linux') return undefined;
  try {
    closeSync(openSync(path, constants.O_WRONLY | constants.O_DIRECT));
    return true;
  } catch (error) {
    return reason(error) === 'EINVAL' ? false : undefined;
  }
}

function readLatin(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return ''; // absent or forbidden: the answer is then "not known"
  }
}

/** Soft limits out of /proc/self/limits, see proc(5). */
function limitOf(limits: string, name: string): number | undefined {
  const line = limits.split('\n').find((candidate) => candidate.startsWith(name));
  const text = line === undefined ? undefined : /^\s*(\S+)/.exec(line.slice(name.length))?.[1];
  if (text === 'unlimited') return Number.POSITIVE_INFINITY;
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

/** Path of a shared library as the loader would find it. */
export function findLibrary(name: string, env: Readonly<Record<string, string | undefined>> = process.env): string | undefined {
  const folders = [...(env['LD_LIBRARY_PATH'] ?? '').split(':').filter((folder) => folder !== ''), ...LIBRARY_FOLDERS];
  const found = folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
  if (found !== undefined) return found;
  const cached = new RegExp(`(/[^\\0]*/${name.replaceAll('.', '\\.')})\\0`).exec(readLatin('/etc/ld.so.cache'))?.[1];
  return cached !== undefined && existsSync(cached) ? cached : undefined;
}

/** Why the address cannot be listened on, or ''. */
export function tryPort(address: { readonly host: string; readonly port: number }): Promise<string> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => resolve(explain(reason(error))));
    server.listen({ host: address.host, port: address.port, exclusive: true }, () => server.close(() => resolve('')));
  });
}

function explain(code: string): string {
  if (code === 'EADDRINUSE') return 'something listens there (EADDRINUSE)';
  if (code === 'EADDRNOTAVAIL') return 'this machine has no such address (EADDRNOTAVAIL)';
  if (code === 'EACCES') return 'ports below 1024 need a privilege (EACCES)';
  return code;
}

/** Soft limits of this process; undefined where they are not known. */
export function readLimits(): { readonly openFiles: number | undefined; readonly lockedBytes: number | undefined } {
  const limits = readLatin('/proc/self/limits');
  return { openFiles: limitOf(limits, 'Max open files'), lockedBytes: limitOf(limits, 'Max locked memory') };
}

/** Speed and width at this moment; a link at rest may say less than it can. Source: Linux Documentation/ABI/testing/sysfs-bus-pci. */
export function readPciLink(busId: string, root = '/'): string {
  if (!/^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/i.test(busId)) return '';
  const folder = join(root, 'sys/bus/pci/devices', busId.toLowerCase());
  const [speed, width] = ['current_link_speed', 'current_link_width'].map((name) => readLatin(join(folder, name)).trim());
  return speed === '' || width === '' ? '' : `${speed} x${width}`;
}
