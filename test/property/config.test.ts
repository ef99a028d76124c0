import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GiB, MiB } from '#core/bytes.ts';
import { KvtierError } from '#core/errors.ts';
import type { MachineFacts } from '#config/derive.ts';
import { formatAddress, parseAddress, parseSsdDir } from '#config/knob-types.ts';
import { knobs } from '#config/knobs.ts';
import { loadConfig, type LoadedConfig } from '#config/load-config.ts';

const factsArbitrary = fc.record({
  memory: fc.integer({ min: 64, max: 4_000_000 }),
  cgroup: fc.option(fc.integer({ min: 64, max: 4_000_000 }), { nil: undefined }),
  cores: fc.integer({ min: 1, max: 256 }),
  quota: fc.option(fc.double({ min: 0.1, max: 256, noNaN: true }), { nil: undefined }),
  shm: fc.integer({ min: 32, max: 2_000_000 }),
  disk: fc.integer({ min: 64, max: 9_000_000 }),
  free: fc.double({ min: 0, max: 1, noNaN: true }),
});

function machine(drawn: typeof factsArbitrary extends fc.Arbitrary<infer T> ? T : never, ssdDirs: readonly string[]): MachineFacts {
  return {
    platform: 'linux',
    memoryBytes: drawn.memory * MiB,
    cgroupMemoryBytes: drawn.cgroup === undefined ? undefined : drawn.cgroup * MiB,
    cores: drawn.cores,
    cgroupCores: drawn.quota,
    shmFreeBytes: drawn.shm * MiB,
    shmTotalBytes: drawn.shm * MiB,
    disks: ssdDirs.map((path) => ({
      path,
      fileSystem: 'one',
      totalBytes: drawn.disk * MiB,
      freeBytes: Math.floor(drawn.disk * MiB * drawn.free),
      rememberedBytes: undefined,
    })),
  };
}

