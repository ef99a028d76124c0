/**
 * Who may import whom: the one table behind DESIGN's "dependencies point down this list only". lint-config.ts turns it into the
 * allow-lists of .oxlintrc.json, layers.test.ts proves that the committed file is that and that the linter obeys it.
 *
 * Everything that is not allowed here is refused, type imports and dynamic imports included. Inside a room `./` is always allowed.
 */
export interface Room {
  readonly folder: string;
  /** How package.json's `imports` name the room; a room may name its own files so, from a folder of its own. */
  readonly alias: string;
  /** Other rooms, as `#room/**` or narrowed to some of their files. */
  readonly rooms: readonly string[];
  /** Packages of package.json, with `/**` where their subpaths are meant too. */
  readonly packages: readonly string[];
  /** Modules of the host. `node:path` and `node:crypto` compute and touch nothing; all others are effects, host/'s and the database's. */
  readonly builtins: readonly string[];
  /** Whether the globals of the host (Bun, process, timers) may be used. Elsewhere time and effects come through ports. */
  readonly hostGlobals: boolean;
}

/** The cache as doors and operators see it. Its index, tables and flags are nobody else's business. */
const cacheInterface = ['#cache/control.ts', '#cache/door.ts'];
const pure = { rooms: [], packages: [], builtins: [], hostGlobals: false };

export const rooms: readonly Room[] = [
  { ...pure, folder: 'src/core', alias: '#core' },
  { ...pure, folder: 'src/policy', alias: '#policy', rooms: ['#core/**'] },
  { ...pure, folder: 'src/protocol', alias: '#protocol', rooms: ['#core/**'], packages: ['zod'] },
  { ...pure, folder: 'src/catalog', alias: '#schema', rooms: ['#core/**'], packages: ['drizzle-orm', 'drizzle-orm/**'] },
  { ...pure, folder: 'src/client', alias: '#client', rooms: ['#core/**', '#protocol/**'], packages: ['zod'] },
  {
    ...pure,
    folder: 'node-agent/config',
    alias: '#config',
    rooms: ['#core/**'],
    packages: ['zod', 'smol-toml'],
    builtins: ['node:path'],
  },
  { ...pure, folder: 'node-agent/ports', alias: '#ports', rooms: ['#core/**'] },
  {
    folder: 'node-agent/host',
    alias: '#host',
    // config owns the interfaces of what it reads (the machine's facts, its files); host is where they are read.
    rooms: ['#core/**', '#ports/**', '#config/**'],
    packages: [],
    builtins: ['node:*', 'node:*/**', 'bun', 'bun:*'],
    hostGlobals: true,
  },
  {
    folder: 'node-agent/cuda',
    alias: '#cuda',
    // The driver of a GPU is host effects of its own kind: loaded by bun:ffi, waited for in a Worker; its emulator is compiled and cached.
    rooms: ['#core/**', '#ports/**'],
    packages: [],
    builtins: [
      'bun:ffi',
      'node:child_process',
      'node:crypto',
      'node:fs',
      'node:fs/promises',
      'node:path',
      'node:url',
      'node:worker_threads',
    ],
    hostGlobals: true,
  },
  { ...pure, folder: 'node-agent/slab', alias: '#slab', rooms: ['#core/**'] },
  { ...pure, folder: 'node-agent/tiers/hbm', alias: '#tiers/hbm', rooms: ['#core/**', '#policy/**', '#ports/**', '#slab/**'] },
  { ...pure, folder: 'node-agent/tiers/ram', alias: '#tiers/ram', rooms: ['#core/**', '#policy/**', '#ports/**', '#slab/**'] },
  { ...pure, folder: 'node-agent/tiers/ssd', alias: '#tiers/ssd', rooms: ['#core/**', '#policy/**', '#ports/**', '#slab/**'] },
  {
    ...pure,
    folder: 'node-agent/cache',
    alias: '#cache',
    // Of the catalog it sees the journal only: what is acknowledged is journaled first, what is catalogued follows behind a port.
    rooms: ['#core/**', '#policy/**', '#ports/**', '#slab/**', '#tiers/**', '#catalog/journal*.ts'],
  },
  {
    ...pure,
    folder: 'node-agent/catalog',
    alias: '#catalog',
    rooms: ['#core/**', '#ports/**', '#schema/**'],
    packages: ['better-sqlite3', 'drizzle-orm', 'drizzle-orm/**'],
    // The database opens its files itself, so the Worker that owns it also moves them aside and reads migrations/ itself.
    builtins: ['node:fs', 'node:path'],
  },
  { ...pure, folder: 'node-agent/servers', alias: '#servers', rooms: ['#core/**', '#ports/**', '#protocol/**', ...cacheInterface] },
  {
    ...pure,
    folder: 'node-agent/telemetry',
    alias: '#telemetry',
    rooms: ['#core/**', '#ports/**', '#protocol/**', '#cache/control.ts'],
    packages: ['@logtape/logtape', 'prom-client'],
    builtins: ['node:crypto'],
  },
  {
    ...pure,
    folder: 'node-agent/api',
    alias: '#api',
    rooms: ['#core/**', '#protocol/**', '#telemetry/**', ...cacheInterface],
    packages: ['hono', 'hono/**', '@hono/zod-openapi', 'zod'],
    builtins: ['node:crypto'],
  },
  {
    ...pure,
    folder: 'node-agent/cli',
    alias: '#cli',
    rooms: ['#client/**', '#config/**', '#core/**', '#host/**', '#ports/**', '#protocol/**', '#telemetry/**'],
    packages: ['citty', 'zod'],
    builtins: ['node:path'],
  },
  {
    folder: 'engines/client',
    alias: '#engines/client',
    // A process of its own that shares memory with the agent, and nothing else.
    rooms: ['#core/**', '#protocol/**'],
    packages: [],
    builtins: ['bun', 'bun:ffi'],
    hostGlobals: true,
  },
  {
    folder: 'engines/llama',
    alias: '#engines/llama',
    // An engine is a client of the agent in a process of its own, and llama.cpp is host effects of its own kind.
    rooms: ['#client/**', '#core/**', '#engines/client/**', '#protocol/**'],
    packages: [],
    builtins: ['bun', 'bun:ffi', 'node:*', 'node:*/**'],
    hostGlobals: true,
  },
];

