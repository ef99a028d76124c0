/**
 * `kvtier-folder.json` at the top of an SSD folder: who it is and when it was last in use. A folder that missed a run of the agent
 * missed invalidations too; a journal that is shorter than a folder remembers has lost records. Both mean: drop the files.
 */
import { MAX_EPOCH } from '#core/epoch.ts';
import type { FileSystem } from '#ports/file-system.ts';

export interface FolderMark {
  readonly format: 1;
  readonly id: string;
  /** Epoch of the run that last used the folder. */
  readonly epoch: number;
  /** Sequence of the journal when the last invalidation was acknowledged. */
  readonly journalSequence: number;
}

const MARK_NAME = 'kvtier-folder.json';

/** Undefined where there is none, or one that cannot be read: the folder is then as good as new. */
export function readFolderMark(fileSystem: FileSystem, folder: string): FolderMark | undefined {
  const bytes = fileSystem.readFile(`${folder}/${MARK_NAME}`);
  if (bytes === undefined) return undefined;
  try {
    const mark = JSON.parse(new TextDecoder().decode(bytes)) as Partial<FolderMark> | null;
    if (mark?.format !== 1 || typeof mark.id !== 'string' || !/^[0-9a-f]{16}$/.test(mark.id)) return undefined;
    if (!isCount(mark.epoch) || (mark.epoch ?? 0) > MAX_EPOCH || !isCount(mark.journalSequence)) return undefined;
    return mark as FolderMark;
  } catch (problem) {
    if (problem instanceof SyntaxError) return undefined;
    throw problem;
  }
}

/** A negative number is damage: an epoch below 0 would make a folder that missed runs look as if it had missed none. */
function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0 && !Object.is(value, -0);
}

export function writeFolderMark(fileSystem: FileSystem, folder: string, mark: FolderMark): void {
  fileSystem.writeFileAtomic(`${folder}/${MARK_NAME}`, new TextEncoder().encode(`${JSON.stringify(mark)}\n`));
}
