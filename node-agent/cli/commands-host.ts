/** Commands about this machine: serve, doctor, config, version. */
import { KvtierError } from '#core/errors.ts';
import { printable } from '#core/printable.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import type { Stats } from '#protocol/rest/stats.ts';
import { knobs } from '#config/knobs.ts';
import { loadConfig, type LoadedConfig } from '#config/load-config.ts';
import type { KvtierClient } from '#client/kvtier-client.ts';
import { agentArgs, jsonArg, oneOf, printJson, type Command } from './command.ts';
import type { CliDeps } from './deps.ts';
import { degradedFindings } from './degraded.ts';
import { diagnose, type Finding, type ModelSample } from './diagnose.ts';
import { checkMachine } from './doctor.ts';
import { EXIT_FOUND, EXIT_OK } from './exit-codes.ts';
import { factsToShow, findAgent } from './find-agent.ts';
import { columns, renderTable } from './table.ts';
import type { Words } from './words.ts';

function load(words: Words, deps: CliDeps, facts: CliDeps['facts'] = deps.facts): LoadedConfig {
  return loadConfig({ argv: words.config, env: deps.env, readFile: deps.readFile, facts, cwd: deps.cwd });
}

export const serveCommand: Command = {
  name: 'serve',
  summary: 'Run the agent until it is told to stop.',
  args: {},
  knobs,
  maxPositionals: 0,
  run: (words, deps) => deps.serve(load(words, deps)),
};

export const frontCommand: Command = {
  name: 'front',
  summary: 'Hold the client connections of resp.listen for an agent that restarts; give both the same resp.front.',
  args: {},
  knobs,
  maxPositionals: 0,
  run(words, deps) {
    const loaded = load(words, deps);
    const { listen, front } = loaded.config.resp;
    if (front === undefined || listen === undefined)
      throw new KvtierError('CONFIG_INVALID', 'Cannot start the front: it wants --resp-front, and --resp that is not off');
    return deps.front(loaded);
  },
};

export const configCommand: Command = {
  name: 'config',
  summary: 'Print the settings in force, each with where it came from; secrets are masked.',
  args: { what: { type: 'positional', required: false, default: 'print', description: 'What to do: print.' }, ...jsonArg },
  knobs,
  maxPositionals: 1,
  async run(words, deps) {
    oneOf('config', words.positionals[0], ['print']);
    const rows = load(words, deps, factsToShow(deps)).describe();
    if (words.on.has('json')) printJson(deps, { settings: rows });
    else {
      deps.stdout.write(
        renderTable(
          columns('SETTING', 'VALUE', 'FROM', ''),
          rows.map((row) => [row.key, row.value === '' ? '-' : row.value, row.source === '' ? row.origin : row.source, row.because]),
        ),
      );
    }
    return EXIT_OK;
  },
};

export const versionCommand: Command = {
  name: 'version',
  summary: 'Print the version.',
  args: jsonArg,
  knobs: [],
  maxPositionals: 0,
  async run(words, deps) {
    if (words.on.has('json')) printJson(deps, { version: deps.version });
    else deps.stdout.write(`kvtier ${deps.version}\n`);
    return EXIT_OK;
  },
};

export const doctorCommand: Command = {
  name: 'doctor',
  summary: 'Check the machine and, where an agent runs, why nothing is found; say what to do; exit code 1 where there is a problem.',
  args: agentArgs,
  knobs,
  maxPositionals: 0,
  async run(words, deps) {
    const agent = await tryAgent(words, deps);
    const findings = [
      ...(await machineFindings(words, deps, agent.client !== undefined && !namesAgent(words, deps))),
      ...(await agentFindings(agent)),
    ];
    if (words.on.has('json')) printJson(deps, { findings });
    else deps.stdout.write(renderFindings(findings));
    return findings.some((finding) => finding.severity === 'problem') ? EXIT_FOUND : EXIT_OK;
  },
};

/** True where the agent need not be this machine's: it then holds none of the ports and memory here. */
function namesAgent(words: Words, deps: CliDeps): boolean {
  return words.text.has('url') || (deps.env['KVTIER_URL'] ?? '') !== '';
}

/** Bounds what doctor asks of a busy agent. */
const SAMPLED_MODELS = 5;

interface TriedAgent {
  readonly client: KvtierClient | undefined;
  /** Why there is none. */
  readonly note: Finding;
}

