/** Every parser that reads what others wrote. A new one belongs here. */
import { journalReplay } from './replay-target.ts';
import { catalogRows } from './catalog-target.ts';
import { expiry } from './expiry-target.ts';
import { agentFile, chunkHeader, fileNames, folderMark, journal } from './file-targets.ts';
import { frontMessages, frontState, frontText } from './front-targets.ts';
import { tenants } from './tenant-target.ts';
import type { FuzzTarget } from './harness.ts';
import { llamaReplies, llamaState } from './llama-targets.ts';
import { lm } from './lm-targets.ts';
import { nativeBodies, nativeFrames } from './native-targets.ts';
import { glob, resp } from './resp-targets.ts';
import { slotTable } from './slot-table-target.ts';
import { config, keys, rest, scalars } from './text-targets.ts';

export const targets: readonly FuzzTarget[] = [
  resp,
  lm,
  nativeFrames,
  nativeBodies,
  glob,
  keys,
  chunkHeader,
  fileNames,
  journal,
  journalReplay,
  folderMark,
  agentFile,
  slotTable,
  frontMessages,
  frontState,
  frontText,
  expiry,
  tenants,
  catalogRows,
  config,
  scalars,
  rest,
  llamaState,
  llamaReplies,
];
