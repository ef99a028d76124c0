/** The command line against the real Hono app over the twin of the cache, with files and machine in memory. */
import { GiB } from '#core/bytes.ts';
import type { CliDeps, DoctorProbes, VerifyStep } from '#cli/deps.ts';
import { runCli } from '#cli/run-cli.ts';
import type { MachineFacts } from '#config/derive.ts';
import type { LoadedConfig } from '#config/load-config.ts';
import { createApiHarness, HARNESS_NOW_MS, type ApiHarness } from './api-harness.ts';

export interface CliRun {
  readonly exit: number;
  readonly out: string;
  readonly err: string;
}

export interface CliHarness {
  readonly api: ApiHarness;
  readonly files: Map<string, string>;
  readonly env: Record<string, string>;
  /** What serve was called with. */
  readonly served: LoadedConfig[];
  /** URLs that were asked. */
  readonly asked: string[];
  /** Set to make the agent unreachable. */
  down: boolean;
  terminal: boolean;
  facts: Partial<MachineFacts>;
  probes: Partial<DoctorProbes>;
  /** What freeing kept RAM answers. */
  drop: ReturnType<CliDeps['dropKeptRam']>;
  /** What verifyOffline yields, and the folders it was asked for. */
  offline: { steps: VerifyStep[]; folders: readonly string[] };
  run(...argv: string[]): Promise<CliRun>;
}

const AGENT_JSON = JSON.stringify({
  version: '0.1.0',
  pid: 1,
  startedAt: '2026-01-02T03:02:35Z',
  doors: { http: { host: '127.0.0.1', port: 7600 }, resp: { host: '127.0.0.1', port: 7601 } },
  dataDir: '/srv/.kvtier',
});

function machine(facts: Partial<MachineFacts>, ssdDirs: readonly string[]): MachineFacts {
  return {
    platform: 'linux',
    memoryBytes: 64 * GiB,
    cgroupMemoryBytes: undefined,
    cores: 8,
    cgroupCores: undefined,
    shmFreeBytes: 32 * GiB,
    shmTotalBytes: 32 * GiB,
    disks: ssdDirs.map((path) => ({ path, fileSystem: 'one', freeBytes: 500 * GiB, totalBytes: 900 * GiB, rememberedBytes: undefined })),
    ...facts,
  };
}

export function createCliHarness(api: ApiHarness = createApiHarness()): CliHarness {
  const harness: CliHarness = {
    api,
    files: new Map([['/srv/.kvtier/agent.json', AGENT_JSON]]),
    env: {},
    served: [],
    asked: [],
    down: false,
    terminal: false,
    facts: {},
    probes: {},
    drop: { outcome: 'none' },
    offline: { steps: [], folders: [] },
    async run(...argv) {
      const written = { out: '', err: '' };
      const probes: DoctorProbes = {
        folder: () => ({ exists: true, writable: true, direct: true, problem: '' }),
        limits: () => ({ openFiles: 65_536, lockedBytes: Infinity }),
        library: () => undefined,
        port: () => Promise.resolve(''),
        keptRam: () => [],
        gpus: () => Promise.resolve({ reason: 'none' }),
        ...harness.probes,
      };
      const deps: CliDeps = {
        version: '0.1.0',
        env: harness.env,
        cwd: '/srv',
        nowMs: () => HARNESS_NOW_MS,
        probes,
        dropKeptRam: () => harness.drop,
        stdout: { write: (text) => void (written.out += text), isTerminal: harness.terminal },
        stderr: { write: (text) => void (written.err += text), isTerminal: harness.terminal },
        readFile: (path) => harness.files.get(path),
        facts: (query) => machine(harness.facts, query.ssdDirs),
        front: () => Promise.resolve(0),
        serve: (loaded) => {
          harness.served.push(loaded);
          return Promise.resolve(0);
        },
        async *verifyOffline(folders) {
          harness.offline.folders = folders;
          yield* harness.offline.steps;
        },
        fetch: async (url, init) => {
          harness.asked.push(url);
          if (harness.down) throw new Error('Connection refused');
          return await api.app.request(url, init);
        },
      };
      const exit = await runCli(argv, deps);
      return { exit, ...written };
    },
  };
  return harness;
}
