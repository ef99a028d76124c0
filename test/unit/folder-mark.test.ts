import { describe, expect, test } from 'vitest';
import { SimFileSystem } from '#testsupport/sim-file-system.ts';
import { readFolderMark, writeFolderMark } from '#tiers/ssd/folder-mark.ts';

function reading(text: string): ReturnType<typeof readFolderMark> {
  const fileSystem = new SimFileSystem();
  fileSystem.mkdir('/d');
  fileSystem.plant('/d/kvtier-folder.json', new TextEncoder().encode(text));
  return readFolderMark(fileSystem, '/d');
}

describe('the mark of a folder', () => {
  test('comes back as it was written', () => {
    const fileSystem = new SimFileSystem();
    fileSystem.mkdir('/d');
    const mark = { format: 1, id: '0123456789abcdef', epoch: 3, journalSequence: 0 } as const;
    writeFolderMark(fileSystem, '/d', mark);
    expect(readFolderMark(fileSystem, '/d')).toEqual(mark);
  });

  test('that is JSON of any other kind, or none, is none', () => {
    for (const text of ['null', '1', '"x"', '[]', '[1]', 'true', '', '{', '\ufeffnull', '{"format":2}'])
      expect(reading(text), text).toBeUndefined();
  });

  test('with a number below zero or one that is not whole is none', () => {
    for (const number of ['-1', '-0', '1.5', '1e300', 'null', '"3"', '9007199254740992']) {
      expect(reading(`{"format":1,"id":"0123456789abcdef","epoch":${number},"journalSequence":0}`), number).toBeUndefined();
      expect(reading(`{"format":1,"id":"0123456789abcdef","epoch":1,"journalSequence":${number}}`), number).toBeUndefined();
    }
  });
});
