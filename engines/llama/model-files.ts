/** Where the files of the presets are: written when they are first asked for, and kept. */
import { existsSync, mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { badRequest } from '#core/errors.ts';
import { isPresetName, presets, writeRandomModel } from './random-model.ts';

/** Part of the files' names: a change of what is written gives other files. */
const MODEL_REVISION = 1;

export interface ModelFile {
  readonly path: string;
  /** Whether this call has written it. */
  readonly written: boolean;
}

/** `model`: the name of a preset, which is looked for in `folder`, or the path of a GGUF file. Errors: BAD_REQUEST where it is neither. */
export function findModel(model: string, folder: string): ModelFile {
  if (!isPresetName(model)) {
    if (existsSync(model)) return { path: resolve(model), written: false };
    throw badRequest(`Cannot find the model ${model}: want a GGUF file, or one of ${Object.keys(presets).join(', ')}`);
  }
  const path = join(resolve(folder), `random-${model}-${MODEL_REVISION}.gguf`);
  if (existsSync(path)) return { path, written: false };
  mkdirSync(resolve(folder), { recursive: true });
  writeRandomModel(path, { name: `random-${model}`, preset: presets[model] });
  return { path, written: true };
}
