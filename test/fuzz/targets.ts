/** Every parser that reads what others wrote. A new one belongs here. */
import { agentFile, chunkHeader, fileNames, folderMark, journal } from './file-targets.ts';
import type { FuzzTarget } from './harness.ts';
import { lm } from './lm-targets.ts';
import { glob, resp } from './resp-targets.ts';
import { config, keys, rest, scalars } from './text-targets.ts';

export const targets: readonly FuzzTarget[] = [
  resp,
  lm,
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
