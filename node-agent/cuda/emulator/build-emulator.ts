/**
 * Compiles cuda-emulator.c with the system's C compiler, once a source and compiler: the library stays in a cache folder under a name made
 * of both. A machine without a compiler is told so in a sentence, and the caller does without the emulator.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface EmulatorBuild {
  /** Made where it is missing, for its owner only: what lies here is loaded into the process. */
  readonly cacheFolder: string;
  /** Tried in order. */
  readonly compilers?: readonly string[];
  /** Whether the library has cuMemcpyBatchAsync, which drivers before 12.8 have not. */
  readonly batchCopies?: boolean;
}

export type BuiltEmulator = { readonly ok: true; readonly path: string } | { readonly ok: false; readonly reason: string };

/**
 * Where the emulator keeps its machine: read by the library when it is first called, before anything else chose a file. The variable with
 * _OPTIONS behind it has the options of a machine that is made new, `devices=2,capacity=64M`.
 */
export const EMULATOR_FILE_VARIABLE = 'KVTIER_CUDA_EMULATOR';

const source = fileURLToPath(new URL('cuda-emulator.c', import.meta.url));
/** nodelete: the copy thread must outlive a dlclose. */
const flags = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-fPIC', '-shared', '-fvisibility=hidden', '-pthread', '-Wl,-z,nodelete'];
const COMPILE_LIMIT_MS = 60_000;

/** Resolves with a library that can be loaded. Never rejects: what went wrong is the reason, with the compiler's first words. */
export async function buildEmulator(options: EmulatorBuild): Promise<BuiltEmulator> {
  const { cacheFolder, compilers = ['cc', 'gcc', 'clang'], batchCopies = true } = options;
  const compiler = await findCompiler(compilers);
  if (compiler === undefined) return { ok: false, reason: `no C compiler: none of ${compilers.join(', ')} can be started` };
  const wanted = batchCopies ? flags : [...flags, '-DKVTIER_EMULATOR_WITHOUT_BATCH'];
  try {
    const hash = createHash('sha256').update(await readFile(source));
    const name = hash
      .update(JSON.stringify([compiler, wanted, process.arch]))
      .digest('hex')
      .slice(0, 16);
    const path = join(cacheFolder, `cuda-emulator-${name}.so`);
    await mkdir(cacheFolder, { recursive: true, mode: 0o700 });
    if (await isOurs(path)) return { ok: true, path };
    const draft = join(cacheFolder, `cuda-emulator-${name}.${process.pid}-${draftNumber++}.draft`);
    const compiled = await run(compiler.command, [...wanted, '-o', draft, source]);
    if (!compiled.ok) {
      await rm(draft, { force: true });
      return { ok: false, reason: `${compiler.command} could not compile the emulator: ${firstWords(compiled.output)}` };
    }
    await chmod(draft, 0o700);
    await rename(draft, path); // a second process may have been faster: the same bytes
    return { ok: true, path };
  } catch (error) {
    return {
      ok: false,
      reason: `the emulator could not be put into ${cacheFolder}: ${error instanceof Error ? error.message : String(error)}`,
    };
  }
}

let draftNumber = 0;

interface Compiler {
  readonly command: string;
  readonly version: string;
}

async function findCompiler(commands: readonly string[]): Promise<Compiler | undefined> {
  for (const command of commands) {
    const asked = await run(command, ['--version']);
    if (asked.ok) return { command, version: asked.output };
  }
  return undefined;
}

/** Somebody else's library is not loaded; it is replaced, or the rename fails and says so. */
async function isOurs(path: string): Promise<boolean> {
  try {
    const facts = await stat(path);
    return facts.isFile() && facts.uid === process.getuid?.() && (facts.mode & 0o022) === 0;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

function run(command: string, args: readonly string[]): Promise<{ readonly ok: boolean; readonly output: string }> {
  return new Promise((resolve) => {
    execFile(command, args, { timeout: COMPILE_LIMIT_MS, maxBuffer: 1 << 20 }, (error, stdout, stderr) => {
      resolve({ ok: error === null, output: `${stdout}${stderr}${error === null ? '' : `\n${error.message}`}` });
    });
  });
}

function firstWords(output: string): string {
  const lines = output.split('\n').map((line) => line.trim());
  return (lines.find((line) => line.includes('error')) ?? lines.find((line) => line !== '') ?? 'no reason given').slice(0, 300);
}
