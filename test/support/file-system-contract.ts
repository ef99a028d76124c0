/** What every FileSystem promises, whatever is behind it. Run against SimFileSystem and against the real one. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { KvtierError } from '#core/errors.ts';
import type { FileSystem } from '#ports/file-system.ts';

export interface FileSystemUnderTest {
  readonly fileSystem: FileSystem;
  /** An empty folder that exists. */
  readonly folder: string;
  readonly dispose: () => void;
}

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const read = (fileSystem: FileSystem, path: string): string | undefined => {
  const bytes = fileSystem.readFile(path);
  return bytes === undefined ? undefined : new TextDecoder().decode(bytes);
};

export function describeFileSystem(name: string, make: () => FileSystemUnderTest): void {
  describe(`${name} as FileSystem`, () => {
    let under: FileSystemUnderTest;
    let path: string;
    beforeEach(() => {
      under = make();
      path = `${under.folder}/file`;
    });
    afterEach(() => under.dispose());

    test('answers undefined for a missing file', () => {
      expect(under.fileSystem.readFile(path)).toBeUndefined();
      expect(under.fileSystem.sizeBytes(path)).toBeUndefined();
      expect(under.fileSystem.exists(path)).toBe(false);
    });

    test('creates a file on openAppend and appends in order', () => {
      const file = under.fileSystem.openAppend(path);
      expect(file.sizeBytes).toBe(0);
      file.append(text('one '));
      file.append(text('two'));
      expect(file.sizeBytes).toBe(7);
      expect(read(under.fileSystem, path)).toBe('one two');
      file.close();
    });

    test('appends behind what is there when it opens again', () => {
      under.fileSystem.writeFileAtomic(path, text('old '));
      const file = under.fileSystem.openAppend(path);
      expect(file.sizeBytes).toBe(4);
      file.append(text('new'));
      file.close();
      expect(read(under.fileSystem, path)).toBe('old new');
    });

    test('cuts a file with truncate and appends at the cut', () => {
      const file = under.fileSystem.openAppend(path);
      file.append(text('abcdef'));
      file.truncate(2);
      expect(file.sizeBytes).toBe(2);
      file.append(text('z'));
      file.close();
      expect(read(under.fileSystem, path)).toBe('abz');
    });

    test('syncs without changing the file', async () => {
      const file = under.fileSystem.openAppend(path);
      file.append(text('abc'));
      await file.sync();
      file.close();
      expect(read(under.fileSystem, path)).toBe('abc');
    });

    test('replaces a file whole and leaves no other name behind', () => {
      under.fileSystem.writeFileAtomic(path, text('first'));
      under.fileSystem.writeFileAtomic(path, text('2nd'));
      expect(read(under.fileSystem, path)).toBe('2nd');
      expect(under.fileSystem.list(under.folder)).toEqual(['file']);
    });

    test('keeps the old bytes for an open file when another is renamed over it', () => {
      const file = under.fileSystem.openAppend(path);
      file.append(text('old'));
      under.fileSystem.writeFileAtomic(path, text('new'));
      file.append(text('!'));
      file.close();
      expect(read(under.fileSystem, path)).toBe('new');
    });

    test('renames over an existing file', () => {
      under.fileSystem.writeFileAtomic(path, text('a'));
      under.fileSystem.writeFileAtomic(`${path}-2`, text('b'));
      under.fileSystem.rename(path, `${path}-2`);
      expect(under.fileSystem.list(under.folder)).toEqual(['file-2']);
      expect(read(under.fileSystem, `${path}-2`)).toBe('a');
    });

    test('lists names of files and folders, and removes files', () => {
      under.fileSystem.mkdir(`${under.folder}/sub`);
      under.fileSystem.writeFileAtomic(path, text('a'));
      expect([...under.fileSystem.list(under.folder)].sort()).toEqual(['file', 'sub']);
      expect(under.fileSystem.exists(`${under.folder}/sub`)).toBe(true);
      under.fileSystem.remove(path);
      expect(under.fileSystem.exists(path)).toBe(false);
    });

    test('makes a folder that is there already without complaint', () => {
      under.fileSystem.mkdir(`${under.folder}/sub`);
      under.fileSystem.mkdir(`${under.folder}/sub`);
      expect(under.fileSystem.list(`${under.folder}/sub`)).toEqual([]);
    });

    test('throws KvtierError with the errno for a folder in place of a file', () => {
      expect(() => under.fileSystem.readFile(under.folder)).toThrow(KvtierError);
      try {
        under.fileSystem.readFile(under.folder);
      } catch (error) {
        expect((error as KvtierError).context['errno']).toBe(21);
      }
    });

    test('gives a lock to one holder at a time', () => {
      const lock = under.fileSystem.lock(`${under.folder}/lock`);
      expect(lock).toBeDefined();
      expect(under.fileSystem.lock(`${under.folder}/lock`)).toBeUndefined();
      lock?.release();
      const again = under.fileSystem.lock(`${under.folder}/lock`);
      expect(again).toBeDefined();
      again?.release();
    });

    test('reports free space of at most the total', () => {
      const { totalBytes, freeBytes } = under.fileSystem.statFs(under.folder);
      expect(freeBytes).toBeGreaterThan(0);
      expect(totalBytes).toBeGreaterThanOrEqual(freeBytes);
    });
  });
}