/** A page of chunks of each of the largest models. */
async function sampleModels(client: KvtierClient, stats: Stats): Promise<readonly ModelSample[]> {
  const samples: ModelSample[] = [];
  for (const { model } of stats.models.filter((row) => row.model !== '').slice(0, SAMPLED_MODELS)) {
    const { chunks } = await client.chunks({ model, limit: restLimits.pageSize });
    samples.push({ model, chunks: chunks.length, everRead: chunks.filter((chunk) => chunk.hitCount > 0).length });
  }
  return samples;
}

/** An agent that answers, or why there is none: doctor works without. */
async function tryAgent(words: Words, deps: CliDeps): Promise<TriedAgent> {
  try {
    const { client, source } = findAgent(words, deps);
    await client.liveness();
    return { client, note: { severity: 'ok', cause: 'agent', message: `An agent answers at ${client.baseUrl} (${source})`, advice: '' } };
  } catch (error) {
    if (!(error instanceof KvtierError)) throw error;
    const named = namesAgent(words, deps);
    if (error.code === 'CONFIG_INVALID')
      return { client: undefined, note: ok('agent', 'No agent was looked for, because of the configuration') };
    if (error.code === 'NOT_FOUND' && !named) return { client: undefined, note: ok('agent', 'No agent is running here') };
    return {
      client: undefined,
      note: {
        severity: 'warning',
        cause: 'agent',
        message: `No agent answers: ${error.message}`,
        advice: 'Start it with `kvtier serve`, or name it with --url.',
      },
    };
  }
}

function ok(cause: string, message: string): Finding {
  return { severity: 'ok', cause, message, advice: '' };
}

async function machineFindings(words: Words, deps: CliDeps, agentRuns: boolean): Promise<readonly Finding[]> {
  try {
    const { config } = load(words, deps, factsToShow(deps));
    const facts = deps.facts({
      dataDir: config.dataDir,
      shmDir: config.ram.shmDir,
      ssdDirs: config.ssd.folders.map((folder) => folder.path),
    });
    return [
      ok('configuration', 'The configuration is valid'),
      ...(await checkMachine({ config, facts, probes: deps.probes, agentRuns, nowMs: deps.nowMs() })),
    ];
  } catch (error) {
    if (!(error instanceof KvtierError) || error.code !== 'CONFIG_INVALID') throw error;
    const problems = error.message
      .split('\n')
      .slice(1)
      .map((line) => line.replace(/^\s*- /, ''));
    return problems.map((message): Finding => ({
      severity: 'problem',
      cause: 'configuration',
      message,
      advice: 'The agent will not start like this; the other checks wait for it.',
    }));
  }
}

async function agentFindings(agent: TriedAgent): Promise<readonly Finding[]> {
  if (agent.client === undefined) return [agent.note];
  const told: Finding[] = [agent.note];
  try {
    const { state, reasons, notes = [] } = await agent.client.readiness();
    const health = state === 'starting' || state === 'draining' ? [ok('agent', `It is ${state}`)] : degradedFindings(reasons);
    told.push(...health, ...notes.map((note) => ok('note', note)));
    const stats = await agent.client.stats();
    const { namespaces } = await agent.client.namespaces({ limit: restLimits.pageSize });
    return [...told, ...diagnose(stats, { namespaces, samples: await sampleModels(agent.client, stats) })];
  } catch (error) {
    if (!(error instanceof KvtierError)) throw error;
    const advice = error.code === 'UNAUTHORIZED' ? 'Give --token, --token-file or --read-token.' : 'See the log of the agent.';
    return [...told, { severity: 'warning', cause: 'agent', message: `Its statistics cannot be read: ${error.message}`, advice }];
  }
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

const marks = { problem: 'PROBLEM', warning: 'warning', ok: 'ok' } as const;

function renderFindings(findings: readonly Finding[]): string {
  const lines = findings.map((finding) => {
    const advice = finding.advice === '' ? '' : `\n         -> ${printable(finding.advice)}`;
    return `${marks[finding.severity].padEnd(7)}  ${printable(finding.message)}${advice}`;
  });
  const problems = findings.filter((finding) => finding.severity === 'problem').length;
  const warnings = findings.filter((finding) => finding.severity === 'warning').length;
  return `${lines.join('\n')}\n\n${plural(problems, 'problem')}, ${plural(warnings, 'warning')}\n`;
}
