/**
 * Where libllama is: the package @node-llama-cpp/linux-x64, pinned exactly, since struct-layouts.ts holds for that build alone.
 * It is built for Linux on x86-64 with glibc 2.34 or newer, and installed there alone.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { KvtierError } from '#core/errors.ts';

const PACKAGE = '@node-llama-cpp/linux-x64';
/** What package.json pins. */
export const PACKAGE_VERSION = '3.22.1';

export interface LlamaLibraries {
  readonly folder: string;
  readonly llama: string;
  readonly ggml: string;
}

/** `host`: platform and architecture. Errors: NOT_FOUND, in one line that says what to do. */
export function findLibraries(host = `${process.platform}-${process.arch}`): LlamaLibraries {
  if (host !== 'linux-x64') throw new KvtierError('NOT_FOUND', `Cannot run llama.cpp on ${host}: ${PACKAGE} is for linux-x64 with glibc`);
  let root: string;
  try {
    root = join(dirname(Bun.resolveSync(PACKAGE, import.meta.dir)), '..');
  } catch (cause) {
    throw new KvtierError('NOT_FOUND', `Cannot find ${PACKAGE} ${PACKAGE_VERSION}: run \`bun install\`; on musl there is no build of it`, {
      cause,
    });
  }
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { readonly version: string };
  if (version !== PACKAGE_VERSION) {
    throw new KvtierError('NOT_FOUND', `Cannot use ${PACKAGE} ${version}: the struct layouts are those of ${PACKAGE_VERSION}`);
  }
  const folder = join(root, 'bins', 'linux-x64');
  const libraries = { folder, llama: join(folder, 'libllama.v0.5.0.so'), ggml: join(folder, 'libggml.v0.5.0.so') };
  for (const path of [libraries.llama, libraries.ggml]) {
    if (!existsSync(path)) throw new KvtierError('NOT_FOUND', `Cannot find ${path}: run \`bun install\``);
  }
  return libraries;
}

/**
 * The variant for AVX2 where the machine has it, and ggml's own choice elsewhere. ggml would take an AVX-512 one: in this build those
 * prefill faster by a quarter and decode small batches over KV in f16 nine times slower (32 tokens behind 2,048, model t, one thread of an
 * AMD EPYC: 574 ms against 63). And one variant gives the same bits on every node that has AVX2, so that they may share chunks.
 */
export function defaultCpuVariant(): string {
  const flags = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? [];
  return ['avx2', 'fma', 'f16c', 'bmi2'].every((flag) => flags.includes(flag)) ? 'haswell' : 'auto';
}

/** The CPU variant that is in use, such as `haswell`: the one whose back-end this process has mapped. */
export function loadedCpuVariant(): string {
  const variants = new Set([...readFileSync('/proc/self/maps', 'utf8').matchAll(/libggml-cpu-([a-z0-9]+)\.so/g)].map((match) => match[1]));
  const [variant] = variants;
  if (variants.size !== 1 || variant === undefined) {
    throw new KvtierError('INTERNAL', `Cannot tell the CPU variant: ${variants.size} back-ends are loaded, wanted 1`);
  }
  return variant;
}
