/** Every parser that reads what others wrote. A new one belongs here. */
import { agentFile, chunkHeader, fileNames, folderMark, journal } from './file-targets.ts';
import type { FuzzTarget } from './harness.ts';
import { glob, resp } from './resp-targets.ts';
import { config, keys, rest, scalars } from './text-targets.ts';

export const targets: readonly FuzzTarget[] = [
  resp,
  glob,
  keys,
  chunkHeader,
  fileNames,
  journal,
  folderMark,
  agentFile,
  config,
  scalars,
  rest,
];
