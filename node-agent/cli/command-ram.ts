/** `kvtier ram drop`: gives back the memory that a stopped agent keeps for the next one. */
import { formatBytes } from '#core/bytes.ts';
import { KvtierError } from '#core/errors.ts';
import { knobs } from '#config/knobs.ts';
import { loadConfig } from '#config/load-config.ts';
import { jsonArg, oneOf, printJson, type Command } from './command.ts';
import { EXIT_OK } from './exit-codes.ts';
import { factsToShow } from './find-agent.ts';

export const ramCommand: Command = {
  name: 'ram',
  summary: 'Free the RAM that the stopped agent of --data-dir left in --shm-dir for the next one; that of a live agent stays.',
  args: { what: { type: 'positional', required: true, description: 'What to do: drop.' }, ...jsonArg },
  knobs,
  maxPositionals: 1,
  async run(words, deps) {
    if (words.positionals[0] === undefined) throw new KvtierError('BAD_REQUEST', 'Cannot tell what to do with the RAM: drop is wanted');
    oneOf('ram', words.positionals[0], ['drop']);
    const { config } = loadConfig({ argv: words.config, env: deps.env, readFile: deps.readFile, facts: factsToShow(deps), cwd: deps.cwd });
    const { dataDir, ram } = config;
    const done = deps.dropKeptRam(ram.shmDir, dataDir);
    if (done.outcome === 'in-use')
      throw new KvtierError(
        'DATA_DIR_LOCKED',
        `Cannot free the RAM of the agent of ${dataDir} in ${ram.shmDir}: the agent is running; stop it first`,
      );
    const sizeBytes = done.outcome === 'dropped' ? done.sizeBytes : 0;
    if (words.on.has('json')) printJson(deps, { dataDir, shmDir: ram.shmDir, freedBytes: sizeBytes });
    else if (done.outcome === 'none') deps.stdout.write(`Nothing is kept in ${ram.shmDir} for the agent of ${dataDir}\n`);
    else deps.stdout.write(`Freed ${formatBytes(sizeBytes)} in ${ram.shmDir} that the agent of ${dataDir} had left\n`);
    return EXIT_OK;
  },
};
