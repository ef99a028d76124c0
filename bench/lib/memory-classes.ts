/** What the resident memory of a process is made of: /proc/PID/smaps (proc(5)) summed up by kinds of mappings. */

export interface MemoryClasses {
  /** Where the runtime's allocator keeps everything that JavaScript and native code ask for: anonymous, reserved by the GiB. */
  readonly allocatorBytes: number;
  /** Machine code made at run time. */
  readonly codeBytes: number;
  /** Stacks, and what somebody mapped or took from malloc of the C library. */
  readonly otherBytes: number;
  /** Of the program, libraries and other files. */
  readonly fileBytes: number;
  /** The arenas. */
  readonly sharedBytes: number;
}

const GiB = 1024 ** 3;
type Kind = 'allocator' | 'code' | 'other' | 'file' | 'shared';

/** `from-to rwxp offset device inode name` */
const HEAD = /^([0-9a-f]+)-([0-9a-f]+) ([rwx-]{3})([ps]) \S+ \S+ \d+ *(.*)$/;
const RESIDENT = /^Rss: +(\d+) kB$/;

function kindOf(head: RegExpExecArray): Kind {
  const [, from = '', to = '', access = '', sharing, name = ''] = head;
  if (sharing === 's') return 'shared';
  if (access.includes('x') && name === '') return 'code';
  if (name.startsWith('/')) return 'file';
  return name === '' && Number(`0x${to}`) - Number(`0x${from}`) >= GiB ? 'allocator' : 'other';
}

/** Of the text of a whole smaps. */
export function memoryClasses(smaps: string): MemoryClasses {
  const bytes: Record<Kind, number> = { allocator: 0, code: 0, other: 0, file: 0, shared: 0 };
  let kind: Kind = 'other';
  for (const line of smaps.split('\n')) {
    const resident = RESIDENT.exec(line)?.[1];
    if (resident !== undefined) bytes[kind] += Number(resident) * 1024;
    else {
      const head = HEAD.exec(line);
      if (head !== null) kind = kindOf(head);
    }
  }
  const { allocator, code, other, file, shared } = bytes;
  return { allocatorBytes: allocator, codeBytes: code, otherBytes: other, fileBytes: file, sharedBytes: shared };
}
