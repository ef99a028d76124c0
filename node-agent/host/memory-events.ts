/**
 * What the kernel tells of memory pressure on this process's cgroup (v2).
 * Source: Linux kernel Documentation/admin-guide/cgroup-v2.rst (memory.events, memory.current, memory.max), accounting/psi.rst.
 */
import { readFileSync } from 'node:fs';
import type { MemoryReading } from '#ports/machine-watch.ts';

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // Not there, or not ours to read: nothing is known, and nothing is reported.
    return undefined;
  }
}

/** `name value` lines; of pressure files `full avg10=1.50 ...` gives full.avg10. */
function fieldOf(text: string | undefined, pattern: RegExp): number {
  return Number(pattern.exec(text ?? '')?.[1] ?? 0);
}

/** The innermost group that has memory.events, found once: a process is not moved between groups while it runs. `root` for tests. */
export function memoryReader(root = ''): () => MemoryReading | undefined {
  const path = /^0::(.*)$/m.exec(textOf(`${root}/proc/self/cgroup`) ?? '')?.[1] ?? '/';
  const folders: string[] = [];
  for (let rest = path; ; rest = rest.slice(0, rest.lastIndexOf('/'))) {
    folders.push(`${root}/sys/fs/cgroup${rest}`);
    if (rest === '' || rest === '/') break;
  }
  const folder = folders.find((candidate) => textOf(`${candidate}/memory.events`) !== undefined);
  if (folder === undefined) return () => undefined;
  return () => {
    const events = textOf(`${folder}/memory.events`);
    if (events === undefined) return undefined;
    const pressure = textOf(`${folder}/memory.pressure`);
    const max = textOf(`${folder}/memory.max`)?.trim();
    return {
      high: fieldOf(events, /^high (\d+)$/m),
      max: fieldOf(events, /^max (\d+)$/m),
      oom: fieldOf(events, /^oom (\d+)$/m),
      oomKill: fieldOf(events, /^oom_kill (\d+)$/m),
      currentBytes: fieldOf(textOf(`${folder}/memory.current`), /^(\d+)/),
      limitBytes: max === undefined || max === 'max' ? undefined : Number(max),
      someAvg10: fieldOf(pressure, /^some avg10=([\d.]+)/m),
      fullAvg10: fieldOf(pressure, /^full avg10=([\d.]+)/m),
    };
  };
}
