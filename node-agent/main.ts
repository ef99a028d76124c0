/**
 * Entry of the process and the composition root: the only file that knows every room. It reads the command line, and for `serve`
 * builds the agent out of real ports (agent.ts).
 */
import { existsSync, readFileSync } from 'node:fs';
import { runAgent } from './agent.ts';
import { deviceChoice } from './gpus.ts';
import packageJson from '#package.json' with { type: 'json' };
import type { CliDeps } from '#cli/deps.ts';
import { EXIT_BUG, EXIT_OK } from '#cli/exit-codes.ts';
import { runCli } from '#cli/run-cli.ts';
import type { BlockHash } from '#core/checksum.ts';
import { errorTable } from '#core/errors.ts';
import { findLibrary, lookAtFolder, readLimits, readPciLink, tryPort } from '#host/doctor-probes.ts';
import { tryDevices } from '#cuda/try-devices.ts';
import { HostIoPool } from '#host/io-pool.ts';
import { dropKeptRam, listKeptRam } from '#host/kept-ram.ts';
import { ProcessOutput } from '#host/process-output.ts';
import { runFront } from '#host/run-front.ts';
import { readMachineFacts } from '#host/machine-facts.ts';
import { shownKey } from '#telemetry/shown-names.ts';
import { verifyOffline } from '#tiers/ssd/verify-offline.ts';

/** Bun's xxHash3 takes a seed and answers an unsigned 64-bit bigint. */
const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);

const stdout = new ProcessOutput(process.stdout);
const stderr = new ProcessOutput(process.stderr);

/** A bug: say what broke and end, so that the supervisor starts a process whose state is known. */
function die(problem: unknown): never {
  process.stderr.write(`kvtier: bug: ${problem instanceof Error ? (problem.stack ?? problem.message) : String(problem)}\n`);
  process.exit(EXIT_BUG);
}

const lookAtGpus: CliDeps['probes']['gpus'] = async (config, options) => {
  const tried = await tryDevices(deviceChoice(config), options);
  if ('reason' in tried) return tried;
  // The bus of a device that is none is somebody else's.
  const linkOf = (busId: string): string => (tried.kind === 'cuda' ? readPciLink(busId) : '');
  const devices = tried.devices.map(({ facts, copy }) => ({ ...facts, link: linkOf(facts.pciBusId), copy }));
  return { kind: tried.kind, driverVersion: tried.driverVersion, devices };
};

const deps: CliDeps = {
  version: packageJson.version,
  env: process.env,
  cwd: process.cwd(),
  stdout,
  stderr,
  readFile: (path) => (existsSync(path) ? readFileSync(path, 'utf8') : undefined),
  facts: readMachineFacts,
  serve: (loaded) => runAgent({ loaded, version: packageJson.version, hash, stdout, stderr, onBug: die }),
  front: (loaded) => runFront(loaded.config, (line) => stdout.write(`${line}\n`), die),
  verifyOffline: async function* (folders) {
    const pool = await HostIoPool.start({ socketWorkers: 1, fileWorkers: 2, onCrash: die });
    try {
      for await (const step of verifyOffline(pool.files, folders, hash))
        yield { ...step, mismatches: step.mismatches.map((mismatch) => ({ ...mismatch, key: shownKey(mismatch.key) })) };
    } finally {
      await pool.close();
    }
  },
  probes: { folder: lookAtFolder, limits: readLimits, library: findLibrary, port: tryPort, keptRam: listKeptRam, gpus: lookAtGpus },
  dropKeptRam,
  nowMs: () => Date.now(),
};

process.on('uncaughtException', die);
process.on('unhandledRejection', die);

const argv = process.argv.slice(2);
const code = await runCli(argv, deps);
// Both have ended as they were asked to; nobody waits for what they print, and a stuck reader of the log must not keep them.
if (argv[0] === 'serve' || argv[0] === 'front') process.exit(code);
process.exit(await afterOutput(code));

/** A result is done when it has arrived. A reader that went has seen what it wanted, and is told nothing. */
async function afterOutput(done: number): Promise<number> {
  const failure = await stdout.settled();
  if (failure === undefined) return done;
  if (!('code' in failure && failure.code === 'EPIPE')) stderr.write(`kvtier: Cannot write the result: ${failure.message}\n`);
  await stderr.settled();
  return done === EXIT_OK ? errorTable.IO_FAILED.exit : done;
}