/** Files that stand outside of the rooms and may import everything, each with its reason. Files, never folders. */
export const outside: readonly { readonly file: string; readonly why: string }[] = [
  { file: 'node-agent/main.ts', why: 'the composition root: with agent.ts the only file that may import every room' },
  { file: 'node-agent/agent.ts', why: 'the half of the composition root that builds and stops the agent' },
  { file: 'node-agent/doors.ts', why: 'the part of the composition root that opens and closes the doors' },
  { file: 'node-agent/gpus.ts', why: 'the part of the composition root that puts driver, devices and pools together' },
  { file: 'node-agent/config/write-docs.ts', why: 'a program that writes docs/configuration.md from the knobs' },
  { file: 'node-agent/cli/write-docs.ts', why: 'a program that writes docs/cli.md from the commands' },
];

/** Folders that may import everything: they test, measure and show what the rooms do. */
export const observers = ['test', 'bench'] as const;

/** Globals of the host, and where the same is found without them. */
export const hostGlobals: readonly { readonly name: string; readonly message: string }[] = [
  { name: 'Bun', message: 'Host effects sit behind ports; only host/ and main.ts speak to Bun.' },
  { name: 'process', message: 'Only host/ and main.ts know the process; take what you need as a parameter.' },
  { name: 'setTimeout', message: 'Use Clock.schedule, which the simulation drives.' },
  { name: 'setInterval', message: 'Use Clock.schedule, which the simulation drives.' },
  { name: 'setImmediate', message: 'Use Clock.schedule, which the simulation drives.' },
  { name: 'performance', message: 'Use Clock.monotonicMs, which the simulation drives.' },
];

/** Properties of standard objects that would make a simulated run differ from run to run. */
export const hiddenInputs: readonly { readonly object: string; readonly property: string; readonly message: string }[] = [
  { object: 'Date', property: 'now', message: 'Use Clock.nowMs, which the simulation drives.' },
  { object: 'Math', property: 'random', message: 'Use Rng, which is seeded in the simulation.' },
];
