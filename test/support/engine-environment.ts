/**
 * The Python environment of the engine lanes: vLLM for CPUs, LMCache and a small model, made by test/e2e/engines/setup.sh outside the clone.
 */
import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';

const setup = new URL('../e2e/engines/setup.sh', import.meta.url).pathname;

export interface EngineEnvironment {
  readonly folder: string;
  /** The path of a program in it, such as `python`, `vllm`, `lmcache`. */
  program(name: string): string;
  /** SmolLM2-135M-Instruct as a folder that vLLM loads. */
  readonly model: string;
  /** What its programs are started with: nothing is reported to anybody and nothing is looked up on a hub. */
  readonly variables: Readonly<Record<string, string>>;
}

/** Where it is, made or not. */
export function engineEnvironment(): EngineEnvironment {
  const result = spawnSync(setup, ['path'], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`Cannot tell where the engines are: ${result.stderr}`);
  const folder = result.stdout.trim();
  return {
    folder,
    program: (name) => join(folder, 'bin', name),
    model: join(folder, 'smollm2'),
    variables: {
      LMCACHE_TRACK_USAGE: 'false',
      LMCACHE_DISABLE_BANNER: '1',
      HF_HUB_OFFLINE: '1',
      VLLM_NO_USAGE_STATS: '1',
      DO_NOT_TRACK: '1',
      PYTHONUNBUFFERED: '1',
      NO_COLOR: '1',
      // The same block hashes in every process.
      PYTHONHASHSEED: '0',
    },
  };
}

/** Makes it where it is missing (minutes, 1.1 GB), telling how far it is. Throws where that fails. */
export async function makeEngineEnvironment(): Promise<EngineEnvironment> {
  const child = spawn(setup, [], { stdio: ['ignore', 'inherit', 'inherit'] });
  const code = await new Promise<number | null>((resolve) => void child.on('exit', resolve));
  if (code !== 0) throw new Error(`Cannot make the environment of the engines: setup.sh ended with ${code}`);
  return engineEnvironment();
}
