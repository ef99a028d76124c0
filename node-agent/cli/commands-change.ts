/** Commands that change something or read everything: invalidate, verify. */
import { formatBytes } from '#core/bytes.ts';
import { badRequest, KvtierError } from '#core/errors.ts';
import { printable } from '#core/printable.ts';
import { loadConfig } from '#config/load-config.ts';
import { knobs } from '#config/knobs.ts';
import { restLimits } from '#protocol/rest/limits.ts';
import { agentArgs, agentCommand, printJson, type Command } from './command.ts';
import type { CliDeps, VerifyMismatch, VerifyStep } from './deps.ts';
import { EXIT_FOUND, EXIT_OK } from './exit-codes.ts';
import { factsToShow, findAgent, withHint } from './find-agent.ts';
import { selectorArgs, selectorOf } from './selector-words.ts';
import { columns, formatCount, renderTable } from './table.ts';
import type { Words } from './words.ts';

export const invalidateCommand: Command = agentCommand({
  name: 'invalidate',
  summary: 'Take chunks away for good: by key, prefix, model, tenant, tag, age or tier; conditions are ANDed.',
  args: {
    ...selectorArgs,
    all: { type: 'boolean', description: 'Everything; needs --yes.' },
    yes: { type: 'boolean', description: 'Confirms --all.' },
    'dry-run': { type: 'boolean', description: 'Count what would go, change nothing.' },
    reason: { type: 'string', valueHint: 'text', description: 'Kept in the audit log.' },
    ...agentArgs,
  },
  maxPositionals: restLimits.keyCount,
  async ask(client, words, deps) {
    const reason = words.text.get('reason');
    const dryRun = words.on.has('dry-run');
    const selector = selectorOf('invalidate', words, { allTaken: 'takes away everything' });
    const answer = await client.invalidate({ selector, dryRun, ...(reason === undefined ? {} : { reason }) });
    if (words.on.has('json')) printJson(deps, answer);
    else {
      const verb = answer.dryRun ? 'Would take away' : 'Took away';
      const id = answer.dryRun ? '' : ` (${answer.id})`;
      deps.stdout.write(`${verb} ${formatCount(answer.matchedChunks)} chunks, ${formatBytes(answer.removedBytes)}${id}\n`);
      if (answer.webhook === 'failed')
        deps.stderr.write("LMCache's own clear failed: its memory may still hold these chunks; the agent's log says why\n");
    }
    return EXIT_OK;
  },
});

/** Gathers mismatches and shows how far it is: overwriting itself on a terminal, each tenth otherwise. */
class VerifyReport {
  readonly #mismatches = new Map<string, VerifyMismatch>();
  #last: VerifyStep | undefined;
  #printedTenth = 0;
  readonly #deps: CliDeps;
  readonly #quiet: boolean;

  constructor(deps: CliDeps, quiet: boolean) {
    this.#deps = deps;
    this.#quiet = quiet;
  }

  add(step: VerifyStep): void {
    for (const mismatch of step.mismatches) this.#mismatches.set(`${mismatch.path}\0${mismatch.problem}`, mismatch);
    this.#last = step;
    if (this.#quiet) return;
    const { stderr } = this.#deps;
    const text = `verify: ${formatCount(step.checkedFiles)} of ${formatCount(step.totalFiles)} files, ${formatBytes(step.checkedBytes)}, ${formatCount(this.#mismatches.size)} mismatches`;
    if (stderr.isTerminal) {
      stderr.write(`\r\u001b[K${text}${step.done ? '\n' : ''}`);
      return;
    }
    const tenth = step.totalFiles === 0 ? 10 : Math.floor((step.checkedFiles / step.totalFiles) * 10);
    if (tenth > this.#printedTenth || step.done) stderr.write(`${text}\n`);
    this.#printedTenth = tenth;
  }

  finish(): number {
    const last = this.#last;
    if (last?.done !== true) throw new KvtierError('IO_FAILED', 'Cannot finish verify: it ended before the last file');
    const mismatches = [...this.#mismatches.values()];
    if (this.#quiet)
      printJson(this.#deps, { checkedFiles: last.checkedFiles, totalFiles: last.totalFiles, checkedBytes: last.checkedBytes, mismatches });
    else {
      this.#deps.stdout.write(
        renderTable(
          columns('FILE', 'PROBLEM', 'KEY'),
          mismatches.map((row) => [row.path, row.problem, row.key]),
        ),
      );
      const verdict = mismatches.length === 0 ? 'all as they were written' : `${formatCount(mismatches.length)} do not match`;
      this.#deps.stdout.write(`Read ${formatCount(last.checkedFiles)} files, ${formatBytes(last.checkedBytes)}: ${verdict}\n`);
    }
    return mismatches.length === 0 ? EXIT_OK : EXIT_FOUND;
  }
}

export const verifyCommand: Command = {
  name: 'verify',
  summary: 'Read every file of the SSD tier and compare checksums, on a running agent or offline; exit code 1 where one does not match.',
  args: {
    offline: { type: 'boolean', description: 'Read the folders of the configuration directly; no agent may own them.' },
    ...agentArgs,
  },
  knobs,
  maxPositionals: 0,
  async run(words, deps) {
    const report = new VerifyReport(deps, words.on.has('json'));
    if (words.on.has('offline')) {
      const { config } = loadConfig({
        argv: words.config,
        env: deps.env,
        readFile: deps.readFile,
        facts: factsToShow(deps),
        cwd: deps.cwd,
      });
      if (config.ssd.folders.length === 0) throw badRequest('verify --offline has nothing to read: the SSD tier is off');
      await refuseLive(words, deps);
      for await (const step of deps.verifyOffline(config.ssd.folders.map((folder) => folder.path))) report.add(step);
      return report.finish();
    }
    const agent = findAgent(words, deps);
    try {
      for await (const step of agent.client.verify()) report.add(step);
    } catch (error) {
      throw withHint(error, agent);
    }
    return report.finish();
  },
};

/** Files that an agent is writing and removing would look like damage. Errors: DATA_DIR_LOCKED where an agent answers. */
async function refuseLive(words: Words, deps: CliDeps): Promise<void> {
  let source = '';
  try {
    const agent = findAgent(words, deps);
    source = agent.source;
    await agent.client.liveness();
  } catch (error) {
    if (error instanceof KvtierError) return; // No agent is known, or it does not answer: what offline wants.
    throw error;
  }
  throw new KvtierError(
    'DATA_DIR_LOCKED',
    `verify --offline cannot read folders of a running agent (${printable(source)}): leave out --offline`,
  );
}
