/** Looks at the host for `kvtier doctor`: folders, limits, libraries, ports. Leaves nothing behind. */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { errnoName } from '#core/errors.ts';
import { EINVAL, O_CLOEXEC, O_CREAT, O_DIRECT, O_RDWR, addressOf, cString, errno, libc } from './libc.ts';

export interface FolderLook {
  readonly exists: boolean;
  readonly writable: boolean;
  readonly direct: boolean | undefined;
  readonly problem: string;
}

/** Tries a file in the folder, or only the permission of the nearest folder above where it does not exist. */
export function lookAtFolder(path: string): FolderLook {
  if (!existsSync(path)) {
    let above = dirname(path);
    while (!existsSync(above)) above = dirname(above);
    try {
      accessSync(above, constants.W_OK);
      return { exists: false, writable: true, direct: undefined, problem: '' };
    } catch (problem) {
      return {
        exists: false,
        writable: false,
        direct: undefined,
        problem: `${above}: ${(problem as { code?: string }).code ?? String(problem)}`,
      };
    }
  }
  const name = cString(join(path, `.kvtier-doctor-${process.pid}`));
  const fd = libc.open(addressOf(name), O_RDWR | O_CREAT | O_CLOEXEC, 0o600);
  if (fd < 0) return { exists: true, writable: false, direct: undefined, problem: errnoName(errno()) };
  libc.close(fd);
  const directFd = libc.open(addressOf(name), O_RDWR | O_CLOEXEC | O_DIRECT, 0);
  const reason = directFd < 0 ? errno() : 0;
  if (directFd >= 0) libc.close(directFd);
  libc.unlink(addressOf(name));
  return { exists: true, writable: true, direct: directFd >= 0 ? true : reason === EINVAL ? false : undefined, problem: '' };
}

/** Soft limits of this process. */
export function readLimits(): { readonly openFiles: number | undefined; readonly lockedBytes: number | undefined } {
  const text = existsSync('/proc/self/limits') ? readFileSync('/proc/self/limits', 'utf8') : '';
  const soft = (name: string): number | undefined => {
    const match = new RegExp(`^${name}\\s+(\\S+)`, 'm').exec(text);
    if (match === null) return undefined;
    return match[1] === 'unlimited' ? Number.POSITIVE_INFINITY : Number(match[1]);
  };
  return { openFiles: soft('Max open files'), lockedBytes: soft('Max locked memory') };
}

/** Where the dynamic linker would find it on the usual paths. */
export function findLibrary(name: string): string | undefined {
  const folders = [
    ...(process.env['LD_LIBRARY_PATH'] ?? '').split(':').filter((folder) => folder !== ''),
    '/usr/local/nvidia/lib64',
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
    '/usr/lib64',
    '/usr/lib',
    '/lib64',
    '/usr/lib/wsl/lib',
  ];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** Why the address cannot be listened on, or ''. */
export async function tryPort(address: { readonly host: string; readonly port: number }): Promise<string> {
  try {
    const server = Bun.listen({ hostname: address.host, port: address.port, socket: { data() {} } });
    server.stop(true);
    return '';
  } catch (problem) {
    return (problem as { code?: string }).code ?? String(problem);
  }
}
