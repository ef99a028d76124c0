/** fio with O_DIRECT, the peer of what reads and writes chunk files: the engine that is fastest here, same sizes, same depth. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const MiB = 1024 ** 2;

export type FioMode = 'read' | 'write new files' | 'overwrite';

interface Engine {
  readonly name: string;
  readonly args: readonly string[];
  /** Jobs of one thread each, for the engines that block. */
  readonly jobs: number;
}

export interface Fio {
  /** Bytes per second as fio reports them; 0 where this machine lacks the engine. Its own set-up is not in the number. */
  run(mode: FioMode, engine: Engine): number;
  /** The engine that is fastest for this job here; laid-out files exist on disk afterwards. */
  fastest(mode: FioMode): Engine;
}

export function createFio(job: {
  readonly folder: string;
  readonly chunkBytes: number;
  readonly chunks: number;
  readonly depth: number;
}): Fio {
  const { chunkBytes, chunks, depth } = job;
  const engines: readonly Engine[] = [
    { name: 'libaio', args: ['--ioengine=libaio', `--iodepth=${depth}`], jobs: 1 },
    { name: 'io_uring', args: ['--ioengine=io_uring', `--iodepth=${depth}`], jobs: 1 },
    { name: `psync x ${depth}`, args: ['--ioengine=psync'], jobs: depth },
  ];
  const run = (mode: FioMode, engine: Engine): number => {
    const fresh = mode === 'write new files';
    const folder = join(job.folder, `${fresh ? 'new' : 'laid-out'}-${engine.jobs}`);
    if (fresh) rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    const files = chunks / engine.jobs;
    const layout = fresh
      ? [`--nrfiles=${files}`, '--create_on_open=1', '--fallocate=none', `--openfiles=${depth}`, '--file_service_type=sequential']
      : ['--overwrite=1'];
    const args = [
      '--name=peer',
      `--directory=${folder}`,
      `--rw=${mode === 'read' ? 'read' : 'write'}`,
      `--bs=${chunkBytes / MiB}M`,
      '--direct=1',
      `--numjobs=${engine.jobs}`,
      `--size=${files * chunkBytes}`,
      '--group_reporting',
      '--output-format=json',
      ...engine.args,
      ...layout,
    ];
    const result = spawnSync('fio', args, { encoding: 'utf8' });
    if (result.error !== undefined) throw new Error(`Cannot run fio, the peer of this benchmark: ${result.error.message}`);
    const json = result.stdout.slice(result.stdout.indexOf('{'));
    if (result.status !== 0 || json === '') return 0;
    const report = JSON.parse(json) as { jobs: { read: { bw_bytes: number }; write: { bw_bytes: number } }[] };
    const first = report.jobs[0];
    return first === undefined ? 0 : first[mode === 'read' ? 'read' : 'write'].bw_bytes;
  };
  return {
    run,
    fastest(mode) {
      const rates = engines.map((engine) => {
        run(mode, engine);
        return run(mode, engine);
      });
      const best = engines[rates.indexOf(Math.max(...rates))];
      if (best === undefined || Math.max(...rates) === 0) throw new Error('fio can run none of its engines here');
      return best;
    },
  };
}