describe('loadConfig', () => {
  it('gives a valid configuration on every machine, with nothing configured', () => {
    fc.assert(
      fc.property(factsArbitrary, (drawn) => {
        const { config } = loadConfig({
          argv: [],
          env: {},
          cwd: '/',
          readFile: () => undefined,
          facts: (query) => machine(drawn, query.ssdDirs),
        });
        const memory = Math.min(drawn.memory, drawn.cgroup ?? Infinity) * MiB;
        expect(config.ram.sizeBytes).toBeLessThanOrEqual(Math.min(4 * GiB, memory / 4, (drawn.shm * MiB) / 2));
        expect(config.ram.sizeBytes).toBeGreaterThan(Math.min(4 * GiB, memory / 4, (drawn.shm * MiB) / 2) - MiB);
        expect(config.ram.maxChunkBytes).toBeLessThanOrEqual(config.ram.sizeBytes / 4);
        expect(config.ssd.queueBytes).toBeGreaterThanOrEqual(config.ram.maxChunkBytes);
        expect(config.ssd.queueBytes).toBeLessThanOrEqual(config.ram.sizeBytes / 2);
        expect(config.readAhead.bytes).toBeLessThanOrEqual(config.ram.sizeBytes / 2);
        expect(config.ssd.sizeBytes).toBeLessThanOrEqual(20 * GiB);
        expect(config.ssd.sizeBytes).toBeLessThanOrEqual(Math.max(MiB, (drawn.disk * MiB * drawn.free) / 2));
        expect(config.ssd.freeSpaceFloorBytes).toBeLessThan(drawn.disk * MiB);
        expect(config.io.workers).toBeGreaterThanOrEqual(8);
        expect(config.io.workers).toBeLessThanOrEqual(32);
      }),
      { numRuns: 200 },
    );
  });

  it('takes the first of flag, variable and file, whatever subset is given', () => {
    const sizes = fc.option(fc.integer({ min: 16, max: 4096 }), { nil: undefined });
    fc.assert(
      fc.property(sizes, sizes, sizes, (flag, variable, file) => {
        const loaded = loadConfig({
          argv: ['--config', 'c', ...(flag === undefined ? [] : ['--ram', `${flag}MiB`])],
          env: variable === undefined ? {} : { KVTIER_RAM: `${variable}MiB` },
          readFile: () => (file === undefined ? '' : `ram.size = "${file}MiB"`),
          cwd: '/',
          facts: (query) =>
            machine({ memory: 64_000, cgroup: undefined, cores: 2, quota: undefined, shm: 32_000, disk: 64_000, free: 0.5 }, query.ssdDirs),
        });
        const first = flag ?? variable ?? file;
        expect(loaded.config.ram.sizeBytes).toBe(first === undefined ? 4 * GiB : first * MiB);
        expect(loaded.origin('ram.size')).toBe(
          flag !== undefined ? 'flag' : variable !== undefined ? 'variable' : file !== undefined ? 'file' : 'derived',
        );
      }),
      { numRuns: 100 },
    );
  });

  it('answers any words, variables and file with a configuration or CONFIG_INVALID, and never with another error', () => {
    const word = fc.oneof(
      fc.constantFrom(...knobs.map((knob) => `--${knob.flag}`)),
      fc.string(),
      fc.constantFrom('1GiB', '30s', 'auto', 'off', '[::1]:0', '=', '--', '--=x', '--no-'),
    );
    const env = fc.dictionary(fc.constantFrom(...knobs.map((knob) => knob.variable), 'KVTIER_X', '__proto__'), fc.string(), { maxKeys: 4 });
    fc.assert(
      fc.property(fc.array(word, { maxLength: 8 }), env, fc.string(), (argv, variables, toml) => {
        let loaded: LoadedConfig | undefined;
        try {
          loaded = loadConfig({
            argv,
            env: variables,
            readFile: (path) => (path.length % 2 === 0 ? toml : undefined),
            cwd: '/',
            facts: (query) =>
              machine(
                { memory: 64_000, cgroup: undefined, cores: 2, quota: undefined, shm: 32_000, disk: 64_000, free: 0.5 },
                query.ssdDirs,
              ),
          });
        } catch (error) {
          expect(error).toBeInstanceOf(KvtierError);
          expect((error as KvtierError).code).toBe('CONFIG_INVALID');
          return;
        }
        expect(loaded.describe()).toHaveLength(knobs.length);
      }),
      { numRuns: 400 },
    );
  });

  it('survives hostile TOML: every prefix of a valid file', () => {
    const text =
      'dataDir = "/d"\n[ram]\nsize = "1GiB"\nhugepages = true\n[ssd]\ndir = ["/a:1GiB", "/b"]\n[__proto__]\nx = 1\n[constructor]\nprototype = {}\n';
    for (let length = 0; length <= text.length; length += 1) {
      try {
        loadConfig({
          argv: ['--config', 'c'],
          env: {},
          readFile: () => text.slice(0, length),
          cwd: '/',
          facts: (query) =>
            machine({ memory: 64_000, cgroup: undefined, cores: 2, quota: undefined, shm: 32_000, disk: 64_000, free: 0.5 }, query.ssdDirs),
        });
      } catch (error) {
        expect((error as KvtierError).code, text.slice(0, length)).toBe('CONFIG_INVALID');
      }
    }
  });
});

describe('parseAddress', () => {
  it('reads back what formatAddress writes', () => {
    const hex = fc.ipV6().filter((text) => !text.includes('.'));
    const host = fc.oneof(fc.ipV4(), hex, fc.constant('::ffff:10.0.0.1'), fc.domain(), fc.constant('localhost'));
    fc.assert(
      fc.property(host, fc.integer({ min: 0, max: 65_535 }), (name, port) => {
        const parsed = parseAddress(name.includes(':') ? `[${name}]:${port}` : `${name}:${port}`);
        expect(parsed).toBeDefined();
        if (parsed !== undefined) expect(parseAddress(formatAddress(parsed))).toEqual(parsed);
      }),
    );
  });

  it('never throws and never gives a port out of range', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const parsed = parseAddress(text);
        if (parsed !== undefined) expect(parsed.port).toBeLessThanOrEqual(65_535);
      }),
    );
  });
});

describe('parseSsdDir', () => {
  it('keeps every path whose last part is no size', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), fc.integer({ min: 1, max: 9999 }), (path, mib) => {
        expect(parseSsdDir(`${path}:${mib}MiB`)).toEqual({ path, sizeBytes: mib * MiB });
        expect(parseSsdDir(`${path}:x`)).toEqual({ path: `${path}:x`, sizeBytes: undefined });
      }),
    );
  });
});
