/**
 * Entry of the process and the composition root: the only file that knows every room. It reads the command line, and for `serve`
 * builds the agent out of real ports (agent.ts).
 */
import { existsSync, readFileSync } from 'node:fs';
import { runAgent } from './agent.ts';
import { deviceChoice } from './gpus.ts';
import packageJson from '#package.json' with { type: 'json' };
import type { CliDeps, Output } from '#cli/deps.ts';
import { EXIT_BUG } from '#cli/exit-codes.ts';
import { runCli } from '#cli/run-cli.ts';
import type { BlockHash } from '#core/checksum.ts';
import { findLibrary, lookAtFolder, readLimits, readPciLink, tryPort } from '#host/doctor-probes.ts';
import { tryDevices } from '#cuda/try-devices.ts';
import { HostIoPool } from '#host/io-pool.ts';
import { dropKeptRam, listKeptRam } from '#host/kept-ram.ts';
import { runFront } from '#host/run-front.ts';
import { readMachineFacts } from '#host/machine-facts.ts';
import { shownKey } from '#telemetry/shown-names.ts';
import { verifyOffline } from '#tiers/ssd/verify-offline.ts';

/** Bun's xxHash3 takes a seed and answers an unsigned 64-bit bigint. */
const hash: BlockHash = (block, seed) => Bun.hash.xxHash3(block, seed);

function output(stream: NodeJS.WriteStream): Output {
  return { write: (text) => void stream.write(text), isTerminal: stream.isTTY === true };
}

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
  stdout: output(process.stdout),
  stderr: output(process.stderr),
  readFile: (path) => (existsSync(path) ? readFileSync(path, 'utf8') : undefined),
  facts: readMachineFacts,
  serve: (loaded) => runAgent({ loaded, version: packageJson.version, hash, stdout: deps.stdout, stderr: deps.stderr, onBug: die }),
  front: (loaded) => runFront(loaded.config, (line) => deps.stdout.write(`${line}\n`), die),
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
process.exit(await runCli(process.argv.slice(2), deps));
